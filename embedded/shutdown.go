package embedded

import "context"

// Shutdown stops the server and returns when its port, its data directory and
// its goroutines are released. Clients outside the process are told, and get
// up to two seconds to take it in (lame duck), unless ctx ends before; ctx
// doesn't cut short what comes after, as a store that is still being written
// can't be given to somebody else. Calling it again, or concurrently, waits for
// the first call.
//
// The caller's own connections should be drained and closed first.
func (s *Server) Shutdown(ctx context.Context) {
	s.stop.Do(func() {
		s.lameDuck(ctx)
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
		if err := s.lock.release(); err != nil {
			s.log.Error("can't release the data directory", "error", err)
		}
	})
}

// lameDuck says goodbye to clients outside the process. nats-server's lame
// duck mode does nothing at all, not even shut down, when it doesn't listen.
func (s *Server) lameDuck(ctx context.Context) {
	if !s.listens || ctx.Err() != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ns.LameDuckShutdown()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.ns.Shutdown()
		<-done
	}
}

package embedded

import (
	"context"

	"github.com/nats-io/nats-server/v2/server"
)

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
		s.untend()
		<-s.tending // from here on nobody starts another one
		ns := s.running.Load().Server
		s.lameDuck(ctx, ns)
		ns.Shutdown()
		ns.WaitForShutdown()
		s.noteStopped()
		if err := s.lock.release(); err != nil {
			s.log.Error("can't release the data directory", "error", err)
		}
	})
}

// lameDuck says goodbye to clients outside the process. nats-server's lame
// duck mode does nothing at all, not even shut down, when it doesn't listen.
func (s *Server) lameDuck(ctx context.Context, ns *server.Server) {
	if !s.listens || ctx.Err() != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ns.LameDuckShutdown()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		ns.Shutdown()
		<-done
	}
}

// noteStopped leaves the inventory for the next start, if all was well.
func (s *Server) noteStopped() {
	if s.trouble.Load() != nil || s.running.Load().said.failedWrite.Load() != nil {
		return
	}
	written, err := s.lock.written()
	if err == nil {
		err = noteStopped(s.dir, written)
	}
	if err != nil {
		s.log.Warn("can't note what the store holds; the next start is as after a crash", "error", err)
	}
}

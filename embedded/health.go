package embedded

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats-server/v2/server"
)

// ErrMendsItself is in an error of Health that goes away without anybody
// restarting the process: the server waits for room on its disk, or is just
// being restarted. What is stored is safe meanwhile.
var ErrMendsItself = errors.New("it goes on by itself")

// Health returns nil if JetStream can take writes, and otherwise why not; with
// ErrMendsItself when nobody has to do more than to make room.
//
// It asks two questions, as neither answer is enough. The server tells of
// streams that it couldn't recover or that met a failed write: after the disk
// was full such a stream goes on refusing, though JetStream calls itself
// enabled, until tend restarts the server. And a small file is written and
// synced beside the store, since the server notices a full disk only when
// somebody publishes.
//
// A stream that is being made or deleted at that moment may be reported as one
// that could not be recovered: believe it when it is said twice. Health costs a
// look at each stream and one fsync; every few seconds is often enough.
func (s *Server) Health() error {
	if trouble := s.trouble.Load(); trouble != nil {
		return *trouble
	}
	ns := s.running.Load()
	if !ns.Running() {
		return errors.New("the embedded NATS server is shut down")
	}
	if st := ns.Healthz(&server.HealthzOptions{}); st.Error != "" {
		return fmt.Errorf("JetStream can't take writes: %s", st.Error)
	}
	return s.probeWrite()
}

// probeWrite does it once at a time.
func (s *Server) probeWrite() error {
	s.probe.Lock()
	defer s.probe.Unlock()
	return probeWrite(s.dir)
}

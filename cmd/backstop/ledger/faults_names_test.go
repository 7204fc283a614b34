//go:build e2e

package ledger

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Apps with names that only the rig's name server knows, and only where it is
// asked: in the world of names. Elsewhere they can't be resolved.
const (
	flappingKind = "flapname"
	reboundKind  = "rebound"
	flappingName = "flapping.rig.invalid" // resolved, refused, not answered, in turn
	reboundName  = "rebound.rig.invalid"  // an address that is allowed, then one that isn't, then both
)

// names is a name server in a run, and an address that webhooks may not reach.
type names struct {
	w         *world
	conn      net.PacketConn
	allowed   [4]byte
	denied    [4]byte
	asked     map[string]int
	connected atomic.Int64 // to the denied address
}

// newNames has programs in the link's namespace ask the rig's own name server.
func newNames(w *world) *names {
	w.Helper()
	n := &names{w: w, asked: map[string]int{}, allowed: netip.MustParseAddr(w.link.here).As4()}
	n.denied = n.allowed
	n.denied[1]++ // of a network that nobody allowed
	denied := netip.AddrFrom4(n.denied).String()
	w.must(run(w.ctx, "ip", "addr", "add", denied+"/32", "dev", w.link.name+"h"))
	w.must(run(w.ctx, "ip", "-n", w.link.name, "route", "add", denied+"/32", "via", w.link.here))

	trap, err := new(net.ListenConfig).Listen(w.ctx, "tcp", net.JoinHostPort(denied, portOf(w.startedReceiver)))
	w.must(err)
	w.Cleanup(func() { _ = trap.Close() })
	go n.count(trap)
	// Could it not be reached at all, nobody reaching it would say nothing.
	w.must(run(w.ctx, "ip", "netns", "exec", w.link.name, "bash", "-c", fmt.Sprintf("</dev/tcp/%s/%s", denied, portOf(w.startedReceiver))))
	for w.ctx.Err() == nil && n.connected.Load() == 0 {
		pause(w.ctx, 10*time.Millisecond)
	}
	n.connected.Store(0)

	n.conn, err = net.ListenPacket("udp", net.JoinHostPort(w.link.here, "53"))
	w.must(err)
	w.Cleanup(func() { _ = n.conn.Close() })
	go n.serve()
	dir := filepath.Join("/etc/netns", w.link.name) // ip-netns(8) binds what is there over /etc
	w.Cleanup(func() { _ = os.RemoveAll(dir) })
	w.must(os.MkdirAll(dir, 0o755))
	w.must(os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver "+w.link.here+"\noptions timeout:1 attempts:1\n"), 0o644))
	return n
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// count counts connections, and closes them; it ends with the listener.
func (n *names) count(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		n.connected.Add(1)
		_ = c.Close()
	}
}

// serve answers until the connection is closed.
func (n *names) serve() {
	buf := make([]byte, 1500)
	for {
		size, from, err := n.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var question dnsmessage.Message
		if question.Unpack(buf[:size]) != nil || len(question.Questions) != 1 {
			continue
		}
		answer, ok := n.answer(question.Questions[0])
		if !ok {
			continue
		}
		answer.ID, answer.Response, answer.RecursionDesired, answer.RecursionAvailable = question.ID, true, question.RecursionDesired, true
		answer.Questions = question.Questions
		if packed, err := answer.Pack(); err == nil {
			_, _ = n.conn.WriteTo(packed, from)
		}
	}
}

// answer is what the name's turn has for it; false: nothing at all.
func (n *names) answer(q dnsmessage.Question) (answer dnsmessage.Message, ok bool) {
	name := q.Name.String()
	if q.Type != dnsmessage.TypeA { // no addresses of that kind
		return answer, true
	}
	turn := n.asked[name] / 2 % 3 // each comes twice, as a resolver asks once more
	n.asked[name]++
	var addresses [][4]byte
	switch name {
	case flappingName + ".":
		switch turn {
		case 0:
			addresses = append(addresses, n.allowed)
		case 1:
			answer.RCode = dnsmessage.RCodeServerFailure
		default:
			return answer, false
		}
	case reboundName + ".":
		addresses = [][][4]byte{{n.allowed}, {n.denied}, {n.denied, n.allowed}}[turn]
	default:
		answer.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addresses {
		answer.Answers = append(answer.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 0}, Body: &dnsmessage.AResource{A: a},
		})
	}
	return answer, true
}

// check looks whether anybody came where nobody may come.
func (n *names) check(b *books) {
	_ = n.conn.Close()
	if c := n.connected.Load(); c > 0 {
		b.problem("%d connections were made to an address that is denied", c)
	}
	reached := map[string]bool{}
	for t := range b.requests {
		reached[t.App] = true
	}
	for _, app := range []string{flappingKind + "-0", reboundKind + "-0"} {
		if !reached[app] {
			b.problem("%s, whose name can be resolved at times, was never reached", app)
		}
	}
}

package dispatcher

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// lookup returns the addresses of a name, which has no trailing dot. A name
// that it doesn't know is answered as not existing; one that it knows with no
// addresses is not answered at all.
type lookup func(name string) (addrs []string, known bool)

// nameServer answers every question with the addresses that hosts has for the
// name; it returns a resolver that asks it.
func nameServer(t *testing.T, hosts map[string][]string) *net.Resolver {
	t.Helper()
	return nameServerOf(t, func(name string) ([]string, bool) {
		addrs, known := hosts[name]
		return addrs, known
	})
}

func nameServerOf(t *testing.T, find lookup) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := answerName(buf[:n], find); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	// The resolver goes on waiting for a lookup that nobody waits for any
	// more, until its own timeout of 5 s.
	var mu sync.Mutex
	var asked []net.Conn
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range asked {
			c.Close()
		}
		conn.Close()
		<-done
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			asked = append(asked, c)
		}
		return c, err
	}}
}

// The kinds of question that have an answer (RFC 1035, RFC 3596).
const (
	kindA    = 1
	kindAAAA = 28
)

// answerName makes the answer to a question of one name (RFC 1035).
func answerName(question []byte, find lookup) []byte {
	const head = 12
	var labels []string
	at := head
	for question[at] != 0 {
		l := int(question[at])
		labels = append(labels, string(question[at+1:at+1+l]))
		at += 1 + l
	}
	addrs, known := find(strings.Join(labels, "."))
	if known && addrs == nil {
		return nil // never answers
	}
	kind := binary.BigEndian.Uint16(question[at+1:])
	answer := append([]byte(nil), question[:at+5]...)
	answer[2], answer[3] = 0x81, 0x80
	if !known {
		answer[3] |= 3 // NXDOMAIN
	}
	clear(answer[6:head])
	for _, a := range addrs {
		ip := netip.MustParseAddr(a)
		if ip.Is4() != (kind == kindA) || ip.Is6() != (kind == kindAAAA) {
			continue
		}
		answer[7]++
		answer = append(answer, 0xc0, head, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(ip.BitLen()/8))
		answer = append(answer, ip.AsSlice()...)
	}
	return answer
}

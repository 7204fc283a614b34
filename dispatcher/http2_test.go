package dispatcher

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// The parts of HTTP/2 (RFC 9113) that an unhelpful server needs.
const (
	frameData      = 0
	frameReset     = 3
	frameSettings  = 4
	flagEndStream  = 1
	http2Preface   = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	http2FrameHead = 9
)

// resetting serves HTTP/2 on c, takes each request in whole, and then resets
// its stream with the code.
func resetting(c net.Conn, code uint32, requests *atomic.Int64) {
	frame := func(kind byte, stream uint32, payload ...byte) error {
		head := []byte{0, 0, byte(len(payload)), kind, 0}
		_, err := c.Write(append(binary.BigEndian.AppendUint32(head, stream), payload...))
		return err
	}
	r := bufio.NewReader(c)
	if _, err := r.Discard(len(http2Preface)); err != nil || frame(frameSettings, 0) != nil {
		return
	}
	for {
		head := make([]byte, http2FrameHead)
		if _, err := io.ReadFull(r, head); err != nil {
			return
		}
		length := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
		if _, err := r.Discard(length); err != nil {
			return
		}
		if head[3] == frameData && head[4]&flagEndStream != 0 {
			requests.Add(1)
			if frame(frameReset, binary.BigEndian.Uint32(head[5:]), binary.BigEndian.AppendUint32(nil, code)...) != nil {
				return
			}
		}
	}
}

// Over HTTP/2 a server may say that it did not process a request, and net/http
// would believe it seven times.
func TestNothingIsSentOftenOverHTTP2(t *testing.T) {
	// Only for its certificate.
	certified := httptest.NewTLSServer(http.NotFoundHandler())
	defer certified.Close()
	roots := certified.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	tests := []struct {
		name string
		code uint32
		most int64
	}{
		{"PROTOCOL_ERROR", 1, 2},
		{"INTERNAL_ERROR", 2, 1},
		{"REFUSED_STREAM", 7, 2},
		{"CANCEL", 8, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var requests atomic.Int64
			url := rawServer(t, func(c net.Conn) {
				secure := tls.Server(c, &tls.Config{Certificates: certified.TLS.Certificates, NextProtos: []string{"h2"}})
				resetting(secure, test.code, &requests)
			})
			p := newPoster(t, PosterConfig{RootCAs: roots})
			out := p.Post(t.Context(), callTo(strings.Replace(url, "http:", "https:", 1)))
			expectVerdict(t, out, verdict{Retry, Failure, ReasonConnection, true, 0})
			if n := requests.Load(); n != test.most {
				t.Errorf("%d requests for one attempt, want %d (%v)", n, test.most, out.Err)
			}
		})
	}
}

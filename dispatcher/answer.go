package dispatcher

import (
	"io"
	"net/http"
	"sync"
)

// maxAnswer is the most of an answer's body that is read.
const maxAnswer = 64 << 10

// bodies are buffers to read answers into.
type bodies struct {
	free sync.Pool // of *[]byte
}

func (p *bodies) get() *[]byte {
	if b, ok := p.free.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, 4<<10) // most answers are a line
	return &b
}

// readAnswer reads the answer, its body into buf, which grows. A body that
// ends within maxAnswer is read to its end, so that the connection can be used
// again; of a longer one the rest is left, and the connection closed with it.
func readAnswer(resp *http.Response, buf *[]byte) answer {
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return a // the body is the bare connection, on which no deadline is kept
	}
	b := (*buf)[:0]
	for len(b) <= maxAnswer {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := resp.Body.Read(b[len(b):min(cap(b), maxAnswer+1)])
		b = b[:len(b)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			a.cut = err
			break
		}
	}
	*buf = b
	a.body = b[:min(len(b), maxAnswer)]
	return a
}

package ledger

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// entry is one line of the receivers' own record: a request, written before it
// is answered.
type entry struct {
	ID      string    `json:"id"`
	App     string    `json:"app"`
	Attempt string    `json:"attempt"`
	Status  int       `json:"status"` // what it is about to be answered; 0: not at all
	At      time.Time `json:"at"`
}

// behaviour decides the answer to a request, given how many came before it;
// 0 stands for no answer.
type behaviour func(before int64) int

// behaviours are what the apps do, by the first part of their names. "refuse"
// is missing: nobody listens there.
var behaviours = map[string]behaviour{
	"ok":   func(int64) int { return 200 },
	"slow": func(int64) int { return 201 }, // after slowness
	"hang": func(int64) int { return 0 },
	"fail": func(int64) int { return 500 },
	"flap": func(n int64) int { // six good ones, six bad ones
		if n/6%2 == 1 {
			return 503
		}
		return 200
	},
	"reject": func(n int64) int {
		if n%3 == 0 {
			return 422
		}
		return 200
	},
}

const slowness = 300 * time.Millisecond

// receiverEnv makes the test binary a receiver that writes to the named file.
const receiverEnv = "BACKSTOP_LEDGER_RECEIVER"

func TestMain(m *testing.M) {
	if file := os.Getenv(receiverEnv); file != "" {
		if err := receive(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// receive serves all apps on one port, which it prints, until its input ends.
func receive(file string) error {
	record, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	var mu sync.Mutex
	var counts sync.Map // app → *atomic.Int64
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		app := strings.TrimPrefix(r.URL.Path, "/")
		kind, _, _ := strings.Cut(app, "-")
		count, _ := counts.LoadOrStore(app, new(atomic.Int64))
		status := behaviours[kind](count.(*atomic.Int64).Add(1) - 1)
		line, err := json.Marshal(entry{ID: r.Header.Get("X-Request-Id"), App: app, Attempt: r.Header.Get("X-Platform-Attempt"), Status: status, At: time.Now()})
		if err != nil {
			panic(err)
		}
		mu.Lock()
		_, err = record.Write(append(line, '\n')) // survives this process; the machine is not what fails here
		mu.Unlock()
		switch {
		case err != nil:
			panic(err)
		case status == 0:
			<-r.Context().Done()
			panic(http.ErrAbortHandler) // returning would answer 200
		case kind == "slow":
			select {
			case <-r.Context().Done():
			case <-time.After(slowness):
			}
		}
		w.WriteHeader(status)
	})}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent, however that ends
		_ = srv.Close()
	}()
	if err := srv.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// readRecord reads what the receivers have on record.
func readRecord(t *testing.T, file string) []entry {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var entries []entry
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("the receivers' record: %v in %q", err, lines.Text())
		}
		entries = append(entries, e)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return entries
}

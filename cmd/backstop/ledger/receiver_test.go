package ledger

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// entry is one line of the receivers' own record: a request, synced to disk
// before it is answered.
type entry struct {
	ID         string `json:"id"`
	App        string `json:"app"`
	Capability string `json:"capability"`
	Attempt    string `json:"attempt"`
	// Status is what it is about to be answered; 0: not at all, or with an
	// answer that breaks off.
	Status int       `json:"status"`
	At     time.Time `json:"at"`
	// Body is the hash of the payload.
	Body string `json:"body"`
	// Signature is "ok", "unchecked" without secrets, or what is wrong with it.
	Signature string `json:"signature"`
	// Signed is the webhook-timestamp.
	Signed time.Time `json:"signed,omitzero"`
	// Callback says that this line is no request, but that Backstop has
	// accepted the app's callback.
	Callback bool `json:"callback,omitempty"`
}

func hashOf(payload []byte) string {
	sum := sha256.Sum256(payload)
	return hex.EncodeToString(sum[:8])
}

// behaviour decides the answer to a request, given how many came before it;
// 0 stands for no answer.
type behaviour func(before int64) int

// behaviours are what the apps do, by the first part of their names. Missing
// are "refuse", where nobody listens, and others that are never reached.
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
	"drop":    func(int64) int { return 0 }, // reset without an answer
	"reset":   func(int64) int { return 0 }, // reset within the body
	"cut":     func(int64) int { return 0 }, // promises more than it sends
	"trickle": func(int64) int { return 0 }, // a byte at a time
	"endless": func(int64) int { return 200 },
	"bomb":    func(int64) int { return 200 },
	"loop":    func(int64) int { return 302 }, // redirects to itself
	"gone": func(n int64) int {
		if n < 5 {
			return 200
		}
		return 410
	},
	"later":    func(n int64) int { return 429 - int(n%2)*229 }, // every other one, with nonsense in Retry-After
	"muchlate": func(n int64) int { return 429 },                // come back in eleven days
	"owes":     func(int64) int { return 202 },                  // and never calls back
	"calls":    func(int64) int { return 202 },                  // calls back

	// What comes here has come over TLS, or by a name.
	"trusted":   func(int64) int { return 200 },
	"expired":   func(int64) int { return 200 }, // and must not come
	"wrongname": func(int64) int { return 200 },
	"unknown":   func(int64) int { return 200 },
	"flapname":  func(int64) int { return 200 },
	"rebound":   func(int64) int { return 200 },
}

const slowness = 300 * time.Millisecond

// receiverEnv makes the test binary a receiver that writes to the named file;
// secretsEnv makes it check signatures, by secrets that secretOf derives.
const (
	receiverEnv = "BACKSTOP_LEDGER_RECEIVER"
	secretsEnv  = "BACKSTOP_LEDGER_SECRETS"
)

// secretOf is the secret that an app of a run signs with.
func secretOf(run, app string) string {
	sum := sha256.Sum256([]byte(run + "/" + app))
	return "whsec_" + base64.StdEncoding.EncodeToString(sum[:])
}

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

// receiver serves all apps, and keeps their record.
type receiver struct {
	secrets string
	mu      sync.Mutex
	record  *os.File
	counts  sync.Map // app → *atomic.Int64
	calling sync.WaitGroup
	client  http.Client
}

// listening is where a receiver does, as it prints it.
type listening struct {
	Plain, HalfOpen string            // the second accepts and never reads
	TLS             map[string]string // by kind of app
}

// receive serves all apps, and prints where, until its input ends.
func receive(file string) error {
	record, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listenHost()+":0")
	if err != nil {
		return err
	}
	halfOpen, err := net.Listen("tcp", listenHost()+":0")
	if err != nil {
		return err
	}
	go func() { // ends with the process
		kept := map[net.Conn]bool{} // or they are closed once they are garbage
		for {
			c, err := halfOpen.Accept()
			if err != nil {
				return
			}
			kept[c] = true
		}
	}()
	r := &receiver{secrets: os.Getenv(secretsEnv), record: record, client: http.Client{Timeout: 5 * time.Second}}
	srv := &http.Server{Handler: r, ErrorLog: log.New(io.Discard, "", 0)} // of handshakes that are to fail
	secure, err := listenTLS(srv)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(listening{listener.Addr().String(), halfOpen.Addr().String(), secure}); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent, however that ends
		_ = srv.Close()
	}()
	if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// listenEnv is the address that a receiver listens on; loopback by default.
const listenEnv = "BACKSTOP_LEDGER_LISTEN"

func listenHost() string {
	if host := os.Getenv(listenEnv); host != "" {
		return host
	}
	return "127.0.0.1"
}

// write puts a line on record, and returns when it is on disk.
func (rc *receiver) write(e entry) {
	line, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if _, err = rc.record.Write(append(line, '\n')); err == nil && rc.secrets != "" {
		err = rc.record.Sync()
	}
	if err != nil {
		panic(err)
	}
}

func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // not a request yet
	}
	app := strings.TrimPrefix(r.URL.Path, "/")
	kind, _, _ := strings.Cut(app, "-")
	count, _ := rc.counts.LoadOrStore(app, new(atomic.Int64))
	n := count.(*atomic.Int64).Add(1) - 1
	e := entry{
		ID: r.Header.Get("X-Request-Id"), App: app, Capability: r.Header.Get("X-Platform-Capability"), Attempt: r.Header.Get("X-Platform-Attempt"),
		Status: behaviours[kind](n), At: time.Now(), Body: hashOf(body), Signature: "unchecked",
	}
	if rc.secrets != "" {
		e.Signature = checkSignatures(r.Header, body, secretOf(rc.secrets, app))
		seconds, _ := strconv.ParseInt(r.Header.Get("Webhook-Timestamp"), 10, 64)
		e.Signed = time.Unix(seconds, 0)
	}
	rc.write(e)
	rc.answer(w, r, kind, n, e)
}

// checkSignatures knows the two formats by heart, and nothing of Backstop.
func checkSignatures(h http.Header, body []byte, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	if want := "sha256=" + hex.EncodeToString(mac.Sum(nil)); h.Get("X-Platform-Signature") != want {
		return "X-Platform-Signature is " + h.Get("X-Platform-Signature") + ", want " + want
	}
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	mac = hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", h.Get("Webhook-Id"), h.Get("Webhook-Timestamp"), body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); !strings.Contains(h.Get("Webhook-Signature")+" ", want+" ") {
		return "webhook-signature is " + h.Get("Webhook-Signature") + ", want " + want
	}
	return "ok"
}

// answer does what apps of the kind do.
func (rc *receiver) answer(w http.ResponseWriter, r *http.Request, kind string, n int64, e entry) {
	switch kind {
	case "hang":
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // returning would answer 200
	case "slow":
		select {
		case <-r.Context().Done():
		case <-time.After(slowness):
		}
	case "drop", "reset":
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		if kind == "reset" {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"success\":true")
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
		return
	case "cut":
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"success":true}`)
		return
	case "trickle", "endless":
		piece, gap := " ", 20*time.Millisecond
		if kind == "endless" {
			piece, gap = strings.Repeat("x", 16<<10), 0
		}
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, piece); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			pause(r.Context(), gap)
		}
		return
	case "bomb":
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(bomb())
		return
	case "loop":
		w.Header().Set("Location", r.URL.Path)
	case "later":
		w.Header().Set("Retry-After", []string{"-5", "soon", "", "1e9", "Thu, 01 Jan 1970 00:00:00 GMT", "99999999999999999999"}[n/2%6])
	case "muchlate":
		w.Header().Set("Retry-After", "1000000")
	case "calls":
		if url := r.Header.Get("X-Callback-Url"); url != "" {
			rc.calling.Go(func() { rc.callBack(url, e) })
		}
	}
	w.WriteHeader(e.Status)
}

// bomb is 8 MiB of nothing, in 8 KiB.
var bomb = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(make([]byte, 8<<20))
	_ = z.Close()
	return b.Bytes()
})

// callBack sends the result of an event until it is accepted, for a while, and
// then has it on record.
func (rc *receiver) callBack(url string, e entry) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(fmt.Sprintf(`{"answer":%q}`, e.ID)))
		if err != nil {
			panic(err)
		}
		if resp, err := rc.client.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				e.Callback, e.At = true, time.Now()
				rc.write(e)
				return
			}
		}
		pause(ctx, 200*time.Millisecond)
	}
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

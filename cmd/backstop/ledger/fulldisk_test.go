package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// fullDisk is a small disk of its own for serve, and what another program puts there.
type fullDisk struct {
	r     *rig
	mount string
}

// newFullDisk has serve keep its data on a small disk, which takes root.
func newFullDisk(r *rig) *fullDisk {
	r.Helper()
	if os.Getuid() != 0 {
		r.Skip("not proven here: only root can mount the small disk that this test fills")
	}
	d := &fullDisk{r: r, mount: filepath.Join(r.dir, "disk")}
	r.must(os.Mkdir(d.mount, 0o700))
	if err := syscall.Mount("backstop-test", d.mount, "tmpfs", 0, "size=512m"); err != nil {
		r.Skipf("not proven here: no disk can be mounted to be filled: %v", err)
	}
	r.Cleanup(func() {
		if r.serve != nil {
			_ = r.serve.Process.Kill()
			r.awaitEnd()
		}
		if err := syscall.Unmount(d.mount, 0); err != nil {
			r.Errorf("umount: %v", err)
		}
	})
	r.env = append(r.env, "BACKSTOP_STORE_MAX=300MiB", "BACKSTOP_DATA_DIR="+filepath.Join(d.mount, "data"))
	return d
}

func (d *fullDisk) fill() {
	d.r.Helper()
	f, err := os.Create(filepath.Join(d.mount, "filler"))
	d.r.must(err)
	for block := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		d.r.Fatalf("the disk can't be filled: %v", err)
	}
	d.r.must(f.Close())
}

func (d *fullDisk) free() { d.r.must(os.Remove(filepath.Join(d.mount, "filler"))) }

// publishUntilRefused publishes an event and something that can only become a
// dead letter in turn, and notes which were acknowledged, until several in a
// row were not; it returns the last refusal.
func publishUntilRefused(r *rig, js jetstream.JetStream, round int, events, letters map[string]bool) error {
	r.Helper()
	var refusal error
	for i, refused := 0, 0; refused < 6 && r.ctx.Err() == nil; i++ {
		id := fmt.Sprintf("r%d-%d", round, i)
		payload, noted := `{"n":`+fmt.Sprint(i)+`}`, events
		if i%2 == 1 {
			payload, noted = "not JSON", letters
		}
		ctx, cancel := context.WithTimeout(r.ctx, 4*time.Second)
		_, err := js.Publish(ctx, "events."+capability+".visitor", []byte(payload), jetstream.WithMsgID(id), jetstream.WithRetryAttempts(0))
		cancel()
		if err != nil {
			refused, refusal = refused+1, err
			continue
		}
		noted[id] = true
	}
	return refusal
}

// told returns what serve answers at a path.
func (r *rig) told(path string) (status int, text string) {
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "http://"+r.http+path, http.NoBody)
	r.must(err)
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// TestFullDiskNeedsNoRestart: another program fills the disk and frees it, and
// whatever was acknowledged is delivered or is a dead letter, by the same
// process, which nobody restarted.
func TestFullDiskNeedsNoRestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	r, v := newRig(t, ctx), newVisitor(t)
	disk := newFullDisk(r)
	v.letGo()
	r.visit(v)
	v.next(r)
	nc, js := r.connect()
	defer nc.Close()
	process := r.serve.Process.Pid

	events, letters := map[string]bool{}, map[string]bool{}
	for round := range 3 {
		disk.fill()
		refusal := publishUntilRefused(r, js, round, events, letters)
		t.Logf("round %d: %d events and %d for dead letters acknowledged; refused with: %v", round, len(events), len(letters), refusal)
		if _, ok := errors.AsType[*jetstream.APIError](refusal); !ok {
			t.Errorf("publishers don't hear why: %v", refusal)
		}
		if status, text := r.told("/healthz"); status != 200 || !strings.Contains(text, "is full") {
			t.Errorf("/healthz answers %d %s; a restart would not help, and it should say so", status, text)
		}
		if status, text := r.told("/readyz"); status != 503 || !strings.Contains(text, "free some space") {
			t.Errorf("/readyz answers %d %s", status, text)
		}
		disk.free()
		for !r.ready() && ctx.Err() == nil {
			pause(ctx, 20*time.Millisecond)
		}
		_, err := js.Publish(ctx, "events."+capability+".visitor", []byte(`{}`), jetstream.WithMsgID(fmt.Sprint("after-", round)), jetstream.WithRetryAttempts(100))
		r.must(err)
		events[fmt.Sprint("after-", round)] = true
	}
	for len(events) > 0 {
		select {
		case a := <-v.arrived:
			delete(events, a.id)
		case <-ctx.Done():
			t.Fatalf("%d acknowledged events were not delivered: %v", len(events), events)
		}
	}
	for len(letters) > 0 && ctx.Err() == nil {
		out, err := r.output("dlq", "list", "--limit", "0", "--json")
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for id := range letters {
			if strings.Contains(string(out), `"`+id+`"`) {
				delete(letters, id)
			}
		}
		pause(ctx, 50*time.Millisecond)
	}
	if len(letters) > 0 {
		t.Errorf("%d acknowledged events are no dead letters: %v", len(letters), letters)
	}
	r.command("apps", "disable", "visitor") // the buckets take writes again
	if r.serve.Process.Pid != process || r.serve.ProcessState != nil || !r.ready() {
		t.Error("serve did not live on")
	}
}

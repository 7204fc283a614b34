//go:build e2e

package ledger

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestE2EPowerLostAtTheFirstStart takes the power at random moments of the very
// first seconds, POWER_RUNS times: serve has to start again unattended, on
// whatever was half made, and what was acknowledged has to be delivered.
func TestE2EPowerLostAtTheFirstStart(t *testing.T) {
	if why := unmade(powerWorld); why != "" {
		t.Skipf("NOT PROVEN: %s", why)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	binary := build(t, ctx, "")
	seed := number(t, "POWER_SEED", uint64(time.Now().Unix()))
	random := rand.New(rand.NewPCG(seed, 7))
	for i := range number(t, "POWER_RUNS", 3) {
		at := time.Duration(random.Int64N(int64(3 * time.Second)))
		if i%2 == 1 {
			at /= 10 // half of them while the first files are made
		}
		t.Run(fmt.Sprint(i), func(t *testing.T) { powerLostAt(t, ctx, binary, at) })
	}
}

func powerLostAt(t *testing.T, ctx context.Context, binary string, at time.Duration) {
	t.Helper()
	r, v := newRigOf(t, ctx, binary, ""), newVisitor(t)
	v.letGo()
	mount := filepath.Join(r.dir, "disk")
	image := filepath.Join(r.dir, "image")
	r.must(os.Mkdir(mount, 0o700))
	r.must(os.WriteFile(image, nil, 0o600))
	r.must(os.Truncate(image, 2<<30))
	r.must(run(ctx, "mkfs.ext4", "-q", "-F", image))
	r.must(run(ctx, "mount", "-o", "loop", image, mount))
	t.Cleanup(func() {
		_ = r.serve.Process.Kill()
		r.awaitEnd()
		_ = run(context.WithoutCancel(ctx), "umount", mount)
	})
	r.env = append(r.env, "BACKSTOP_STORE_MAX=600MiB", "BACKSTOP_DATA_DIR="+filepath.Join(mount, "data"))

	publishing, stop := context.WithCancel(ctx)
	acknowledged := map[string]bool{}
	var publisher sync.WaitGroup
	publisher.Go(func() { publishFromTheFirst(publishing, r, v, acknowledged) })
	r.must(r.launch())
	pause(ctx, at)
	ready := r.ready()
	freeze(ctx, r.serve.Process)
	r.must(cutPower(mount))
	_ = r.serve.Process.Kill()
	r.awaitEnd()
	stop()
	publisher.Wait()
	for ctx.Err() == nil && run(ctx, "umount", mount) != nil {
		pause(ctx, 50*time.Millisecond)
	}
	r.must(run(ctx, "mount", "-o", "loop", image, mount))
	r.start()
	t.Logf("the power went %v after the first start (ready: %v), with %d events acknowledged; it started again", at, ready, len(acknowledged))
	for len(acknowledged) > 0 {
		select {
		case a := <-v.arrived:
			delete(acknowledged, a.id)
		case <-ctx.Done():
			t.Fatalf("%d acknowledged events are gone", len(acknowledged))
		}
	}
}

// publishFromTheFirst applies a manifest as soon as that can be done, and then
// publishes until it is stopped.
func publishFromTheFirst(ctx context.Context, r *rig, v *visitor, acknowledged map[string]bool) {
	file := filepath.Join(r.dir, "visitor.json")
	manifest := `{"appId":"visitor","name":"Visitor","baseUrl":"` + v.URL + `","webhooks":{"analytics":{"path":"/","async":true,"timeout":20000}}}`
	r.must(os.WriteFile(file, []byte(manifest), 0o600))
	nc, js := r.connect()
	defer nc.Close()
	for ctx.Err() == nil {
		if out, err := r.output("apps", "apply", file); err == nil || strings.Contains(string(out), "revision") {
			break
		}
		pause(ctx, 20*time.Millisecond)
	}
	for i := 0; ctx.Err() == nil; i++ {
		bounded, cancel := context.WithTimeout(ctx, time.Second)
		id := fmt.Sprint("first-", i)
		if _, err := js.Publish(bounded, "events."+capability+".visitor", []byte(`{}`), jetstream.WithMsgID(id), jetstream.WithRetryAttempts(0)); err == nil {
			acknowledged[id] = true
		}
		cancel()
	}
}

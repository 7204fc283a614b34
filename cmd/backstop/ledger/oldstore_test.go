package ledger

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestStoreOfAnEarlierVersion starts today's serve on a store that the first
// Backstop left (testdata/README.md): 25 events in lanes of endpoints that were
// down, three dead letters, two apps with their secrets. Everything is delivered
// when the apps work again. Events that have become older than an event may be,
// 30 days, are dead letters by then.
func TestStoreOfAnEarlierVersion(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	r, v := newRig(t, ctx), newVisitor(t)
	v.letGo()
	data := filepath.Join(r.dir, "data")
	r.must(os.Mkdir(data, 0o700))
	if out, err := exec.CommandContext(ctx, "tar", "-xzf", filepath.Join("testdata", "store-7c12657.tar.gz"), "-C", data).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	r.start()
	for _, app := range []string{"visitor", "other"} {
		manifest := strings.NewReplacer("APP", app, "URL", v.URL).Replace(`{"appId":"APP","name":"APP","baseUrl":"URL","webhooks":{
			"analytics":{"path":"/","async":true,"maxAge":2592000000},"report":{"path":"/","async":true,"maxAge":2592000000}}}`)
		file := filepath.Join(r.dir, app+".json")
		r.must(os.WriteFile(file, []byte(manifest), 0o600))
		r.command("apps", "apply", file)
	}
	r.command("breakers", "reset", "visitor", "analytics")
	r.command("breakers", "reset", "other", "report")

	want := map[string]bool{}
	for i := range 20 {
		want[fmt.Sprint("lane-", i+1)] = true
	}
	for i := range 5 {
		want[fmt.Sprint("other-", i+1)] = true
	}
	for len(want) > 0 {
		select {
		case a := <-v.arrived:
			delete(want, a.id)
		case <-time.After(2 * time.Second):
			out, err := r.output("dlq", "list", "--limit", "0", "--json")
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			for id := range want {
				if strings.Contains(string(out), `"`+id+`"`) && strings.Contains(string(out), `"expired"`) {
					delete(want, id)
				}
			}
		case <-ctx.Done():
			t.Fatalf("%d events of the old store were not delivered: %v", len(want), want)
		}
	}
	for i := range 3 {
		out, err := r.output("dlq", "show", fmt.Sprint("letter-", i+1))
		if err != nil || !strings.Contains(string(out), "no_route") {
			t.Errorf("dead letter %d of the old store: %v: %s", i+1, err, out)
		}
	}
}

package fallback

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/dispatcher"
	"backstop/embedded/natstest"
	"backstop/streams"
	"backstop/streams/manifest"
)

func good(data string) dispatcher.Outcome {
	return dispatcher.Outcome{Verdict: dispatcher.Delivered, Effect: dispatcher.Success, Data: []byte(data)}
}

// running returns a cache that is written until the test ends.
func (b *bundle) running() *Cache {
	b.Helper()
	c := NewCache(b.bucket(streams.CacheBucket), b.log())
	b.run(c)
	return c
}

// run runs a cache until stop, which returns when all is written.
func (b *bundle) run(c *Cache) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	b.Cleanup(stop)
	return stop
}

// written waits until so many answers were kept.
func (b *bundle) written(c *Cache, n uint64) {
	b.Helper()
	b.eventually(fmt.Sprint(n, " answers in the cache"), func() bool { return c.Stats().Written >= n })
}

// patient is a call that no busy machine makes late.
func patient(payload string, list ...manifest.Strategy) dispatcher.Call {
	c := callWith(payload, list...)
	c.Endpoint.Timeout = 20 * time.Second
	return c
}

func TestCached(t *testing.T) {
	b := setup(t)
	c := b.running()
	h := func(out dispatcher.Outcome, payload string, list ...manifest.Strategy) dispatcher.Outcome {
		return Stage(Config{Cache: c})(app(out))(b.ctx, patient(payload, list...))
	}
	if out := h(down, `{"quizId":"q1"}`, caches); out.Source != "" {
		t.Errorf("found %+v in an empty cache", out)
	}
	if out := h(good(`{"n":"<1>"}`), `{"quizId":"q1","at":1}`, caches); out.Source != "" {
		t.Errorf("%+v", out)
	}
	b.written(c, 1)
	out := h(down, ` { "at":1.0, "quizId":"q\u0031" }`, caches)
	if out.Source != streams.SourceCache || string(out.Data) != `{"n":"<1>"}` || out.Age <= 0 || out.Age > time.Minute || out.Reason != dispatcher.ReasonConnection {
		t.Errorf("the same payload in another spelling: %+v", out)
	}
	for reason, payload := range map[string]string{"another value": `{"quizId":"q2","at":1}`, "one member more": `{"quizId":"q1","at":1,"x":1}`, "one less": `{"quizId":"q1"}`} {
		if out := h(down, payload, caches); out.Source != "" {
			t.Errorf("%s: %+v", reason, out)
		}
	}
	// The last answer is the one that counts.
	h(good(`2`), `{"quizId":"q1","at":1}`, caches)
	b.written(c, 2)
	if out := h(down, `{"quizId":"q1","at":1}`, caches); string(out.Data) != `2` {
		t.Errorf("%+v", out)
	}
	if s := c.Stats(); s.Hits != 2 || s.Misses != 4 || s.Failed != 0 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

func TestCachedByPointers(t *testing.T) {
	b := setup(t)
	c := b.running()
	byQuiz := manifest.Strategy{Strategy: manifest.StrategyCached, Key: []string{"/quizId", "/answer"}}
	ask := func(out dispatcher.Outcome, payload string, how manifest.Strategy, id streams.EndpointID) dispatcher.Outcome {
		call := patient(payload, how)
		call.Endpoint.EndpointID = id
		return Stage(Config{Cache: c})(app(out))(b.ctx, call)
	}
	ask(good(`1`), `{"quizId":"q1","answer":[1],"user":"ann"}`, byQuiz, testID)
	ask(good(`2`), `{"quizId":"q1"}`, byQuiz, testID) // has no key
	ask(good(`3`), `{"quizId":"q2","answer":[1]}`, byQuiz, testID)
	b.written(c, 2)
	for _, test := range []struct {
		reason, payload string
		how             manifest.Strategy
		id              streams.EndpointID
		want            string
	}{
		{"the same key", `{"answer":[1.0],"quizId":"q1","user":"bob"}`, byQuiz, testID, `1`},
		{"another", `{"quizId":"q2","answer":[1]}`, byQuiz, testID, `3`},
		{"another answer", `{"quizId":"q1","answer":[2]}`, byQuiz, testID, ``},
		{"no such value", `{"quizId":"q1"}`, byQuiz, testID, ``},
		{"null is a value of its own", `{"quizId":"q1","answer":null}`, byQuiz, testID, ``},
		{"other pointers", `{"quizId":"q1","answer":[1],"user":"ann"}`, manifest.Strategy{Strategy: manifest.StrategyCached, Key: []string{"/quizId"}}, testID, ``},
		{"another app", `{"quizId":"q1","answer":[1]}`, byQuiz, streams.EndpointID{Capability: testID.Capability, App: "other"}, ``},
		{"another capability", `{"quizId":"q1","answer":[1]}`, byQuiz, streams.EndpointID{Capability: "other", App: testID.App}, ``},
	} {
		out := ask(down, test.payload, test.how, test.id)
		if string(out.Data) != test.want {
			t.Errorf("%s: %+v", test.reason, out)
		}
	}
}

// Only a good answer is kept, also one without data.
func TestOnlyGoodAnswersAreCached(t *testing.T) {
	b := setup(t)
	c := b.running()
	no := &dispatcher.AppError{Code: "no"}
	for i, out := range []dispatcher.Outcome{
		{Verdict: dispatcher.Rejected, Reason: dispatcher.ReasonRejected, AppError: no},
		{Verdict: dispatcher.Retry, Reason: dispatcher.ReasonRejected, AppError: no},
		{Verdict: dispatcher.Delivered, Accepted: true},
		{Verdict: dispatcher.Retry, Reason: dispatcher.ReasonStatus, Data: []byte(`1`)},
		down,
	} {
		Stage(Config{Cache: c})(app(out))(b.ctx, patient(fmt.Sprint(i), caches))
	}
	// A fallback's answer is no answer of the app.
	Stage(Config{Cache: c})(app(down))(b.ctx, patient(`"x"`, caches, accepts))
	// Nor is there anything to keep without the strategy, or for events.
	Stage(Config{Cache: c})(app(good(`1`)))(b.ctx, patient(`"y"`, rejects))
	event := patient(`"z"`, caches)
	event.Sync = false
	Stage(Config{Cache: c})(app(good(`1`)))(b.ctx, event)

	Stage(Config{Cache: c})(app(good(`null`)))(b.ctx, patient(`"null"`, caches))
	Stage(Config{Cache: c})(app(dispatcher.Outcome{Verdict: dispatcher.Delivered}))(b.ctx, patient(`"none"`, caches))
	b.written(c, 2)
	keys, err := c.kv.Keys(b.ctx)
	b.must(err)
	if len(keys) != 2 {
		t.Errorf("kept %v", keys)
	}
	for payload, want := range map[string]string{`"null"`: `null`, `"none"`: ``} {
		out := Stage(Config{Cache: c})(app(down))(b.ctx, patient(payload, caches))
		if out.Source != streams.SourceCache || string(out.Data) != want {
			t.Errorf("%s: %+v", payload, out)
		}
	}
}

func TestCachedIsNeverOlderThanItsTTL(t *testing.T) {
	b := setup(t)
	kv := b.bucket(streams.CacheBucket)
	c := NewCache(kv, b.log())
	key, err := cacheKey(testID, nil, []byte(`{}`))
	b.must(err)
	for _, test := range []struct {
		reason string
		heldMs int64
		ttl    int64
		hit    bool
	}{
		{"young", 1000, 0, true},
		{"older than the default of 5 min", 300_001, 0, false},
		{"as old as a ttl allows", 300_001, 3_600_000, true},
		{"older than the ttl", 3_600_001, 3_600_000, false},
	} {
		value, err := json.Marshal(entry{RequestID: "r", HeldMs: test.heldMs, Data: []byte(`1`)})
		b.must(err)
		_, err = kv.Put(b.ctx, key, value)
		b.must(err)
		how := caches
		how.TTL = test.ttl
		a, err := cached(c)(b.ctx, requestWith(`{}`, how))
		if (err == nil) != test.hit {
			t.Errorf("%s: %+v, %v", test.reason, a, err)
		}
		if held := time.Duration(test.heldMs) * time.Millisecond; test.hit && (a.age < held || a.age > held+time.Minute) {
			t.Errorf("%s: age %v, want a little more than %v", test.reason, a.age, held)
		}
	}
	// And by the broker's clock, without any help.
	Stage(Config{Cache: c})(app(good(`1`)))(b.ctx, patient(`{}`, caches))
	b.run(c)
	b.written(c, 1)
	b.eventually("an answer to become too old", func() bool {
		short := caches
		short.TTL = 20
		_, err := cached(c)(b.ctx, requestWith(`{}`, short))
		return errors.Is(err, errNothingCached)
	})
}

func TestCacheSurvivesARestart(t *testing.T) {
	b := setup(t, natstest.SyncAlways())
	c := b.running()
	Stage(Config{Cache: c})(app(good(`1`)))(b.ctx, patient(`{}`, caches))
	b.written(c, 1)
	b.srv.Restart()
	fresh := NewCache(b.bucketAgain(streams.CacheBucket), b.log())
	b.eventually("a hit", func() bool {
		return Stage(Config{Cache: fresh})(app(down))(b.ctx, patient(`{}`, caches)).Source == streams.SourceCache
	})
}

// bucketAgain opens a bucket of a broker that was restarted a moment ago.
func (b *bundle) bucketAgain(name string) (kv jetstream.KeyValue) {
	b.Helper()
	b.eventually("bucket "+name, func() (ok bool) {
		var err error
		kv, err = b.js.KeyValue(b.ctx, name)
		return err == nil
	})
	return kv
}

// What waits when the process is told to end is written.
func TestCacheIsDrained(t *testing.T) {
	b := setup(t)
	c := NewCache(b.bucket(streams.CacheBucket), b.log())
	for i := range 50 {
		c.keep(patient(fmt.Sprint(i%10), caches), []byte(fmt.Sprint(i)))
	}
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	b.must(c.Run(ctx))
	if s := c.Stats(); s.Written != 10 || s.Dropped != 0 {
		t.Errorf("%+v: each of 10 keys is to be written once", s)
	}
	if out := Stage(Config{Cache: c})(app(down))(b.ctx, patient(`3`, caches)); string(out.Data) != `43` {
		t.Errorf("%+v: the last answer counts", out)
	}
	if c.bytes.Load() != 0 {
		t.Errorf("%d bytes are still counted", c.bytes.Load())
	}
}

// Nothing of the cache is in a call's way: not when nobody writes it, and not
// when the broker is gone.
func TestCacheNeverHoldsUpACall(t *testing.T) {
	b := setup(t)
	c := NewCache(b.bucket(streams.CacheBucket), b.log())
	for i := range maxFills + 10 {
		c.keep(patient(fmt.Sprint(i), caches), []byte(`1`))
	}
	if s := c.Stats(); s.Dropped != 10 {
		t.Errorf("%+v", s)
	}
	large := NewCache(c.kv, b.log())
	payload := `"` + strings.Repeat("x", streams.MaxPayload-2) + `"`
	for range maxFillBytes/streams.MaxPayload + 9 {
		large.keep(patient(payload, caches), nil)
	}
	if s := large.Stats(); s.Dropped != 9 {
		t.Errorf("%+v", s)
	}
	b.srv.Stop()
	ctx, cancel := context.WithTimeout(b.ctx, 300*time.Millisecond)
	defer cancel()
	out := Stage(Config{Cache: c})(app(down))(ctx, callWith(`{}`, caches, rejects))
	if ctx.Err() != nil || out.Source != streams.SourceDefault {
		t.Errorf("%+v, %v", out, ctx.Err())
	}
	stopped, cancel := context.WithCancel(b.ctx)
	cancel()
	small := NewCache(c.kv, b.log())
	small.keep(patient(`1`, caches), nil)
	b.must(small.Run(stopped)) // gives up after 2 s
	if s := small.Stats(); s.Failed != 1 {
		t.Errorf("%+v", s)
	}
}

func TestCacheIgnoresWhatItCannotRead(t *testing.T) {
	b := setup(t)
	c := NewCache(b.bucket(streams.CacheBucket), b.log())
	key, err := cacheKey(testID, nil, []byte(`{}`))
	b.must(err)
	_, err = c.kv.PutString(b.ctx, key, `{`)
	b.must(err)
	if a, err := cached(c)(b.ctx, requestWith(`{}`, caches)); err == nil {
		t.Errorf("%+v", a)
	}
	if _, err := cached(nil)(b.ctx, requestWith(`{}`, caches)); err == nil {
		t.Error("answered without a cache")
	}
	for _, payload := range []string{``, `{`} {
		if _, err := cached(c)(b.ctx, requestWith(payload, caches)); err == nil {
			t.Errorf("%q has a key", payload)
		}
	}
}

// The key shows an operator whose it is.
func TestCacheKey(t *testing.T) {
	key, err := cacheKey(testID, []string{"/a"}, []byte(`{"a":1}`))
	if err != nil || !strings.HasPrefix(key, "quizAnswer.quiz.") || len(key) != len("quizAnswer.quiz.")+64 {
		t.Errorf("%s, %v", key, err)
	}
	seen := map[string]string{}
	for _, k := range []struct {
		pointers []string
		payload  string
	}{
		{nil, `{"a":"/b","b":1}`},
		{[]string{"/a"}, `{"a":"/b","b":1}`},
		{[]string{"/b"}, `{"a":"/b","b":1}`},
		{[]string{"/a", "/b"}, `{"a":"/b","b":1}`},
		{[]string{"/b", "/a"}, `{"a":"/b","b":1}`},
		{[]string{""}, `{"a":"/b","b":1}`},
	} {
		key, err := cacheKey(testID, k.pointers, []byte(k.payload))
		if err != nil {
			t.Fatal(err)
		}
		if other, there := seen[key]; there {
			t.Errorf("%v has the key of %s", k, other)
		}
		seen[key] = fmt.Sprint(k)
	}
}

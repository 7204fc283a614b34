package rollup

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"backstop/streams"
)

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func quiz(n int) streams.EndpointID {
	return streams.EndpointID{Capability: "analytics", App: fmt.Sprint("app", n)}
}

func TestCounts(t *testing.T) {
	for name, tc := range map[string]struct {
		entry Entry
		want  Counts
		why   string
	}{
		"delivered": {Entry{Attempt: 1, DurationMs: 5, Requested: true, Success: true}, Counts{Attempts: 1, Succeeded: 1, DurationUs: 5000}, "the plain case"},
		"timeout": {
			Entry{Attempt: 2, DurationMs: 2000.001, Requested: true, Reason: "timeout"},
			Counts{Attempts: 1, Failed: map[string]uint64{"timeout": 1}, Retries: 1, DurationUs: 2000001},
			"a retry that times out is both",
		},
		"refused": {Entry{Attempt: 1, Reason: "circuit_open"}, Counts{Refused: 1}, "no request says nothing of the app"},
		"local":   {Entry{Attempt: 1, Requested: true, Reason: "local"}, Counts{Attempts: 1, Failed: map[string]uint64{"local": 1}}, "made, and not held against the app"},
	} {
		c := Counts{}
		c.add(tc.entry)
		if !reflect.DeepEqual(c, tc.want) {
			t.Errorf("%s: %+v, want %+v: %s", name, c, tc.want, tc.why)
		}
	}
}

func TestSuccessRateLeavesOutWhatIsNotTheAppsDoing(t *testing.T) {
	c := Counts{}
	if _, ok := c.SuccessRate(); ok {
		t.Error("nothing has a success rate")
	}
	for range 9 {
		c.add(Entry{Requested: true, Success: true})
	}
	c.add(Entry{Requested: true, Reason: "status"})
	c.add(Entry{Requested: true, Reason: "local"})
	for range 50 {
		c.add(Entry{Reason: "circuit_open"})
	}
	if rate, ok := c.SuccessRate(); !ok || rate != 0.9 {
		t.Errorf("success rate %v, want 0.9", rate)
	}
}

// entry is one of a made-up log.
type entry struct {
	at time.Time
	id streams.EndpointID
	Entry
}

func drawLog(t *rapid.T) []entry {
	at := noon
	log := make([]entry, rapid.IntRange(1, 300).Draw(t, "entries"))
	for i := range log {
		at = at.Add(time.Duration(rapid.IntRange(-5, 240).Draw(t, "seconds")) * time.Second)
		log[i] = entry{at, quiz(rapid.IntRange(0, 4).Draw(t, "app")), Entry{
			Attempt: 1, DurationMs: rapid.Float64Range(0, 30_000).Draw(t, "ms"),
			Requested: rapid.Bool().Draw(t, "requested"), Success: rapid.Bool().Draw(t, "success"), Reason: "status",
		}}
	}
	return log
}

// Whoever folds the log, and wherever they are killed, stores the same; and
// what a Window answers is what the entries add up to.
func TestFoldIsTheSameHoweverOftenItStartsAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := drawLog(t)
		whole, stored := &Fold{}, map[string]Part{}
		for i, e := range log {
			whole.Add(uint64(i+1), e.at, e.id, e.Entry)
		}
		want := map[string]Part{}
		for _, p := range whole.Unstored() {
			want[p.Key()] = p
		}

		f, newest := &Fold{}, Part{}
		for f.Through() < uint64(len(log)) {
			i := int(f.Through())
			f.Add(uint64(i+1), log[i].at, log[i].id, log[i].Entry)
			if i+1 == len(log) || rapid.Float64Range(0, 1).Draw(t, "store") < 0.2 {
				for _, p := range f.Unstored() {
					stored[p.Key()], newest = reload(t, p), p
				}
				f.Stored()
			}
			if rapid.Float64Range(0, 1).Draw(t, "kill") < 0.1 {
				var parts []Part
				for n := range newest.Parts {
					parts = append(parts, stored[Key(newest.Minute, n)])
				}
				var err error
				if f, err = Resume(parts, newest.Through); err != nil {
					t.Fatal(err)
				}
			}
		}
		if len(stored) != len(want) {
			t.Fatalf("%d parts, want %d", len(stored), len(want))
		}
		w := Window{}
		for key, p := range want {
			sameSums(t, stored[key].Endpoints, p.Endpoints)
			w.Put(stored[key])
		}
		against(t, &w, log)
	})
}

// reload takes a part through its stored form.
func reload(t *rapid.T, p Part) Part {
	value, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := DecodePart(p.Key(), value)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func sameSums(t *rapid.T, got, want []Sum) {
	if len(got) != len(want) {
		t.Fatalf("%d endpoints, want %d", len(got), len(want))
	}
	for i := range want {
		g, w := got[i], want[i]
		g.Durations, w.Durations = nil, nil // the same in another order, perhaps
		if !reflect.DeepEqual(g, w) {
			t.Fatalf("%+v, want %+v", g, w)
		}
	}
}

// against compares the answers for times of every length with the log itself.
func against(t *rapid.T, w *Window, log []entry) {
	since := noon.Add(time.Duration(rapid.IntRange(-60, 600).Draw(t, "since")) * time.Minute)
	for range 2 { // the second time from the sums of hours
		o := w.Overview(since)
		total, succeeded, minute := uint64(0), uint64(0), time.Time{}
		var durations []float64
		for _, e := range log {
			if at := e.at.Truncate(time.Minute); at.After(minute) {
				minute = at
			}
			if minute.Before(since) || !e.Requested {
				continue
			}
			total++
			durations = append(durations, e.DurationMs)
			if e.Success {
				succeeded++
			}
		}
		if o.Total.Attempts != total || o.Total.Succeeded != succeeded {
			t.Fatalf("%d attempts with %d successes, want %d with %d", o.Total.Attempts, o.Total.Succeeded, total, succeeded)
		}
		for i := range o.Endpoints {
			if got := w.Endpoint(o.Endpoints[i].ID(), since); !reflect.DeepEqual(got, o.Endpoints[i]) {
				t.Fatalf("an endpoint alone %+v, among all %+v", got, o.Endpoints[i])
			}
			if got := w.Counts(o.Endpoints[i].ID(), since); !reflect.DeepEqual(got, o.Endpoints[i].Counts) {
				t.Fatalf("counts alone %+v, with percentiles %+v", got, o.Endpoints[i].Counts)
			}
		}
		var sum uint64
		for _, s := range o.Endpoints {
			sum += s.Attempts
			if o.Endpoint(s.ID()).Attempts != s.Attempts {
				t.Fatalf("Endpoint doesn't find %s", s.ID())
			}
		}
		if sum != total {
			t.Fatalf("endpoints have %d attempts, the total %d", sum, total)
		}
		if len(durations) == 0 {
			continue
		}
		slices.Sort(durations)
		want := durations[int(0.95*float64(len(durations)-1))]
		if math.Abs(o.Total.P95Ms-want) > Accuracy*want+1e-6 {
			t.Fatalf("p95 %v, want %v within 1%%", o.Total.P95Ms, want)
		}
	}
}

func TestPartsHoldManyEndpoints(t *testing.T) {
	f := &Fold{}
	const endpoints = 3*PartSize + 10
	for i := range endpoints {
		f.Add(uint64(i+1), noon, quiz(i), Entry{Requested: true, Success: true, DurationMs: 1})
	}
	parts := f.Unstored()
	if len(parts) != 4 || f.Dirty() != 4 || len(parts[3].Endpoints) != 10 || parts[0].Parts != 4 {
		t.Fatalf("%d parts, %d dirty", len(parts), f.Dirty())
	}
	f.Stored()
	f.Add(endpoints+1, noon, quiz(0), Entry{Requested: true})
	if again := f.Unstored(); len(again) != 1 || again[0].Number != 0 || f.Dirty() != 1 {
		t.Errorf("one endpoint changed, and %d parts are stored", len(again))
	}
	// One of them gone: the others stay where they are.
	r, err := Resume([]Part{parts[0], parts[2], parts[3]}, endpoints)
	if err != nil {
		t.Fatal(err)
	}
	r.Add(endpoints+1, noon, quiz(2*PartSize), Entry{Requested: true})
	if again := r.Unstored(); len(again) != 1 || again[0].Number != 2 {
		t.Errorf("stored %+v, want part 2", again)
	}
}

func TestWindowForgets(t *testing.T) {
	w := Window{}
	f := &Fold{}
	f.Add(1, noon.Add(-25*time.Hour), quiz(1), Entry{Requested: true})
	f.Add(2, noon, quiz(2), Entry{Requested: true})
	for _, p := range f.Unstored() {
		w.Put(p)
	}
	if o := w.Overview(noon.Add(-48 * time.Hour)); len(o.Endpoints) != 2 {
		t.Fatalf("%d endpoints", len(o.Endpoints))
	}
	w.Expire(noon.Add(-24 * time.Hour))
	if o := w.Overview(noon.Add(-48 * time.Hour)); len(o.Endpoints) != 1 || o.Endpoints[0].App != "app2" {
		t.Errorf("after a day: %+v", o.Endpoints)
	}
}

func TestSeriesHasEmptyMinutes(t *testing.T) {
	w := Window{}
	f := &Fold{}
	for i, minute := range []int{0, 0, 7, 9} {
		f.Add(uint64(i+1), noon.Add(time.Duration(minute)*time.Minute), quiz(i%2), Entry{Requested: true, Success: i != 2, DurationMs: 10})
	}
	for _, p := range f.Unstored() {
		w.Put(p)
	}
	got := w.Series(streams.EndpointID{}, noon, noon.Add(9*time.Minute), 5*time.Minute)
	want := []Point{{At: noon, Attempts: 2, Succeeded: 2, AverageMs: 10}, {At: noon.Add(5 * time.Minute), Attempts: 2, Succeeded: 1, AverageMs: 10}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("series %+v, want %+v", got, want)
	}
	if one := w.Series(quiz(1), noon, noon.Add(9*time.Minute), time.Minute); len(one) != 10 || one[9].Attempts != 1 || one[7].Attempts != 0 {
		t.Errorf("series of one endpoint %+v", one)
	}
}

func FuzzDecodePart(f *testing.F) {
	good := &Fold{}
	good.Add(1, noon, quiz(1), Entry{Requested: true, DurationMs: 3})
	value, err := good.Unstored()[0].Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("12-00.0", value)
	f.Add("12-00.0", []byte(`{"minute":"2026-01-31T12:00:00Z","part":0,"parts":1,"endpoints":[{"durations":"////"}]}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		p, err := DecodePart(key, value)
		if err != nil {
			return
		}
		w := Window{}
		w.Put(p)
		o := w.Overview(p.Minute.Add(-time.Hour))
		if _, err := json.Marshal(o); err != nil {
			t.Errorf("what was decoded can't be shown: %v", err)
		}
		_, _ = Resume([]Part{p}, p.Through)
	})
}

// The short way reads what the long way does, or leaves it to it.
func FuzzScanEntry(f *testing.F) {
	for _, a := range []streams.Attempt{
		{},
		{ID: "e1", App: "quiz", Capability: "analytics", Time: noon, Attempt: 1, DurationMs: 12.345, Requested: true, Success: true, Verdict: "delivered", Status: 200},
		{Attempt: 3, DurationMs: 1e-3, Call: true, Requested: true, Verdict: "retry", Reason: "timeout", TimedOut: true, Error: `no "answer", {"reason":"x"}`, Answer: "\\\"", Sequence: 7},
	} {
		data, err := json.Marshal(a)
		if err != nil {
			f.Fatal(err)
		}
		if _, ok := scanEntry(data); !ok {
			f.Errorf("the long way for %s", data)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"reason":"a\u0062","attempt":1}`))
	f.Add([]byte(`{"Success":true,"extra":{"success":true}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, ok := scanEntry(data)
		want := Entry{}
		if err := json.Unmarshal(data, &want); err != nil || !ok {
			return
		}
		if got != want && utf8.Valid(data) {
			t.Errorf("%q is %+v, want %+v", data, got, want)
		}
	})
}

// What adding up one entry costs, decoding included.
func BenchmarkFold(b *testing.B) {
	data, err := json.Marshal(streams.Attempt{
		ID: "0123456789abcdef", App: "quiz", Capability: "analytics", Time: noon, Attempt: 1, DurationMs: 12.345,
		Requested: true, Success: true, Verdict: "delivered", Status: 200,
	})
	if err != nil {
		b.Fatal(err)
	}
	f := &Fold{}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e, err := DecodeEntry(data)
		if err != nil {
			b.Fatal(err)
		}
		e.DurationMs = float64(i % 1000)
		f.Add(uint64(i), noon, quiz(i%100), e)
	}
}

// What an overview of a day costs with a hundred endpoints that are always busy.
func BenchmarkOverviewOfADay(b *testing.B) {
	w, f := Window{}, &Fold{}
	for minute := range 24 * 60 {
		for i := range 1000 {
			f.Add(1, noon.Add(time.Duration(minute)*time.Minute), quiz(i%100), Entry{Requested: true, Success: true, DurationMs: float64(i%50 + 1)})
		}
		for _, p := range f.Unstored() {
			w.Put(p)
		}
		f.Stored()
	}
	b.ReportAllocs()
	for b.Loop() {
		if w.Overview(noon.Add(17*time.Minute)).Total.Attempts == 0 {
			b.Fatal("empty")
		}
	}
}

// What 10,000 endpoints cost that are all busy: the facts for the alerts, and
// the memory of each one's minute.
func BenchmarkManyEndpoints(b *testing.B) {
	const endpoints, minutes = 10_000, 60
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	w, f, stored := &Window{}, &Fold{}, 0
	for minute := range minutes {
		for i := range 6 * endpoints {
			f.Add(1, noon.Add(time.Duration(minute)*time.Minute), quiz(i%endpoints), Entry{Requested: true, Success: i%7 > 0, Reason: "status", DurationMs: float64(i%97 + 10)})
		}
		for _, p := range f.Unstored() {
			value, err := p.Encode()
			if err != nil {
				b.Fatal(err)
			}
			stored += len(value)
			if p, err = DecodePart(p.Key(), value); err != nil {
				b.Fatal(err)
			}
			w.Put(p)
		}
		f.Stored()
	}
	runtime.GC() // f is of no more use here
	runtime.ReadMemStats(&after)
	since := noon.Add(minutes * time.Minute)
	for b.Loop() {
		for i := range endpoints {
			w.Counts(quiz(i), since.Add(-time.Hour))
			w.Endpoint(quiz(i), since.Add(-15*time.Minute))
		}
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/endpoints/minutes, "memory-B/minute")
	b.ReportMetric(float64(stored)/endpoints/minutes, "stored-B/minute")
}

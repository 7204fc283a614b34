package secrets

import (
	"testing"
	"time"
)

func BenchmarkActive(b *testing.B) {
	k := NewKeyring(nil, nil, nil)
	now := time.Now()
	k.apps.Store("quiz", &ring{texts: []string{"new", "old"}, expires: []time.Time{{}, now.Add(time.Hour)}})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if len(k.Active("quiz", now)) != 2 {
				b.Fail()
			}
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	key, err := newKey(make([]byte, keySize))
	if err != nil {
		b.Fatal(err)
	}
	sealed, err := key.Public().seal("quiz", Generate())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := key.open("quiz", sealed); err != nil {
			b.Fatal(err)
		}
	}
}

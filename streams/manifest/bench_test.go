package manifest

import "testing"

func BenchmarkParse(b *testing.B) {
	data := documents(b, "valid")["contract"]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(data, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

package fallback

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// seedOf returns a seed that is the same each time.
func seedOf(i int) []byte {
	sum := sha256.Sum256(fmt.Append(nil, "seed ", i))
	return sum[:]
}

// These draws must come out the same for ever: seeds in notices were made with
// this algorithm. Another algorithm needs another name.
func TestDrawIsTheAlgorithmOfItsName(t *testing.T) {
	for _, test := range []struct {
		n, count int
		want     []int
	}{
		{1, 1, []int{0}},
		{10, 3, []int{4, 3, 5}},
		{10, 10, []int{4, 3, 5, 2, 1, 9, 0, 8, 7, 6}},
		{1000, 5, []int{164, 993, 469, 487, 917}},
	} {
		if got := Draw(make([]byte, seedSize), test.n, test.count); !slices.Equal(got, test.want) {
			t.Errorf("%d of %d: %v, want %v", test.count, test.n, got, test.want)
		}
	}
}

// The Python in Draw's comment draws the same.
func TestDrawInPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3")
	}
	source, err := os.ReadFile("draw.go")
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for _, line := range regexp.MustCompile(`(?m)^//\t(.*)$|^//$`).FindAllStringSubmatch(string(source), -1) {
		script.WriteString(line[1] + "\n")
	}
	var want strings.Builder
	for i := range 50 {
		seed, n := seedOf(i), 1+i*7
		count := 1 + i%n
		fmt.Fprintf(&script, "print(*draw(%q, %d, %d))\n", hex.EncodeToString(seed), n, count)
		want.WriteString(strings.Trim(fmt.Sprint(Draw(seed, n, count)), "[]") + "\n")
	}
	cmd := exec.CommandContext(t.Context(), python, "-c", script.String())
	cmd.Stderr = t.Output()
	got, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want.String() {
		t.Errorf("Python draws\n%s, Go\n%s", got, want.String())
	}
}

// Each candidate has the same chance at each place: chi-square over the table
// of who was drawn when. The seeds are fixed, so the test always comes out the
// same; for random ones it would fail once in a billion times.
func TestDrawIsFair(t *testing.T) {
	for _, test := range []struct{ n, count int }{{2, 1}, {3, 2}, {7, 7}, {10, 3}, {13, 5}} {
		const draws = 5_000
		seen := make([][]int, test.count) // place, candidate
		for i := range seen {
			seen[i] = make([]int, test.n)
		}
		for i := range draws {
			for place, candidate := range Draw(seedOf(i), test.n, test.count) {
				seen[place][candidate]++
			}
		}
		expected := float64(draws) / float64(test.n)
		for place, row := range seen {
			var chi2 float64
			for _, times := range row {
				d := float64(times) - expected
				chi2 += d * d / expected
			}
			// The quantile of 1 - 1e-9 is below 38 for 1 degree of freedom,
			// and below 72 for 12.
			if limit := 38 + 3*float64(test.n-2); chi2 > limit {
				t.Errorf("%d of %d, place %d: chi-square %.1f is more than %.0f: %v", test.count, test.n, place, chi2, limit, row)
			}
		}
	}
}

// Numbers below k are passed over rather than folded: with k just above half
// of the range, folding would make the small half twice as likely.
func TestNumbersAreNotFolded(t *testing.T) {
	const k = 3 << 61 // 2^64 is two and two thirds of it
	s := newNumbers(seedOf(1))
	low := 0
	const draws = 3000
	for range draws {
		if x := s.below(k); x < 1<<62 {
			low++
		} else if x >= k {
			t.Fatalf("%d is not below %d", x, k)
		}
	}
	// Two thirds are right; folded it would be three quarters.
	if low < draws*62/100 || low > draws*71/100 {
		t.Errorf("%d of %d are in the lower two thirds", low, draws)
	}
}

func TestDrawProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SliceOfN(rapid.Byte(), seedSize, seedSize).Draw(t, "seed")
		n := rapid.IntRange(-1, 200).Draw(t, "n")
		count := rapid.IntRange(-1, 210).Draw(t, "count")
		got := Draw(seed, n, count)
		if len(got) != max(min(n, count), 0) {
			t.Fatalf("%d drawn", len(got))
		}
		once := make(map[int]bool)
		for _, i := range got {
			if i < 0 || i >= n || once[i] {
				t.Fatalf("%v has %d twice, or from elsewhere", got, i)
			}
			once[i] = true
		}
		if !slices.Equal(got, Draw(seed, n, count)) {
			t.Fatal("the same seed draws others")
		}
		if all := Draw(seed, n, n); !slices.Equal(all[:len(got)], got) {
			t.Fatal("drawing more changes who is drawn first")
		}
	})
}

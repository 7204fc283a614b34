package manifest

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden lists of problems anew")

const corpus = "../../testdata/manifests"

// documents returns the manifests of one folder of the corpus, by name.
func documents(t testing.TB, folder string) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(corpus, folder, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents in %s/%s: %v", corpus, folder, err)
	}
	docs := make(map[string][]byte, len(files))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		docs[strings.TrimSuffix(filepath.Base(f), ".json")] = data
	}
	return docs
}

func TestParseAcceptsValidCorpus(t *testing.T) {
	for name, data := range documents(t, "valid") {
		t.Run(name, func(t *testing.T) {
			m, err := Parse(data, Options{})
			if err != nil {
				t.Fatal(err)
			}
			roundTrip(t, m)
		})
	}
}

func TestParseReportsEveryProblemOfInvalidCorpus(t *testing.T) {
	for name, data := range documents(t, "invalid") {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(data, Options{})
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("error %v, want Problems", err)
			}
			golden := filepath.Join(corpus, "invalid", name+".problems")
			got := problems.Error() + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v (go test -update writes it)", err)
			}
			if got != string(want) {
				t.Errorf("problems:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

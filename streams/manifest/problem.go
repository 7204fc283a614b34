package manifest

import (
	"fmt"
	"strings"
)

// Problem is one mistake in a manifest.
type Problem struct {
	// Pointer says where, as a JSON pointer (RFC 6901). Of a field that is
	// missing it names the field. Empty means the document as a whole.
	Pointer string `json:"pointer"`
	// Message says what is wrong and what would be right.
	Message string `json:"message"`
}

// String returns "pointer: message".
func (p Problem) String() string {
	if p.Pointer == "" {
		return p.Message
	}
	return p.Pointer + ": " + p.Message
}

// Problems is the error of Parse: every mistake, in the order of the document.
type Problems []Problem //nolint:errname // it is a list first: callers show its entries

// Error returns all problems, one to a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// maxProblems is where Parse stops collecting: nobody reads further, and a
// hostile document could fill the memory with them.
const maxProblems = 1000

// problems collects while a document is read.
type problems struct{ found Problems }

func (p *problems) add(pointer, format string, args ...any) {
	switch n := len(p.found); {
	case n < maxProblems:
		p.found = append(p.found, Problem{pointer, fmt.Sprintf(format, args...)})
	case n == maxProblems:
		p.found = append(p.found, Problem{Message: fmt.Sprintf("more than %d mistakes; the rest is not shown", maxProblems)})
	}
}

// err returns what was found, or nil for nothing.
func (p *problems) err() error {
	if len(p.found) == 0 {
		return nil
	}
	return p.found
}

// quote shows a text of the document in a message, cut to a readable length.
func quote(s string) string {
	const most = 64
	if r := []rune(s); len(r) > most {
		return fmt.Sprintf("%q…", string(r[:most]))
	}
	return fmt.Sprintf("%q", s)
}

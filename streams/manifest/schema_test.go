package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

func compile(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	const url = "urn:backstop:manifest:1"
	if err := c.AddResource(url, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(url)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func conforms(t *testing.T, s *jsonschema.Schema, data []byte) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return s.Validate(doc)
}

// beyondSchema tells the problems that a schema can't see, because it can't
// say what is wrong. The comment of Parse names these rules.
func beyondSchema(name string, p Problem) bool {
	switch name {
	case "not-utf8", "duplicate-fields": // lost when the text becomes a value: bad bytes are replaced, one field is kept
		return true
	case "nested": // the validator doesn't count
		return true
	case "headers-same": // two fields that differ by case
		return p.Pointer == "/webhooks/quizAnswer/headers/x-tenant"
	case "delays-crossed": // one value against another
		return p.Pointer == "/webhooks/quizAnswer/retry/initialDelay"
	default:
		return false
	}
}

const anywhere = "…"

// places returns the JSON pointers at which a schema found something wrong,
// those of missing, unknown and badly named fields included.
func places(err error) map[string]bool {
	at := make(map[string]bool)
	var visit func(*jsonschema.ValidationError)
	visit = func(e *jsonschema.ValidationError) {
		pointer := ""
		for _, token := range e.InstanceLocation {
			pointer = child(pointer, token)
		}
		switch k := e.ErrorKind.(type) {
		case *kind.AdditionalProperties:
			for _, name := range k.Properties {
				at[child(pointer, name)] = true
			}
			return
		case *kind.Required:
			for _, name := range k.Missing {
				at[child(pointer, name)] = true
			}
			return
		case *kind.PropertyNames:
			// The library overwrites the location of these (v6.0.3 lends out
			// a slice that it goes on using): only the name can be relied on.
			at[anywhere+child("", k.Property)] = true
			return
		case *kind.UniqueItems:
			at[item(pointer, k.Duplicates[1])] = true
			return
		}
		if len(e.Causes) == 0 {
			at[pointer] = true
		}
		for _, c := range e.Causes {
			visit(c)
		}
	}
	if invalid := new(jsonschema.ValidationError); errors.As(err, &invalid) {
		visit(invalid)
	}
	return at
}

// The agreement is by place: what Parse finds wrong somewhere, the schema
// finds wrong there too, so that no mistake hides behind another one.
func TestSchemaAndParseAgreeOnCorpus(t *testing.T) {
	s := compile(t)
	for name, data := range documents(t, "valid") {
		if err := conforms(t, s, data); err != nil {
			t.Errorf("valid/%s: Parse accepts it, the schema doesn't: %v", name, err)
		}
	}
	for name, data := range documents(t, "invalid") {
		_, err := Parse(data, Options{})
		var problems Problems
		if !errors.As(err, &problems) {
			t.Fatalf("invalid/%s: %v", name, err)
		}
		bySchema := conforms(t, s, data)
		if bySchema != nil && !errors.As(bySchema, new(*jsonschema.ValidationError)) {
			continue // not JSON to the validator's own parser
		}
		found := places(bySchema)
		for _, p := range problems {
			last := p.Pointer[max(strings.LastIndexByte(p.Pointer, '/'), 0):]
			seen := found[p.Pointer] || found[anywhere+last] || p.Pointer == "" && len(found) > 0
			switch {
			case !seen && !beyondSchema(name, p) && !excused(p.Pointer, found):
				t.Errorf("invalid/%s: the schema misses %s", name, p)
			case seen && beyondSchema(name, p):
				t.Errorf("invalid/%s: the schema can say it after all: %s", name, p)
			}
		}
	}
}

// excused tells places that the validator doesn't get to. It stops at the
// first pair of equal items, and of a strategy it says only that no variant fits.
func excused(pointer string, found map[string]bool) bool {
	if at := strings.Index(pointer, "/fallback/"); at >= 0 {
		end := at + len("/fallback/")
		if next := strings.IndexByte(pointer[end:], '/'); next >= 0 {
			variant := pointer[:end+next]
			for place := range found {
				if place == variant || strings.HasPrefix(place, variant+"/") {
					return true
				}
			}
		}
	}
	return false
}

func TestSchemaExamplesAreValid(t *testing.T) {
	var doc struct {
		Examples []json.RawMessage `json:"examples"`
	}
	if err := json.Unmarshal(Schema(), &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Examples) == 0 {
		t.Fatal("the schema has no examples")
	}
	s := compile(t)
	for i, e := range doc.Examples {
		if err := conforms(t, s, e); err != nil {
			t.Errorf("example %d: %v", i, err)
		}
		if _, err := Parse(e, Options{}); err != nil {
			t.Errorf("example %d: %v", i, err)
		}
	}
}

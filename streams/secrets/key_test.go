package secrets

import (
	"bytes"
	"testing"
)

func TestDerivedKeysAreOfOnePurposeAndOneFile(t *testing.T) {
	a := testKey(t, 1).Derive("callbacks")
	if len(a) != 32 || !bytes.Equal(a, testKey(t, 1).Derive("callbacks")) {
		t.Errorf("%x: two replicas with one key file must derive the same 32 bytes", a)
	}
	for name, b := range map[string][]byte{
		"another purpose":  testKey(t, 1).Derive("cookies"),
		"another key file": testKey(t, 2).Derive("callbacks"),
		"the file itself":  bytes.Repeat([]byte{1}, keySize),
	} {
		if bytes.Equal(a, b) {
			t.Errorf("the key of %s is the same", name)
		}
	}
}

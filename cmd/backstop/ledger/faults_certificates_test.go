//go:build e2e

package ledger

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Apps that speak TLS, by the first part of their names: "trusted" as it should
// be, the others with a certificate that nobody may accept.
const (
	trustedKind   = "trusted"
	expiredKind   = "expired"
	wrongNameKind = "wrongname"
	unknownKind   = "unknown"
)

// writeCertificates writes what the apps present to the file that the receiver
// reads, and the authority that serve is to trust to another; it returns both.
func writeCertificates(t *testing.T, host string) (certificates, authority string) {
	t.Helper()
	dir := t.TempDir()
	now := time.Now()
	known, unknown := newAuthority(t), newAuthority(t)
	// By a clock that is an hour wrong, too, the good one is good and the
	// expired one is expired.
	long, over := [2]time.Time{now.Add(-24 * time.Hour), now.Add(24 * time.Hour)}, [2]time.Time{now.Add(-24 * time.Hour), now.Add(-2 * time.Hour)}
	all := map[string]presented{
		trustedKind:   known.issue(t, host, long),
		expiredKind:   known.issue(t, host, over),
		wrongNameKind: known.issue(t, "another.example", long),
		unknownKind:   unknown.issue(t, host, long),
	}
	certificates, authority = filepath.Join(dir, "certificates.json"), filepath.Join(dir, "authority.pem")
	text, err := json.Marshal(all)
	must(t, err)
	must(t, os.WriteFile(certificates, text, 0o600))
	must(t, os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: known.certificate.Raw}), 0o600))
	return certificates, authority
}

type authority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the fault rig"}, NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	certificate, err := x509.ParseCertificate(der)
	must(t, err)
	return authority{key, certificate}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// issue makes a certificate for a host, an address or a name, for a time.
func (a authority) issue(t *testing.T, host string, valid [2]time.Time) presented {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: valid[0], NotAfter: valid[1],
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	must(t, err)
	private, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	return presented{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
	}
}

// neverReached are the kinds of apps that no request may reach.
func neverReached(app string) bool {
	kind, _, _ := strings.Cut(app, "-")
	return kind == expiredKind || kind == wrongNameKind || kind == unknownKind
}

// checkCertificates looks for requests where none may be, and at what the dead
// letters say of it.
func (w *world) checkCertificates(b *books) {
	trusted := 0
	for t, requests := range b.requests {
		if kind, _, _ := strings.Cut(t.App, "-"); kind == trustedKind {
			trusted++
		}
		if neverReached(t.App) {
			b.problem("event %s was sent to %s, whose certificate is not to be trusted: %s", t.id, t.EndpointID, describe(requests))
		}
	}
	if trusted == 0 {
		b.problem("no request came over TLS: that nobody was reached with a bad certificate says nothing")
	}
	for t, letters := range b.letters {
		if l := letters[0]; neverReached(t.App) && l.Reason != "expired" && (l.Reason != "exhausted" || !strings.Contains(l.Err, "certificate")) {
			b.problem("the dead letter of event %s at %s says %s, %q: nothing of its certificate", t.id, t.EndpointID, l.Reason, l.Err)
		}
	}
}

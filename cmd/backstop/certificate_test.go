package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/streams/logtest"
)

// writeCertificate makes a certificate for loopback, signed by itself.
func writeCertificate(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// serve with certificates speaks TLS on both of its ports and nothing else,
// and the commands beside it need no further setting.
func TestServeWithTLS(t *testing.T) {
	cleanEnvironment(t)
	dir := t.TempDir()
	certFile, keyFile := writeCertificate(t, dir, "backstop")
	for name, value := range map[string]string{
		"BACKSTOP_NATS_ADDR": freePort(t), "BACKSTOP_HTTP_ADDR": "127.0.0.1:0", "BACKSTOP_DATA_DIR": filepath.Join(dir, "data"),
		"BACKSTOP_NATS_TOKEN": "a-token", "BACKSTOP_NATS_CERT": certFile, "BACKSTOP_NATS_KEY": keyFile,
		"BACKSTOP_HTTP_CERT": certFile, "BACKSTOP_HTTP_KEY": keyFile, "BACKSTOP_SYNC": "1s", "BACKSTOP_LOG_LEVEL": "error",
		"NATS_CA": certFile, // for a NATS elsewhere; the connection within the process takes no notice
	} {
		t.Setenv(name, value)
	}
	where := serveInTest(t)
	if !strings.HasPrefix(where.NATS, "tls://") || !strings.HasPrefix(where.HTTP, "https://") {
		t.Errorf("it is reached at %+v", where)
	}
	for _, ca := range []string{certFile, ""} {
		t.Setenv("NATS_CA", ca)
		var said logtest.Buffer
		if code := run([]string{"status"}, strings.NewReader(""), &said, &said); code != 0 {
			t.Errorf("status with NATS_CA=%q: exit code %d, said %s", ca, code, said.String())
		}
	}
	pool := x509.NewCertPool()
	text, err := os.ReadFile(certFile)
	if err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	if resp, err := client.Get(where.HTTP + "/readyz"); err != nil || resp.StatusCode != 200 { //nolint:noctx // ends with the test
		t.Errorf("/readyz over TLS: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	// Without TLS there is nothing to hear, and a stranger's CA isn't believed.
	plain := strings.Replace(where.NATS, "tls://", "nats://", 1)
	if _, err := nats.Connect(plain, nats.Token("a-token"), nats.TLSHandshakeFirst()); err == nil {
		t.Error("a client that trusts other CAs was content with the certificate")
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(where.NATS, "tls://")) //nolint:noctx // ends with the test
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := make([]byte, 4096)
	n, err := conn.Read(answers)
	if err != nil || !strings.Contains(string(answers[:n]), `"tls_required":true`) {
		t.Errorf("the server says %q, %v", answers[:n], err)
	}
	_, _ = conn.Write([]byte("CONNECT {\"auth_token\":\"a-token\"}\r\nPING\r\n"))
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := conn.Read(answers); err == nil && strings.Contains(string(answers[:n]), "PONG") {
		t.Errorf("it answers without TLS: %q", answers[:n])
	}
}

// A renewed certificate is served without a restart; one that can't be used isn't.
func TestCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := writeCertificate(t, dir, "first")
	log := new(logtest.Buffer)
	c := &certificate{certFile: certFile, keyFile: keyFile, log: slog.New(slog.NewTextHandler(log, nil))}
	served := func() string {
		c.looked = time.Time{} // as if a second had gone by
		leaf, err := x509.ParseCertificate(c.get().Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.Subject.CommonName
	}
	if got := served(); got != "first" {
		t.Errorf("serves %q", got)
	}
	writeCertificate(t, dir, "the second, which is longer")
	if got := served(); got != "the second, which is longer" {
		t.Errorf("serves %q after a renewal", got)
	}
	if err := os.WriteFile(keyFile, []byte("half a k"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := served(); got != "the second, which is longer" || !strings.Contains(log.String(), "renewed certificate") {
		t.Errorf("serves %q with a broken key, and says %q", got, log)
	}
	if strings.Contains(log.String(), "half a k") {
		t.Error("the log holds what is in the key's file")
	}
}

func TestCertificatesThatCantBeRight(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := writeCertificate(t, dir, "x")
	for _, test := range []struct {
		reason, cert, key string
	}{
		{"no such file", filepath.Join(dir, "none"), keyFile},
		{"a key for a certificate", keyFile, keyFile},
		{"a certificate for a key", certFile, certFile},
	} {
		_, err := serverTLS("BACKSTOP_HTTP_CERT", test.cert, test.key, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), "BACKSTOP_HTTP_CERT") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", test.reason, err)
		}
	}
	if c, err := serverTLS("BACKSTOP_HTTP_CERT", "", "", nil); c != nil || err != nil {
		t.Errorf("no certificate: %v, %v", c, err)
	}
}

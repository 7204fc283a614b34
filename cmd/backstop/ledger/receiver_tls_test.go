package ledger

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"os"
)

// certificatesEnv names a file with what a receiver presents, by kind of app:
// for each it listens once more, and speaks TLS there.
const certificatesEnv = "BACKSTOP_LEDGER_CERTIFICATES"

// presented is a certificate and its key, in PEM.
type presented struct{ Certificate, Key []byte }

// listenTLS begins to listen as certificatesEnv says, and returns the addresses.
func listenTLS(srv *http.Server) (addresses map[string]string, err error) {
	file := os.Getenv(certificatesEnv)
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all map[string]presented
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	addresses = map[string]string{}
	for kind, p := range all {
		pair, err := tls.X509KeyPair(p.Certificate, p.Key)
		if err != nil {
			return nil, err
		}
		l, err := net.Listen("tcp", listenHost()+":0")
		if err != nil {
			return nil, err
		}
		addresses[kind] = l.Addr().String()
		go func() { _ = srv.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}})) }() // ends with srv
	}
	return addresses, nil
}

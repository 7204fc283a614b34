package sign_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"backstop/dispatcher/sign"
)

type vector struct {
	Name, Reason      string
	Secrets           []string
	ID                string
	Timestamp         int64
	Body              string
	WebhookSignature  string
	PlatformSignature string
}

func vectors(t testing.TB) []vector {
	t.Helper()
	data, err := os.ReadFile("../../testdata/signatures/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v []vector
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if len(v) == 0 {
		t.Fatal("no vectors")
	}
	return v
}

func (v vector) sign(t testing.TB, s *sign.Signer) http.Header {
	t.Helper()
	h := make(http.Header)
	if err := s.Sign(h.Set, v.ID, time.Unix(v.Timestamp, 999_999_999), []byte(v.Body), v.Secrets); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestSignMatchesTheVectors(t *testing.T) {
	s := sign.NewSigner()
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			for range 2 { // the second time with a kept key
				h := v.sign(t, s)
				want := http.Header{
					"Webhook-Id": {v.ID}, "Webhook-Timestamp": {strconv.FormatInt(v.Timestamp, 10)},
					"Webhook-Signature": {v.WebhookSignature}, "X-Platform-Signature": {v.PlatformSignature},
				}
				if len(h) != len(want) {
					t.Errorf("headers %v, want %v", h, want)
				}
				for name := range want {
					if h.Get(name) != want.Get(name) {
						t.Errorf("%s: %q, want %q (%s)", name, h.Get(name), want.Get(name), v.Reason)
					}
				}
			}
		})
	}
}

func TestVerifyAcceptsWhatWasSigned(t *testing.T) {
	for _, v := range vectors(t) {
		h := v.sign(t, sign.NewSigner())
		now := time.Unix(v.Timestamp, 0)
		for _, secret := range v.Secrets {
			if err := sign.Verify(h, []byte(v.Body), now, "whsec_b3RoZXI=", secret); err != nil {
				t.Errorf("%s: %v", v.Name, err)
			}
		}
		if err := sign.VerifyPlatform(h, []byte(v.Body), v.Secrets...); err != nil {
			t.Errorf("%s: platform: %v", v.Name, err)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	v := vectors(t)[0]
	now := time.Unix(v.Timestamp, 0)
	good := v.sign(t, sign.NewSigner())
	with := func(name, value string) http.Header {
		h := good.Clone()
		h.Set(name, value)
		return h
	}
	at := func(d time.Duration) string { return strconv.FormatInt(now.Add(d).Unix(), 10) }
	tests := []struct {
		reason string
		header http.Header
		body   string
		secret string
		now    time.Time
		want   error
	}{
		{"as it was signed", good, v.Body, v.Secrets[0], now, nil},
		{"at the edge of the tolerance", good, v.Body, v.Secrets[0], now.Add(sign.Tolerance), nil},
		{"at the other edge", good, v.Body, v.Secrets[0], now.Add(-sign.Tolerance), nil},
		{"among signatures of other versions", with("webhook-signature", "v1a,AAAA "+v.WebhookSignature+" v2,x"), v.Body, v.Secrets[0], now, nil},
		{"too old", good, v.Body, v.Secrets[0], now.Add(sign.Tolerance + time.Second), sign.ErrTimestamp},
		{"from the future", good, v.Body, v.Secrets[0], now.Add(-sign.Tolerance - time.Second), sign.ErrTimestamp},
		{"a fresh timestamp on an old signature", with("webhook-timestamp", at(time.Second)), v.Body, v.Secrets[0], now, sign.ErrMismatch},
		{"a timestamp that is a word", with("webhook-timestamp", "yesterday"), v.Body, v.Secrets[0], now, sign.ErrTimestamp},
		{"a fraction", with("webhook-timestamp", at(0)+".5"), v.Body, v.Secrets[0], now, sign.ErrTimestamp},
		{"past all time", with("webhook-timestamp", strconv.Itoa(math.MaxInt64)), v.Body, v.Secrets[0], now, sign.ErrTimestamp},
		{"before all time", with("webhook-timestamp", strconv.Itoa(math.MinInt64)), v.Body, v.Secrets[0], now, sign.ErrTimestamp},
		{"another id", with("webhook-id", "msg_other"), v.Body, v.Secrets[0], now, sign.ErrMismatch},
		{"another body", good, v.Body + " ", v.Secrets[0], now, sign.ErrMismatch},
		{"another secret", good, v.Body, "whsec_b3RoZXI=", now, sign.ErrMismatch},
		{"the secret without being decoded", with("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString([]byte("x"))), v.Body, v.Secrets[0], now, sign.ErrMismatch},
		{"without its version", with("webhook-signature", strings.TrimPrefix(v.WebhookSignature, "v1,")), v.Body, v.Secrets[0], now, sign.ErrMismatch},
		{"a shortened signature", with("webhook-signature", v.WebhookSignature[:20]), v.Body, v.Secrets[0], now, sign.ErrMismatch},
		{"only the version", with("webhook-signature", "v1,"), v.Body, v.Secrets[0], now, sign.ErrMismatch},
		{"no signature", with("webhook-signature", ""), v.Body, v.Secrets[0], now, sign.ErrNoSignature},
		{"no id", with("webhook-id", ""), v.Body, v.Secrets[0], now, sign.ErrNoSignature},
		{"no timestamp", with("webhook-timestamp", ""), v.Body, v.Secrets[0], now, sign.ErrNoSignature},
		{"a secret that is none", good, v.Body, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", now, sign.ErrSecret},
	}
	for _, test := range tests {
		if err := sign.Verify(test.header, []byte(test.body), test.now, test.secret); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.reason, err, test.want)
		}
	}
	if err := sign.Verify(good, []byte(v.Body), now); !errors.Is(err, sign.ErrMismatch) {
		t.Errorf("without a secret nothing is right: %v", err)
	}
}

func TestVerifyPlatformRefuses(t *testing.T) {
	v := vectors(t)[0]
	tests := []struct {
		reason, value, body, secret string
		want                        error
	}{
		{"as it was signed", v.PlatformSignature, v.Body, v.Secrets[0], nil},
		{"upper-case hex is the same number", "sha256=" + strings.ToUpper(strings.TrimPrefix(v.PlatformSignature, "sha256=")), v.Body, v.Secrets[0], nil},
		{"missing", "", v.Body, v.Secrets[0], sign.ErrNoSignature},
		{"without its prefix", strings.TrimPrefix(v.PlatformSignature, "sha256="), v.Body, v.Secrets[0], sign.ErrMismatch},
		{"not hex", "sha256=zz", v.Body, v.Secrets[0], sign.ErrMismatch},
		{"shortened", v.PlatformSignature[:21], v.Body, v.Secrets[0], sign.ErrMismatch},
		{"empty", "sha256=", v.Body, v.Secrets[0], sign.ErrMismatch},
		{"another body", v.PlatformSignature, v.Body + "\n", v.Secrets[0], sign.ErrMismatch},
		{"another secret", v.PlatformSignature, v.Body, "whsec_b3RoZXI=", sign.ErrMismatch},
	}
	for _, test := range tests {
		h := http.Header{"X-Platform-Signature": {test.value}}
		if err := sign.VerifyPlatform(h, []byte(test.body), test.secret); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.reason, err, test.want)
		}
	}
}

func TestSecrets(t *testing.T) {
	tests := []struct {
		secret, reason string
		ok             bool
	}{
		{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "24 bytes, as in the contract's vector", true},
		{"whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "32 bytes, padded", true},
		{"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "without the prefix", false},
		{"whsec_", "nothing behind the prefix", false},
		{"", "nothing", false},
		{"whsec_not base64!", "not base64", false},
		{"whsec_AAECAw", "padding cut off, as by a careless copy", false},
		{"WHSEC_AAEC", "another prefix", false},
	}
	for _, test := range tests {
		err := sign.CheckSecret(test.secret)
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.reason, err)
		}
		if err != nil && len(test.secret) > 6 && strings.Contains(err.Error(), test.secret[6:]) {
			t.Errorf("%s: the error shows the secret: %v", test.reason, err)
		}
	}
	never := func(string, string) { t.Error("a header was set although signing failed") }
	if err := sign.NewSigner().Sign(never, "id", time.Now(), nil, nil); !errors.Is(err, sign.ErrNoSecret) {
		t.Errorf("no secrets: %v", err)
	}
	good := "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	if err := sign.NewSigner().Sign(never, "id", time.Now(), nil, []string{good, "x"}); !errors.Is(err, sign.ErrSecret) {
		t.Errorf("one good and one bad secret: %v", err)
	}
}

// A Signer forgets keys when it has too many, and signs right all the same,
// from many goroutines.
func TestSignerWithManySecrets(t *testing.T) {
	s := sign.NewSigner()
	body, now := []byte(`{}`), time.Now()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 5000 {
				secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte(strconv.Itoa(i*4+g)))
				h := make(http.Header)
				if err := s.Sign(h.Set, "id", now, body, []string{secret}); err != nil {
					t.Error(err)
					return
				}
				if i%500 == 0 {
					if err := errors.Join(sign.Verify(h, body, now, secret), sign.VerifyPlatform(h, body, secret)); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// Whatever a sender puts into the headers, Verify neither panics nor accepts it.
func FuzzVerify(f *testing.F) {
	f.Add("id", "1614265330", "v1,AAAA", "sha256=00", []byte("{}"))
	f.Add("", "-1", "v1, v1,", "sha256=", []byte(nil))
	f.Fuzz(func(t *testing.T, id, stamp, signature, platform string, body []byte) {
		h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {stamp}, "Webhook-Signature": {signature}, "X-Platform-Signature": {platform}}
		secret := "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
		if sign.Verify(h, body, time.Unix(1614265330, 0), secret) == nil || sign.VerifyPlatform(h, body, secret) == nil {
			t.Fatal("a guessed signature was accepted")
		}
	})
}

func BenchmarkSign(b *testing.B) {
	s := sign.NewSigner()
	body := []byte(strings.Repeat("x", 1024))
	secrets := []string{"whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Sign(func(string, string) {}, "evt_12345678901234567890", now, body, secrets); err != nil {
			b.Fatal(err)
		}
	}
}

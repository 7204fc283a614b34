package manifest

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func withBaseURL(t *testing.T, url string) []byte {
	t.Helper()
	quoted, err := json.Marshal(url)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(`{"appId":"quiz","baseUrl":` + string(quoted) + `,"webhooks":{"quizAnswer":{"path":"/answer"}}}`)
}

func TestBaseURL(t *testing.T) {
	const (
		bySchema = true  // the schema says no as well
		byParse  = false // only Parse can tell
	)
	tests := []struct {
		url    string
		want   string // part of the only problem; "" when it is right
		schema bool
		reason string
	}{
		{"https://quiz.example.com", "", false, "as in the contract"},
		{"http://quiz.example.com:8080/base/", "", false, "plain http, port and path are fine"},
		{"https://xn--caf-dma.example", "", false, "an internationalised name in its ASCII form"},
		{"https://8.8.8.8", "", false, "a public address"},
		{"https://[2606:4700:4700::1111]:443/", "", false, "a public IPv6 address"},
		{"https://10.example.com", "", false, "a number that isn't the last label"},

		{"", "is empty", bySchema, "nowhere"},
		{"quiz.example.com", "must be absolute", bySchema, "no scheme"},
		{"//quiz.example.com", "must be absolute", bySchema, "no scheme, but a host"},
		{"/webhooks", "must be absolute", bySchema, "a path"},
		{"quiz.example.com:8080", `"quiz.example.com:" can't be called`, bySchema, "reads as a scheme"},
		{"file:///etc/passwd", `"file:" can't be called`, bySchema, "a local file"},
		{"gopher://quiz.example.com", `"gopher:" can't be called`, bySchema, "the classic way into other protocols"},
		{"unix:///var/run/docker.sock", `"unix:" can't be called`, bySchema, "a local socket"},
		{"https:quiz.example.com", "has no host", bySchema, "opaque"},
		{"https:///path", "has no host", bySchema, "empty host"},
		{"https://", "has no host", bySchema, "nothing behind the scheme"},
		{"https://:8080", "has no host", bySchema, "a port alone"},
		{"https://user:pa55@quiz.example.com", "user name or password", bySchema, "credentials would be logged and stored"},
		{"https://user@quiz.example.com", "user name or password", bySchema, "a user alone"},
		{"https://@quiz.example.com", "user name or password", bySchema, "an empty user"},
		{"https://quiz.example.com?x=1", "query", bySchema, "the path would be appended to the query"},
		{"https://quiz.example.com?", "query", bySchema, "an empty query"},
		{"https://quiz.example.com#top", "fragment", bySchema, "never sent"},
		{"https://quiz.example.com#", "fragment", bySchema, "an empty fragment"},
		{"https://quiz.example.com:0", "port", byParse, "no such port"},
		{"https://quiz.example.com:65536", "port", byParse, "no such port"},
		{"https://quiz.example.com:", "port", bySchema, "an empty port"},
		{"https://quiz.example.com:http", "is not a URL", bySchema, "a named port"},
		{"https://quiz.example.com/a/../b", `"."`, bySchema, "dot segments"},
		{"https://quiz.example.com/%2E%2e/b", `"."`, bySchema, "dot segments in disguise"},
		{"https://quiz.example.com//b", "one \"/\"", bySchema, "an empty segment at the start"},
		{"https://quiz.example.com/%zz", "is not a URL", bySchema, "a broken escape"},
		{`https://quiz.example.com/"b"`, "percent-encode", bySchema, "a character that Go would rewrite"},
		{"https://quiz.example.com\\@evil.example", "plain ASCII", bySchema, "parsers disagree about backslashes"},
		{" https://quiz.example.com", "plain ASCII", bySchema, "white space"},
		{"https://quiz.example.com\r\nX: y", "plain ASCII", bySchema, "header injection"},
		{"https://café.example", "plain ASCII", bySchema, "not its ASCII form"},
		{"https://ⓛocalhost", "plain ASCII", bySchema, "folds to localhost"},
		{"https://quiz..example.com", "is not a host name", byParse, "an empty label"},
		{"https://-quiz.example.com", "is not a host name", byParse, "starts with a hyphen"},
		{"https://" + strings.Repeat("a", 64) + ".example", "is not a host name", byParse, "a label too long"},
		{"https://" + strings.Repeat("a.", 127) + "example", "is not a host name", byParse, "too long"},
		{"https://" + strings.Repeat("a", 2048), "at most 2048", bySchema, "longer than servers take"},

		{"http://10.0.0.1", "private address", byParse, "RFC 1918"},
		{"http://172.31.255.255", "private address", byParse, "RFC 1918"},
		{"http://192.168.1.1:3000", "private address", byParse, "RFC 1918"},
		{"http://100.64.0.1", "private address", byParse, "carrier-grade NAT"},
		{"http://127.0.0.1", "loopback", byParse, "ourselves"},
		{"http://127.8.9.10", "loopback", byParse, "all of 127/8"},
		{"http://[::1]:8080", "loopback", byParse, "ourselves"},
		{"http://[::ffff:127.0.0.1]", "loopback", byParse, "IPv4 in IPv6"},
		{"http://[::ffff:7f00:1]", "loopback", byParse, "the same in hex"},
		{"http://169.254.1.1", "link-local", byParse, "the local segment"},
		{"http://[fe80::1]", "link-local", byParse, "the local segment"},
		{"http://[fe80::1%25eth0]", "zone", bySchema, "has no meaning elsewhere"},
		{"http://[fd00::1]", "private address", byParse, "unique local"},
		{"http://0.0.0.0", "not an address on the public internet", byParse, "reaches ourselves on Linux"},
		{"http://[::]", "not an address on the public internet", byParse, "reaches ourselves on Linux"},
		{"http://224.0.0.1", "not an address on the public internet", byParse, "multicast"},
		{"http://255.255.255.255", "not an address on the public internet", byParse, "broadcast"},
		{"http://192.0.2.1", "not an address on the public internet", byParse, "documentation"},
		{"http://[64:ff9b::a00:1]", "not an address on the public internet", byParse, "10.0.0.1 behind NAT64"},
		{"http://[2002:7f00:1::]", "not an address on the public internet", byParse, "127.0.0.1 behind 6to4"},
		{"http://169.254.169.254/latest/meta-data", "metadata", byParse, "credentials of the machine"},
		{"http://[::ffff:169.254.169.254]", "metadata", byParse, "the same in IPv6"},
		{"http://[fd00:ec2::254]", "metadata", byParse, "the same at AWS"},
		{"http://168.63.129.16", "metadata", byParse, "the same at Azure, and public by its number"},
		{"http://127.1", "looks like an address", byParse, "some resolvers read 127.0.0.1"},
		{"http://2130706433", "looks like an address", byParse, "some resolvers read 127.0.0.1"},
		{"http://0x7f000001", "looks like an address", byParse, "some resolvers read 127.0.0.1"},
		{"http://0177.0.0.1", "looks like an address", byParse, "some resolvers read 127.0.0.1"},
		{"http://127.0.0.1.", "looks like an address", byParse, "some resolvers read 127.0.0.1"},
		{"http://localhost:8080", "BACKSTOP_ALLOWED_NETWORKS", byParse, "ourselves"},
		{"http://LOCALHOST.", "BACKSTOP_ALLOWED_NETWORKS", byParse, "ourselves"},
		{"http://app.localhost", "BACKSTOP_ALLOWED_NETWORKS", byParse, "ourselves, by RFC 6761"},
	}
	schema := compile(t)
	for _, tt := range tests {
		t.Run(tt.url, func(t *testing.T) {
			data := withBaseURL(t, tt.url)
			_, err := Parse(data, Options{})
			if bad := conforms(t, schema, data) != nil; bad != (tt.want != "" && tt.schema) {
				t.Errorf("schema refuses: %v (%s)", bad, tt.reason)
			}
			if tt.want == "" {
				if err != nil {
					t.Errorf("refused: %v (%s)", err, tt.reason)
				}
				return
			}
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("accepted (%s)", tt.reason)
			}
			if len(problems) != 1 || problems[0].Pointer != "/baseUrl" || !strings.Contains(problems[0].Message, tt.want) {
				t.Errorf("problems:\n%v\nwant one at /baseUrl with %q (%s)", err, tt.want, tt.reason)
			}
			if strings.Contains(err.Error(), "pa55") {
				t.Error("the message repeats a password")
			}
		})
	}
}

func TestAllowedNetworks(t *testing.T) {
	allow := func(list ...string) Options { return Options{AllowedNetworks: prefixes(list...)} }
	tests := []struct {
		url    string
		opt    Options
		ok     bool
		reason string
	}{
		{"http://127.0.0.1:9000", allow("127.0.0.0/8"), true, "inside"},
		{"http://[::ffff:127.0.0.1]:9000", allow("127.0.0.0/8"), true, "the same address"},
		{"http://[::1]:9000", allow("127.0.0.0/8"), false, "IPv6 loopback is another network"},
		{"http://[::1]:9000", allow("::1/128"), true, "inside"},
		{"http://localhost:9000", allow("127.0.0.0/8"), true, "the name of a loopback address"},
		{"http://localhost:9000", allow("::1/128"), true, "the name of a loopback address"},
		{"http://localhost:9000", allow("10.0.0.0/8"), false, "another network"},
		{"http://10.1.2.3", allow("10.1.0.0/16", "192.168.0.0/16"), true, "inside one of them"},
		{"http://10.2.2.3", allow("10.1.0.0/16", "192.168.0.0/16"), false, "outside all of them"},
		{"http://169.254.169.254", allow("0.0.0.0/0", "169.254.0.0/16"), false, "credentials are never opened"},
		{"http://169.254.7.7", allow("169.254.0.0/16"), false, "clouds use more of that network than one address, and so does the dialler say"},
		{"http://[2606:4700::5efe:a00:1]", allow(), false, "10.0.0.1 by ISATAP"},
		{"http://[2606:4700::5efe:a00:1]", allow("10.0.0.0/8"), true, "and it may be called"},
		{"http://[64:ff9b::a00:1]", allow("64:ff9b::/96"), false, "10.0.0.1 behind an allowed NAT64"},
		{"http://[64:ff9b::808:808]", allow("64:ff9b::/96"), true, "8.8.8.8 behind it"},
		{"http://169.254.169.254", Options{anyAddress: true}, true, "what is stored is judged by the dialler"},
		{"http://localhost", Options{anyAddress: true}, true, "what is stored is judged by the dialler"},
	}
	for _, tt := range tests {
		if _, err := Parse(withBaseURL(t, tt.url), tt.opt); (err == nil) != tt.ok {
			t.Errorf("%s with %v: %v (%s)", tt.url, tt.opt.AllowedNetworks, err, tt.reason)
		}
	}
}

func TestAllowedNetworksAreNamedInTheMessage(t *testing.T) {
	for _, url := range []string{"http://10.1.2.3", "http://localhost", "http://[fd00::1]"} {
		_, err := Parse(withBaseURL(t, url), Options{AllowedNetworks: []netip.Prefix{}})
		if err == nil || !strings.Contains(err.Error(), "BACKSTOP_ALLOWED_NETWORKS") {
			t.Errorf("%s: %v, want the setting's name", url, err)
		}
	}
}

package main

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"go.yaml.in/yaml/v3"

	"backstop/embedded"
	"backstop/streams/manifest"
)

// docker-compose.yml is read as Docker would, as far as that can be had without
// Docker: its variables filled in, its files looked for, the environments given
// to the settings' own parser, and the NATS configuration to the server's.

const top = "../../" // of the repository

type compose struct {
	Services map[string]composeService
	Networks map[string]struct {
		IPAM struct{ Config []struct{ Subnet string } }
	}
	Volumes map[string]any
	Secrets map[string]struct{ Environment string }
}

type composeService struct {
	Image       string
	Command     []string
	Environment map[string]string
	Volumes     []string
	Ports       []string
	Secrets     []string
	Networks    []string
	DependsOn   yaml.Node `yaml:"depends_on"`
}

// dotEnv returns the variables of docs/deploy/env.example.
func dotEnv(t *testing.T) map[string]string {
	t.Helper()
	env := make(map[string]string)
	for line := range strings.Lines(readFile(t, top+"docs/deploy/env.example")) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || value == "" {
			t.Fatalf("env.example: %q", line)
		}
		env[name] = value
	}
	return env
}

func readCompose(t *testing.T) compose {
	t.Helper()
	env, used := dotEnv(t), map[string]bool{}
	text := readFile(t, top+"docker-compose.yml")
	variable := regexp.MustCompile(`\$\{([A-Z_]+)(:-|:\?)?([^}]*)\}`)
	text = variable.ReplaceAllStringFunc(text, func(s string) string {
		m := variable.FindStringSubmatch(s)
		value, ok := env[m[1]]
		used[m[1]] = true
		switch {
		case m[2] == ":-":
			return m[3]
		case !ok:
			t.Errorf("docker-compose.yml asks for %s, which env.example hasn't", m[1])
		}
		return value
	})
	var c compose
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	for name, secret := range c.Secrets {
		used[secret.Environment] = true
		if _, ok := env[secret.Environment]; !ok {
			t.Errorf("the secret %s is from %s, which env.example hasn't", name, secret.Environment)
		}
	}
	for name := range env {
		if !used[name] {
			t.Errorf("env.example has %s, which nothing uses", name)
		}
	}
	return c
}

func TestComposeHangsTogether(t *testing.T) {
	c := readCompose(t)
	for name, s := range c.Services {
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if !strings.HasPrefix(from, "./") {
				if _, ok := c.Volumes[from]; !ok {
					t.Errorf("%s: there is no volume %s", name, from)
				}
			} else if _, err := os.Stat(filepath.Join(top, from)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, secret := range s.Secrets {
			if _, ok := c.Secrets[secret]; !ok {
				t.Errorf("%s: there is no secret %s", name, secret)
			}
		}
		for _, network := range s.Networks {
			if _, ok := c.Networks[network]; !ok {
				t.Errorf("%s: there is no network %s", name, network)
			}
		}
		for _, port := range s.Ports {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s: port %s is open to the world", name, port)
			}
		}
		for _, d := range dependencies(t, s) {
			if _, ok := c.Services[d]; !ok || d == name {
				t.Errorf("%s waits for %s, which is no other service", name, d)
			}
		}
	}
}

func dependencies(t *testing.T, s composeService) (names []string) {
	t.Helper()
	var conditions map[string]any
	if s.DependsOn.Kind == yaml.SequenceNode {
		if err := s.DependsOn.Decode(&names); err != nil {
			t.Fatal(err)
		}
	} else if err := s.DependsOn.Decode(&conditions); err != nil && s.DependsOn.Kind != 0 {
		t.Fatal(err)
	}
	for name := range conditions {
		names = append(names, name)
	}
	return names
}

// Every container of ours starts a command that there is, with settings that
// are right.
func TestComposeSettings(t *testing.T) {
	c := readCompose(t)
	replicas, names := 0, map[string]bool{}
	for name, s := range c.Services {
		if s.Image != "backstop" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			cleanEnvironment(t)
			for key, value := range s.Environment {
				t.Setenv(key, value)
			}
			var said bytes.Buffer
			a := &app{err: &said}
			if len(s.Command) > 0 { // serve is the image's own
				root := newRoot(strings.NewReader(""), io.Discard, io.Discard)
				cmd, args, err := root.Find(s.Command)
				if err != nil || cmd == root {
					t.Fatalf("there is no command %q: %v", s.Command, err)
				}
				if err := cmd.ParseFlags(args); err != nil {
					t.Errorf("%q: %v", s.Command, err)
				}
				if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
					t.Errorf("%q: %v", s.Command, err)
				}
				cfg, err := a.config()
				if err != nil || said.Len() > 0 {
					t.Errorf("settings: %v, %s", err, said.String())
				}
				if cfg.NATSURL != "" {
					checkLogin(t, cfg)
				}
				return
			}
			cfg, err := a.serveConfig()
			if err != nil || said.Len() > 0 {
				t.Fatalf("settings: %v, %s", err, said.String())
			}
			checkLogin(t, cfg)
			replicas++
			names[cfg.ReplicaName] = true
			if servers := strings.Split(cfg.NATSURL, ","); cfg.Replicas != 3 || len(servers) != 3 {
				t.Errorf("%d replicas on %v", cfg.Replicas, servers)
			} else {
				for _, server := range servers {
					host, _, _ := net.SplitHostPort(strings.TrimPrefix(server, "nats://"))
					if _, ok := c.Services[host]; !ok {
						t.Errorf("there is no service %s", host)
					}
				}
			}
			if subnet := c.Networks["backstop"].IPAM.Config[0].Subnet; cfg.AllowedNetworks.String() != subnet {
				t.Errorf("webhooks may reach %s, and the apps are in %s", cfg.AllowedNetworks, subnet)
			}
			if !slices.Contains(s.Volumes, "backstop-keys:"+filepath.Dir(cfg.SecretsKeyFile)) {
				t.Errorf("the key file %s is not in the volume that the replicas share", cfg.SecretsKeyFile)
			}
		})
	}
	if replicas != 2 || len(names) != 2 {
		t.Errorf("%d replicas with the names %v, want 2", replicas, names)
	}
}

// checkLogin finds a login that docs/deploy/nats-accounts.conf wouldn't let do
// its work.
func checkLogin(t *testing.T, cfg Config) {
	t.Helper()
	if cfg.NATSPassword != dotEnv(t)["NATS_"+strings.ToUpper(cfg.NATSUser)+"_PASSWORD"] {
		t.Errorf("the password of %s is another's", cfg.NATSUser)
	}
	if cfg.NATSInboxPrefix != "_INBOX_"+cfg.NATSUser {
		t.Errorf("%s listens for answers on %q", cfg.NATSUser, cfg.NATSInboxPrefix)
	}
}

func TestSampleAppManifest(t *testing.T) {
	c := readCompose(t)
	network := netip.MustParsePrefix(c.Networks["backstop"].IPAM.Config[0].Subnet)
	m, err := manifest.Parse([]byte(readFile(t, top+"docs/deploy/sample-app.json")), manifest.Options{AllowedNetworks: []netip.Prefix{network}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(m.BaseURL, "http://sample-app:") {
		t.Errorf("baseUrl %s", m.BaseURL)
	}
}

// natsOptions reads docs/deploy/nats.conf as the server does.
func natsOptions(t *testing.T, name string) *server.Options {
	t.Helper()
	s, ok := readCompose(t).Services[name]
	if !ok {
		t.Fatalf("there is no service %s", name)
	}
	for key, value := range s.Environment {
		t.Setenv(key, value)
	}
	opts, err := server.ProcessConfigFile(top + "docs/deploy/nats.conf")
	if err != nil {
		t.Fatal(err)
	}
	return opts
}

func TestNATSConfiguration(t *testing.T) {
	c := readCompose(t)
	for _, name := range []string{"nats1", "nats2", "nats3"} {
		opts := natsOptions(t, name)
		if opts.ServerName != name || !opts.JetStream || !opts.SyncAlways || opts.MaxPayload != embedded.MaxPayload || opts.SystemAccount != "SYS" || len(opts.Users) != 6 {
			t.Errorf("%s: name %s, JetStream %v, sync always %v, max_payload %d, system account %s, %d users",
				name, opts.ServerName, opts.JetStream, opts.SyncAlways, opts.MaxPayload, opts.SystemAccount, len(opts.Users))
		}
		if len(opts.Routes) != 3 {
			t.Errorf("%s: %d routes", name, len(opts.Routes))
		}
		for _, route := range opts.Routes {
			if _, ok := c.Services[route.Hostname()]; !ok {
				t.Errorf("%s: a route to %s, which is no service", name, route.Hostname())
			}
		}
		if !slices.Contains(c.Services[name].Volumes, name+":"+opts.StoreDir) {
			t.Errorf("%s: the store in %s is in no volume of its own", name, opts.StoreDir)
		}
	}
}

// Prometheus scrapes the replicas with the token, as the job that rules and
// dashboard go by, and finds the rules; Grafana finds the dashboard.
func TestComposeMonitoring(t *testing.T) {
	c := readCompose(t)
	var prometheus struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string `yaml:"job_name"`
			Authorization struct {
				CredentialsFile string `yaml:"credentials_file"`
			}
			StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(readFile(t, top+"docs/deploy/prometheus.yml")), &prometheus); err != nil {
		t.Fatal(err)
	}
	scrape, service := prometheus.ScrapeConfigs[0], c.Services["prometheus"]
	if scrape.JobName != "backstop" || scrape.Authorization.CredentialsFile != "/run/secrets/"+service.Secrets[0] {
		t.Errorf("%+v", scrape)
	}
	for _, target := range scrape.StaticConfigs[0].Targets {
		host, port, _ := net.SplitHostPort(target)
		if s, ok := c.Services[host]; !ok || s.Environment["BACKSTOP_HTTP_ADDR"] != ":"+port {
			t.Errorf("target %s is no replica", target)
		}
	}
	if !slices.Contains(service.Volumes, "./docs/alerts/backstop.rules.yml:"+prometheus.RuleFiles[0]+":ro") {
		t.Errorf("the rules %v are not mounted", prometheus.RuleFiles)
	}

	var provider struct {
		Providers []struct{ Options struct{ Path string } }
	}
	if err := yaml.Unmarshal([]byte(readFile(t, top+"docs/deploy/grafana/dashboards.yml")), &provider); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(c.Services["grafana"].Volumes, "./docs/grafana:"+provider.Providers[0].Options.Path+":ro") {
		t.Errorf("the dashboard is not mounted in %s", provider.Providers[0].Options.Path)
	}
	var sources struct{ Datasources []struct{ Type, URL string } }
	if err := yaml.Unmarshal([]byte(readFile(t, top+"docs/deploy/grafana/datasources.yml")), &sources); err != nil {
		t.Fatal(err)
	}
	if sources.Datasources[0].URL != "http://prometheus:9090" {
		t.Errorf("%+v", sources)
	}
}

// The image runs without root, has the certificates, and asks itself whether
// it is healthy.
func TestDockerfile(t *testing.T) {
	text := readFile(t, top+"Dockerfile")
	for _, want := range []string{"CGO_ENABLED=0", "FROM scratch", "USER 65532:65532", "ca-certificates.crt", `["backstop", "probe"]`, `ENTRYPOINT ["backstop"]`, `CMD ["serve"]`} {
		if !strings.Contains(text, want) {
			t.Errorf("the Dockerfile lacks %s", want)
		}
	}
	mod := readFile(t, top+"go.mod")
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(mod)[1]
	if !strings.Contains(text, "FROM golang:"+version+" ") {
		t.Errorf("the image is not built with Go %s", version)
	}
	// What the build needs is not ignored.
	ignored := readFile(t, top+".dockerignore")
	entries, err := os.ReadDir(top)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		code, _ := filepath.Glob(top + e.Name() + "/*.go")
		nested, _ := filepath.Glob(top + e.Name() + "/*/*.go")
		if len(code)+len(nested) > 0 && !strings.Contains(ignored, "\n!"+e.Name()+"\n") {
			t.Errorf(".dockerignore leaves out %s", e.Name())
		}
	}
}

// Whoever runs in an image without a shell can still ask.
func TestProbe(t *testing.T) {
	cleanEnvironment(t)
	t.Setenv("BACKSTOP_DATA_DIR", t.TempDir())
	t.Setenv("BACKSTOP_NATS_ADDR", "off")
	t.Setenv("BACKSTOP_HTTP_ADDR", "127.0.0.1:0")
	at := serveInTest(t)
	t.Setenv("BACKSTOP_HTTP_ADDR", strings.TrimPrefix(at.HTTP, "http://"))
	for _, args := range [][]string{{"probe"}, {"probe", "--ready"}} {
		var said bytes.Buffer
		if code := run(args, strings.NewReader(""), io.Discard, &said); code != exitOK {
			t.Errorf("%q: exit code %d, %s", args, code, said.String())
		}
	}
	// With TLS, whatever name the certificate is for.
	cert, key := writeCertificate(t, t.TempDir(), "backstop.example.com")
	t.Setenv("BACKSTOP_DATA_DIR", t.TempDir())
	t.Setenv("BACKSTOP_HTTP_CERT", cert)
	t.Setenv("BACKSTOP_HTTP_KEY", key)
	t.Setenv("BACKSTOP_HTTP_ADDR", "127.0.0.1:0")
	at = serveInTest(t)
	t.Setenv("BACKSTOP_HTTP_ADDR", strings.TrimPrefix(at.HTTP, "https://"))
	if code := run([]string{"probe"}, strings.NewReader(""), io.Discard, io.Discard); code != exitOK {
		t.Errorf("with TLS: exit code %d", code)
	}
	t.Setenv("BACKSTOP_HTTP_ADDR", "127.0.0.1:1") // nobody is there
	var said bytes.Buffer
	if code := run([]string{"probe"}, strings.NewReader(""), io.Discard, &said); code != exitFailed || !strings.Contains(said.String(), "doesn't answer") {
		t.Errorf("exit code %d, %s", code, said.String())
	}
	for addr, want := range map[string]string{":8080": "http://127.0.0.1:8080", "0.0.0.0:80": "http://127.0.0.1:80", "[::]:1": "http://127.0.0.1:1", "10.0.0.1:2": "http://10.0.0.1:2"} {
		c := Config{HTTPAddr: httpAddr(addr)}
		if got := c.localHTTP(); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}

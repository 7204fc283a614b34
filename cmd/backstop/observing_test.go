package main

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// The rules, the dashboard and the page about metrics are read by the same
// parser that Prometheus has, and name no metric or label that there isn't.

// documentedMetric is a row of docs/metrics.md, which a test of the package
// metrics holds together with the code.
type documentedMetric struct {
	kind   string
	labels []string
}

func documentedMetrics(t *testing.T) map[string]documentedMetric {
	t.Helper()
	all := make(map[string]documentedMetric)
	for line := range strings.Lines(readFile(t, "../../docs/metrics.md")) {
		cells := strings.Split(line, " | ")
		name, ok := strings.CutPrefix(cells[0], "| `backstop_")
		if !ok {
			continue
		}
		all["backstop_"+strings.TrimSuffix(name, "`")] = documentedMetric{
			kind: cells[1], labels: strings.FieldsFunc(cells[2], func(r rune) bool { return strings.ContainsRune("`, |", r) }),
		}
	}
	if len(all) < 20 {
		t.Fatalf("docs/metrics.md lists %d metrics: the test can't read it", len(all))
	}
	return all
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// foreignMetrics are those that others define.
var foreignMetrics = []string{"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}

// checkExpression parses an expression and looks at what it names.
func checkExpression(t *testing.T, where, expr string, metrics map[string]documentedMetric) {
	t.Helper()
	tree, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %v in\n%s", where, err, expr)
		return
	}
	labels := []string{"job", "instance", "le", "__name__"}
	var grouped []string
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.AggregateExpr:
			grouped = append(grouped, n.Grouping...)
		case *parser.VectorSelector:
			if slices.Contains(foreignMetrics, n.Name) {
				return nil
			}
			m, ok := metrics[n.Name]
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if h := metrics[strings.TrimSuffix(n.Name, suffix)]; !ok && h.kind == "histogram" {
					m, ok = h, true
				}
			}
			if !ok {
				t.Errorf("%s: docs/metrics.md has no %s, in\n%s", where, n.Name, expr)
			}
			for _, matcher := range n.LabelMatchers {
				if !slices.Contains(m.labels, matcher.Name) && !slices.Contains(labels, matcher.Name) {
					t.Errorf("%s: %s has no label %s, in\n%s", where, n.Name, matcher.Name, expr)
				}
			}
			grouped = slices.DeleteFunc(grouped, func(g string) bool {
				return slices.Contains(m.labels, g) || slices.Contains(labels, g)
			})
		}
		return nil
	})
	if len(grouped) > 0 {
		t.Errorf("%s: grouped by %v, which no metric in it has:\n%s", where, grouped, expr)
	}
}

type ruleFile struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Alert       string
			Expr        string
			For         string
			Labels      map[string]string
			Annotations map[string]string
		}
	}
}

func alertRules(t *testing.T) ruleFile {
	t.Helper()
	var file ruleFile
	decoder := yaml.NewDecoder(strings.NewReader(readFile(t, "../../docs/alerts/backstop.rules.yml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAlertRules(t *testing.T) {
	metrics, anchors := documentedMetrics(t), anchorsOf(readFile(t, "../../docs/operations.md"))
	var alerts []string
	for _, group := range alertRules(t).Groups {
		for _, rule := range group.Rules {
			checkExpression(t, rule.Alert, rule.Expr, metrics)
			if !strings.HasPrefix(rule.Alert, "Backstop") || slices.Contains(alerts, rule.Alert) {
				t.Errorf("%q is not a name of its own that begins with Backstop", rule.Alert)
			}
			alerts = append(alerts, rule.Alert)
			if s := rule.Labels["severity"]; s != "warning" && s != "critical" {
				t.Errorf("%s: severity %q", rule.Alert, s)
			}
			if rule.Annotations["summary"] == "" {
				t.Errorf("%s has no summary", rule.Alert)
			}
			page, anchor, _ := strings.Cut(rule.Annotations["runbook_url"], "#")
			if page != "docs/operations.md" || !slices.Contains(anchors, anchor) {
				t.Errorf("%s: there is no %s", rule.Alert, rule.Annotations["runbook_url"])
			}
		}
	}
	for _, contract := range []string{"BackstopSuccessRateLow", "BackstopSlow", "BackstopBreakerOpen", "BackstopDeadLetters"} {
		if !slices.Contains(alerts, contract) {
			t.Errorf("the contract's alert %s is missing", contract)
		}
	}
	// `make rules` runs the unit tests; that each alert has one is checked here.
	tests := readFile(t, "../../docs/alerts/backstop.rules.test.yml")
	for _, alert := range alerts {
		if !regexp.MustCompile(`alertname: ` + alert + `\n\s+exp_alerts:`).MatchString(tests) {
			t.Errorf("%s has no unit test in which it is raised", alert)
		}
	}
}

// anchorsOf returns the anchors of a page's headings, as GitHub makes them.
func anchorsOf(page string) []string {
	var anchors []string
	for line := range strings.Lines(page) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			anchor := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"))
		}
	}
	return anchors
}

func TestMetricsPageExpressions(t *testing.T) {
	metrics := documentedMetrics(t)
	_, questions, _ := strings.Cut(readFile(t, "../../docs/metrics.md"), "## Questions")
	found := 0
	for _, quoted := range regexp.MustCompile("`([^`]+\\([^`]+)`").FindAllStringSubmatch(questions, -1) {
		checkExpression(t, "docs/metrics.md", strings.ReplaceAll(quoted[1], `\|`, "|"), metrics)
		found++
	}
	if found < 8 {
		t.Errorf("%d expressions in docs/metrics.md: the test can't read it", found)
	}
}

type dashboard struct {
	UID        string
	Title      string
	Templating struct {
		List []struct{ Name, Type string }
	}
	Panels []panel
}

type panel struct {
	ID      int
	Type    string
	Title   string
	GridPos struct{ H, W, X, Y int }
	Targets []struct{ Expr, RefID string }
	Panels  []panel
}

func TestDashboard(t *testing.T) {
	var d dashboard
	if err := json.Unmarshal([]byte(readFile(t, "../../docs/grafana/backstop.json")), &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" {
		t.Error("no uid or no title: provisioning needs both")
	}
	metrics, ids, rows := documentedMetrics(t), map[int]bool{}, []string{}
	variables := strings.NewReplacer("$__rate_interval", "5m", "$job", "backstop", "$capability", ".*")
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("%s: the id %d is not its own", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W == 0 || p.GridPos.H == 0 {
			t.Errorf("%s doesn't fit: %+v", p.Title, p.GridPos)
		}
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		if len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			expr := variables.Replace(target.Expr)
			if strings.Contains(expr, "$") {
				t.Errorf("%s: a variable that the dashboard doesn't have, in %s", p.Title, target.Expr)
			}
			checkExpression(t, "panel "+p.Title, expr, metrics)
		}
	}
	if want := []string{"Overview", "Endpoints", "Breakers", "Apps", "Lanes", "Calls", "Dead letters", "NATS and the process"}; !slices.Equal(rows, want) {
		t.Errorf("rows %q, want %q", rows, want)
	}
	// Nothing that is measured is out of sight.
	text := readFile(t, "../../docs/grafana/backstop.json")
	for name := range metrics {
		if !strings.Contains(text, name) {
			t.Errorf("no panel shows %s", name)
		}
	}
}

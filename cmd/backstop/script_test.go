package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"backstop/streams"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"backstop": main})
}

// TestScripts runs the command as a process of its own against a real NATS.
// The streams are made as `serve` makes them; nothing consumes.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("USER", "ann")
			large := `"` + strings.Repeat("x", streams.MaxPayload+4) + `"`
			return os.WriteFile(filepath.Join(env.WorkDir, "large.json"), []byte(large), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"nats":       cmdNATS,
			"topology":   cmdTopology,
			"deadletter": cmdDeadLetter,
			"gate":       cmdGate,
			"health":     cmdHealth,
			"exits":      cmdExits,
			"consumers":  cmdConsumers,
			"key":        cmdKey,
			"orphan":     cmdOrphan,
			"retire":     cmdRetire,
			"secrets":    cmdSecrets,
			"lane":       cmdLane,
			"notices":    cmdNotices,
			"pend":       cmdPend,
			"attempt":    cmdAttempt,
			"alert":      cmdAlert,
			"notice":     cmdNotice,
			"rollup":     cmdRollup,
		},
	})
}

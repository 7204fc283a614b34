// Command backstop stands between a platform and third parties' webhook apps:
// `backstop serve` is the pipeline, and everything else talks to it over NATS.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// version is the release, set by the linker (-X main.version=…). Empty in a
// build without it, which then goes by its module's version.
var version string

// commands lists what backstop can do.
func commands() []func(*app) *cobra.Command {
	return []func(*app) *cobra.Command{
		newServeCommand,
		newDemoCommand,
		newAppsCommand,
		newPublishCommand,
		newCallCommand,
		newDLQCommand,
		newPendingCommand,
		newBreakersCommand,
		newAuditCommand,
		newTokenCommand,
		newStatusCommand,
		newAlertsCommand,
		newAttemptsCommand,
		newNoticesCommand,
		newListenCommand,
		newProbeCommand,
		newBenchCommand,
		newSettingsTopic,
	}
}

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run carries out one command line and returns the exit code. The first Ctrl-C
// or SIGTERM ends the command's context, which lets it finish what it has in
// hand; a second one ends the process.
func run(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRoot(in, out, errOut)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errInterrupted
	}
	printError(errOut, err)
	return exitCode(err)
}

// newRoot returns the whole command tree over the given streams. Executing it
// never ends the process.
func newRoot(in io.Reader, out, errOut io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "backstop",
		Short: "Deliver a platform's events to third parties' webhooks, and survive them",
		Long: `Backstop stands between a platform and third parties' webhook apps. Services
publish events over NATS; Backstop signs and posts them, tries again what fails,
keeps what nobody could take as dead letters, and lets one sick app slow nobody.

The pipeline is "backstop serve". The other commands talk to it over NATS, at
NATS_URL or nats://127.0.0.1:4222; see "backstop help settings".`,
		Example: `  backstop serve
  backstop apps apply quiz.json
  backstop publish analytics quiz '{"event":"quiz_completed"}'
  backstop status`,
		Version:       buildVersion(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	root.SetVersionTemplate("backstop {{.Version}}\n")
	a := &app{in: in, out: out, err: errOut}
	for _, command := range commands() {
		root.AddCommand(command(a))
	}
	// Cobra adds these when it executes; they are wanted before, so that wrong
	// usage of them is told like any other.
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strictUsage(root)
	return root
}

// app is what the commands share: where they read and write.
type app struct {
	in  io.Reader
	out io.Writer // results, and nothing else, so that they can be piped
	err io.Writer // everything said to a person on the way
}

// buildVersion returns the release, or what the Go toolchain knows of a build
// that is none.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

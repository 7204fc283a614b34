package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"backstop/streams/secrets"
)

// addSecretFile gives a command the flag that sets a secret. There is none
// that takes the secret itself: arguments are visible to other users.
func addSecretFile(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "secret-file", "", "file with the secret to set (- for standard input), instead of making one")
}

// readSecret reads the secret in a file.
func (a *app) readSecret(file string) (secrets.Secret, error) {
	all, err := a.readSecrets(file)
	if err != nil {
		return secrets.Secret{}, err
	}
	if len(all) != 1 {
		return secrets.Secret{}, fmt.Errorf("--secret-file %s: want one secret, found %d", file, len(all))
	}
	return secrets.New(all[0])
}

// maxSecretFile has room for a few dozen secrets.
const maxSecretFile = 4 << 10

// readSecrets reads the secrets in a file, one to a line. There is one at least.
func (a *app) readSecrets(file string) ([]string, error) {
	data, err := a.readFile(file, maxSecretFile)
	if err != nil {
		return nil, fmt.Errorf("--secret-file: %w", err)
	}
	all := strings.Fields(string(data))
	if len(all) == 0 {
		return nil, fmt.Errorf("--secret-file %s: the file is empty", file)
	}
	for _, secret := range all {
		if err := secrets.Check(secret); err != nil {
			return nil, fmt.Errorf("--secret-file %s: %w", file, err)
		}
	}
	return all, nil
}

func newAppsRotateSecret(a *app, asJSON *bool) *cobra.Command {
	var (
		secretFile string
		grace      time.Duration
	)
	cmd := &cobra.Command{
		Use:   "rotate-secret APP",
		Short: "Give an app a new secret; the old one stays active for a grace",
		Long: `Give an app a new secret, and print it once. Until the grace is over, every
webhook is signed with the old secret as well, so that the app's developers can
change over in their own time. A secret that has leaked wants --grace 0.`,
		Example: `  backstop apps rotate-secret quiz
  backstop apps rotate-secret quiz --grace 0
  backstop apps rotate-secret quiz --secret-file - < new.secret`,
		Args: appArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			if grace < 0 {
				return usageErrorf("--grace %s: want 0, which ends the old secret at once, or more", grace)
			}
			return a.withClient(cmd, func(ctx context.Context, c *client) error {
				return a.rotateSecret(ctx, c, args[0], secretFile, grace, *asJSON)
			})
		},
	}
	addSecretFile(cmd, &secretFile)
	cmd.Flags().DurationVar(&grace, "grace", secrets.Grace, "how long the old secret stays active")
	return cmd
}

func (a *app) rotateSecret(ctx context.Context, c *client, name, secretFile string, grace time.Duration, asJSON bool) error {
	if _, _, err := c.ops.Manifest(ctx, name); err != nil {
		return appError(name, err)
	}
	var given secrets.Secret
	if secretFile != "" {
		var err error
		if given, err = a.readSecret(secretFile); err != nil {
			return err
		}
	}
	result, err := c.ops.RotateSecret(ctx, byCommand(operator()), name, given, grace)
	if err != nil {
		return appError(name, err)
	}
	if asJSON {
		return a.printJSON(result)
	}
	if result.Secret != "" {
		if _, err := fmt.Fprintf(a.out, "Secret: %s\n", result.Secret); err != nil {
			return err
		}
		a.notef("The secret of %s is shown this once; hand it to the app's developers.", name)
	}
	if grace > 0 {
		a.notef("The old one stays active until %s.", result.OldUntil.Format(time.RFC3339))
	}
	return nil
}

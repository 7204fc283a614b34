package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"backstop/cmd/backstop/admin"
)

// readTokens returns the tokens in BACKSTOP_TOKENS_FILE. No file has none. Only
// `serve` reads it: whoever uses the other commands may have no right to.
func readTokens(file string) ([]admin.Token, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file) //nolint:gosec // the operator's own setting
	if err != nil {
		return nil, settingError("BACKSTOP_TOKENS_FILE", file, fmt.Errorf("can't read the file: %w", err))
	}
	tokens, err := admin.ParseTokens(data)
	if err != nil {
		return nil, settingError("BACKSTOP_TOKENS_FILE", file, err)
	}
	return tokens, nil
}

func newTokenCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "token NAME ROLE",
		Short: "Make a token of the HTTP API",
		Long: `Make a token of the HTTP API, and print its line for the file that BACKSTOP_TOKENS_FILE
names: its name, its role (read, operate or admin), and its SHA-256. The token itself is
printed once, on standard error, and stands nowhere but with whoever uses it.`,
		Example: `  backstop token ann operate >> tokens
  backstop token grafana read >> tokens 2> grafana.token`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.ExactArgs(2)(cmd, args); err != nil {
				return err
			}
			_, err := admin.ParseRole(args[1])
			return errors.Join(admin.CheckTokenName(args[0]), err)
		},
		RunE: func(_ *cobra.Command, args []string) error {
			raw := make([]byte, 32)
			rand.Read(raw) // never fails
			token := "bst_" + base64.RawURLEncoding.EncodeToString(raw)
			if _, err := fmt.Fprintf(a.out, "%s %s %x\n", args[0], args[1], admin.HashToken(token)); err != nil {
				return err
			}
			a.notef("%s", token)
			return nil
		},
	}
}

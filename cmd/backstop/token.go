package main

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

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
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Tokens of the HTTP API: make them, and hash your own",
		Long: `Tokens of the HTTP API. BACKSTOP_TOKENS_FILE names a file with a line for each
token: its name, its role (read, operate or admin), and the SHA-256 of the token. The
token itself stands nowhere but with whoever uses it.`,
		Example: `  backstop token new grafana read >> tokens
  printf %s "$TOKEN" | backstop token hash`,
	}
	cmd.AddCommand(newTokenNew(a), newTokenHash(a))
	return cmd
}

func newTokenNew(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "new NAME ROLE",
		Short: "Make a token; prints its line for the tokens file, and the token on standard error",
		Example: `  backstop token new ann operate >> tokens
  backstop token new grafana read >> tokens 2> grafana.token`,
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

func newTokenHash(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "hash",
		Short: "Hash a token of your own, read from standard input",
		Example: `  printf %s "$TOKEN" | backstop token hash
  printf %s "$TOKEN" | sha256sum                      # the same`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			token, err := bufio.NewReader(io.LimitReader(a.in, 4<<10)).ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			token = strings.TrimRight(token, "\r\n")
			if len(token) < admin.MinTokenLength {
				return fmt.Errorf("the token has %d characters; use at least %d random ones, as backstop token new makes them", len(token), admin.MinTokenLength)
			}
			_, err = fmt.Fprintf(a.out, "%x\n", admin.HashToken(token))
			return err
		},
	}
}

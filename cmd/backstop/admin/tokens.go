package admin

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Role is how much somebody may do. Each includes those before it.
type Role int

// The roles, from the least.
const (
	RoleRead    Role = iota + 1 // see everything but secrets
	RoleOperate                 // decide: dead letters, breakers, switches, pending calls
	RoleAdmin                   // change apps and their secrets
)

var roleNames = map[Role]string{RoleRead: "read", RoleOperate: "operate", RoleAdmin: "admin"}

// String returns the role as a tokens file names it.
func (r Role) String() string { return roleNames[r] }

// ParseRole returns the role that a name stands for.
func ParseRole(name string) (Role, error) {
	for role, known := range roleNames {
		if name == known {
			return role, nil
		}
	}
	return 0, fmt.Errorf("%q is not a role: want read, operate or admin", name)
}

// Token is a bearer token, of which only the hash is known.
type Token struct {
	// Name says whose it is; the audit shows it.
	Name string
	Role Role
	Hash [sha256.Size]byte
}

// HashToken returns what a tokens file holds of a token. Tokens are long and
// random, so that a plain hash hides them.
func HashToken(token string) [sha256.Size]byte { return sha256.Sum256([]byte(token)) }

// AdminName is the name of the token that BACKSTOP_ADMIN_TOKEN sets.
const AdminName = "admin"

// ParseTokens reads a tokens file: one token a line, "name role sha256-hex",
// with # before a comment. The error names the line, and nothing of the hash.
func ParseTokens(data []byte) ([]Token, error) {
	var tokens []Token
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		token, err := parseToken(strings.Fields(line))
		if err == nil && slices.ContainsFunc(tokens, func(t Token) bool { return t.Name == token.Name }) {
			err = fmt.Errorf("there is a token of %s already", token.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		tokens = append(tokens, token)
	}
	return tokens, lines.Err()
}

func parseToken(fields []string) (Token, error) {
	if len(fields) != 3 {
		return Token{}, fmt.Errorf("want name, role and hash, found %d words (make a line: backstop token NAME ROLE)", len(fields))
	}
	if err := CheckTokenName(fields[0]); err != nil {
		return Token{}, err
	}
	role, err := ParseRole(fields[1])
	if err != nil {
		return Token{}, err
	}
	hash, err := hex.DecodeString(fields[2])
	if err != nil || len(hash) != sha256.Size {
		return Token{}, fmt.Errorf("the hash of %s is not the SHA-256 of a token in hex (64 digits)", fields[0])
	}
	return Token{Name: fields[0], Role: role, Hash: [sha256.Size]byte(hash)}, nil
}

// CheckTokenName returns why a token can't have a name.
func CheckTokenName(name string) error {
	if name == AdminName {
		return fmt.Errorf("%q is the name of BACKSTOP_ADMIN_TOKEN", name)
	}
	if err := checkOperator(name); err != nil || strings.ContainsAny(name, "#| \t") {
		return fmt.Errorf("%q can't name a token: want up to %d printable characters without blanks, # and |", name, maxOperator)
	}
	return nil
}

// find returns the token that was presented. It compares with every one, in
// constant time, so that the time tells nothing of how near a guess was.
func find(tokens []Token, presented string) (Token, bool) {
	hash := HashToken(presented)
	found := -1
	for i, t := range tokens {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(hash[:], t.Hash[:]), i, found)
	}
	if found < 0 {
		return Token{}, false
	}
	return tokens[found], true
}

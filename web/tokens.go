package web

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Tokens are who may use the API over the network: a file with a line
// "name role sha256" for each, the last being the hash of a token of 256
// random bits, so the file is of no use to a reader. "#" begins a comment.
// The file is read again when it changes, so removing a line shuts its
// bearer out.
type Tokens struct {
	path string

	mu      sync.Mutex
	changed time.Time
	size    int64
	list    []token
}

type token struct {
	Identity
	hash [sha256.Size]byte
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]*$`)

// OpenTokens reads the tokens file. An absent file holds no tokens.
func OpenTokens(path string) (*Tokens, error) {
	t := &Tokens{path: path}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t, t.refresh()
}

// refresh reads the file if it is not as it was.
func (t *Tokens) refresh() error {
	info, err := os.Stat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		t.list, t.changed, t.size = nil, time.Time{}, 0
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading tokens: %w", err)
	}
	if info.ModTime().Equal(t.changed) && info.Size() == t.size {
		return nil
	}
	b, err := os.ReadFile(t.path)
	if err != nil {
		return fmt.Errorf("reading tokens: %w", err)
	}
	list, err := parseTokens(t.path, b)
	if err != nil {
		return err
	}
	t.list, t.changed, t.size = list, info.ModTime(), info.Size()
	return nil
}

func parseTokens(path string, b []byte) ([]token, error) {
	var list []token
	names := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		bad := func(format string, args ...any) error {
			return fmt.Errorf("%s:%d: %s; a line is: name role sha256-of-the-token", path, n, fmt.Sprintf(format, args...))
		}
		if len(fields) != 3 {
			return nil, bad("there are %d words", len(fields))
		}
		tk := token{Identity: Identity{Name: fields[0], Role: Role(fields[1])}}
		switch {
		case !validName.MatchString(tk.Name):
			return nil, bad("%q is not a name", tk.Name)
		case names[tk.Name]:
			return nil, bad("%s is there twice", tk.Name)
		case tk.Role.rank() == 0:
			return nil, bad("there is no role %q: choose viewer, operator or admin", tk.Role)
		}
		if h, err := hex.DecodeString(fields[2]); err != nil || copy(tk.hash[:], h) != sha256.Size || len(h) != sha256.Size {
			return nil, bad("the hash of %s is not 64 hex digits", tk.Name)
		}
		names[tk.Name] = true
		list = append(list, tk)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading tokens from %s: %w", path, err)
	}
	return list, nil
}

// Identify tells whose token secret is, or fails with ErrNobody. Its time
// does not depend on which token comes near.
func (t *Tokens) Identify(secret string) (Identity, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.refresh(); err != nil {
		return Identity{}, err
	}
	hash := sha256.Sum256([]byte(secret))
	var found Identity
	for _, tk := range t.list {
		if subtle.ConstantTimeCompare(hash[:], tk.hash[:]) == 1 {
			found = tk.Identity
		}
	}
	if found.Name == "" {
		return Identity{}, ErrNobody
	}
	return found, nil
}

// AddToken makes a token, adds its hash to the file at path, which is made
// when absent, and returns the token: it is shown once and kept nowhere.
func AddToken(path, name string, role Role) (string, error) {
	switch {
	case !validName.MatchString(name):
		return "", fmt.Errorf("adding a token: %q is not a name: use letters, digits and . _ @ -", name)
	case role.rank() == 0:
		return "", fmt.Errorf("adding a token for %s: there is no role %q: choose viewer, operator or admin", name, role)
	}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("adding a token: %w", err)
	}
	list, err := parseTokens(path, old)
	if err != nil {
		return "", err
	}
	for _, tk := range list {
		if tk.Name == name {
			return "", fmt.Errorf("adding a token: %s has one in %s: remove that line first", name, path)
		}
	}
	if len(old) > 0 && !bytes.HasSuffix(old, []byte("\n")) {
		old = append(old, '\n')
	}
	secret := "fettle_" + rand.Text() + rand.Text()
	old = fmt.Appendf(old, "%s %s %x\n", name, role, sha256.Sum256([]byte(secret)))
	if err := replaceFile(path, old); err != nil {
		return "", fmt.Errorf("adding a token: %w", err)
	}
	return secret, nil
}

// replaceFile writes a file of the owner's alone, whole or not at all.
func replaceFile(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".tokens-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

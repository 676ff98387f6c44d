package site

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// Files of a site folder that have to do with secrets.
const (
	secretsFile    = "secrets.age"
	recipientsFile = "secrets.recipients"
	maxSecrets     = 16 << 20
)

// Secrets is the secrets file of a site folder: names and values, encrypted
// with age to the recipients in secrets.recipients. Several programs may use
// it at once: each change reads, changes and replaces the file under a lock.
type Secrets struct {
	dir      string
	identity string // path of the identity file
}

// secretsDoc is what is encrypted.
type secretsDoc struct {
	Version int                   `json:"version"` // 2: there are pending changes
	Values  map[string][]byte     `json:"values"`
	Pending map[string]pendingDoc `json:"pending,omitempty"`
}

// DefaultIdentity is where the identity is kept when nobody says otherwise:
// FETTLE_IDENTITY, or fettle/identity.txt in XDG_CONFIG_HOME or ~/.config.
func DefaultIdentity(getenv func(string) string) (string, error) {
	if p := getenv("FETTLE_IDENTITY"); p != "" {
		return p, nil
	}
	config := getenv("XDG_CONFIG_HOME")
	if config == "" {
		home := getenv("HOME")
		if home == "" {
			return "", errors.New("there is no place for the identity that opens the secrets: set FETTLE_IDENTITY or give --identity")
		}
		config = filepath.Join(home, ".config")
	}
	return filepath.Join(config, "fettle", "identity.txt"), nil
}

// InitSecrets makes what is missing of the identity file, secrets.recipients
// and secrets.age, and opens them. madeIdentity says whether the identity is new.
func InitSecrets(dir, identity string) (sec *Secrets, madeIdentity bool, err error) {
	if _, err := os.Stat(identity); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, secretsFile)); err == nil {
			return nil, false, fmt.Errorf("%s exists but the identity %s that opens it does not: give the right one with --identity", filepath.Join(dir, secretsFile), identity)
		}
		id, err := age.GenerateX25519Identity()
		if err != nil {
			return nil, false, fmt.Errorf("making an identity: %w", err)
		}
		if err := os.MkdirAll(filepath.Dir(identity), 0o700); err != nil {
			return nil, false, fmt.Errorf("making the identity's folder: %w", err)
		}
		if err := writeFile(identity, identityText(id, ""), 0o600); err != nil {
			return nil, false, fmt.Errorf("writing the identity: %w", err)
		}
		madeIdentity = true
	}
	sec = &Secrets{dir, identity}
	ids, err := sec.identities()
	if err != nil {
		return nil, madeIdentity, err
	}
	err = sec.locked(func() error {
		path := filepath.Join(dir, recipientsFile)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if err := writeFile(path, recipientsText([]string{ids[0].Recipient().String()}), 0o644); err != nil {
				return fmt.Errorf("writing the recipients: %w", err)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, secretsFile)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return sec.write(secretsDoc{})
	})
	if err != nil {
		return nil, madeIdentity, err
	}
	return sec, madeIdentity, nil
}

// OpenSecrets opens the secrets of a site folder with the identity file at
// path identity, and checks that it opens them. A folder without secrets.age
// has no secrets: every name is missing until InitSecrets.
func OpenSecrets(dir, identity string) (*Secrets, error) {
	s := &Secrets{dir, identity}
	if _, err := s.read(); err != nil {
		return nil, err
	}
	return s, nil
}

// File is the path of the secrets file.
func (s *Secrets) File() string { return filepath.Join(s.dir, secretsFile) }

// Get is one value.
func (s *Secrets) Get(name string) (Secret, error) {
	values, err := s.read()
	if err != nil {
		return Secret{}, err
	}
	v, ok := values[name]
	if !ok {
		hint := "set it: fettle secret set " + name
		if n := nearest(name, slices.Collect(maps.Keys(values))); n != "" {
			hint = fmt.Sprintf("did you mean %q?", n)
		}
		return Secret{}, fmt.Errorf("there is no secret %q in %s; %s", name, filepath.Join(s.dir, secretsFile), hint)
	}
	return NewSecret(string(v)), nil
}

// List is the names, sorted.
func (s *Secrets) List() ([]string, error) {
	values, err := s.read()
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(values)), nil
}

// Set gives a name a value.
func (s *Secrets) Set(name string, value Secret) error {
	if _, err := kindName().parse(name); err != nil {
		return fmt.Errorf("a secret cannot be called so: %w", err)
	}
	if value.IsZero() {
		return fmt.Errorf("the value of secret %q is empty; give one, or remove the secret: fettle secret rm %s", name, name)
	}
	return s.change(func(values map[string][]byte) error {
		values[name] = []byte(value.Reveal())
		return nil
	})
}

// Remove forgets a name.
func (s *Secrets) Remove(name string) error {
	return s.change(func(values map[string][]byte) error {
		if _, ok := values[name]; !ok {
			return fmt.Errorf("there is no secret %q; %s", name, meant(name, slices.Collect(maps.Keys(values)), "the file is empty"))
		}
		delete(values, name)
		return nil
	})
}

// RotateKey makes a new identity, puts it first into the identity file,
// encrypts the secrets to it instead of the old one, and gives its recipient.
// Other recipients stay. The old identity stays in the file, behind the new
// one, since other folders and older commits may need it. Older commits still
// open with it: change the values too if it is known to others.
func (s *Secrets) RotateKey(now time.Time) (recipient string, err error) {
	err = s.lockedWithIdentity(func() error {
		doc, err := s.readDoc()
		if err != nil {
			return err
		}
		ids, err := s.identities()
		if err != nil {
			return err
		}
		old, err := s.recipientLines()
		if err != nil {
			return err
		}
		id, err := age.GenerateX25519Identity()
		if err != nil {
			return fmt.Errorf("making an identity: %w", err)
		}
		recipient = id.Recipient().String()
		var rest strings.Builder
		fmt.Fprintf(&rest, "\n# until %s:\n", now.UTC().Format(time.DateOnly))
		ours := map[string]bool{}
		for _, o := range ids {
			fmt.Fprintln(&rest, o)
			ours[o.Recipient().String()] = true
		}
		// In this order a crash between any two leaves a folder that opens.
		if err := writeFile(s.identity, identityText(id, rest.String()), 0o600); err != nil {
			return fmt.Errorf("writing the identity: %w", err)
		}
		recipients := append([]string{recipient}, slices.DeleteFunc(old, func(r string) bool { return ours[r] })...)
		if err := s.encrypt(doc, recipients); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(s.dir, recipientsFile), recipientsText(recipients), 0o644); err != nil {
			return fmt.Errorf("writing the recipients: %w", err)
		}
		return nil
	})
	return recipient, err
}

func (s *Secrets) change(do func(map[string][]byte) error) error {
	return s.changeAll(func(doc *secretsDoc) error { return do(doc.Values) })
}

func (s *Secrets) changeAll(do func(*secretsDoc) error) error {
	return s.locked(func() error {
		doc, err := s.readDoc()
		if err != nil {
			return err
		}
		if err := do(&doc); err != nil {
			return err
		}
		return s.write(doc)
	})
}

// read is the values.
func (s *Secrets) read() (map[string][]byte, error) {
	doc, err := s.readDoc()
	return doc.Values, err
}

// readDoc decrypts the file. None is an empty one.
func (s *Secrets) readDoc() (doc secretsDoc, err error) {
	doc = secretsDoc{Values: map[string][]byte{}, Pending: map[string]pendingDoc{}}
	path := filepath.Join(s.dir, secretsFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return doc, nil
	}
	if err != nil {
		return doc, fmt.Errorf("reading the secrets: %w", err)
	}
	ids, err := s.identities()
	if err != nil {
		return doc, err
	}
	asAge := make([]age.Identity, len(ids))
	for i, id := range ids {
		asAge[i] = id
	}
	plain, err := age.Decrypt(armor.NewReader(bytes.NewReader(data)), asAge...)
	if err != nil {
		var none *age.NoIdentityMatchError
		if errors.As(err, &none) {
			return doc, fmt.Errorf("%s is not encrypted to the identity %s: give the right one with --identity, or let somebody who can read it add you to %s: %w", path, s.identity, recipientsFile, err)
		}
		return doc, fmt.Errorf("%s cannot be decrypted; it may be damaged, take it from git: %w", path, err)
	}
	text, err := io.ReadAll(io.LimitReader(plain, maxSecrets))
	if err != nil {
		return doc, fmt.Errorf("%s cannot be decrypted; it may be damaged, take it from git: %w", path, err)
	}
	if err := json.Unmarshal(text, &doc); err != nil || doc.Version != 1 && doc.Version != 2 {
		// The cause could quote what was decrypted.
		return doc, fmt.Errorf("%s decrypts, but to nothing that this fettle knows: use the fettle that wrote it", path)
	}
	if doc.Values == nil {
		doc.Values = map[string][]byte{}
	}
	if doc.Pending == nil {
		doc.Pending = map[string]pendingDoc{}
	}
	return doc, nil
}

func (s *Secrets) write(doc secretsDoc) error {
	recipients, err := s.recipientLines()
	if err != nil {
		return err
	}
	return s.encrypt(doc, recipients)
}

func (s *Secrets) encrypt(doc secretsDoc, recipients []string) error {
	to := make([]age.Recipient, len(recipients))
	for i, r := range recipients {
		parsed, err := age.ParseX25519Recipient(r)
		if err != nil {
			return fmt.Errorf("%s: %q is not an age recipient; write one age1... a line: %w", filepath.Join(s.dir, recipientsFile), r, err)
		}
		to[i] = parsed
	}
	if doc.Values == nil {
		doc.Values = map[string][]byte{}
	}
	plain, err := encodeSecrets(doc)
	if err != nil {
		return fmt.Errorf("encoding the secrets: %w", err)
	}
	var out bytes.Buffer
	armored := armor.NewWriter(&out)
	w, err := age.Encrypt(armored, to...)
	if err != nil {
		return fmt.Errorf("encrypting the secrets: %w", err)
	}
	if _, err := w.Write(plain); err != nil {
		return fmt.Errorf("encrypting the secrets: %w", err)
	}
	if err := errors.Join(w.Close(), armored.Close()); err != nil {
		return fmt.Errorf("encrypting the secrets: %w", err)
	}
	if err := writeFile(filepath.Join(s.dir, secretsFile), out.Bytes(), 0o600); err != nil {
		return fmt.Errorf("writing the secrets: %w", err)
	}
	return nil
}

// identities reads the identity file, which others must not be able to read.
func (s *Secrets) identities() ([]*age.X25519Identity, error) {
	f, err := os.Open(s.identity)
	if err != nil {
		return nil, fmt.Errorf("the identity that opens the secrets cannot be read; give it with --identity or FETTLE_IDENTITY: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the identity: %w", err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the identity %s can be read by others (mode %04o): chmod 600 %s", s.identity, info.Mode().Perm(), s.identity)
	}
	parsed, err := age.ParseIdentities(io.LimitReader(f, maxSecrets))
	if err != nil {
		return nil, fmt.Errorf("%s holds no age identity; it has lines that begin AGE-SECRET-KEY-1", s.identity)
	}
	var ids []*age.X25519Identity
	for _, id := range parsed {
		if x, ok := id.(*age.X25519Identity); ok {
			ids = append(ids, x)
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%s holds no X25519 identity; make one with age-keygen or fettle init", s.identity)
	}
	return ids, nil
}

// recipientLines reads secrets.recipients.
func (s *Secrets) recipientLines() ([]string, error) {
	path := filepath.Join(s.dir, recipientsFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the list of who may read the secrets is missing; fettle secret set makes it in a folder that has no secrets yet: %w", err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s names nobody; add a line with the age recipient (age1...) of each who may read the secrets", path)
	}
	return out, nil
}

func identityText(id *age.X25519Identity, rest string) []byte {
	return fmt.Appendf(nil, "# fettle identity: opens secrets.age of your sites. Keep it out of git.\n# public: %s\n%s\n%s", id.Recipient(), id, rest)
}

func recipientsText(lines []string) []byte {
	return []byte("# Who may read secrets.age: one age recipient a line. After a change, any\n# fettle secret set encrypts to the new list.\n" + strings.Join(lines, "\n") + "\n")
}

// locked runs do while no other fettle changes the secrets of this folder.
func (s *Secrets) locked(do func() error) error { return lockedDir(s.dir, do) }

// lockedWithIdentity also keeps others from changing the identity file.
func (s *Secrets) lockedWithIdentity(do func() error) error {
	keys := filepath.Dir(s.identity)
	a, errA := os.Stat(keys)
	b, errB := os.Stat(s.dir)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return s.locked(do)
	}
	return lockedDir(keys, func() error { return s.locked(do) })
}

package site

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestSecretNeverShows(t *testing.T) {
	const value = "hunter2"
	s := NewSecret(value)
	type hides struct{ inner Secret }
	type shows struct {
		Inner Secret
		Ptr   *Secret
	}
	texts := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%10s"} {
		texts["value "+verb] = fmt.Sprintf(verb, s)
		texts["pointer "+verb] = fmt.Sprintf(verb, &s)
		texts["field "+verb] = fmt.Sprintf(verb, shows{s, &s})
		texts["hidden field "+verb] = fmt.Sprintf(verb, hides{s})
		texts["map "+verb] = fmt.Sprintf(verb, map[string]Secret{"k": s})
	}
	j, err := json.Marshal(shows{s, &s})
	if err != nil {
		t.Fatal(err)
	}
	texts["JSON"] = string(j)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "secret", s, "in", shows{s, &s})
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "secret", s, "in", shows{s, &s}, "hidden", hides{s})
	texts["slog"] = log.String()
	texts["error"] = fmt.Errorf("wrong: %v", s).Error()
	for how, text := range texts {
		if strings.Contains(text, value) || strings.Contains(text, fmt.Sprintf("%x", value)) {
			t.Errorf("%s shows the value: %s", how, text)
		}
	}
	if got := fmt.Sprintf("%v %#v", s, s); got != "[secret] [secret]" {
		t.Errorf("%%v %%#v = %s; want [secret] [secret]", got)
	}
	if string(j) != `{"Inner":"[secret]","Ptr":"[secret]"}` {
		t.Errorf("JSON = %s; want [secret]", j)
	}
	if s.Reveal() != value || !s.Equal(NewSecret(value)) || s.Equal(NewSecret("x")) || s.IsZero() || !(Secret{}).IsZero() {
		t.Error("Reveal, Equal or IsZero is wrong")
	}
}

// secretsFolder is a folder with secrets and its identity file.
func secretsFolder(t *testing.T) (dir, identity string, s *Secrets) {
	t.Helper()
	dir = t.TempDir()
	identity = filepath.Join(t.TempDir(), "deep", "identity.txt")
	s, made, err := InitSecrets(dir, identity)
	if err != nil || !made {
		t.Fatalf("InitSecrets() = made %v, %v; want a new identity", made, err)
	}
	return dir, identity, s
}

func TestSecretsKeep(t *testing.T) {
	dir, identity, s := secretsFolder(t)
	if err := s.Set("bmc-default", NewSecret("root:päss\n")); err != nil {
		t.Fatal(err)
	}
	again, err := OpenSecrets(dir, identity)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := again.Get("bmc-default"); err != nil || v.Reveal() != "root:päss\n" {
		t.Errorf("Get() = %q, %v; want what was set", v.Reveal(), err)
	}
	if _, made, err := InitSecrets(dir, identity); err != nil || made {
		t.Errorf("InitSecrets() again = made %v, %v; want nothing made", made, err)
	}
	if names, err := again.List(); err != nil || fmt.Sprint(names) != "[bmc-default]" {
		t.Errorf("List() = %v, %v; want [bmc-default]", names, err)
	}
	if _, err := s.Get("bmc-defalt"); err == nil || !strings.Contains(err.Error(), `did you mean "bmc-default"?`) {
		t.Errorf("Get(misspelt) = %v; want the nearest name", err)
	}
	for _, bad := range []string{"", "Has Space", "../x"} {
		if err := s.Set(bad, NewSecret("v")); err == nil {
			t.Errorf("Set(%q) = nil; want an error", bad)
		}
	}
	if err := s.Set("empty", Secret{}); err == nil {
		t.Error("Set(empty value) = nil; want an error")
	}
	for path, want := range map[string]fs.FileMode{identity: 0o600, filepath.Join(dir, secretsFile): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s = %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("the folder holds %v, %v; want secrets.age and secrets.recipients only", entries, err)
	}
}

func TestSecretsRefuse(t *testing.T) {
	dir, identity, s := secretsFolder(t)
	if err := s.Set("k", NewSecret("v")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, secretsFile)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, stranger, _ := secretsFolder(t)
	flipped := bytes.Clone(good)
	flipped[len(good)-60] ^= 1 // within the payload
	for _, tt := range []struct {
		name, identity string
		data           []byte
		want           string
	}{
		{"another's identity", stranger, good, "is not encrypted to the identity"},
		{"no identity", filepath.Join(dir, "none"), good, "give it with --identity or FETTLE_IDENTITY"},
		{"cut short", identity, good[:len(good)/2], "take it from git"},
		{"a byte changed", identity, flipped, "take it from git"},
		{"empty", identity, nil, "take it from git"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(file, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenSecrets(dir, tt.identity); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("OpenSecrets() = %v; want %q", err, tt.want)
			}
		})
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(identity); err != nil {
		t.Fatal(err)
	}
	if _, _, err := InitSecrets(dir, identity); err == nil {
		t.Error("InitSecrets() with secrets but no identity = nil; want no new identity made")
	}
	if _, err := os.Stat(identity); err == nil {
		t.Error("InitSecrets() made an identity that opens nothing")
	}
}

func TestRotateKey(t *testing.T) {
	dir, identity, s := secretsFolder(t)
	_, otherIdentity, other := secretsFolder(t)
	if err := s.Set("k", NewSecret("v")); err != nil {
		t.Fatal(err)
	}
	// A colleague is let in.
	theirs, err := other.recipientLines()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, recipientsFile), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(f, "# colleague\n"+theirs[0])
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(identity)
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := s.RotateKey(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := s.recipientLines()
	if err != nil || fmt.Sprint(lines) != fmt.Sprint([]string{recipient, theirs[0]}) {
		t.Errorf("recipients = %v, %v; want the new one and the colleague's", lines, err)
	}
	oldFile := filepath.Join(t.TempDir(), "old.txt")
	if err := os.WriteFile(oldFile, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSecrets(dir, oldFile); err == nil {
		t.Error("the old identity opens the rotated file")
	}
	for _, id := range []string{identity, otherIdentity} {
		s, err := OpenSecrets(dir, id)
		if err != nil {
			t.Fatalf("OpenSecrets(%s) = %v; want nil", id, err)
		}
		if v, err := s.Get("k"); err != nil || v.Reveal() != "v" {
			t.Errorf("Get() with %s = %q, %v; want v", id, v.Reveal(), err)
		}
	}
	now, err := os.ReadFile(identity)
	if err != nil || !bytes.Contains(now, bytes.Split(old, []byte("\n"))[2]) || !bytes.Contains(now, []byte("# until 2026-11-21")) {
		t.Errorf("identity file = %v; want the old identity kept behind the new one", err)
	}
}

// Several programs may set secrets at once: none is lost.
func TestSetAtOnce(t *testing.T) {
	dir, identity, s := secretsFolder(t)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			mine, err := OpenSecrets(dir, identity)
			if err == nil {
				err = mine.Set(fmt.Sprintf("k%d", i), NewSecret("v"))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if names, err := s.List(); err != nil || len(names) != 12 {
		t.Errorf("List() = %v, %v; want twelve names", names, err)
	}
}

func TestDefaultIdentity(t *testing.T) {
	for _, tt := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"FETTLE_IDENTITY": "/id", "HOME": "/h"}, "/id"},
		{map[string]string{"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/fettle/identity.txt"},
		{map[string]string{"HOME": "/h"}, "/h/.config/fettle/identity.txt"},
		{nil, ""},
	} {
		got, err := DefaultIdentity(func(k string) string { return tt.env[k] })
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("DefaultIdentity(%v) = %q, %v; want %q", tt.env, got, err, tt.want)
		}
	}
}

// TestSecretsKeepOwner: root's change of people's secrets leaves them theirs.
func TestSecretsKeepOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may give files to others")
	}
	dir, _, s := secretsFolder(t)
	path := filepath.Join(dir, secretsFile)
	if err := s.Set("a", NewSecret("x")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 1234, 1235); err != nil {
		t.Fatal(err)
	}
	if err := s.Set("a", NewSecret("y")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 1234 || st.Gid != 1235 || info.Mode().Perm() != 0o600 {
		t.Errorf("secrets.age after root's change: owner %d:%d, mode %o; want 1234:1235, 600", st.Uid, st.Gid, info.Mode().Perm())
	}
}

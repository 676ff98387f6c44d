package airgap

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
)

func identityPair(t testing.TB) (secret, public string) {
	t.Helper()
	secret, public, err := Identity()
	if err != nil {
		t.Fatal(err)
	}
	return secret, public
}

func TestEncryptedBundle(t *testing.T) {
	k := testKey(t, "A")
	secret, public := identityPair(t)
	secret2, public2 := identityPair(t)
	stranger, _ := identityPair(t)
	for _, size := range []int64{0, 3 << 20, MinVolumeSize} {
		s, files := testStore(t), contents()
		if size != MinVolumeSize {
			files["huge"] = noise(7, 17<<20) // more than a frame
		}
		addSnapshot(t, s, "one", 1, files)
		doc := func(Carried) ([]Document, error) {
			return []Document{NewDocument("changes.txt", []byte("hush\n"))}, nil
		}
		dir, b := create(t, s, k, CreateOptions{VolumeSize: size, Recipients: []string{public, public2}, Documents: doc})
		for name, data := range readDir(t, dir) {
			if size > 0 && strings.HasPrefix(name, "volume-") && int64(len(data)) > size {
				t.Errorf("%s has %d bytes; the limit is %d", name, len(data), size)
			}
			if bytes.Contains(data, []byte("all work and no play")) || bytes.Contains(data, []byte("hush")) {
				t.Errorf("%s shows what is inside", name)
			}
		}
		for _, id := range []string{secret, secret2} {
			o, err := OpenBundle(k.Public(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := o.Unlock(id); err != nil {
				t.Fatal(err)
			}
			if err := o.Verify(t.Context(), nil); err != nil {
				t.Errorf("Verify = %v", err)
			}
			docs, err := o.ReadDocuments(t.Context())
			if err != nil || string(docs["changes.txt"]) != "hush\n" {
				t.Errorf("ReadDocuments() = %q, %v", docs, err)
			}
			other := testStore(t)
			if _, err := other.Import(t.Context(), o, ImportOptions{Now: now}); err != nil {
				t.Fatalf("Import = %v", err)
			}
			checkServed(t, other, "one", files)
		}
		for _, ids := range []string{"", stranger} {
			o, err := OpenBundle(k.Public(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if ids != "" {
				if err := o.Unlock(ids); err != nil {
					t.Fatal(err)
				}
			}
			if err := o.Verify(t.Context(), nil); !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), public) {
				t.Errorf("Verify with the identity of others = %v; want %v that names the right one", err, ErrIdentity)
			}
		}
		// Each volume is verifiable alone once age has decrypted it.
		v := b.Volumes[len(b.Volumes)-1]
		f, err := os.Open(filepath.Join(dir, v.File))
		if err != nil {
			t.Fatal(err)
		}
		ids, err := age.ParseIdentities(strings.NewReader(secret))
		if err != nil {
			t.Fatal(err)
		}
		r, err := age.Decrypt(f, ids...)
		if err != nil {
			t.Fatal(err)
		}
		plain := filepath.Join(t.TempDir(), "plain")
		if err := errors.Join(copyFile(t.Context(), plain, r, nil), f.Close()); err != nil {
			t.Fatal(err)
		}
		m, err := openFile(plain)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readTable(m, k.Public(), b.ID, v); err != nil {
			t.Errorf("the table of the decrypted volume: %v", err)
		}
		m.Close()
	}
	s := testStore(t)
	addSnapshot(t, s, "one", 1, contents())
	if _, err := s.Create(t.Context(), k, t.TempDir(), CreateOptions{Site: "dc1", Recipients: []string{"age1nonsense"}}); err == nil || !strings.Contains(err.Error(), "age1nonsense") {
		t.Errorf("Create to nobody = %v; want the recipient named", err)
	}
}

// An encrypted bundle that is made again in its folder stays as it is; one
// that is damaged, or lacks a signature, is made anew.
func TestCreateEncryptedAgain(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	addSnapshot(t, s, "one", 1, contents())
	_, public := identityPair(t)
	o := CreateOptions{Site: "dc1", VolumeSize: 100_000, Recipients: []string{public}, Parity: 1}
	dir, b := create(t, s, k, o)
	again := func(what string, o CreateOptions, same bool) {
		t.Helper()
		before := readDir(t, dir)
		if _, err := s.Create(t.Context(), k, dir, o); err != nil {
			t.Fatal(err)
		}
		if got := maps.EqualFunc(before, readDir(t, dir), bytes.Equal); got != same {
			t.Errorf("%s: made again it is the same: %v; want %v", what, got, same)
		}
	}
	again("whole", o, true)
	path := filepath.Join(dir, b.Volumes[1].File)
	if err := os.Truncate(path, 1000); err != nil {
		t.Fatal(err)
	}
	again("a volume was cut", o, false)
	again("whole again", o, true)
	o.Cosign = true
	again("another signature is wanted", o, false)
	again("with it", o, true)
}

// What is encrypted with our signature inside cannot be replaced by what
// somebody else encrypted to the same recipient.
func TestForgedCiphertext(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	addSnapshot(t, s, "one", 1, contents())
	secret, public := identityPair(t)
	dir, b := create(t, s, k, CreateOptions{Recipients: []string{public}})
	forged, fb := create(t, s, testKey(t, "B"), CreateOptions{Recipients: []string{public}})
	data, err := os.ReadFile(filepath.Join(forged, fb.Volumes[0].File))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, b.Volumes[0].File), data, 0o644); err != nil {
		t.Fatal(err)
	}
	o, err := OpenBundle(k.Public(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Unlock(secret); err != nil {
		t.Fatal(err)
	}
	if err := o.Verify(t.Context(), nil); !errors.Is(err, ErrSignature) {
		t.Errorf("Verify of a forged volume = %v; want %v", err, ErrSignature)
	}
}

// TestReadmeCommands runs what README.txt says, with the tools of the machine.
func TestReadmeCommands(t *testing.T) {
	for _, tool := range []string{"openssl", "sha256sum", "sh", "base64"} {
		if _, err := exec.LookPath(tool); err != nil {
			needs(t, "README.txt names "+tool)
		}
	}
	s, k := testStore(t), testKey(t, "A")
	addSnapshot(t, s, "one", 1, contents())
	tool := filepath.Join(t.TempDir(), "fettle-test")
	if err := os.WriteFile(tool, []byte("#!/bin/sh\necho hello\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, b := create(t, s, k, CreateOptions{VolumeSize: 100_000, Programs: map[string]string{"fettle-test": tool}, Cosign: true})
	text, err := os.ReadFile(filepath.Join(dir, ReadmeFile))
	if err != nil {
		t.Fatal(err)
	}
	// The commands are the indented lines of steps 1 to 3, run as they stand.
	var script []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "4. ") {
			break
		}
		if cmd, ok := strings.CutPrefix(line, "     "); ok && !strings.Contains(line, "cosign") {
			script = append(script, strings.ReplaceAll(strings.TrimSpace(cmd), "/tmp/", "$TMP/"))
		}
	}
	key := strings.TrimPrefix(k.Public().String(), publicKeyPrefix)
	if n := slices.IndexFunc(script, func(l string) bool { return strings.HasPrefix(l, "KEY=") }); n < 0 {
		t.Fatalf("README.txt has no KEY=: %q", script)
	} else {
		script[n] = "KEY=" + key
	}
	run := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", strings.Join(script, "\n"))
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMP="+t.TempDir(), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run()
	if err != nil || !strings.Contains(out, "Signature Verified Successfully") || !strings.Contains(out, b.Volumes[1].File+": OK") || !strings.Contains(out, "fettle-test: OK") {
		t.Fatalf("the commands of README.txt = %v:\n%s\n%s", err, strings.Join(script, "\n"), out)
	}
	for _, name := range []string{SumsFile, SumsSignature, IndexFile, SignatureFile, b.Volumes[0].File, "fettle-test"} {
		path := filepath.Join(dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(good)
		bad[len(bad)/2] ^= 1
		if err := os.WriteFile(path, bad, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := run(); err == nil {
			t.Errorf("the commands of README.txt accept a changed %s:\n%s", name, out)
		}
		o, err := OpenBundle(k.Public(), dir)
		if err == nil {
			err = o.Verify(t.Context(), nil)
		}
		if err == nil {
			t.Errorf("Verify accepts a changed %s", name)
		}
		if err := os.WriteFile(path, good, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRealCosign runs the commands of README.txt for cosign. No Debian package
// has it, so that CI does not ask for it (airgap/oci has how to build it).
func TestRealCosign(t *testing.T) {
	for _, tool := range []string{"cosign", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not here")
		}
	}
	s, k := testStore(t), testKey(t, "A")
	addSnapshot(t, s, "one", 1, contents())
	dir, _ := create(t, s, k, CreateOptions{Cosign: true})
	text, err := os.ReadFile(filepath.Join(dir, ReadmeFile))
	if err != nil {
		t.Fatal(err)
	}
	key := strings.TrimPrefix(k.Public().String(), publicKeyPrefix)
	script := []string{`KEY=` + key}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "Or: ")
		if strings.HasPrefix(line, "{ printf") || strings.HasPrefix(line, "openssl pkey ") || strings.HasPrefix(line, "cosign ") {
			script = append(script, strings.ReplaceAll(line, "/tmp/", "$TMP/"))
		}
	}
	if len(script) != 4 {
		t.Fatalf("README.txt has other commands than were expected: %q", script)
	}
	run := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", strings.Join(script, "\n"))
		tmp := t.TempDir()
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMP="+tmp, "HOME="+tmp, "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run(); err != nil || !strings.Contains(out, "Verified OK") {
		t.Fatalf("the commands of README.txt = %v:\n%s\n%s", err, strings.Join(script, "\n"), out)
	}
	path := filepath.Join(dir, SumsFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(good, "\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := run(); err == nil {
		t.Errorf("cosign accepts a changed SHA256SUMS:\n%s", out)
	}
}

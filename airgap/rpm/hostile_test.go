package rpm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
)

func flip(part string) func(string, []byte) []byte {
	return func(p string, data []byte) []byte {
		if !strings.Contains(p, part) {
			return data
		}
		out := bytes.Clone(data)
		out[len(out)/2] ^= 1
		return out
	}
}

func TestHostileUpstream(t *testing.T) {
	rpms := build(t, rpmSpec{name: "lib", version: "1.2"}, rpmSpec{name: "good", version: "1"})
	// resigned changes the index and signs it: upstream itself is bad.
	resigned := func(change func(string) string) func(*testing.T, *upstream) {
		return func(t *testing.T, u *upstream) {
			file := filepath.Join(u.dir, "repodata", "repomd.xml")
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(change(string(data))), 0o644); err != nil {
				t.Fatal(err)
			}
			u.sign(t, "")
		}
	}
	re := func(pattern, to string) func(string) string {
		return func(s string) string { return regexp.MustCompile(pattern).ReplaceAllString(s, to) }
	}
	lying := func(edit func(string, []byte) []byte) func(*testing.T, *upstream) {
		return func(_ *testing.T, u *upstream) { u.lie(edit) }
	}
	for _, tt := range []struct {
		name, wrong string
		do          func(*testing.T, *upstream)
	}{
		{"a flipped bit in the index", "no trusted key signed it", lying(flip("repomd.xml"))},
		{"a flipped bit in primary", "other bytes than were promised", lying(flip("primary.xml"))},
		{"a flipped bit in a package", "other bytes than were promised", lying(flip("lib-1.2"))},
		{"a package swapped for another", "bytes that were promised", lying(func(p string, data []byte) []byte {
			if strings.Contains(p, "lib-1.2") {
				return append(bytes.Clone(data), "longer"...)
			}
			return data
		})},
		{"signed by another key", "no trusted key signed it", func(t *testing.T, u *upstream) {
			u.key = newKey(t, "evil")
			u.sign(t, "")
		}},
		{"no signature", "signed: packages", func(t *testing.T, u *upstream) {
			if err := os.Remove(filepath.Join(u.dir, "repodata", "repomd.xml.asc")); err != nil {
				t.Fatal(err)
			}
		}},
		{"metadata elsewhere", "leaves its folder", resigned(re(`href="repodata/[^"]*primary`, `href="../../x/primary`))},
		{"metadata over packages", "refused", resigned(re(`href="repodata/([^"]*primary)`, `href="Packages/$1`))},
		{"sha1", "vouches for nothing", resigned(re(`checksum type="sha256"`, `checksum type="sha"`))},
		{"a bomb", "unpacks to more", resigned(re(`<open-size>[0-9]+`, `<open-size>10`))},
		{"no primary", "no primary", resigned(re(`type="primary"`, `type="secondary"`))},
		{"an older index", "replays an old index", resigned(func(s string) string {
			s = regexp.MustCompile(`<timestamp>[0-9]+`).ReplaceAllString(s, "<timestamp>1600000000")
			return regexp.MustCompile(`<revision>[0-9]+`).ReplaceAllString(s, "<revision>1600000000")
		})},
		{"no XML", "repomd.xml", resigned(func(string) string { return "<html>" })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := newUpstream(t)
			u.add(t, "", rpms)
			s := newSide(t, u)
			if _, _, err := s.sync(t, airgap.Mirror{URLs: []string{u.URL}, Packages: []string{"good"}}); err != nil {
				t.Fatal(err)
			}
			served, err := s.Store.Served()
			if err != nil {
				t.Fatal(err)
			}
			tt.do(t, u)
			// What is in the store already is not asked for again.
			st, err := airgap.OpenStore(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			old := s.Fetch
			s.Fetch = &airgap.Fetcher{Blobs: st.Blobs(), Dir: st.Dir(), Tries: 1}
			keep := s.Store
			s.Store = st
			_, _, err = s.sync(t, airgap.Mirror{URLs: []string{u.URL}, Packages: []string{"lib"}})
			s.Store, s.Fetch = keep, old
			if err == nil || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("sync = %v; want an error with %q", err, tt.wrong)
			}
			if got, err := s.Store.Served(); err != nil || got != served {
				t.Errorf("served = %s, %v; want the last good %s", got, err, served)
			}
		})
	}
}

// rpmsign signs packages with real rpmsign and gpg.
func rpmsign(t testing.TB, key *openpgp.Entity, rpms string) {
	t.Helper()
	airgaptest.NeedTool(t, "rpmsign", "gpg", "gpgconf")
	home, err := os.MkdirTemp("", "gpg") // the agent's socket wants a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd := exec.Command("gpgconf", "--kill", "all")
		cmd.Env = append(os.Environ(), "GNUPGHOME="+home)
		_ = cmd.Run() // an agent that was never started
		os.RemoveAll(home)
	})
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PrivateKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.SerializePrivate(w, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(home, "key.asc")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, home, "gpg", "--homedir", home, "--batch", "--quiet", "--import", file)
	files, err := filepath.Glob(filepath.Join(rpms, "*", "*.rpm"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no packages in %s: %v", rpms, err)
	}
	gpg, err := exec.LookPath("gpg")
	if err != nil {
		t.Fatal(err)
	}
	// Once in some 250 times Debian 12's gpg makes a signature that gpg itself calls
	// bad, and the next one of the same bytes by the same key good (2026-11-22).
	must(t, home, "gpg", "--homedir", home, "--batch", "--quiet", "--armor", "--output", "public.asc", "--export", "upstream")
	must(t, home, "rpmkeys", "--dbpath", home+"/rpmdb", "--import", "public.asc")
	for try := 1; ; try++ {
		must(t, home, "rpmsign", append([]string{"--define", "__gpg " + gpg, "--define", "_gpg_path " + home, "--define", "_gpg_name upstream", "--addsign"}, files...)...)
		judge := exec.CommandContext(t.Context(), "rpmkeys", append([]string{"--dbpath", home + "/rpmdb", "--checksig"}, files...)...)
		out, err := judge.CombinedOutput()
		if err == nil {
			return
		}
		if try == 3 {
			t.Fatalf("rpmkeys of what rpmsign signed: %v\n%s", err, out)
		}
		t.Logf("signed again: %v\n%s", err, out)
	}
}

// Where upstream signs its packages only, each is verified; real dnf does it
// again.
func TestSignedPackages(t *testing.T) {
	u := newUpstream(t)
	rpms := build(t, rpmSpec{name: "lib", version: "1.2"}, rpmSpec{name: "lob", version: "1"})
	rpmsign(t, u.key, rpms)
	u.add(t, "", rpms)
	if err := os.Remove(filepath.Join(u.dir, "repodata", "repomd.xml.asc")); err != nil {
		t.Fatal(err)
	}
	s := newSide(t, u)
	m := airgap.Mirror{URLs: []string{u.URL}, Packages: []string{"lib"}, Signed: "packages"}
	if _, _, err := s.sync(t, m); err != nil {
		t.Fatal(err)
	}
	served, _ := s.Store.Served()
	if got := s.Lock.Mirrors[0].Trust[0].What; !strings.Contains(got, "not signed") {
		t.Errorf("trust = %q; want to be told that the index is not signed", got)
	}
	d := s.dnf(t)
	conf, err := os.ReadFile(filepath.Join(d.root, repoFile))
	if err != nil || !strings.Contains(string(conf), "\ngpgcheck=1\nrepo_gpgcheck=1\n") {
		t.Errorf("client-config = %s, %v; want both checks", conf, err)
	}
	d.must(t, "install", "lib")
	u.lie(func(_ string, data []byte) []byte { return data }) // without times, of which several changes share one second
	lib, err := filepath.Glob(filepath.Join(u.dir, "Packages", "noarch", "lib-*.rpm"))
	if err != nil || len(lib) != 1 {
		t.Fatalf("packages = %v, %v", lib, err)
	}
	good, err := os.ReadFile(lib[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, wrong string
		change      func()
	}{
		{"not signed", "has no signature", func() {
			must(t, t.TempDir(), "rpmsign", "--delsign", lib[0])
		}},
		{"signed by another key", "no trusted key signed it", func() { rpmsign(t, newKey(t, "upstream"), filepath.Dir(filepath.Dir(lib[0]))) }},
		{"another payload", "is not what its signed header says", func() {
			bad := bytes.Clone(good)
			bad[len(bad)-5] ^= 1
			if err := os.WriteFile(lib[0], bad, 0o644); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		if err := os.WriteFile(lib[0], good, 0o644); err != nil {
			t.Fatal(err)
		}
		tt.change()
		must(t, u.dir, "createrepo_c", "--quiet", "--workers", "1", "--revision", time.Now().Add(time.Minute).Format("20060102"), ".")
		if _, _, err := s.sync(t, m); err == nil || !strings.Contains(err.Error(), tt.wrong) || !strings.Contains(err.Error(), "lib-1.2") {
			t.Errorf("%s: sync = %v; want an error with %q that names the package", tt.name, err, tt.wrong)
		}
		if got, err := s.Store.Served(); err != nil || got != served {
			t.Errorf("%s: served = %s, %v; want the last good %s", tt.name, got, err, served)
		}
	}
}

package npm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
)

// signer is a registry's key.
type signer struct {
	id      string
	key     *ecdsa.PrivateKey
	expires *time.Time
}

func newSigner(t testing.TB, id string) *signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{id: id, key: k}
}

// list is what registries have at keysPath.
func (s *signer) list(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&s.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"keys": []any{map[string]any{"expires": s.expires, "keyid": s.id, "keytype": ecdsaScheme, "scheme": ecdsaScheme, "key": base64.StdEncoding.EncodeToString(der)}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// packument puts what the registry says of a version there.
func (u *upstream) packument(t testing.TB, name string, e entry, s *signer, text string) {
	t.Helper()
	digest := sha256.Sum256([]byte(text))
	sig, err := ecdsa.SignASN1(rand.Reader, s.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"name": name, "time": map[string]any{e.Version: "2026-01-02T03:04:05.678Z"}, "versions": map[string]any{e.Version: map[string]any{
		"dist": map[string]any{"integrity": e.Integrity, "signatures": []any{map[string]string{"keyid": s.id, "sig": base64.StdEncoding.EncodeToString(sig)}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files["/"+name] = b
}

func TestRegistrySignatures(t *testing.T) {
	key, later := newSigner(t, "SHA256:first"), time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	before := time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name    string
		edit    func(u *upstream, keys *signer, e entry)
		wrong   string
		expires *time.Time
	}{
		{name: "signed"},
		{name: "by a key that expired afterwards", expires: &later},
		{name: "by a key that had expired", expires: &before, wrong: "after its key SHA256:first had expired"},
		{name: "not signed", wrong: "has not signed it", edit: func(u *upstream, _ *signer, e entry) {
			b, _ := json.Marshal(map[string]any{"versions": map[string]any{"1.0.0": map[string]any{"dist": map[string]any{"integrity": e.Integrity}}}})
			u.files["/@a/b"] = b
		}},
		{name: "another version's signature", wrong: "its signature by SHA256:first is wrong", edit: func(u *upstream, k *signer, e entry) {
			u.packument(t, "@a/b", e, k, "@a/b@1.0.1:"+e.Integrity)
		}},
		{name: "another key", wrong: "none of its signatures is by a key of keyrings", edit: func(u *upstream, _ *signer, e entry) {
			u.packument(t, "@a/b", e, newSigner(t, "SHA256:other"), "@a/b@1.0.0:"+e.Integrity)
		}},
		{name: "another key with its name", wrong: "is wrong", edit: func(u *upstream, _ *signer, e entry) {
			u.packument(t, "@a/b", e, newSigner(t, "SHA256:first"), "@a/b@1.0.0:"+e.Integrity)
		}},
		{name: "other bytes are signed", wrong: "and the lockfile has", edit: func(u *upstream, k *signer, e entry) {
			e.Integrity = integrityOf([]byte("other"))
			u.packument(t, "@a/b", e, k, "@a/b@1.0.0:"+e.Integrity)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := newUpstream(t)
			s := newSide(t, u.URL)
			k := *key
			k.expires = tt.expires
			e := u.add(t, `{"name":"@a/b","version":"1.0.0"}`, nil)
			u.packument(t, "@a/b", e, &k, "@a/b@1.0.0:"+e.Integrity)
			if tt.edit != nil {
				tt.edit(u, &k, e)
			}
			s.Write(t, "keys.json", k.list(t))
			s.write(t, "package-lock.json", map[string]any{"": map[string]any{"name": "app"}, "node_modules/@a/b": e})
			m := airgap.Mirror{Lockfiles: []string{"package-lock.json"}, Keyrings: []string{"keys.json"}}
			_, _, err := s.Mirror(t, m)
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), "@a/b 1.0.0: ") || !strings.Contains(err.Error(), tt.wrong) {
					t.Errorf("Resolve() = %v; want the package named, and %q", err, tt.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Lock.Mirrors[0].Trust[0].SignedBy; got != k.id {
				t.Errorf("signed by %q; want %s", got, k.id)
			}
			asked := u.asked
			if _, made, err := s.Mirror(t, m); err != nil || made || u.asked != asked {
				t.Errorf("again = %v, %v, %d requests; want nothing new and none", made, err, u.asked-asked)
			}
		})
	}
}

// A registry that has a new key signs its packages anew with it; the lock holds
// the old signatures.
func TestRegistryChangesKey(t *testing.T) {
	u := newUpstream(t)
	s := newSide(t, u.URL)
	e := u.add(t, `{"name":"@a/b","version":"1.0.0"}`, nil)
	s.write(t, "package-lock.json", map[string]any{"": map[string]any{"name": "app"}, "node_modules/@a/b": e})
	for _, id := range []string{"SHA256:first", "SHA256:second"} {
		k := newSigner(t, id)
		u.packument(t, "@a/b", e, k, "@a/b@1.0.0:"+e.Integrity)
		s.Write(t, "keys.json", k.list(t))
		if _, _, err := s.Mirror(t, airgap.Mirror{Lockfiles: []string{"package-lock.json"}, Keyrings: []string{"keys.json"}}); err != nil {
			t.Fatalf("Resolve with key %s = %v", id, err)
		}
		if got := s.Lock.Mirrors[0].Trust[0].SignedBy; got != id {
			t.Errorf("signed by %q; want %s", got, id)
		}
	}
}

// npm's own library verifies the registry's signatures by what the mirror
// carries: `npm audit signatures` calls it so, after it has asked the internet
// for Sigstore's list of registries, which is why it cannot run here.
func TestPacoteVerifies(t *testing.T) {
	airgaptest.NeedTool(t, "npm", "node")
	bin, err := exec.LookPath("npm")
	if err == nil {
		bin, err = filepath.EvalSymlinks(bin)
	}
	if err != nil {
		t.Fatal(err)
	}
	pacote := filepath.Join(filepath.Dir(bin), "../node_modules/pacote")
	if _, err := os.Stat(pacote); err != nil { // Debian's
		pacote = "/usr/share/nodejs/pacote"
	}
	if _, err := os.Stat(pacote); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("npm's library pacote is not where it is looked for: %v", err)
		}
		t.Skipf("npm's library pacote is not where it is looked for: %v", err)
	}
	u := newUpstream(t)
	s := newSide(t, u.URL)
	k := newSigner(t, "SHA256:first")
	expires := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) // Debian 12's pacote compares with today, newer ones with the publication
	k.expires = &expires
	e := u.add(t, `{"name":"@a/b","version":"1.0.0"}`, nil)
	u.packument(t, "@a/b", e, k, "@a/b@1.0.0:"+e.Integrity)
	s.Write(t, "keys.json", k.list(t))
	s.write(t, "package-lock.json", map[string]any{"": map[string]any{"name": "app"}, "node_modules/@a/b": e})
	if _, _, err := s.Mirror(t, airgap.Mirror{Lockfiles: []string{"package-lock.json"}, Keyrings: []string{"keys.json"}}); err != nil {
		t.Fatal(err)
	}
	u.Close()
	for _, tt := range []struct{ key, want string }{
		{"", "verified SHA256:first"},
		{strings.Split(newSigner(t, "x").list(t), `"`)[7], "EINTEGRITYSIGNATURE"},
	} {
		cmd := exec.CommandContext(t.Context(), "node", "-e", `
const [pacotePath, registry, other] = process.argv.slice(1)
const pacote = require(pacotePath)
fetch(registry + '-/npm/v1/keys').then(r => r.json()).then(({ keys }) => {
  keys = keys.map(k => ({ ...k, pemkey: '-----BEGIN PUBLIC KEY-----\n' + (other || k.key) + '\n-----END PUBLIC KEY-----' }))
  const at = registry.replace(/^https?:/, '')
  return pacote.manifest('@a/b@1.0.0', { registry, verifySignatures: true, fullMetadata: true, cache: process.env.HOME, [at + ':_keys']: keys })
}).then(m => console.log('verified', m._signatures[0].keyid)).catch(e => console.log(e.code, e.message))`,
			pacote, s.Server.URL+"/npm/m/", tt.key)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), tt.want) {
			t.Errorf("pacote said %s, %v; want %s", out, err, tt.want)
		}
	}
}

func FuzzSignatures(f *testing.F) {
	k := newSigner(f, "SHA256:first")
	f.Add([]byte(k.list(f)), []byte(`{"versions":{"1.0.0":{"dist":{"integrity":"sha512-x","signatures":[{"keyid":"SHA256:first","sig":"AA=="}]}}},"time":{"1.0.0":7}}`))
	f.Fuzz(func(t *testing.T, keys, packument []byte) {
		ks, err := parseKeys(keys)
		if err != nil {
			return
		}
		vs, err := signedVersions(packument)
		if err != nil {
			return
		}
		for v, s := range vs {
			if id, err := s.verify("a", v, s.Integrity, ks); err == nil {
				t.Errorf("a signature by %s is right; nobody made one", id)
			}
		}
	})
}

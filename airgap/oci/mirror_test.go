package oci

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	crand "github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fettle-dev/fettle/airgap"
)

// upstreamRegistry is go-containerregistry's, in memory; its host.
func upstreamRegistry(t testing.TB, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	var h http.Handler = registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
	if wrap != nil {
		h = wrap(h)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func parseRef(t testing.TB, s string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// pushIndex pushes an index of two platforms, and returns its digest.
func pushIndex(t testing.TB, ref string) Digest {
	t.Helper()
	var idx v1.ImageIndex = empty.Index
	for _, arch := range []string{"amd64", "arm64"} {
		img := must[v1.Image](t)(crand.Image(2000, 2))
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	if err := remote.WriteIndex(parseRef(t, ref), idx); err != nil {
		t.Fatal(err)
	}
	return Digest(must[v1.Hash](t)(idx.Digest()).String())
}

func pushImage(t testing.TB, ref string) Digest {
	t.Helper()
	img := must[v1.Image](t)(crand.Image(3000, 2))
	if err := remote.Write(parseRef(t, ref), img); err != nil {
		t.Fatal(err)
	}
	return Digest(must[v1.Hash](t)(img.Digest()).String())
}

// sign pushes a signature as cosign makes it.
func sign(t testing.TB, repo string, d Digest, k *ecdsa.PrivateKey, about Digest) {
	t.Helper()
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, repo, about)
	sum := sha256.Sum256(payload)
	sig := must[[]byte](t)(ecdsa.SignASN1(rand.Reader, k, sum[:]))
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = must[v1.Image](t)(mutate.Append(img, mutate.Addendum{Layer: static.NewLayer(payload, typeSimpleSigning),
		Annotations: map[string]string{signatureNote: base64.StdEncoding.EncodeToString(sig)}}))
	if err := remote.Write(parseRef(t, repo+":"+d.Algorithm()+"-"+d.Hex()+".sig"), img); err != nil {
		t.Fatal(err)
	}
}

// rig is a connected side.
type rig struct {
	*airgap.Syncer
	store *airgap.Store
	oci   *Format
}

func newRig(t testing.TB) *rig {
	t.Helper()
	s := openStore(t)
	f := &Format{Dir: t.TempDir(), Login: func(string) (string, string, bool) { return "", "", false }}
	n := int64(0)
	return &rig{store: s, oci: f, Syncer: &airgap.Syncer{Store: s, Formats: []airgap.Format{f}, Now: func() time.Time {
		return time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC).Add(time.Duration(atomic.AddInt64(&n, 1)) * time.Second)
	}, Fetch: &airgap.Fetcher{Blobs: s.Blobs(), Dir: s.Dir(), Tries: 2, Wrap: f.Transport,
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}}}
}

func (r *rig) sync(t testing.TB, m airgap.Mirror, prev airgap.Lock) (airgap.Lock, airgap.Snapshot, error) {
	t.Helper()
	m.Name, m.Format = "images", "oci"
	lock, err := r.Resolve(t.Context(), []airgap.Mirror{m}, prev)
	if err != nil {
		return prev, airgap.Snapshot{}, err
	}
	data, err := airgap.MarshalLock(lock)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := airgap.ParseLock(data); err != nil || len(airgap.Diff(lock, again)) > 0 {
		t.Fatalf("ParseLock(MarshalLock) = %v, %v; want the same", airgap.Diff(lock, again), err)
	}
	snap, _, err := r.Sync(t.Context(), lock, "")
	return lock, snap, err
}

func TestMirrorOfAnIndex(t *testing.T) {
	host := upstreamRegistry(t, nil)
	repo := host + "/lib/app"
	top := pushIndex(t, repo+":1.0")
	k := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	sign(t, repo, top, k, top)
	// an SBOM that names the index as its subject
	sbom := mutate.Subject(mutate.MediaType(must[v1.Image](t)(mutate.Append(empty.Image, mutate.Addendum{Layer: static.NewLayer([]byte(`{"sbom":1}`), "application/spdx+json")})), types.OCIManifestSchema1),
		v1.Descriptor{MediaType: types.OCIImageIndex, Digest: must[v1.Hash](t)(v1.NewHash(string(top))), Size: 1}).(v1.Image)
	sbomDigest := Digest(must[v1.Hash](t)(sbom.Digest()).String())
	if err := remote.Write(parseRef(t, repo+"@"+string(sbomDigest)), sbom); err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	lock, snap, err := r.sync(t, airgap.Mirror{Images: []string{repo + ":1.0"}, Archs: []string{"amd64"}}, airgap.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	_, srv := newRegistry(t, r.store, Options{})
	local := strings.TrimPrefix(srv.URL, "http://") + "/" + localName(host, "lib/app")
	// The index is upstream's, byte for byte; of its children only one is there.
	idx := must[v1.ImageIndex](t)(remote.Index(parseRef(t, local+":1.0")))
	if d := must[v1.Hash](t)(idx.Digest()); d.String() != string(top) {
		t.Errorf("digest of the index = %s; want %s", d, top)
	}
	for _, d := range must[*v1.IndexManifest](t)(idx.IndexManifest()).Manifests {
		img, err := remote.Image(parseRef(t, local+"@"+d.Digest.String()))
		if d.Platform.Architecture == "arm64" {
			if err == nil {
				t.Error("the image for arm64 is there; want it left out")
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range must[[]v1.Layer](t)(img.Layers()) {
			rc := must[io.ReadCloser](t)(l.Compressed())
			if _, err := io.Copy(io.Discard, rc); err != nil { // the library compares
				t.Error(err)
			}
			rc.Close()
		}
	}
	// what is attached is there
	refs := must[v1.ImageIndex](t)(remote.Referrers(parseRef(t, local+"@"+string(top)).(name.Digest)))
	if got := must[*v1.IndexManifest](t)(refs.IndexManifest()).Manifests; len(got) != 1 || got[0].Digest.String() != string(sbomDigest) {
		t.Errorf("referrers = %+v; want %s", got, sbomDigest)
	}
	if _, err := remote.Image(parseRef(t, local+":sha256-"+top.Hex()+".sig")); err != nil {
		t.Errorf("the signature: %v", err)
	}
	// names
	c := &conformance{T: t, base: srv.URL}
	for _, tt := range []struct {
		name, path, host string
		want             int
	}{
		{"containerd", "/v2/lib/app/manifests/1.0?ns=" + host, "", 200},
		{"containerd, another registry", "/v2/lib/app/manifests/1.0?ns=other.example.org", "", 404},
		{"led here by DNS", "/v2/lib/app/manifests/1.0", host, 200},
		{"with the registry", "/v2/" + localName(host, "lib/app") + "/manifests/1.0", "", 200},
		{"no registry", "/v2/lib/app/manifests/1.0", "", 404},
		{"unknown", "/v2/lib/none/manifests/1.0?ns=" + host, "", 404},
		{"unknown tag", "/v2/lib/app/manifests/1.1?ns=" + host, "", 404},
	} {
		req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), "GET", srv.URL+tt.path, nil))
		req.Host = tt.host
		resp := must[*http.Response](t)(http.DefaultClient.Do(req))
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s: GET %s = %s; want %d", tt.name, tt.path, resp.Status, tt.want)
		}
	}
	c.status(c.do("POST", "/v2/"+localName(host, "lib/app")+"/blobs/uploads/", nil), 403)
	// the lock reads well
	var named []string
	for _, it := range lock.Mirrors[0].Items {
		if it.Kind == airgap.KindPackage {
			named = append(named, it.Name+" "+it.Version+": "+it.Why)
		}
	}
	want := []string{repo + " 1.0: the site file", repo + " " + string(sbomDigest) + ": attached to " + repo + ":1.0", repo + " sha256-" + top.Hex() + ".sig: attached to " + repo + ":1.0"}
	if !slices.Equal(named, want) {
		t.Errorf("images of the lock = %q; want %q", named, want)
	}
	// again: nothing changes
	lock2, snap2, err := r.sync(t, airgap.Mirror{Images: []string{repo + ":1.0"}, Archs: []string{"amd64"}}, lock)
	if err != nil || snap2.Name != snap.Name {
		t.Errorf("sync again = %s, %v; want %s", snap2.Name, err, snap.Name)
	}
	if d := airgap.Diff(lock, lock2); len(d) > 0 {
		t.Errorf("Diff of an unchanged upstream = %q; want none", d)
	}
	// a platform that is not there
	if _, _, err := r.sync(t, airgap.Mirror{Images: []string{repo + ":1.0"}, Archs: []string{"riscv64"}}, airgap.Lock{}); err == nil || !strings.Contains(err.Error(), "linux/amd64, linux/arm64") {
		t.Errorf("sync of riscv64 = %v; want an error that names the platforms", err)
	}
}

func TestSubstitutedImage(t *testing.T) {
	host := upstreamRegistry(t, nil)
	repo := host + "/app"
	old := pushImage(t, repo+":1")
	r := newRig(t)
	m := airgap.Mirror{Images: []string{repo + ":1"}}
	lock, snap, err := r.sync(t, m, airgap.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	other := pushImage(t, repo+":1")
	_, _, err = r.sync(t, m, lock)
	if !errors.Is(err, ErrMoved) || !strings.Contains(err.Error(), string(old)) || !strings.Contains(err.Error(), string(other)) {
		t.Errorf("sync of a substituted image = %v; want ErrMoved with both digests", err)
	}
	if served, _ := r.store.Served(); served != snap.Name {
		t.Errorf("served = %s; want the last good one, %s", served, snap.Name)
	}
	for _, tt := range []struct {
		name   string
		m      airgap.Mirror
		moved  bool
		digest Digest
	}{
		{"pinned to the old one", airgap.Mirror{Images: []string{repo + ":1@" + string(old)}}, true, ""},
		{"pinned to the new one", airgap.Mirror{Images: []string{repo + ":1@" + string(other)}}, false, other},
		{"the old one by digest", airgap.Mirror{Images: []string{repo + "@" + string(old)}}, false, old},
		{"another tag moves", airgap.Mirror{Images: []string{repo + ":1"}, Moving: []string{"latest"}}, true, ""},
		{"moves", airgap.Mirror{Images: []string{repo + ":1"}, Moving: []string{"latest", "[0-9]*"}}, false, other},
	} {
		got, _, err := r.sync(t, tt.m, lock)
		if errors.Is(err, ErrMoved) != tt.moved || !tt.moved && err != nil {
			t.Errorf("%s: sync = %v; want moved %v", tt.name, err, tt.moved)
			continue
		}
		if tt.moved {
			continue
		}
		if d := itemDigest(got.Mirrors[0].Items[len(got.Mirrors[0].Items)-1]); d != tt.digest {
			t.Errorf("%s: digest = %s; want %s", tt.name, d, tt.digest)
		}
		if tt.name == "moves" && !strings.Contains(strings.Join(airgap.Diff(lock, got), "\n"), "ATTENTION: "+repo+" (any) 1 has other bytes under the same version") {
			t.Errorf("Diff = %q; want the substitution named", airgap.Diff(lock, got))
		}
	}
	// A lock fetches what it names, whatever the tag means now.
	fresh := newRig(t)
	if _, _, err := fresh.Sync(t.Context(), lock, ""); err != nil {
		t.Errorf("Sync of the old lock = %v; want the old image", err)
	}
}

// lies changes what upstream sends.
func lies(change func(path string, header http.Header, body []byte) []byte) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				h.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			b := change(r.URL.Path, rec.Header(), rec.Body.Bytes())
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			w.WriteHeader(rec.Code)
			_, _ = w.Write(b)
		})
	}
}

func TestUpstreamThatLies(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(path string, h http.Header, b []byte) []byte
		want   string
	}{
		{"a layer with a flipped bit", func(p string, _ http.Header, b []byte) []byte {
			if strings.Contains(p, "/blobs/") && len(b) > 1000 {
				b[500] ^= 1
			}
			return b
		}, "other bytes"},
		{"a layer without end", func(p string, _ http.Header, b []byte) []byte {
			if strings.Contains(p, "/blobs/") {
				return append(b, make([]byte, 1<<20)...)
			}
			return b
		}, "more than"},
		{"a layer that is cut", func(p string, _ http.Header, b []byte) []byte {
			if strings.Contains(p, "/blobs/") {
				return b[:len(b)/2]
			}
			return b
		}, "where the transfer was cut"},
		{"another manifest", func(p string, _ http.Header, b []byte) []byte {
			if strings.Contains(p, "/manifests/") {
				return append(b, ' ')
			}
			return b
		}, "another manifest than"},
		{"a manifest without end", func(p string, _ http.Header, b []byte) []byte {
			if strings.Contains(p, "/manifests/") {
				return append(b, make([]byte, maxManifest)...)
			}
			return b
		}, "more than"},
		{"tags on another host", func(p string, h http.Header, b []byte) []byte {
			if strings.Contains(p, "/tags/") {
				h.Set("Link", `<http://evil.example.org/v2/x/tags/list>; rel="next"`)
			}
			return b
		}, "another host"},
		{"tags in a ring", func(p string, h http.Header, b []byte) []byte {
			if strings.Contains(p, "/tags/") {
				h.Set("Link", `</v2/app/tags/list?n=1000>; rel="next"`)
			}
			return b
		}, "where they began"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host := upstreamRegistry(t, lies(tt.change))
			img := must[v1.Image](t)(crand.Image(3000, 2))
			if err := remote.Write(parseRef(t, host+"/app:1"), img); err != nil {
				t.Fatal(err)
			}
			r := newRig(t)
			_, _, err := r.sync(t, airgap.Mirror{Images: []string{host + "/app:1"}}, airgap.Lock{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("sync = %v; want an error with %q", err, tt.want)
			}
			if served, _ := r.store.Served(); served != "" {
				t.Errorf("served = %q; want nothing", served)
			}
		})
	}
}

func TestOnlySigned(t *testing.T) {
	host := upstreamRegistry(t, nil)
	k := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	wrong := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	good := pushImage(t, host+"/good:1")
	sign(t, host+"/good", good, k, good)
	other := pushImage(t, host+"/other:1")
	sign(t, host+"/other", other, wrong, other)
	stolen := pushImage(t, host+"/stolen:1")
	sign(t, host+"/stolen", stolen, k, good) // a good signature, of another image
	pushImage(t, host+"/bare:1")
	r := newRig(t)
	der := must[[]byte](t)(x509.MarshalPKIXPublicKey(&k.PublicKey))
	if err := os.WriteFile(filepath.Join(r.oci.Dir, "cosign.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		image string
		ok    bool
	}{{"good", true}, {"other", false}, {"stolen", false}, {"bare", false}} {
		lock, _, err := r.sync(t, airgap.Mirror{Images: []string{host + "/" + tt.image + ":1"}, Keyrings: []string{"cosign.pub"}}, airgap.Lock{})
		if tt.ok != (err == nil) || !tt.ok && !errors.Is(err, ErrSignature) {
			t.Errorf("%s: sync = %v; want ok %v", tt.image, err, tt.ok)
		}
		if tt.ok && err == nil {
			sum := sha256.Sum256(der)
			if tr := lock.Mirrors[0].Trust[0]; tr.SignedBy != fmt.Sprintf("%x", sum) || tr.Source != "cosign.pub" {
				t.Errorf("trust = %+v; want the key", tr)
			}
		}
	}
}

// tokenGate is a registry's handler behind token authentication.
type tokenGate struct {
	h              http.Handler
	user, password string
	tokens, denied atomic.Int64
	t              testing.TB
}

func (g *tokenGate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		if u, p, _ := r.BasicAuth(); u != g.user || p != g.password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		g.tokens.Add(1)
		_ = json.NewEncoder(w).Encode(map[string]string{"token": "for " + r.URL.Query().Get("scope")})
		return
	}
	scope, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer for repository:")
	if name, _, _ := strings.Cut(scope, ":"); !ok || r.URL.Path != "/v2/" && !strings.HasPrefix(r.URL.Path, "/v2/"+name+"/") {
		g.denied.Add(1)
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, r.Host))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	r.Header.Del("Authorization")
	g.h.ServeHTTP(w, r)
}

func TestUpstreamThatWantsTokens(t *testing.T) {
	open := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer open.Close()
	gate := &tokenGate{h: open.Config.Handler, user: "u", password: "p", t: t}
	srv := httptest.NewServer(gate)
	defer srv.Close()
	for _, n := range []string{"/a/x:1", "/bb:1"} {
		pushImage(t, strings.TrimPrefix(open.URL, "http://")+n)
	}
	host := strings.TrimPrefix(srv.URL, "http://")
	m := airgap.Mirror{Images: []string{host + "/a/x:1", host + "/bb:1"}}
	r := newRig(t)
	if _, _, err := r.sync(t, m, airgap.Lock{}); err == nil || !strings.Contains(err.Error(), "logging in to "+host) {
		t.Errorf("sync without a password = %v; want an error that says so", err)
	}
	r = newRig(t)
	r.oci.Login = func(h string) (string, string, bool) { return "u", "p", h == host }
	lock, _, err := r.sync(t, m, airgap.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	if n := gate.tokens.Load(); n > 4 {
		t.Errorf("%d tokens were asked for; want one for each repository", n)
	}
	// a lock on a machine that has resolved nothing
	fresh := newRig(t)
	fresh.oci.Login = r.oci.Login
	if _, _, err := fresh.Sync(t.Context(), lock, ""); err != nil {
		t.Errorf("Sync of a lock = %v", err)
	}
	if strings.Contains(string(must[[]byte](t)(airgap.MarshalLock(lock))), "u:p") {
		t.Error("the lock has the password")
	}
}

func TestPatternsOfTags(t *testing.T) {
	host := upstreamRegistry(t, nil)
	for _, tag := range []string{"1.0", "1.1", "2.0", "latest"} {
		pushImage(t, host+"/app:"+tag)
	}
	r := newRig(t)
	lock, _, err := r.sync(t, airgap.Mirror{Images: []string{host + "/app:1.*", host + "/app:latest"}}, airgap.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, it := range lock.Mirrors[0].Items {
		if it.Kind == airgap.KindPackage {
			got = append(got, it.Version)
		}
	}
	if !slices.Equal(got, []string{"1.0", "1.1", "latest"}) {
		t.Errorf("tags = %v; want 1.0, 1.1, latest", got)
	}
	if _, _, err := r.sync(t, airgap.Mirror{Images: []string{host + "/app:9*"}}, airgap.Lock{}); err == nil || !strings.Contains(err.Error(), "none of the 4 tags") {
		t.Errorf("a pattern without a match = %v; want an error", err)
	}
}

package oci

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fettle-dev/fettle/airgap"
)

// bundleOf is a bundle as cosign 3 makes it.
func bundleOf(t testing.TB, predicate string, about Digest, sign func(message []byte) []byte) []byte {
	t.Helper()
	statement := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`, about.Hex(), predicate)
	b, err := json.Marshal(map[string]any{
		"mediaType":            typeBundle + ".v0.3+json",
		"verificationMaterial": map[string]any{"publicKey": map[string]string{"hint": "x"}},
		"dsseEnvelope": map[string]any{"payload": statement, "payloadType": typeStatement,
			"signatures": []any{map[string]any{"sig": sign(enveloped(typeStatement, statement))}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// attach pushes an artifact of one layer that refers to the image d.
func attach(t testing.TB, repo string, d Digest, mediaType types.MediaType, data []byte) {
	t.Helper()
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = must[v1.Image](t)(mutate.Append(img, mutate.Addendum{Layer: static.NewLayer(data, mediaType)}))
	img = mutate.ConfigMediaType(img, mediaType)
	img = mutate.Subject(img, v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: must[v1.Hash](t)(v1.NewHash(string(d))), Size: 1}).(v1.Image)
	if err := remote.Write(parseRef(t, repo+"@"+must[v1.Hash](t)(img.Digest()).String()), img); err != nil {
		t.Fatal(err)
	}
}

// TestSigstoreBundle: what cosign 3 attaches is a signature like cosign 2's,
// found by the referrers API and by the tag that stands in for it, and carried.
func TestSigstoreBundle(t *testing.T) {
	k := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	wide := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	narrow := func(key *ecdsa.PrivateKey) func([]byte) []byte {
		return func(m []byte) []byte {
			sum := sha256.Sum256(m)
			return must[[]byte](t)(ecdsa.SignASN1(rand.Reader, key, sum[:]))
		}
	}
	other := Digest("sha256:" + strings.Repeat("ab", 32))
	for _, api := range []bool{true, false} {
		srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(api)))
		t.Cleanup(srv.Close)
		host := strings.TrimPrefix(srv.URL, "http://")
		for _, tt := range []struct {
			name      string
			key       crypto.Signer
			predicate string
			about     Digest // "": the image
			sign      func([]byte) []byte
			ok        bool
		}{
			{"good", k, predicateSign, "", narrow(k), true},
			{"p384", wide, predicateSign, "", func(m []byte) []byte {
				sum := sha512.Sum384(m)
				return must[[]byte](t)(ecdsa.SignASN1(rand.Reader, wide, sum[:]))
			}, true},
			{"ed25519", ed, predicateSign, "", func(m []byte) []byte { return ed25519.Sign(ed, m) }, true},
			{"ed25519ph", ed, predicateSign, "", func(m []byte) []byte {
				sum := sha512.Sum512(m)
				return must[[]byte](t)(ed.Sign(nil, sum[:], &ed25519.Options{Hash: crypto.SHA512}))
			}, true},
			{"an-sbom", k, "https://spdx.dev/Document", "", narrow(k), false},
			{"stolen", k, predicateSign, other, narrow(k), false},
			{"wrong-key", k, predicateSign, "", narrow(must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))), false},
			{"no-signature", k, predicateSign, "", func([]byte) []byte { return nil }, false},
			{"bare-payload", k, predicateSign, "", func(m []byte) []byte { return narrow(k)(m[len("DSSEv1 "):]) }, false},
		} {
			t.Run(fmt.Sprintf("%s, referrers API %t", tt.name, api), func(t *testing.T) {
				repo := host + "/" + tt.name
				d := pushImage(t, repo+":1")
				about := tt.about
				if about == "" {
					about = d
				}
				attach(t, repo, d, typeBundle+".v0.3+json", bundleOf(t, tt.predicate, about, tt.sign))
				r := newRig(t)
				der := must[[]byte](t)(x509.MarshalPKIXPublicKey(tt.key.Public()))
				if err := os.WriteFile(filepath.Join(r.oci.Dir, "cosign.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
					t.Fatal(err)
				}
				lock, _, err := r.sync(t, airgap.Mirror{Images: []string{repo + ":1"}, Keyrings: []string{"cosign.pub"}}, airgap.Lock{})
				if tt.ok != (err == nil) || !tt.ok && !errors.Is(err, ErrSignature) {
					t.Fatalf("sync = %v; want ok %v", err, tt.ok)
				}
				if !tt.ok {
					return
				}
				if tr := lock.Mirrors[0].Trust[0]; tr.Source != "cosign.pub" || tr.SignedBy == "" {
					t.Errorf("trust = %+v; want the key", tr)
				}
				_, served := newRegistry(t, r.store, Options{})
				local := strings.TrimPrefix(served.URL, "http://") + "/" + localName(host, tt.name)
				refs := must[v1.ImageIndex](t)(remote.Referrers(parseRef(t, local+"@"+string(d)).(name.Digest)))
				if got := must[*v1.IndexManifest](t)(refs.IndexManifest()).Manifests; len(got) != 1 {
					t.Errorf("what is served has %d referrers; want the bundle", len(got))
				}
			})
		}
	}
}

// FuzzBundled: no bytes make a claim about an image whose digest they do not have.
func FuzzBundled(f *testing.F) {
	d := Digest("sha256:" + strings.Repeat("cd", 32))
	f.Add(bundleOf(f, predicateSign, d, func([]byte) []byte { return []byte("sig") }))
	f.Add([]byte(`{"dsseEnvelope":{"payloadType":"` + typeStatement + `","payload":"e30="}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := bundled(data, d)
		if c != nil && !strings.Contains(string(c.message), d.Hex()) && !strings.Contains(string(c.message), `\u`) {
			t.Errorf("bundled(%q) is a claim about %s, which it does not name", data, d)
		}
	})
}

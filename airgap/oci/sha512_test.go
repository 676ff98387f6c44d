package oci

import (
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
)

// TestMirrorOfSHA512 mirrors an image whose every part is named by sha512, from
// one registry of ours to another.
func TestMirrorOfSHA512(t *testing.T) {
	_, up := newRegistry(t, openStore(t), Options{})
	c := &conformance{T: t, base: up.URL}
	s := newSample("sha512")
	s.algo = "sha512"
	s.twoPlatforms("", nil)
	for d, b := range s.blobs {
		c.pushBlob("stream", "lib/app", d, b, true)
	}
	var top Digest
	for _, m := range s.manifests {
		top = digestOf(s.algo, m)
		mt, _ := typeOf(m)
		c.status(c.do("PUT", "/v2/lib/app/manifests/"+string(top)+"?tag=1", m, "Content-Type", mt), 201)
	}
	host := strings.TrimPrefix(up.URL, "http://")
	r := newRig(t)
	for _, ref := range []string{"@" + string(top), ":1"} {
		lock, _, err := r.sync(t, airgap.Mirror{Images: []string{host + "/lib/app" + ref}}, airgap.Lock{})
		if err != nil {
			t.Fatal(err)
		}
		// on a machine that resolved nothing
		fresh := newRig(t)
		if _, _, err := fresh.Sync(t.Context(), lock, ""); err != nil {
			t.Fatal(err)
		}
		_, srv := newRegistry(t, fresh.store, Options{})
		c := &conformance{T: t, base: srv.URL}
		name := localName(host, "lib/app")
		for _, m := range s.manifests {
			d := digestOf(s.algo, m)
			mt, _ := typeOf(m)
			c.manifestThere(name, string(d), d, m, mt)
		}
		if ref == ":1" {
			c.manifestThere(name, "1", top, s.manifests[len(s.manifests)-1], typeIndex)
		}
		for d, b := range s.blobs {
			c.blobThere(name, d, b)
		}
	}
}

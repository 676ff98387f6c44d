package oci

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	crand "github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fettle-dev/fettle/airgap"
)

func TestLicences(t *testing.T) {
	host := upstreamRegistry(t, nil)
	annotated := func(img v1.Image, licence string) v1.Image {
		return mutate.Annotations(mutate.MediaType(img, types.OCIManifestSchema1), map[string]string{annotationLicences: licence}).(v1.Image)
	}
	labelled := func(licence string) v1.Image {
		img := must[v1.Image](t)(crand.Image(1000, 1))
		return must[v1.Image](t)(mutate.Config(img, v1.Config{Labels: map[string]string{annotationLicences: licence}}))
	}
	write := func(name string, img v1.Image) {
		t.Helper()
		if err := remote.Write(parseRef(t, host+"/"+name), img); err != nil {
			t.Fatal(err)
		}
	}
	write("a/annotated:1", annotated(must[v1.Image](t)(crand.Image(1000, 1)), "MIT OR Apache-2.0"))
	write("a/labelled:1", labelled("GPL-3.0-only"))
	write("a/silent:1", must[v1.Image](t)(crand.Image(1000, 1)))
	var idx v1.ImageIndex = empty.Index
	for _, arch := range []string{"amd64", "arm64"} {
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: labelled("ISC"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	if err := remote.WriteIndex(parseRef(t, host+"/a/index:1"), idx); err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	lock, _, err := r.sync(t, airgap.Mirror{Archs: []string{"amd64"}, URLs: []string{"http://" + host},
		Images: []string{host + "/a/annotated:1", host + "/a/labelled:1", host + "/a/silent:1", host + "/a/index:1"}}, airgap.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	licences, err := r.store.Licences(t.Context(), lock, r.Formats, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"annotated": {"MIT OR Apache-2.0"}, "labelled": {"GPL-3.0-only"}, "silent": nil, "index": {"ISC"}}
	for _, it := range lock.Mirrors[0].Items {
		if it.Kind != airgap.KindPackage {
			continue
		}
		name := it.Name[strings.LastIndex(it.Name, "/")+1:]
		if got := licences(it); !slices.Equal(got, want[name]) {
			t.Errorf("licences of %s = %q; want %q", it.Name, got, want[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("the lock has no images %v", want)
	}
	// The rule finds it, and names the image.
	err = airgap.Policy{DenyLicences: []string{"GPL*", "unknown"}}.Check(lock, time.Now(), licences)
	var refused *airgap.PolicyError
	if !errors.As(err, &refused) || len(refused.Refusals) != 2 {
		t.Fatalf("Check() = %v; want two images refused", err)
	}
	for i, rule := range []string{"deny-licences GPL*", "deny-licences unknown"} {
		if got := refused.Refusals[i]; got.Rule != rule {
			t.Errorf("refusal = %+v; want %s", got, rule)
		}
	}
}

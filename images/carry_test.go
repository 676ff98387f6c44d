package images

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/blob"
	"github.com/fettle-dev/fettle/site"
)

func TestAdopt(t *testing.T) {
	from, to := openTestStore(t), openTestStore(t)
	var r Release
	r.Name, r.Kind, r.Arch, r.Inputs = NameAgent, KindAgent, "amd64", blob.FromBytes([]byte("inputs"))
	for _, name := range []string{FileKernel, FileInitrd} {
		d, n, err := from.Blobs().Put(t.Context(), strings.NewReader("this is "+name), "")
		if err != nil {
			t.Fatal(err)
		}
		r.Files = append(r.Files, File{name, d, n})
	}
	if err := from.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	description, err := Describe(r)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"more behind":  append(bytes.Clone(description), '1'),
		"unknown key":  bytes.Replace(description, []byte(`"kind"`), []byte(`"kynd"`), 1),
		"other digest": bytes.Replace(description, []byte(r.Files[0].Digest), []byte(blob.FromBytes(nil)), 1),
		"other size":   bytes.Replace(description, []byte(`"size": 15`), []byte(`"size": 14`), 1),
		"traversal":    bytes.Replace(description, []byte(`"agent",`), []byte(`"../agent",`), 1),
	} {
		if bytes.Equal(bad, description) {
			t.Fatalf("%s: the description was not changed:\n%s", name, description)
		}
		if _, err := to.Adopt(t.Context(), bad, from.Blobs(), time.Now()); err == nil {
			t.Errorf("Adopt with %s = nil; want an error", name)
		}
	}
	if _, ok, _ := to.Latest(t.Context(), NameAgent); ok {
		t.Fatal("a refused release is there")
	}
	for range 2 {
		if _, err := to.Adopt(t.Context(), description, from.Blobs(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	got, ok, err := to.Latest(t.Context(), NameAgent)
	if err != nil || !ok || got.Inputs != r.Inputs {
		t.Errorf("Latest = %v, %v, %v; want the release", got, ok, err)
	}
	if err := to.Verify(t.Context(), got); err != nil {
		t.Error(err)
	}
}

func TestNeeds(t *testing.T) {
	s, err := site.Load("../examples/two-gpu")
	if err != nil {
		t.Fatal(err)
	}
	host := func() (Host, error) { return Host{OS: "debian", Suite: "bookworm"}, nil }
	needs, releases, err := Needs(s, s.Machines, host)
	if err != nil {
		t.Fatal(err)
	}
	why := map[string]string{}
	for _, n := range needs {
		if n.Suite != "bookworm" || n.Arch != "amd64" || len(n.Components) != 0 {
			t.Errorf("need %+v; want bookworm, amd64, the machine's own components", n)
		}
		why[n.Package] = strings.TrimPrefix(why[n.Package]+"; "+n.Why, "; ")
	}
	for p, want := range map[string]string{
		"nvme-cli":          "profile train (gpu-01); profile train-mirrored (gpu-02)",
		"linux-image-amd64": "image base of profile train (gpu-01); image base of profile train-mirrored (gpu-02)",
		"priority:required": "image base of profile train (gpu-01); image base of profile train-mirrored (gpu-02)",
		"mdadm":             "profile train (gpu-01); image base of profile train-mirrored (gpu-02)",
	} {
		if why[p] != want {
			t.Errorf("why %s = %q; want %q", p, why[p], want)
		}
	}
	prof, _ := s.Profile("train")
	spec, err := SpecFor(s, prof)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range releases {
		names = append(names, r.Name)
	}
	if want := []string{NameAgent, NameLoaders, spec.Name}; !slices.Equal(names, want) {
		t.Errorf("releases = %v; want %v", names, want)
	}
	if needs, _, err := Needs(s, nil, host); err != nil || len(needs) != 0 {
		t.Errorf("Needs of no machine = %v, %v; want none", needs, err)
	}
}

func openTestStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

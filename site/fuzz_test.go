package site

import (
	"errors"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// Whatever a file holds, load ends, gives Errors with places, or a site whose
// canonical form loads as the same site.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(base), []byte("machines:\n"))
	for _, path := range []string{"../examples/rack/site.yaml", "../examples/rack/machines/r07-gpu-storage.yaml", "../examples/rack/profiles/all.yaml", "starter/site.yaml"} {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, []byte("profiles: []"))
		f.Add([]byte(base), data)
	}
	for _, s := range []string{"", "---\n", "a: &x [*x]", "<<: {name: x}", "? [a]\n: b", "name: !!binary aGk=", "profiles: [{name: a, image: b, bios: {a: [1, {b: .inf}]}}]", "{", "\x00", "name: a\nname: b", "include: [\"[\"]", "machines: [null, 1, []]", "policy:"} {
		f.Add([]byte(s), []byte(s))
	}
	f.Fuzz(func(t *testing.T, main, part []byte) {
		s, err := load(fstest.MapFS{"site.yaml": {Data: main}, "machines/a.yaml": {Data: part}})
		if err != nil {
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("load() = %T; want Errors", err)
			}
			for _, e := range errs {
				if e.Pos.File == "" || e.Pos.Line < 1 || e.Pos.Column < 1 || e.Msg == "" || strings.Contains(e.Pos.File, "!") {
					t.Errorf("error %+v has no place", e)
				}
			}
			return
		}
		back, err := load(fstest.MapFS{"site.yaml": {Data: s.Canonical()}})
		if err != nil {
			t.Fatalf("load(Canonical()) = %v\n%s", err, s.Canonical())
		}
		if back.Revision() != s.Revision() {
			t.Errorf("revision changes through the canonical form:\n%s\n%s", s.Canonical(), back.Canonical())
		}
		if err := s.Validate(); err != nil {
			t.Errorf("Validate() of what load gave = %v", err)
		}
	})
}

package drill

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fake is a program under test that decides without looking.
type fake struct {
	t      *testing.T
	accept func(n int) bool // n counts syncs and bundle commands of one case from 0
	writes string           // written beside the store by the last command
	serves bool             // serves something new even when it refuses
	n      int
}

func (f *fake) run(_ context.Context, args ...string) (int, string, error) {
	arg := func(name string) string {
		for i, a := range args {
			if a == name {
				return args[i+1]
			}
		}
		return ""
	}
	if args[0] == "bundle" && args[1] == "key" {
		return 0, "fettle-public-key-1:xyz", nil
	}
	n := f.n
	f.n++
	if f.writes != "" && n > 0 {
		if err := os.WriteFile(filepath.Join(filepath.Dir(arg("--site")), f.writes), nil, 0o644); err != nil {
			f.t.Fatal(err)
		}
	}
	if ok := f.accept(n); !ok && !f.serves {
		return 1, "fettle: no trusted key", nil
	}
	served := filepath.Join(arg("--store"), "mirror", "served")
	if err := os.MkdirAll(filepath.Dir(served), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(served, []byte{byte('a' + n)}, 0o644); err != nil {
		f.t.Fatal(err)
	}
	if !f.accept(n) {
		return 1, "fettle: no trusted key", nil
	}
	return 0, "", nil
}

// A program that takes everything, refuses everything, or refuses and does it
// all the same, does not pass.
func TestDrillJudges(t *testing.T) {
	first := func(n int) bool { return n == 0 }
	for _, tt := range []struct {
		name   string
		kase   string
		f      fake
		passed bool
		why    string
	}{
		{"refuses as it should", "an index that a stranger signed", fake{accept: first}, true, ""},
		{"takes it", "an index that a stranger signed", fake{accept: func(int) bool { return true }}, false, "it was taken"},
		{"refuses and serves it", "an index that a stranger signed", fake{accept: first, serves: true}, false, "what is served changed"},
		{"writes outside", "an index that a stranger signed", fake{accept: first, writes: escaped}, false, "was written to"},
		{"for another reason", "a zip bomb in the place of a list of packages, signed", fake{accept: first}, false, "without a word"},
		{"refuses the honest", "an honest update", fake{accept: first}, false, "an honest upstream is refused"},
		{"refuses all", "an honest update", fake{accept: func(int) bool { return false }}, false, "the honest upstream was refused"},
		{"takes the honest", "an honest update", fake{accept: func(int) bool { return true }}, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.f
			f.t = t
			d := &Drill{Run: f.run, Now: time.Now()}
			for _, c := range Cases() {
				if c.Name != tt.kase {
					continue
				}
				r := d.One(t.Context(), c, t.TempDir())
				if r.Passed != tt.passed || !strings.Contains(r.Why, tt.why) {
					t.Errorf("One(%s) = %+v; want passed %v, because %q", c.Name, r, tt.passed, tt.why)
				}
				return
			}
			t.Fatalf("there is no case %q", tt.kase)
		})
	}
}

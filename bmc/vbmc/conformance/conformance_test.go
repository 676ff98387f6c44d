package conformance

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMatrix(t *testing.T) {
	file := filepath.Join(t.TempDir(), "C.md")
	if err := os.WriteFile(file, []byte("before\n<!-- rows of p -->\n<!-- end of p -->\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var m Matrix
	m.Note("tool", "power", "3", true)
	m.Note("tool", "power", "17", true)
	m.Note("tool", "power", "17", false) // once bad is bad
	m.Note("tool", "power", "17", true)
	m.Note("curl", "a|b", "", true)
	if err := m.Check(file, "p", true, false); !errors.Is(err, ErrStale) {
		t.Errorf("Check() of an empty table = %v; want ErrStale", err)
	}
	if err := m.Check(file, "p", true, true); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(file)
	for _, want := range []string{"before\n", "| curl | a\\|b | yes |\n| tool | power | 17 no, 3 yes |\n", "<!-- end of p -->\nafter\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the file is %q; want %q in it", b, want)
		}
	}
	if err := m.Check(file, "p", true, false); err != nil {
		t.Errorf("Check() of what was written = %v", err)
	}
	var some Matrix
	some.Note("curl", "a|b", "", true)
	if err := some.Check(file, "p", false, false); err != nil {
		t.Errorf("Check() of some = %v", err)
	}
	if err := some.Check(file, "p", true, false); !errors.Is(err, ErrStale) {
		t.Errorf("Check() of all with a row that is not noted = %v; want ErrStale", err)
	}
	some.Note("curl", "a|b", "", false)
	if err := some.Check(file, "p", false, false); !errors.Is(err, ErrStale) {
		t.Errorf("Check() of a result that changed = %v; want ErrStale", err)
	}
	if err := some.Check(file, "q", false, false); err == nil || !strings.Contains(err.Error(), "markers") {
		t.Errorf("Check() of a part that is not there = %v", err)
	}
}

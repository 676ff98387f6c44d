package provision

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A console that says much keeps two files of the newest, also when it is
// opened anew.
func TestConsoleLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "consoles", "gpu-01.log")
	for i := range 3 {
		l, err := openConsoleLog(path, 10)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			if _, err := l.Write([]byte{'a' + byte(i), 'a' + byte(i), 'a' + byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{path: "ccccccccc", path + ".1": "bbbbbbccc"} {
		got, err := os.ReadFile(name)
		if err != nil || string(got) != want {
			t.Errorf("%s = %q, %v; want %q", filepath.Base(name), got, err, want)
		}
	}
	// One answer larger than the bound is kept whole.
	l, err := openConsoleLog(filepath.Join(t.TempDir(), "l"), 10)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if n, err := l.Write([]byte(strings.Repeat("x", 30))); n != 30 || err != nil {
		t.Errorf("Write = %d, %v; want 30", n, err)
	}
}

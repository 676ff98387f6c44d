package images

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// needTool skips a test on a machine that lacks a program; in CI it fails.
func needTool(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := lookTool(n, n); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("CI lacks a program: %v", err)
			}
			t.Skipf("this machine lacks a program: %v", err)
		}
	}
}

func testStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// testBuilder is a builder whose clock moves one second at each look.
func testBuilder(t *testing.T) *Builder {
	t.Helper()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	return &Builder{Store: testStore(t), Cache: t.TempDir(), Log: t.Output(), Now: func() time.Time {
		now = now.Add(time.Second)
		return now
	}}
}

func mustWrite(t *testing.T, path, text string) {
	t.Helper()
	mustMkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func mustMkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

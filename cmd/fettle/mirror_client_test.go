package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
)

func TestInstallClient(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "etc/apt/sources.list")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("a person's\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"first\n", "second\n"} {
		if err := installClient(root, []airgap.ClientFile{{Path: "/etc/apt/sources.list", Mode: 0o600, Content: []byte(text)}}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != text {
			t.Errorf("installed file = %q, %v; want %q", got, err, text)
		}
		if kept, err := os.ReadFile(path + ".before-fettle"); err != nil || string(kept) != "a person's\n" {
			t.Errorf("kept file = %q, %v; want the person's", kept, err)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v; want 0600", fi.Mode(), err)
	}
}

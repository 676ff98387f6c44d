//go:build linux

package site

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestKeepOwnerOfOthers: root of a user namespace, as in a container, changes a
// file of somebody whom the namespace does not know, and has it then.
func TestKeepOwnerOfOthers(t *testing.T) {
	if path := os.Getenv("FETTLE_TEST_KEEP_OWNER"); path != "" {
		if err := writeFile(path, []byte("new"), 0o644); err != nil {
			t.Errorf("writeFile = %v; want the file written", err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root may give files to others")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "site.yaml")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 1234, 1235); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKeepOwnerOfOthers$")
	cmd.Env = append(os.Environ(), "FETTLE_TEST_KEEP_OWNER="+path)
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: one, GidMappings: one}
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("a user namespace: %v", err)
		}
		t.Skipf("needs a user namespace: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "new" {
		t.Errorf("the file has %q, %v; want new", b, err)
	}
}

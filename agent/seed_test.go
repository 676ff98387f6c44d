package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestRootDirStaysInside(t *testing.T) {
	outside := t.TempDir()
	for _, c := range []struct {
		name  string
		setup func(t *testing.T, root string)
		path  string
		lands string // below the root; "" = an error
	}{
		{"new directories", func(*testing.T, string) {}, "/var/lib/cloud/seed/x", "var/lib/cloud/seed/x"},
		{"absolute link to a directory", func(t *testing.T, root string) {
			must(t, os.MkdirAll(filepath.Join(root, "run/lock"), 0o755))
			must(t, os.Mkdir(filepath.Join(root, "var"), 0o755))
			must(t, os.Symlink("/run/lock", filepath.Join(root, "var/lock")))
		}, "/var/lock/x", "run/lock/x"},
		{"link that climbs out", func(t *testing.T, root string) {
			must(t, os.Symlink("../../../../../../.."+outside, filepath.Join(root, "up")))
		}, "/up/x", ""},
		{"absolute link to the outside", func(t *testing.T, root string) {
			must(t, os.Symlink(outside, filepath.Join(root, "out")))
		}, "/out/x", ""},
		{"the file itself is a link to the outside", func(t *testing.T, root string) {
			must(t, os.Symlink(outside+"/x", filepath.Join(root, "x")))
		}, "/x", "x"},
		{"a file where a directory should be", func(t *testing.T, root string) {
			must(t, os.WriteFile(filepath.Join(root, "etc"), nil, 0o644))
		}, "/etc/hostname", ""},
		{"not clean", func(*testing.T, string) {}, "/etc/../../x", ""},
		{"not absolute", func(*testing.T, string) {}, "etc/x", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.setup(t, dir)
			r, err := openRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer r.close()
			err = r.write(c.path, 0o640, []byte("hello"))
			if _, serr := os.Lstat(filepath.Join(outside, "x")); serr == nil {
				t.Fatalf("write(%s) left the root", c.path)
			}
			if c.lands == "" {
				if err == nil {
					t.Errorf("write(%s) = nil; want an error", c.path)
				}
				return
			}
			if err != nil {
				t.Fatalf("write(%s) = %v; want nil", c.path, err)
			}
			name := filepath.Join(dir, c.lands)
			st, err := os.Lstat(name)
			if err != nil || st.Mode() != 0o640 {
				t.Errorf("mode of %s = %v, %v; want a plain file of mode 0640", c.lands, st.Mode(), err)
			}
			if b, err := os.ReadFile(name); string(b) != "hello" {
				t.Errorf("%s = %q, %v; want hello", c.lands, b, err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestKernelArgs(t *testing.T) {
	args := []string{"console=ttyS0,115200n8", `a="b\c`, "x=$y", "it's"}
	if got, want := string(grubArgs(args)), `set fettle_args="console=ttyS0,115200n8 a=\"b\\c x=\$y it's"`+"\n"; got != want {
		t.Errorf("grubArgs = %s; want %s", got, want)
	}
	// A real shell reads back what was meant.
	cmd := exec.Command("sh", "-c", "GRUB_CMDLINE_LINUX=quiet\n"+string(grubDefault(args))+"printf %s \"$GRUB_CMDLINE_LINUX\"")
	out, err := cmd.CombinedOutput()
	if want := "quiet " + strings.Join(args, " "); err != nil || string(out) != want {
		t.Errorf("a shell reads %q, %v; want %q", out, err, want)
	}
	if _, err := exec.LookPath("grub-script-check"); err == nil {
		cmd := exec.Command("grub-script-check")
		cmd.Stdin = strings.NewReader(string(grubArgs(args)))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("grub-script-check = %v: %s", err, out)
		}
	}
	for _, bad := range [][]string{{""}, {"a\nb"}, {"a b"}, {"a\x00"}} {
		if err := checkKernelArgs(bad); err == nil {
			t.Errorf("checkKernelArgs(%q) = nil; want an error", bad)
		}
	}
}

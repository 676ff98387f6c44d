package apt

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
)

func TestParseCopyright(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"machine-readable", "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+\n text\n\nFiles: x\nLicense: Expat or BSD-3-clause\n\nFiles: y\nLicense: GPL-2+ with OpenSSL exception\n\nLicense: LGPL-2.1+\n", []string{"BSD-3-clause", "Expat", "GPL-2+", "LGPL-2.1+"}},
		{"prose", "This is free. See /usr/share/common-licenses/GPL-3. And /usr/share/common-licenses/LGPL-2.1, too.\n", []string{"GPL-3", "LGPL-2.1"}},
		{"says nothing", "Copyright me\n", nil},
		{"empty", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := parseCopyright([]byte(tt.text)); !slices.Equal(got, tt.want) {
				t.Errorf("parseCopyright() = %q; want %q", got, tt.want)
			}
		})
	}
}

// Packages as dpkg-deb builds them, in each of its compressions.
func TestLicencesOfPackages(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("dpkg-deb is missing")
		}
		t.Skip("dpkg-deb is missing")
	}
	for _, how := range []string{"xz", "gzip", "none"} {
		t.Run(how, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "p")
			for name, text := range map[string]string{
				"DEBIAN/control":                "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@example.org>\nDescription: d\n",
				"usr/share/doc/p/copyright":     "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: Zlib\n",
				"usr/share/doc/other/copyright": "License: No\n",
			} {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			deb := dir + ".deb"
			if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--root-owner-group", "-Z"+how, "--build", dir, deb).CombinedOutput(); err != nil {
				t.Fatalf("dpkg-deb: %v: %s", err, out)
			}
			data, err := os.ReadFile(deb)
			if err != nil {
				t.Fatal(err)
			}
			it := airgap.Item{Path: "pool/p.deb", Kind: airgap.KindPackage, Name: "p"}
			got, err := (&Format{}).Licences(t.Context(), it, bytes.NewReader(data))
			if err != nil || !slices.Equal(got, []string{"Zlib"}) {
				t.Errorf("Licences() = %q, %v; want Zlib", got, err)
			}
			for n := 0; n < len(data); n += 97 {
				if _, err := (&Format{}).Licences(t.Context(), it, bytes.NewReader(data[:n])); err != nil {
					t.Errorf("Licences() of %d bytes = %v; want unknown", n, err)
				}
			}
		})
	}
}

func FuzzCopyright(f *testing.F) {
	f.Add([]byte("!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = copyright("p", bytes.NewReader(data))
		for _, l := range parseCopyright(data) {
			if strings.ContainsAny(l, "\n\x00") {
				t.Errorf("a licence %q", l)
			}
		}
	})
}

package apt

import (
	"bytes"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/blob"

	"github.com/fettle-dev/fettle/airgap/airgaptest"
)

func digest(b []byte) blob.Digest { return blob.FromBytes(b) }
func itoa(n int) string           { return strconv.Itoa(n) }

var versions = []string{
	"1.0", "1.0-1", "1.0-1+b1", "1.0~rc1", "1.0~rc1-1", "1:0.9", "0:1.0", "1.0.0", "1.00", "1.0a", "1.0+dfsg", "1.10", "1.9", "2", "1.0-0", "1.0-0ubuntu1",
	"1.0~", "1.0~~", "1.0~~a", "20250520", "9999999999999999999999", "1.0+b", "1.0.b", "2:7.4.052-1ubuntu3", "1.2-3-4", "0", "0~", "a", "1a2b3c",
}

// dpkgCompare asks dpkg: it is the peer.
func dpkgCompare(t testing.TB, a, b string) (int, bool) {
	t.Helper()
	for op, want := range map[string]int{"lt": -1, "eq": 0, "gt": 1} {
		out, err := exec.Command("dpkg", "--compare-versions", a, op, b).CombinedOutput()
		if len(out) > 0 {
			return 0, false // dpkg warns: not a version
		}
		if err == nil {
			return want, true
		}
	}
	return 0, false
}

func TestCompareVersions(t *testing.T) {
	airgaptest.NeedTool(t, "dpkg")
	for i, a := range versions {
		for _, b := range versions[i:] {
			if !strings.ContainsAny(a[:1]+b[:1], "0123456789") {
				continue
			}
			want, ok := dpkgCompare(t, a, b)
			if !ok {
				continue
			}
			if got := compareVersions(a, b); got != want {
				t.Errorf("compareVersions(%q, %q) = %d; want %d as dpkg", a, b, got, want)
			}
			if got := compareVersions(b, a); got != -want {
				t.Errorf("compareVersions(%q, %q) = %d; want %d", b, a, got, -want)
			}
		}
	}
}

func FuzzCompareVersions(f *testing.F) {
	airgaptest.NeedTool(f, "dpkg")
	for i := range versions[1:] {
		f.Add(versions[i], versions[i+1])
	}
	ok := func(v string) bool {
		return v != "" && len(v) < 40 && isDigit(v[0]) && strings.Trim(v, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.+~-") == "" && !strings.HasSuffix(v, "-")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		got, back := compareVersions(a, b), compareVersions(b, a)
		if got != -back {
			t.Errorf("compareVersions(%q, %q) = %d and the other way %d", a, b, got, back)
		}
		if !ok(a) || !ok(b) {
			return
		}
		if want, valid := dpkgCompare(t, a, b); valid && got != want {
			t.Errorf("compareVersions(%q, %q) = %d; want %d as dpkg", a, b, got, want)
		}
	})
}

func TestRelations(t *testing.T) {
	for _, tt := range []struct {
		field string
		want  []string
	}{
		{"a, b (>= 1.0) | c", []string{"a", "b (>= 1.0)|c"}},
		{"a [amd64], b [!amd64], c [arm64 amd64]", []string{"a", "c"}},
		{"python3:any (>= 3.9~)", []string{"python3:any (>= 3.9~)"}},
		{"a(=1)", []string{"a (= 1)"}},
		{" , ", nil},
	} {
		var got []string
		for _, g := range parseRelations(tt.field, "amd64") {
			var alts []string
			for _, r := range g {
				alts = append(alts, r.String())
			}
			got = append(got, strings.Join(alts, "|"))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("parseRelations(%q) = %q; want %q", tt.field, got, tt.want)
		}
	}
}

func FuzzStanzas(f *testing.F) {
	f.Add([]byte("Package: a\nVersion: 1\nDescription: x\n y\n .\n\n\nPackage: b\n"))
	f.Add([]byte(" continued\n"))
	f.Add([]byte("A: b\r\n\r\n#c\nA : d"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var first []stanza
		err := readStanzas(bytes.NewReader(data), nil, true, func(s stanza) error { first = append(first, s); return nil })
		if err != nil {
			return
		}
		// What was read, written again, reads the same.
		var b bytes.Buffer
		for _, s := range first {
			b.Write(s.raw)
			b.WriteByte('\n')
		}
		n := 0
		err = readStanzas(&b, nil, true, func(s stanza) error {
			if n >= len(first) || !bytes.Equal(s.raw, first[n].raw) {
				t.Errorf("stanza %d = %q; want %q", n, s.raw, first[min(n, len(first)-1)].raw)
			}
			n++
			return nil
		})
		if err != nil || n != len(first) {
			t.Errorf("reading %q again = %d stanzas, %v; want %d", data, n, err, len(first))
		}
		for _, s := range first {
			if p, err := parsePackage(s, "http://example.org"); err == nil && strings.Contains(p.filename, "..") && checkFilename(p.filename) != nil {
				t.Errorf("parsePackage lets %q through", p.filename)
			}
		}
	})
}

func FuzzRelease(f *testing.F) {
	f.Add([]byte("Suite: a\nDate: Sat, 21 Nov 2026 10:00:00 UTC\nSHA256:\n " + strings.Repeat("a", 64) + " 5 main/x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRelease(data)
		if err == nil && (len(r.files) == 0 || r.date.IsZero()) {
			t.Errorf("parseRelease(%q) = %+v; want a date and files", data, r)
		}
	})
}

func TestSources(t *testing.T) {
	list, err := parseList([]byte("# x\ndeb [arch=amd64 signed-by=/k.gpg] http://example.org/debian/ stable main contrib # c\ndeb-src http://example.org x main\ndeb [trusted=yes] http://example.org evil main\n"))
	if err != nil || len(list) != 1 || list[0].base != "http://example.org/debian" || list[0].suite != "stable" || !slices.Equal(list[0].components, []string{"main", "contrib"}) || !slices.Equal(list[0].keyrings, []string{"/k.gpg"}) {
		t.Errorf("parseList = %+v, %v; want one source", list, err)
	}
	deb822, err := parseDeb822([]byte("Types: deb\nURIs: http://example.org/a\nSuites: s s-updates\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n xx\n\nTypes: deb\nEnabled: no\nURIs: http://example.org/b\nSuites: s\nComponents: main\n"))
	if err != nil || len(deb822) != 2 || deb822[1].suite != "s-updates" || len(deb822[0].keyTexts) != 1 || !strings.Contains(deb822[0].keyTexts[0], "BLOCK-----\n\nxx") {
		t.Errorf("parseDeb822 = %+v, %v; want two sources with a key", deb822, err)
	}
}

func TestEdits(t *testing.T) {
	for _, tt := range []struct {
		a, b        string
		limit, want int
	}{
		{"hello", "hello", 3, 0}, {"helo", "hello", 3, 1}, {"hallo", "hello", 3, 1}, {"hellos", "hello", 3, 1}, {"ehllo", "hello", 3, 2},
		{"wget", "curl", 3, 3}, {"", "ab", 3, 2}, {"a", "abcdef", 3, 3},
	} {
		if got := edits(tt.a, tt.b, tt.limit); got != tt.want {
			t.Errorf("edits(%q, %q, %d) = %d; want %d", tt.a, tt.b, tt.limit, got, tt.want)
		}
	}
}

package images

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const oneLine = `# the archive
deb http://mirror.example.org/debian bookworm main contrib # trailing
deb-src http://mirror.example.org/debian bookworm main
deb [ arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg check-valid-until=no ] http://mirror.example.org/debian-security/ bookworm-security main
deb [trusted=yes] http://bad.example.org/debian bookworm main
deb [signed-by=/usr/share/keyrings/cloud.gpg] https://cloud.example.org/apt bookworm main
deb http://mirror.example.org/debian trixie main
debx http://mirror.example.org/debian bookworm main
deb http://flat.example.org/ ./
`

const deb822 = `Types: deb deb-src
URIs: http://mirror.example.org/debian http://second.example.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

# off
Types: deb
Enabled: no
URIs: http://off.example.org/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://node.example.org/node
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/nodesource.gpg
`

func TestSources(t *testing.T) {
	list, err := parseSourceList(strings.NewReader(oneLine), "sources.list")
	if err != nil {
		t.Fatal(err)
	}
	deb, err := parseDeb822(strings.NewReader(deb822), "debian.sources")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range archiveSources(append(list, deb...), "bookworm", "amd64", nil) {
		got = append(got, s.Line())
	}
	want := []string{
		"deb http://mirror.example.org/debian bookworm main contrib",
		"deb [check-valid-until=no signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example.org/debian-security bookworm-security main",
		"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example.org/debian bookworm main",
		"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example.org/debian bookworm-updates main",
		"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://second.example.org/debian bookworm main",
		"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://second.example.org/debian bookworm-updates main",
	}
	if !slices.Equal(got, want) {
		t.Errorf("archiveSources =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	contrib := archiveSources(list, "bookworm", "amd64", []string{"contrib"})
	if len(contrib) != 1 || !slices.Equal(contrib[0].Components, []string{"contrib"}) {
		t.Errorf("archiveSources(contrib) = %v; want one source with contrib only", contrib)
	}
	if _, err := parseSourceList(strings.NewReader("deb [arch=amd64 http://x bookworm main\n"), "f"); err == nil || !strings.Contains(err.Error(), "f:1") {
		t.Errorf("open bracket: %v; want an error with f:1", err)
	}
}

func TestInlineKey(t *testing.T) {
	in := "Types: deb\nURIs: http://m.example.org/debian\nSuites: s\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n"
	ss, err := parseDeb822(strings.NewReader(in), "f")
	if err != nil || len(ss) != 1 {
		t.Fatalf("parseDeb822 = %v, %v; want one source", ss, err)
	}
	a := &apt{dir: t.TempDir(), sources: ss}
	mustMkdir(t, a.path("etc"))
	lines, err := a.sourceLines(a.path("etc"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "deb [signed-by=" + a.path("etc", "key-0-0.asc") + "] http://m.example.org/debian s main"; lines[0] != want {
		t.Errorf("sourceLines = %q; want %q", lines[0], want)
	}
	if got, want := mustRead(t, a.path("etc", "key-0-0.asc")), "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n"; got != want {
		t.Errorf("key file = %q; want %q", got, want)
	}
}

func FuzzSources(f *testing.F) {
	f.Add(oneLine)
	f.Add(deb822)
	f.Fuzz(func(t *testing.T, in string) {
		for _, parse := range []func() ([]Source, error){
			func() ([]Source, error) { return parseSourceList(strings.NewReader(in), "f") },
			func() ([]Source, error) { return parseDeb822(strings.NewReader(in), "f") },
		} {
			ss, err := parse()
			if err != nil {
				continue
			}
			for _, s := range archiveSources(ss, "bookworm", "amd64", nil) {
				if strings.ContainsAny(s.URI, "\n ") || len(s.Components) == 0 {
					t.Errorf("source %+v breaks a line", s)
				}
			}
		}
	})
}

func TestPickAcquire(t *testing.T) {
	dump := `Acquire "";
Acquire::http::Proxy "http://proxy.example.org:3128";
Acquire::https::Verify-Peer "false";
Acquire::AllowInsecureRepositories "1";
Acquire::Check-Valid-Until "false";
APT::Update::Post-Invoke:: "rm -rf /";
APT::Get::AllowUnauthenticated "1";
`
	got := pickAcquire(dump)
	want := []string{`Acquire::http::Proxy "http://proxy.example.org:3128";`, `Acquire::Check-Valid-Until "false";`}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("pickAcquire = %q; want %q", got, want)
	}
}

func TestParseURIs(t *testing.T) {
	out := "'http://m.example.org/p/libcap2_2.66-4%2bdeb12u3_amd64.deb' libcap2_1%3a2.66-4+deb12u3_amd64.deb 27708 MD5Sum:aa\n" +
		"'http://m.example.org/a_1_all.deb' a_1_all.deb 12 \nnoise\n"
	got, err := parseURIs([]byte(out))
	if want := []string{"a=1", "libcap2=1:2.66-4+deb12u3"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("parseURIs = %v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"", "'u'\n", "'u' name.deb 3\n"} {
		if got, err := parseURIs([]byte(bad)); err == nil {
			t.Errorf("parseURIs(%q) = %v; want an error", bad, got)
		}
	}
}

func TestNoSuite(t *testing.T) {
	etc := t.TempDir()
	mustWrite(t, etc+"/sources.list", oneLine)
	b := testBuilder(t)
	b.Apt.Etc, b.Host = etc, Host{OS: "debian", Suite: "forky"}
	needTool(t, "apt-config")
	_, _, err := b.Loaders(t.Context())
	if !errors.Is(err, ErrNoSuite) || !strings.Contains(err.Error(), "forky") || !strings.Contains(err.Error(), etc) {
		t.Errorf("Loaders = %v; want ErrNoSuite that names forky and %s", err, etc)
	}
}

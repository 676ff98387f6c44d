package helm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/fettle-dev/fettle/airgap"
)

// archive is a chart.
func archive(t testing.TB, name, version, more string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, f := range [][2]string{{name + "/templates/Chart.yaml", "not this one"}, {name + "/Chart.yaml", "apiVersion: v2\nname: " + name + "\nversion: " + version + "\ndescription: of a test\n" + more}} {
		if err := w.WriteHeader(&tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// upstream is a repository that a test can change.
type upstream struct {
	index string
	files map[string][]byte
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/repo/index.yaml" {
		_, _ = w.Write([]byte("apiVersion: v1\nentries:\n" + u.index))
		return
	}
	b, ok := u.files[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(b)
}

func (u *upstream) add(t testing.TB, name string, versions ...string) {
	u.index += "  " + name + ":\n"
	for _, v := range versions {
		b := archive(t, name, v, "")
		u.files["/repo/"+name+"-"+v+".tgz"] = b
		u.index += fmt.Sprintf("  - {name: %s, version: %q, digest: %x, urls: [%s-%s.tgz]}\n", name, v, sha256.Sum256(b), name, v)
	}
}

func newSyncer(t testing.TB) *airgap.Syncer {
	t.Helper()
	s, err := airgap.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &airgap.Syncer{Store: s, Formats: []airgap.Format{Format{}}, Now: func() time.Time { return time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC) },
		Fetch: &airgap.Fetcher{Blobs: s.Blobs(), Dir: s.Dir(), Tries: 1, Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}}
}

func TestMirror(t *testing.T) {
	u := &upstream{files: map[string][]byte{}}
	u.add(t, "db", "1.9.0", "1.10.0", "2.0.0-rc1")
	u.add(t, "web", "0.1.0")
	srv := httptest.NewServer(u)
	defer srv.Close()
	for _, tt := range []struct {
		name     string
		packages []string
		want     string // charts of the index
		wrong    string
	}{
		{"the newest", []string{"db"}, "db 1.10.0", ""},
		{"a preview", []string{"db:2.0.0-*"}, "db 2.0.0-rc1", ""},
		{"a pattern", []string{"db:1.*", "web"}, "db 1.10.0,db 1.9.0,web 0.1.0", ""},
		{"all", nil, "db 1.10.0,db 1.9.0,db 2.0.0-rc1,web 0.1.0", ""},
		{"none such", []string{"none"}, "", `no chart "none"`},
		{"no such version", []string{"db:3.*"}, "", "none of its 3 versions"},
	} {
		sy := newSyncer(t)
		m := airgap.Mirror{Name: "charts", Format: "helm", URLs: []string{srv.URL + "/repo"}, Packages: tt.packages}
		lock, err := sy.Resolve(t.Context(), []airgap.Mirror{m}, airgap.Lock{})
		var snap airgap.Snapshot
		if err == nil {
			snap, _, err = sy.Sync(t.Context(), lock, "")
		}
		if tt.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("%s: sync = %v; want an error with %q", tt.name, err, tt.wrong)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got []string
		for _, f := range snap.Trees[0].Files {
			if f.Path != "index.yaml" {
				continue
			}
			data, err := airgap.ReadBlob(t.Context(), sy.Store.Blobs(), f.SHA256, maxIndex)
			if err != nil {
				t.Fatal(err)
			}
			var idx struct {
				Entries map[string][]struct {
					Name, Version, Description, Digest string
					URLs                               []string
				}
			}
			if err := yaml.Unmarshal(data, &idx); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"db", "web"} {
				for _, v := range idx.Entries[name] {
					got = append(got, v.Name+" "+v.Version)
					if v.Description != "of a test" || len(v.URLs) != 1 || v.URLs[0] != "charts/"+v.Name+"-"+v.Version+".tgz" || len(v.Digest) != 64 {
						t.Errorf("%s: entry = %+v; want what Chart.yaml says and where it is", tt.name, v)
					}
				}
			}
		}
		if strings.Join(got, ",") != tt.want {
			t.Errorf("%s: charts = %q; want %s", tt.name, got, tt.want)
		}
		if again, made, err := sy.Sync(t.Context(), lock, ""); err != nil || made || again.Name != snap.Name {
			t.Errorf("%s: Sync again = %s, %v, %v; want the same", tt.name, again.Name, made, err)
		}
	}
}

func TestUpstreamThatLies(t *testing.T) {
	good := archive(t, "db", "1.0.0", "")
	sum := fmt.Sprintf("%x", sha256.Sum256(good))
	other := archive(t, "other", "1.0.0", "")
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 1<<20))
	_ = z.Close()
	for _, tt := range []struct {
		name, index string
		file        []byte
		want        string
	}{
		{"other bytes", "  db: [{name: db, version: 1.0.0, digest: " + sum + ", urls: [db.tgz]}]\n", other, "other bytes"},
		{"no digest", "  db: [{name: db, version: 1.0.0, urls: [db.tgz]}]\n", good, "no digest"},
		{"a name that leads out", "  ../x: [{name: ../x, version: 1.0.0, digest: " + sum + ", urls: [db.tgz]}]\n", good, "neither a name"},
		{"a version that leads out", "  db: [{name: db, version: ../1.0.0, digest: " + sum + ", urls: [db.tgz]}]\n", good, "none of its 1 versions"},
		{"another name", "  db: [{name: web, version: 1.0.0, digest: " + sum + ", urls: [db.tgz]}]\n", good, "says that it is"},
		{"another chart", fmt.Sprintf("  db: [{name: db, version: 1.0.0, digest: %x, urls: [db.tgz]}]\n", sha256.Sum256(other)), other, "Chart.yaml says that it is other"},
		{"no chart", fmt.Sprintf("  db: [{name: db, version: 1.0.0, digest: %x, urls: [db.tgz]}]\n", sha256.Sum256(bomb.Bytes())), bomb.Bytes(), "Chart.yaml"},
		{"a file of this machine", "  db: [{name: db, version: 1.0.0, digest: " + sum + ", urls: ['file:///etc/passwd']}]\n", good, "no http or https"},
		{"no YAML", "  db: [\n", good, "index.yaml"},
	} {
		srv := httptest.NewServer(&upstream{index: tt.index, files: map[string][]byte{"/repo/db.tgz": tt.file}})
		sy := newSyncer(t)
		lock, err := sy.Resolve(t.Context(), []airgap.Mirror{{Name: "charts", Format: "helm", URLs: []string{srv.URL + "/repo/"}}}, airgap.Lock{})
		if err == nil {
			_, _, err = sy.Sync(t.Context(), lock, "")
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: sync = %v; want an error with %q", tt.name, err, tt.want)
		}
		srv.Close()
	}
}

func TestReplacedVersion(t *testing.T) {
	u := &upstream{files: map[string][]byte{}}
	u.add(t, "db", "1.0.0")
	srv := httptest.NewServer(u)
	defer srv.Close()
	sy := newSyncer(t)
	m := []airgap.Mirror{{Name: "charts", Format: "helm", URLs: []string{srv.URL + "/repo"}, Packages: []string{"db"}}}
	lock, err := sy.Resolve(t.Context(), m, airgap.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	b := archive(t, "db", "1.0.0", "appVersion: evil\n")
	u.index = fmt.Sprintf("  db: [{name: db, version: 1.0.0, digest: %x, urls: [db-1.0.0.tgz]}]\n", sha256.Sum256(b))
	if _, err := sy.Resolve(t.Context(), m, lock); !errors.Is(err, ErrReplaced) {
		t.Errorf("Resolve of a replaced version = %v; want ErrReplaced", err)
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte("entries:\n  db: [{name: db, version: 1.0.0, digest: abc, urls: [x]}]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseIndex(b)
		if err != nil {
			return
		}
		for name := range all {
			if vs, err := pick(all, name+":*"); err == nil && len(vs) == 0 {
				t.Errorf("pick(%q) gives nothing and no error", name)
			}
		}
	})
}

func FuzzChartYAML(f *testing.F) {
	f.Add(archive(f, "db", "1.0.0", ""))
	f.Fuzz(func(t *testing.T, b []byte) {
		if data, err := chartYAML(bytes.NewReader(b)); err == nil && len(data) > maxChartYAML {
			t.Errorf("chartYAML gives %d bytes", len(data))
		}
	})
}

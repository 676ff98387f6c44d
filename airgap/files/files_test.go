package files

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

func TestFiles(t *testing.T) {
	content := strings.Repeat("firmware ", 1000)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(content)) }))
	defer other.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Release pages send files from other hosts.
		http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
	}))
	defer srv.Close()
	good := blob.FromBytes([]byte(content))
	for _, tt := range []struct {
		name  string
		files []airgap.WantFile
		paths []string
		wrong string
	}{
		{"name from the address", []airgap.WantFile{{URL: srv.URL + "/a/bios.bin?x=1", SHA256: good}}, []string{"bios.bin"}, ""},
		{"paths", []airgap.WantFile{{URL: srv.URL + "/x", SHA256: good, Path: "fw/b"}, {URL: srv.URL + "/x", SHA256: good, Path: "fw/a"}}, []string{"fw/a", "fw/b"}, ""},
		{"other bytes", []airgap.WantFile{{URL: srv.URL + "/x", SHA256: blob.FromBytes(nil)}}, nil, "other bytes"},
		{"twice", []airgap.WantFile{{URL: srv.URL + "/x", SHA256: good}, {URL: srv.URL + "/b/x", SHA256: good}}, nil, "two files would be at x"},
		{"traversal", []airgap.WantFile{{URL: srv.URL + "/x", SHA256: good, Path: "../x"}}, nil, "leaves its folder"},
		{"no name", []airgap.WantFile{{URL: srv.URL + "/", SHA256: good}}, nil, "path"},
		{"no digest", []airgap.WantFile{{URL: srv.URL + "/x"}}, nil, "digest"},
		{"no web address", []airgap.WantFile{{URL: "file:///etc/passwd", SHA256: good}}, nil, "no http"},
		{"none", nil, nil, "names no files"},
	} {
		s, err := airgap.OpenStore(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		sy := &airgap.Syncer{Store: s, Formats: []airgap.Format{Format{}}, Now: func() time.Time { return time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC) },
			Fetch: &airgap.Fetcher{Blobs: s.Blobs(), Dir: s.Dir(), Tries: 1}}
		lock, err := sy.Resolve(t.Context(), []airgap.Mirror{{Name: "fw", Format: "files", Files: tt.files}}, airgap.Lock{})
		var snap airgap.Snapshot
		if err == nil {
			snap, _, err = sy.Sync(t.Context(), lock, "")
		}
		if tt.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("%s: = %v; want an error with %q", tt.name, err, tt.wrong)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var paths []string
		for _, f := range snap.Trees[0].Files {
			paths = append(paths, f.Path)
			if f.Size != int64(len(content)) {
				t.Errorf("%s: %s has %d bytes; want %d", tt.name, f.Path, f.Size, len(content))
			}
		}
		if strings.Join(paths, " ") != strings.Join(tt.paths, " ") {
			t.Errorf("%s: paths = %v; want %v", tt.name, paths, tt.paths)
		}
		if again, made, err := sy.Sync(t.Context(), lock, ""); err != nil || made || again.Name != snap.Name {
			t.Errorf("%s: Sync again = %s, %v, %v; want the same snapshot", tt.name, again.Name, made, err)
		}
	}
}

package airgap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/fettle-dev/fettle/blob"
)

// indexed is a format whose upstream is one index, a line of path and digest
// for each file.
type indexed struct{}

func (indexed) Name() string { return "indexed" }

func (indexed) Resolve(ctx context.Context, env Env, m Mirror, old *LockedMirror) (LockedMirror, error) {
	data, err := env.Fetch.Index(ctx, m.URLs[0]+"/index", 1<<20)
	if err != nil {
		return LockedMirror{}, err
	}
	in := blob.FromBytes(data)
	if old != nil && old.Inputs == in {
		return *old, nil
	}
	lm := LockedMirror{Inputs: in, Trust: []Trust{}}
	for line := range strings.Lines(string(data)) {
		p, d, _ := strings.Cut(strings.TrimSpace(line), " ")
		lm.Items = append(lm.Items, Item{Path: p, URL: m.URLs[0] + "/" + p, Size: -1, SHA256: blob.Digest(d), Kind: KindFile})
	}
	return lm, nil
}

func (indexed) Publish(ctx context.Context, env Env, m LockedMirror) ([]File, error) {
	made, err := PutBytes(ctx, env.Blobs, []byte("made here"))
	out := []File{{"made", 9, made}}
	for _, it := range m.Items {
		f, err := TreeFile(env.Blobs, it)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, err
}

// stamps are the inode and the times of change of everything below dir.
func stamps(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Lstat(p)
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		out[p] = fmt.Sprint(st.Ino, st.Ctim, st.Size)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestUnchangedUpstream: a sync of what did not change asks for the index, once,
// and writes nothing; a blob that is gone comes again.
func TestUnchangedUpstream(t *testing.T) {
	files := fstest.MapFS{"pool/a": {Data: noise(1, 4000)}, "pool/b": {Data: noise(2, 5000)}}
	var index string
	for _, p := range []string{"pool/a", "pool/b"} {
		index += fmt.Sprintf("%s %s\n", p, blob.FromBytes(files[p].Data))
	}
	files["index"] = &fstest.MapFile{Data: []byte(index), ModTime: testTime}
	srv := httptest.NewServer(http.FileServerFS(files))
	defer srv.Close()
	s := testStore(t)
	mirrors := []Mirror{{Name: "m", Format: "indexed", URLs: []string{srv.URL}}}
	var lock Lock
	sync := func() (Snapshot, bool, int) {
		t.Helper()
		y := &Syncer{Store: s, Fetch: &Fetcher{Blobs: s.Blobs(), Dir: s.Dir()}, Formats: []Format{indexed{}}, Now: now}
		var err error
		if lock, err = y.Resolve(t.Context(), mirrors, lock); err != nil {
			t.Fatal(err)
		}
		snap, made, err := y.Sync(t.Context(), lock, "")
		if err != nil {
			t.Fatal(err)
		}
		return snap, made, y.Fetch.Requests()
	}
	first, made, n := sync()
	if !made || n != 3 {
		t.Fatalf("first Sync = made %t with %d requests; want a snapshot with 3", made, n)
	}
	before := stamps(t, s.Dir())
	for range 2 {
		snap, made, n := sync()
		if made || snap.Name != first.Name || n != 1 {
			t.Errorf("Sync of the same = %s, made %t, %d requests; want %s with the index's alone", snap.Name, made, n, first.Name)
		}
	}
	if after := stamps(t, s.Dir()); !maps.Equal(before, after) {
		t.Errorf("files of the store = %v; want them untouched: %v", after, before)
	}
	for _, what := range []blob.Digest{lock.Mirrors[0].Items[0].SHA256, blob.FromBytes([]byte("made here"))} {
		if err := s.Blobs().Remove(what); err != nil {
			t.Fatal(err)
		}
		if snap, made, _ := sync(); made || snap.Name != first.Name || !s.Blobs().Has(what) {
			t.Errorf("Sync after blob %s was lost = %s, made %t, there %t; want %s mended", what.Short(), snap.Name, made, s.Blobs().Has(what), first.Name)
		}
	}
}

// TestLatest: the greatest serial counts, wherever it stands in the file.
func TestLatest(t *testing.T) {
	s := testStore(t)
	if _, ok, err := s.Latest(); ok || err != nil {
		t.Errorf("Latest of nothing = %t, %v; want none", ok, err)
	}
	for i, name := range []string{"c", "b", "a"} {
		addSnapshot(t, s, name, int64(i+1), map[string][]byte{"f": {byte(i)}})
	}
	if got, ok, err := s.Latest(); !ok || err != nil || got.Name != "a" || got.Serial != 3 {
		t.Errorf("Latest = %s of serial %d, %t, %v; want a of 3", got.Name, got.Serial, ok, err)
	}
	// A form that fettle does not write, and that is as good.
	data, err := os.ReadFile(s.snapshotPath("b"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), `"name":"b","serial":2,`, "", 1)
	text = strings.TrimSuffix(text, "}") + `,"serial":9,"name":"b"}`
	if err := os.WriteFile(s.snapshotPath("b"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := s.Latest(); !ok || err != nil || got.Name != "b" || got.Serial != 9 {
		t.Errorf("Latest = %s of serial %d, %t, %v; want b of 9", got.Name, got.Serial, ok, err)
	}
	for _, bad := range []string{"", "{", `{"snapshot":1}`, `{"snapshot":1,"name":"d","serial":"x"}`, `[1,2,3,4,5,6,7]`} {
		if err := os.WriteFile(s.snapshotPath("d"), []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, _, err := s.Latest(); err == nil || !strings.Contains(err.Error(), "d.json") {
			t.Errorf("Latest beside %q = %s, %v; want an error that names the file", bad, got.Name, err)
		}
	}
}

// FuzzPlainURL: what needs no parser is what the parser takes.
func FuzzPlainURL(f *testing.F) {
	for _, s := range []string{"http://a.example/b", "https://a.example:80/b/../c", "http://", "http://:80/", "http://a:/", "http://a@b/", "ftp://a/b", "http://a/%zz", "http://a:99999999999/x", "https://a b/c", "http://a/b?c", "http://[::1]/x", "http://a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if !plainURL(raw) {
			return
		}
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
			t.Errorf("plainURL(%q) = true; url.Parse gives %+v, %v", raw, u, err)
		}
	})
}

func TestPlainURL(t *testing.T) {
	for raw, want := range map[string]bool{
		"http://deb.example.org/pool/main/a/abc_1+b~c-1_amd64.deb": true, "https://127.0.0.1:8080/x": true, "http://a": true,
		"http://": false, "http://:80/x": false, "http://a:/x": false, "http://a:b/x": false, "http://u:p@a/x": false, "file:///x": false,
		"http://a/%41": false, "http://a/x?y": false, "http://a/x y": false, "http://[::1]/x": false, "http://a/\x7f": false, "HTTP://a/x": false,
	} {
		if got := plainURL(raw); got != want {
			t.Errorf("plainURL(%q) = %t; want %t", raw, got, want)
		}
	}
}

// forgetful is indexed that loses the folder of a blob that it made.
type forgetful struct{ indexed }

func (forgetful) Resolve(ctx context.Context, env Env, _ Mirror, _ *LockedMirror) (LockedMirror, error) {
	d, err := PutBytes(ctx, env.Blobs, []byte("found while resolving"))
	if err == nil {
		err = os.RemoveAll(filepath.Dir(env.Blobs.Path(d)))
	}
	return LockedMirror{Inputs: d}, err
}

// TestResolveFlushes: what a resolution stored is durable when it ends, since
// another process may sync.
func TestResolveFlushes(t *testing.T) {
	s := testStore(t)
	y := &Syncer{Store: s, Fetch: &Fetcher{Blobs: s.Blobs(), Dir: s.Dir()}, Formats: []Format{forgetful{}}, Now: now}
	if _, err := y.Resolve(t.Context(), []Mirror{{Name: "m", Format: "indexed"}}, Lock{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Resolve that cannot make its blobs durable = %v; want the error", err)
	}
}

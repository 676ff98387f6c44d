package airgap

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
)

// get asks for a path and returns status, body, and the error of reading it.
func get(t *testing.T, srv *httptest.Server, method, path, rng string) (int, []byte, http.Header, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rng != "" {
		req.Header.Set("Range", rng)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, resp.Header, err
}

func TestServe(t *testing.T) {
	s := testStore(t)
	h := NewHandler(s, nil)
	srv := httptest.NewServer(h)
	defer srv.Close()
	if status, _, _, _ := get(t, srv, "GET", "/files/m/text", ""); status != http.StatusServiceUnavailable {
		t.Errorf("GET with nothing served = %d; want 503", status)
	}
	files := contents()
	snap := addSnapshot(t, s, "one", 1, files)
	for _, tt := range []struct {
		name, method, path, rng string
		status                  int
		want                    []byte
	}{
		{"file", "GET", "/files/m/pool/a", "", 200, files["pool/a"]},
		{"large", "GET", "/files/m/big", "", 200, files["big"]},
		{"empty", "GET", "/files/m/empty", "", 200, nil},
		{"head", "HEAD", "/files/m/pool/a", "", 200, nil},
		{"range", "GET", "/files/m/big", "bytes=100-199", 206, files["big"][100:200]},
		{"range to the end", "GET", "/files/m/big", "bytes=299000-", 206, files["big"][299000:]},
		{"range behind the end", "GET", "/files/m/big", "bytes=300000-", 416, nil},
		{"other mirror", "GET", "/files/n/big", "", 404, nil},
		{"other format", "GET", "/apt/m/big", "", 404, nil},
		{"outside", "GET", "/files/m/../../snapshots/one.json", "", 404, nil},
		{"post", "POST", "/files/m/big", "", 405, nil},
	} {
		status, body, header, err := get(t, srv, tt.method, tt.path, tt.rng)
		if status != tt.status || err != nil || tt.status < 300 && !bytes.Equal(body, tt.want) {
			t.Errorf("%s: %s %s = %d, %d bytes, %v; want %d, %d bytes", tt.name, tt.method, tt.path, status, len(body), err, tt.status, len(tt.want))
		}
		if tt.method == "HEAD" && header.Get("Content-Length") != "20000" {
			t.Errorf("HEAD says %q bytes; want 20000", header.Get("Content-Length"))
		}
	}

	// A switch shows at once; a file that is damaged never arrives whole.
	addSnapshot(t, s, "two", 2, map[string][]byte{"pool/a": []byte("second")})
	if _, body, _, err := get(t, srv, "GET", "/files/m/pool/a", ""); string(body) != "second" || err != nil {
		t.Errorf("GET after the switch = %q, %v; want the second snapshot's", body, err)
	}
	if err := s.Use("one"); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(snap.Trees[0].Files, func(f File) bool { return f.Path == "big" })
	path := s.Blobs().Path(snap.Trees[0].Files[i].SHA256)
	bad := bytes.Clone(files["big"])
	bad[len(bad)-1] ^= 1
	if err := errors.Join(os.Remove(path), os.WriteFile(path, bad, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, body, _, err := get(t, srv, "GET", "/files/m/big", ""); err == nil || len(body) >= len(bad) {
		t.Errorf("GET of a damaged file = %d bytes, %v; want it cut", len(body), err)
	}
}

func TestCollect(t *testing.T) {
	s := testStore(t)
	for i, name := range []string{"one", "two", "three", "four"} {
		addSnapshot(t, s, name, int64(i+1), map[string][]byte{"shared": []byte("shared"), "own": []byte(name)})
	}
	if err := errors.Join(s.Pin("one", true), s.Use("three")); err != nil {
		t.Fatal(err)
	}
	if _, err := PutBytes(t.Context(), s.Blobs(), []byte("nobody needs this")); err != nil {
		t.Fatal(err)
	}
	before := readDir(t, s.Dir())
	dry, err := s.Collect(t.Context(), 1, true)
	if err != nil || !slices.Equal(dry.Snapshots, []string{"two"}) || dry.Blobs != 2 {
		t.Errorf("Collect(dry) = %+v, %v; want snapshot two and two blobs", dry, err)
	}
	after := readDir(t, s.Dir())
	delete(after, "lock")
	delete(before, "lock")
	if !maps.EqualFunc(before, after, bytes.Equal) {
		t.Error("a dry run changed the store")
	}
	got, err := s.Collect(t.Context(), 1, false)
	if err != nil || !slices.Equal(got.Snapshots, dry.Snapshots) || got.Blobs != dry.Blobs {
		t.Errorf("Collect = %+v, %v; want what the dry run said, %+v", got, err, dry)
	}
	for _, name := range []string{"one", "three", "four"} {
		snap, _, err := s.Snapshot(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.complete(snap, nil); err != nil {
			t.Errorf("snapshot %s after Collect: %v", name, err)
		}
	}
	if _, _, err := s.Snapshot("two"); !errors.Is(err, ErrNoSnapshot) {
		t.Errorf("Snapshot(two) after Collect = %v; want %v", err, ErrNoSnapshot)
	}
}

func TestOneProcessChangesTheStore(t *testing.T) {
	s := testStore(t)
	unlock, err := s.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(t.Context(), 1, false); !errors.Is(err, ErrBusy) {
		t.Errorf("Collect while another works = %v; want %v", err, ErrBusy)
	}
	unlock()
	if _, err := s.Collect(t.Context(), 1, false); err != nil {
		t.Errorf("Collect afterwards = %v", err)
	}
}

// A file that was damaged on the disk is found, and the next import mends it.
func TestDamageIsMended(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	addSnapshot(t, s, "one", 1, contents())
	dir, _ := create(t, s, k, CreateOptions{})
	other := testStore(t)
	if _, err := importDirs(t, other, k.Public(), false, dir); err != nil {
		t.Fatal(err)
	}
	if bad, err := other.CheckBlobs(t.Context(), "one", false, nil); err != nil || len(bad) > 0 {
		t.Errorf("CheckBlobs of a good store = %v, %v; want none", bad, err)
	}
	snap, _, err := other.Snapshot("one")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"big", "pool/a"}
	for _, f := range snap.Trees[0].Files {
		path := other.Blobs().Path(f.SHA256)
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		switch f.Path {
		case "big":
			err = os.WriteFile(path, noise(99, int(f.Size)), 0o644)
		case "pool/a":
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.Path == "pool/a" {
			break
		}
	}
	for _, mend := range []bool{false, true} {
		bad, err := other.CheckBlobs(t.Context(), "one", mend, nil)
		var got []string
		for _, f := range bad {
			got = append(got, f.Path)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("CheckBlobs(mend %v) = %v, %v; want %v", mend, got, err, want)
		}
	}
	if _, err := importDirs(t, other, k.Public(), false, dir); err != nil {
		t.Fatal(err)
	}
	checkServed(t, other, "one", contents())
}

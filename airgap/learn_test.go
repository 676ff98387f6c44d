package airgap

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// equals is a check for exactly these bytes.
func equals(want []byte) func(io.ReaderAt, int64) error {
	return func(r io.ReaderAt, size int64) error {
		got, err := io.ReadAll(io.NewSectionReader(r, 0, size))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return errors.New("these are other bytes")
		}
		return nil
	}
}

func TestLearn(t *testing.T) {
	data := noise(20, 90_000)
	for _, tt := range []struct {
		name  string
		up    *upstream
		size  int64
		want  []byte
		wrong string
	}{
		{"at once", &upstream{data: data, ranges: true}, -1, data, ""},
		{"size known", &upstream{data: data, ranges: true}, int64(len(data)), data, ""},
		{"cut", &upstream{data: data, ranges: true, cut: 30_000, cuts: 2}, int64(len(data)), data, ""},
		{"other bytes", &upstream{data: noise(21, 90_000), ranges: true}, -1, data, "other bytes"},
		{"longer", &upstream{data: noise(21, 90_001), ranges: true}, 90_000, data, "more than the 90000 bytes"},
		{"gone", &upstream{data: data, status: []int{404}}, -1, data, "not at upstream"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.up.asked = make(chan string, 20)
			srv := httptest.NewServer(tt.up)
			defer srv.Close()
			f := fetcher(t)
			got, err := f.Learn(t.Context(), []Unknown{{Item{Path: "x", URL: srv.URL + "/x", Size: tt.size, Sum: "sha512-x"}, equals(tt.want)}})
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) {
					t.Errorf("Learn = %v; want an error with %q", err, tt.wrong)
				}
				if f.Blobs.Has(blob.FromBytes(tt.up.data)) {
					t.Error("Learn kept bytes that nobody vouches for")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got[0].SHA256 != blob.FromBytes(data) || got[0].Size != int64(len(data)) || f.Blobs.Verify(t.Context(), got[0].SHA256) != nil {
				t.Errorf("Learn = %s, %d bytes; want %s, %d", got[0].SHA256, got[0].Size, blob.FromBytes(data), len(data))
			}
			if left, err := filepath.Glob(filepath.Join(f.Dir, "partial", "*")); err != nil || len(left) > 0 {
				t.Errorf("Learn left %v, %v", left, err)
			}
		})
	}
}

// What an earlier run left of a file is gone on with when it is right, else
// the file is fetched anew.
func TestLearnAcrossRuns(t *testing.T) {
	data := noise(22, 50_000)
	for name, status := range map[string]int{"right": http.StatusPartialContent, "wrong": http.StatusOK} {
		up := &upstream{data: data, ranges: true, cut: 20_000, cuts: 1, asked: make(chan string, 20)}
		srv := httptest.NewServer(up)
		defer srv.Close()
		f := fetcher(t)
		f.Tries = 1
		u := Unknown{Item{Path: "x", URL: srv.URL + "/x", Size: -1}, equals(data)}
		if _, err := f.Learn(t.Context(), []Unknown{u}); err == nil {
			t.Fatalf("%s: Learn of a cut file has no error", name)
		}
		left, err := filepath.Glob(filepath.Join(f.Dir, "partial", "*"))
		if err != nil || len(left) != 1 {
			t.Fatalf("%s: a cut Learn left %v, %v; want one file", name, left, err)
		}
		if status == http.StatusOK {
			if err := os.WriteFile(left[0], noise(23, 20_000), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		f.Tries = 3
		if got, err := f.Learn(t.Context(), []Unknown{u}); err != nil || got[0].SHA256 != blob.FromBytes(data) {
			t.Errorf("%s: Learn = %v, %v", name, got, err)
		}
		if <-up.asked; <-up.asked != "bytes=20000-" {
			t.Errorf("%s: the second run did not ask for the rest", name)
		}
	}
}

// The first address that has the right bytes wins.
func TestFetchAlso(t *testing.T) {
	data := noise(24, 1000)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/good":
			_, _ = w.Write(data)
		case "/wrong":
			_, _ = w.Write(noise(25, 1000))
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	for _, tt := range []struct {
		name string
		urls []string
		ok   bool
	}{
		{"second", []string{"/gone", "/good"}, true},
		{"behind a liar", []string{"/wrong", "/gone", "/good"}, true},
		{"none", []string{"/gone", "/wrong"}, false},
	} {
		f := fetcher(t)
		it := Item{Path: "x", URL: srv.URL + tt.urls[0], Size: 1000, SHA256: blob.FromBytes(data)}
		for _, u := range tt.urls[1:] {
			it.Also = append(it.Also, srv.URL+u)
		}
		if err := f.Get(t.Context(), it, nil); (err == nil) != tt.ok {
			t.Errorf("%s: Get = %v; want success: %v", tt.name, err, tt.ok)
		}
	}
}

// A file that becomes a blob has one writer: who learns it too is told so.
func TestLearnInUse(t *testing.T) {
	data := noise(24, 60_000)
	half, rest := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
			return
		}
		_, _ = w.Write(data[:30_000])
		w.(http.Flusher).Flush()
		close(half)
		<-rest
		_, _ = w.Write(data[30_000:])
	}))
	defer srv.Close()
	f := fetcher(t)
	u := []Unknown{{Item{Path: "x", URL: srv.URL + "/x", Size: int64(len(data))}, equals(data)}}
	first := make(chan error)
	go func() {
		_, err := f.Learn(t.Context(), u)
		first <- err
	}()
	<-half
	other := &Fetcher{Blobs: f.Blobs, Dir: f.Dir, Tries: 1}
	if _, err := other.Learn(t.Context(), u); !errors.Is(err, blob.ErrInUse) {
		t.Errorf("Learn of what another learns = %v; want ErrInUse", err)
	}
	close(rest)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if err := f.Blobs.Verify(t.Context(), blob.FromBytes(data)); err != nil {
		t.Error(err)
	}
}

// A collection leaves the file of a download that goes on, which a resolution
// may be at, and removes what nobody writes.
func TestCollectWhileLearning(t *testing.T) {
	s := testStore(t)
	if err := os.Mkdir(filepath.Join(s.Dir(), "partial"), 0o755); err != nil {
		t.Fatal(err)
	}
	path, left := filepath.Join(s.Dir(), "partial", "learn-a"), filepath.Join(s.Dir(), "partial", "learn-b")
	if err := os.WriteFile(left, []byte("left"), 0o444); err != nil {
		t.Fatal(err)
	}
	w, err := s.Blobs().Continue(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(t.Context(), 1, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a download left is there after Collect: %v", err)
	}
	if _, _, err := w.Commit(blob.FromBytes([]byte("half"))); err != nil {
		t.Errorf("Commit of what was written while Collect ran = %v", err)
	}
}

package blob

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

const helloDigest = Digest("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")

func TestDigestValidate(t *testing.T) {
	hex := strings.Repeat("0a", 32)
	for _, tt := range []struct {
		name string
		in   Digest
		want string // part of the error, "" = valid
	}{
		{"valid", Digest("sha256:" + hex), ""},
		{"empty", "", "must begin with"},
		{"other algorithm", Digest("sha512:" + hex), "must begin with"},
		{"short", Digest("sha256:" + hex[2:]), "62 hex digits"},
		{"long", Digest("sha256:" + hex + "00"), "66 hex digits"},
		{"upper case", Digest("sha256:" + strings.ToUpper(hex)), "not a lower case hex digit"},
		{"path", Digest("sha256:../../" + hex[6:]), "not a lower case hex digit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.in.Validate()
			if tt.want == "" {
				if err != nil || tt.in.Hex() != hex {
					t.Errorf("%q.Validate() = %v, Hex %q; want nil, %q", tt.in, err, tt.in.Hex(), hex)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.in.Hex() != "" {
				t.Errorf("%q.Validate() = %v, Hex %q; want an error with %q", tt.in, err, tt.in.Hex(), tt.want)
			}
		})
	}
	if got := FromBytes([]byte("hello")); got != helloDigest {
		t.Errorf("FromBytes(hello) = %s; want %s", got, helloDigest)
	}
}

func FuzzDigest(f *testing.F) {
	f.Add(string(helloDigest))
	f.Add("sha256:")
	f.Add("sha256:../x")
	s, err := Open(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in string) {
		d, err := ParseDigest(in)
		if err != nil {
			if s.Path(d) != "" {
				t.Errorf("Path(%q) = %q; want none for a malformed digest", in, s.Path(d))
			}
			return
		}
		if rel, err := filepath.Rel(s.Dir(), s.Path(d)); err != nil || !filepath.IsLocal(rel) {
			t.Errorf("Path(%q) = %q leaves the store", in, s.Path(d))
		}
		if string(d) != "sha256:"+d.Hex() {
			t.Errorf("Hex(%q) = %q", in, d.Hex())
		}
	})
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// leftovers fails the test when temporary files remain.
func leftovers(t *testing.T, s *Store) {
	t.Helper()
	e, err := os.ReadDir(filepath.Join(s.Dir(), "tmp"))
	if err != nil || len(e) != 0 {
		t.Errorf("tmp holds %v, %v; want nothing", e, err)
	}
}

func TestPutOpen(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	big := make([]byte, 3<<20+17)
	rand.Read(big)
	for _, tt := range []struct {
		name string
		in   []byte
	}{{"empty", nil}, {"small", []byte("hello")}, {"big", big}} {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 { // the second Put finds the first
				d, n, err := s.Put(ctx, iotest.HalfReader(bytes.NewReader(tt.in)), FromBytes(tt.in))
				if err != nil || d != FromBytes(tt.in) || n != int64(len(tt.in)) {
					t.Fatalf("Put = %s, %d, %v; want %s, %d", d, n, err, FromBytes(tt.in), len(tt.in))
				}
				r, err := s.Open(ctx, d)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(r)
				r.Close()
				if err != nil || !bytes.Equal(got, tt.in) || r.Size() != int64(len(tt.in)) {
					t.Fatalf("ReadAll = %d bytes, %v; want %d", len(got), err, len(tt.in))
				}
			}
		})
	}
	leftovers(t, s)
}

func TestPutRefuses(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(context.Background())
	if _, _, err := s.Put(ctx, strings.NewReader("hullo"), helloDigest); !errors.Is(err, ErrMismatch) {
		t.Errorf("Put of other bytes: %v; want ErrMismatch", err)
	}
	if _, _, err := s.Put(ctx, strings.NewReader("hello"), "sha256:short"); err == nil {
		t.Error("Put with a malformed digest: nil; want an error")
	}
	broken := errors.New("line cut")
	if _, _, err := s.Put(ctx, iotest.ErrReader(broken), ""); !errors.Is(err, broken) {
		t.Errorf("Put from a broken reader: %v; want %v", err, broken)
	}
	cancel()
	if _, _, err := s.Put(ctx, strings.NewReader("hello"), ""); !errors.Is(err, context.Canceled) {
		t.Errorf("Put after cancel: %v; want context.Canceled", err)
	}
	if s.Has(helloDigest) {
		t.Error("Has after refused Puts = true; want false")
	}
	leftovers(t, s)
}

func TestDamaged(t *testing.T) {
	ctx := context.Background()
	for _, tt := range []struct {
		name   string
		damage func(path string) error
	}{
		{"bit flipped", func(p string) error { return os.WriteFile(p, []byte("hellp"), 0o644) }},
		{"truncated", func(p string) error { return os.Truncate(p, 3) }},
		{"emptied", func(p string) error { return os.Truncate(p, 0) }},
		{"longer", func(p string) error { return os.WriteFile(p, []byte("hello!"), 0o644) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			if _, _, err := s.Put(ctx, strings.NewReader("hello"), ""); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(s.Path(helloDigest), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := tt.damage(s.Path(helloDigest)); err != nil {
				t.Fatal(err)
			}
			if err := s.Verify(ctx, helloDigest); !errors.Is(err, ErrMismatch) {
				t.Errorf("Verify = %v; want ErrMismatch", err)
			}
			r, err := s.Open(ctx, helloDigest)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			// http.ServeContent looks for the size in this way first.
			r.Seek(0, io.SeekEnd)
			r.Seek(0, io.SeekStart)
			if _, err := io.Copy(io.Discard, r); !errors.Is(err, ErrMismatch) {
				t.Errorf("reading = %v; want ErrMismatch", err)
			}
			if _, _, err := s.Put(ctx, strings.NewReader("hello"), helloDigest); err != nil {
				t.Fatal(err)
			}
			if err := s.Verify(ctx, helloDigest); err != nil {
				t.Errorf("Verify after a new Put = %v; want nil", err)
			}
		})
	}
}

func TestReaderRanges(t *testing.T) {
	s := newStore(t)
	if _, _, err := s.Put(context.Background(), strings.NewReader("hello"), ""); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r, err := s.Open(req.Context(), helloDigest)
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		http.ServeContent(w, req, "", time.Time{}, r)
	}))
	defer srv.Close()
	for _, tt := range []struct{ rng, want string }{{"", "hello"}, {"bytes=1-2", "el"}, {"bytes=3-", "lo"}, {"bytes=0-0", "h"}} {
		req, _ := http.NewRequest("GET", srv.URL, nil)
		if tt.rng != "" {
			req.Header.Set("Range", tt.rng)
		}
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != tt.want {
			t.Errorf("range %q = %q, %v; want %q", tt.rng, got, err, tt.want)
		}
	}
}

func TestMissing(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	if _, err := s.Open(ctx, helloDigest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open = %v; want fs.ErrNotExist", err)
	}
	if err := s.Verify(ctx, helloDigest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Verify = %v; want fs.ErrNotExist", err)
	}
	if err := s.Remove(helloDigest); err != nil {
		t.Errorf("Remove of a missing blob = %v; want nil", err)
	}
}

func TestConcurrentPut(t *testing.T) {
	s := newStore(t)
	body := bytes.Repeat([]byte("fettle"), 100_000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, _, err := s.Put(context.Background(), bytes.NewReader(body), FromBytes(body)); err != nil {
				t.Errorf("Put = %v; want nil", err)
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			if err := s.Sweep(); err != nil {
				t.Errorf("Sweep = %v; want nil", err)
			}
		}
	})
	wg.Wait()
	if err := s.Verify(context.Background(), FromBytes(body)); err != nil {
		t.Errorf("Verify = %v; want nil", err)
	}
	leftovers(t, s)
}

func TestSweep(t *testing.T) {
	s := newStore(t)
	dead := filepath.Join(s.Dir(), "tmp", tmpPrefix+"dead")
	if err := os.WriteFile(dead, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := s.Create()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "hello")
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("file of a dead writer: %v; want it gone", err)
	}
	if d, n, err := w.Commit(helloDigest); err != nil || d != helloDigest || n != 5 {
		t.Errorf("Commit after Sweep = %s, %d, %v; want %s, 5, nil", d, n, err, helloDigest)
	}
}

func TestListRemove(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	var want []Digest
	for _, b := range []string{"a", "b", "c"} {
		d, _, err := s.Put(ctx, strings.NewReader(b), "")
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, d)
	}
	if err := os.WriteFile(filepath.Join(s.Dir(), "sha256", "README"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	list := func() map[Digest]int64 {
		got := map[Digest]int64{}
		if err := s.List(ctx, func(d Digest, n int64) error { got[d] = n; return nil }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := list(); len(got) != 3 || got[want[0]] != 1 {
		t.Errorf("List = %v; want %v", got, want)
	}
	if err := s.Remove(want[1]); err != nil {
		t.Fatal(err)
	}
	if got := list(); len(got) != 2 || s.Has(want[1]) {
		t.Errorf("List after Remove = %v; want two", got)
	}
}

func TestNoSpace(t *testing.T) {
	// /dev/full answers every write with ENOSPC.
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no /dev/full: %v", err)
		}
		t.Skipf("no /dev/full: %v", err)
	}
	s := newStore(t)
	for _, size := range []int{5, gatherSize + 5, directMost + gatherSize + 5} {
		dup, err := syscall.Dup(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.Create()
		if err != nil {
			t.Fatal(err)
		}
		w.f.Close()
		w.f = os.NewFile(uintptr(dup), "/dev/full") // w.path stays: Abort removes the temporary file, not the device
		// A few bytes are written when the blob is committed.
		if _, err := w.Pour(bytes.NewReader(make([]byte, size))); size >= gatherSize && (err == nil || !strings.Contains(err.Error(), "no space left in "+s.Dir())) {
			t.Errorf("Pour of %d bytes = %v; want a sentence about the space", size, err)
		}
		if _, _, err := w.Commit(""); err == nil || !strings.Contains(err.Error(), "no space left in "+s.Dir()) {
			t.Errorf("Commit of %d bytes = %v; want a sentence about the space", size, err)
		}
	}
	f.Close()
	leftovers(t, s)
}

package images

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// put keeps a loaders release with one file.
func put(t *testing.T, s *Store, name, inputs, content string, chosen time.Time) Release {
	t.Helper()
	d, n, err := s.Blobs().Put(t.Context(), strings.NewReader(content), "")
	if err != nil {
		t.Fatal(err)
	}
	r := Release{Name: name, Kind: KindLoaders, Arch: "amd64", Inputs: blob.FromBytes([]byte(inputs)), Created: chosen, Files: []File{{"ipxe.efi", d, n}}}
	if err := s.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := s.choose(r, chosen); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestStore(t *testing.T) {
	s, ctx := testStore(t), t.Context()
	day := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	if _, ok, err := s.Latest(ctx, "loaders"); ok || err != nil {
		t.Errorf("Latest in an empty store = %v, %v; want none", ok, err)
	}
	old := put(t, s, "loaders", "1", "same", day)
	young := put(t, s, "loaders", "2", "other", day.Add(time.Hour))
	shared := put(t, s, "b", "3", "same", day)
	if got, ok, err := s.Latest(ctx, "loaders"); err != nil || !ok || got.Inputs != young.Inputs {
		t.Errorf("Latest = %v, %v, %v; want %v", got.Inputs, ok, err, young.Inputs)
	}
	if err := s.choose(old, day.Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := s.Latest(ctx, "loaders"); got.Inputs != old.Inputs {
		t.Errorf("Latest after choose = %v; want %v", got.Inputs, old.Inputs)
	}
	rs, err := s.List(ctx)
	if err != nil || len(rs) != 3 || rs[0].Name != "b" || rs[1].Inputs != old.Inputs {
		t.Errorf("List = %v, %v; want b, then loaders, the latest first", rs, err)
	}
	rd, err := s.Open(ctx, old, "ipxe.efi")
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	if got, err := io.ReadAll(rd); err != nil || string(got) != "same" {
		t.Errorf("reading = %q, %v; want same", got, err)
	}
	if _, err := s.Open(ctx, old, "nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open(nothing) = %v; want fs.ErrNotExist", err)
	}
	if err := s.Remove(ctx, old); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(ctx, shared); err != nil {
		t.Errorf("Verify of a release that shares a file with a removed one = %v; want nil", err)
	}
	if err := s.Remove(ctx, shared); err != nil {
		t.Fatal(err)
	}
	if s.Blobs().Has(shared.Files[0].Digest) || !s.Blobs().Has(young.Files[0].Digest) {
		t.Error("Remove left a file that nobody has, or took one that somebody has")
	}
	if _, ok, err := s.Find(ctx, "b", shared.Inputs); ok || err != nil {
		t.Errorf("Find after Remove = %v, %v; want none", ok, err)
	}
}

func TestStoreDamage(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, s *Store, r Release)
		find   bool // still found: only Verify reads the bytes
	}{
		{"altered", func(t *testing.T, s *Store, r Release) { overwrite(t, s, r, "sbme") }, true},
		{"truncated", func(t *testing.T, s *Store, r Release) { overwrite(t, s, r, "sa") }, false},
		{"missing", func(t *testing.T, s *Store, r Release) { s.Blobs().Remove(r.Files[0].Digest) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := testStore(t)
			r := put(t, s, "loaders", "1", "same", time.Unix(1, 0))
			tt.damage(t, s, r)
			if err := s.Verify(t.Context(), r); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "ipxe.efi of loaders") {
				t.Errorf("Verify = %v; want ErrDamaged that names the file", err)
			}
			if _, ok, err := s.Find(t.Context(), "loaders", r.Inputs); ok != tt.find || err != nil {
				t.Errorf("Find = %v, %v; want %v", ok, err, tt.find)
			}
			if rd, err := s.Open(t.Context(), r, "ipxe.efi"); err == nil {
				_, err = io.Copy(io.Discard, rd)
				rd.Close()
				if !errors.Is(err, blob.ErrMismatch) {
					t.Errorf("reading = %v; want ErrMismatch", err)
				}
			} else if !errors.Is(err, ErrDamaged) {
				t.Errorf("Open = %v; want ErrDamaged", err)
			}
		})
	}
	t.Run("release file", func(t *testing.T) {
		s := testStore(t)
		r := put(t, s, "loaders", "1", "same", time.Unix(1, 0))
		mustWrite(t, s.file(r), "{")
		if _, err := s.List(t.Context()); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), s.file(r)) {
			t.Errorf("List = %v; want ErrDamaged that names the file", err)
		}
	})
}

func overwrite(t *testing.T, s *Store, r Release, text string) {
	t.Helper()
	path := s.Blobs().Path(r.Files[0].Digest)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, path, text)
}

func TestAddRefuses(t *testing.T) {
	s := testStore(t)
	ok := put(t, s, "loaders", "1", "same", time.Unix(1, 0))
	for _, tt := range []struct {
		name   string
		change func(r *Release)
	}{
		{"name climbs", func(r *Release) { r.Name = "../x" }},
		{"no files", func(r *Release) { r.Files = nil }},
		{"file name climbs", func(r *Release) { r.Files = []File{{"../x", r.Files[0].Digest, 4}} }},
		{"file twice", func(r *Release) { r.Files = append(r.Files, r.Files[0]) }},
		{"wrong size", func(r *Release) { r.Files = []File{{"x", r.Files[0].Digest, 5}} }},
		{"absent blob", func(r *Release) { r.Files = []File{{"x", blob.FromBytes([]byte("no")), 2}} }},
		{"agent without initrd", func(r *Release) { r.Kind = KindAgent }},
		{"unknown kind", func(r *Release) { r.Kind = "tape" }},
		{"malformed inputs", func(r *Release) { r.Inputs = "x" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := ok
			tt.change(&r)
			if err := s.Add(t.Context(), r); err == nil {
				t.Errorf("Add(%+v) = nil; want an error", r)
			}
		})
	}
}

func TestVerifyIndex(t *testing.T) {
	b := testBuilder(t)
	raw := sampleDisk()
	path := t.TempDir() + "/disk.raw"
	mustWrite(t, path, string(raw))
	files, _, err := b.packDisk(t.Context(), "d", path, 3)
	if err != nil {
		t.Fatal(err)
	}
	r := Release{Name: "d", Kind: KindDisk, Arch: "amd64", Inputs: blob.FromBytes(nil), Files: files}
	if err := b.Store.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := b.Store.Verify(t.Context(), r); err != nil {
		t.Errorf("Verify = %v; want nil", err)
	}
	ix, err := b.Store.Index(t.Context(), r)
	if err != nil || ix.RootPart != 3 || ix.Size != int64(len(raw)) {
		t.Errorf("Index = %+v, %v", ix, err)
	}
	// An index that describes other data.
	ix.Data = string(blob.FromBytes([]byte("other")))
	text, err := json.Marshal(ix)
	if err != nil {
		t.Fatal(err)
	}
	d, n, err := b.Store.Blobs().Put(t.Context(), bytes.NewReader(text), "")
	if err != nil {
		t.Fatal(err)
	}
	r.Files = []File{{FileIndex, d, n}, files[1]}
	if err := b.Store.Verify(t.Context(), r); !errors.Is(err, ErrDamaged) {
		t.Errorf("Verify with a foreign index = %v; want ErrDamaged", err)
	}
}

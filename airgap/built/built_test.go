package built

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// What was built goes through lock, snapshot, bundle and import like what was
// fetched.
func TestBuilt(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.zst")
	if err := os.WriteFile(disk, []byte("an image"), 0o644); err != nil {
		t.Fatal(err)
	}
	files := func(_ context.Context, name string) ([]File, error) {
		if name != "debian" {
			return nil, errors.New("is not in the store")
		}
		return []File{
			{Path: "debian/1/release.json", Name: name, Version: "1", Size: 2, SHA256: blob.FromBytes([]byte("{}")), Content: []byte("{}")},
			{Path: "debian/1/disk.zst", Name: name, Version: "1", Size: 8, SHA256: blob.FromBytes([]byte("an image")), At: disk},
		}, nil
	}
	store, err := airgap.OpenStore(filepath.Join(dir, "here"))
	if err != nil {
		t.Fatal(err)
	}
	s := &airgap.Syncer{Store: store, Formats: []airgap.Format{Format{Files: files}}, Now: time.Now, Fetch: &airgap.Fetcher{Blobs: store.Blobs(), Dir: store.Dir()}}
	m := airgap.Mirror{Name: "site-images", Format: Name, Needs: []airgap.Need{{Name: "debian", Why: "profile train"}}}
	lock, err := s.Resolve(t.Context(), []airgap.Mirror{m}, airgap.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := airgap.MarshalLock(lock)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := airgap.ParseLock(text); err != nil || len(back.Mirrors[0].Items) != 2 || back.Mirrors[0].Items[0].Kind != airgap.KindBuilt {
		t.Errorf("the lock read back = %+v, %v", back, err)
	}
	if bad := strings.Replace(string(text), "fettle:/", "http://example.org/", 1); bad == string(text) {
		t.Fatal("the lock has no fettle: name")
	} else if _, err := airgap.ParseLock([]byte(bad)); err == nil {
		t.Error("ParseLock of a built item with an address = nil; want an error")
	}
	if again, err := s.Resolve(t.Context(), []airgap.Mirror{m}, lock); err != nil || len(airgap.Diff(lock, again)) != 0 {
		t.Errorf("Resolve again = %v, %v; want no change", airgap.Diff(lock, again), err)
	}
	snap, _, err := s.Sync(t.Context(), lock, "")
	if err != nil || len(snap.Trees[0].Files) != 2 {
		t.Fatalf("Sync = %+v, %v; want both files", snap.Trees, err)
	}
	// A built file that is gone cannot be fetched, and the error says so.
	if err := store.Blobs().Remove(blob.FromBytes([]byte("an image"))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Sync(t.Context(), lock, "again"); !errors.Is(err, airgap.ErrGone) || !strings.Contains(err.Error(), "built here") {
		t.Errorf("Sync of what is gone = %v; want ErrGone", err)
	}
	m.Needs[0].Name = "other"
	if _, err := s.Resolve(t.Context(), []airgap.Mirror{m}, lock); err == nil || !strings.Contains(err.Error(), "not in the store") {
		t.Errorf("Resolve of an image that was not built = %v; want an error", err)
	}
	if _, err := (Format{}).Resolve(t.Context(), airgap.Env{}, m, nil); err == nil {
		t.Error("Resolve without a source = nil; want an error")
	}
}

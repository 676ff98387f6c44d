package airgap

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/fettle-dev/fettle/blob"
)

func TestCollectKeepsWhatIsNamedInOwn(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	addSnapshot(t, s, "a", 1, map[string][]byte{"x": []byte("of the snapshot")})
	put := func(text string) blob.Digest {
		d, err := PutBytes(t.Context(), s.Blobs(), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	kept, lost := put("pushed"), put("pushed and deleted")
	file := filepath.Join(s.OwnDir(), "registry", "app.json")
	if err := writeFile(file, []byte(`{"layers":["`+string(kept)+`"]}`)); err != nil {
		t.Fatal(err)
	}
	got, err := s.Collect(t.Context(), 1, false)
	if err != nil || got.Blobs != 1 {
		t.Fatalf("Collect = %+v, %v; want one blob", got, err)
	}
	if !s.Blobs().Has(kept) || s.Blobs().Has(lost) {
		t.Errorf("after Collect, named = %v, not named = %v; want true, false", s.Blobs().Has(kept), s.Blobs().Has(lost))
	}
	if err := os.Truncate(file, maxOwnFile+1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(t.Context(), 1, false); err == nil || !s.Blobs().Has(kept) {
		t.Errorf("Collect with a file that is too large = %v, kept %v; want an error and nothing removed", err, s.Blobs().Has(kept))
	}
}

func TestCollectWaitsForHold(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	release, err := s.Hold()
	if err != nil {
		t.Fatal(err)
	}
	d, err := PutBytes(t.Context(), s.Blobs(), []byte("not named yet"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := s.Collect(t.Context(), 1, false)
		done <- err
	}()
	again, err := s.Hold() // a second holder does not wait for the first
	if err != nil {
		t.Fatal(err)
	}
	again()
	if err := writeFile(filepath.Join(s.OwnDir(), "x.json"), []byte(d)); err != nil {
		t.Fatal(err)
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !s.Blobs().Has(d) {
		t.Error("Collect removed a blob that was named while it was held; want it kept")
	}
}

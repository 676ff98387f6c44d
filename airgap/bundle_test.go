package airgap

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

func TestBundleCrossesTheGap(t *testing.T) {
	for _, tt := range []struct {
		name    string
		size    int64
		volumes int // at least
	}{{"one volume", 0, 1}, {"small volumes", MinVolumeSize, 5}, {"medium volumes", 200_000, 2}} {
		t.Run(tt.name, func(t *testing.T) {
			s, k := testStore(t), testKey(t, "A")
			addSnapshot(t, s, "one", 1, contents())
			dir, b := create(t, s, k, CreateOptions{VolumeSize: tt.size})
			if len(b.Volumes) < tt.volumes {
				t.Errorf("%d volumes; want at least %d", len(b.Volumes), tt.volumes)
			}
			for _, v := range b.Volumes {
				fi, err := os.Stat(filepath.Join(dir, v.File))
				if err != nil || fi.Size() != v.Size || tt.size > 0 && v.Size > tt.size {
					t.Errorf("%s has %d bytes, %v; the index says %d, the limit is %d", v.File, fi.Size(), err, v.Size, tt.size)
				}
			}
			again, _ := create(t, s, k, CreateOptions{VolumeSize: tt.size})
			if !maps.EqualFunc(readDir(t, dir), readDir(t, again), bytes.Equal) {
				t.Error("the same bundle made twice differs")
			}
			opened, err := OpenBundle(k.Public(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := opened.Verify(t.Context(), nil); err != nil {
				t.Errorf("Verify = %v", err)
			}
			other := testStore(t)
			r, err := importDirs(t, other, k.Public(), false, dir)
			if err != nil {
				t.Fatal(err)
			}
			checkServed(t, other, "one", contents())
			data, err := marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := ParseReceipt(data); err != nil || got != r || got.Serial != 1 {
				t.Errorf("ParseReceipt = %+v, %v; want %+v", got, err, r)
			}
			// Nothing is left behind but what is needed; a repeated import changes nothing.
			before := readDir(t, other.Dir())
			if again, err := importDirs(t, other, k.Public(), false, dir); err != nil || again != r {
				t.Errorf("Import again = %+v, %v; want %+v", again, err, r)
			}
			if after := readDir(t, other.Dir()); !maps.EqualFunc(before, after, bytes.Equal) {
				t.Errorf("a repeated import changed the store: %v, now %v", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
			}
		})
	}
}

func TestCreateLeavesAnotherBundleAlone(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	addSnapshot(t, s, "one", 1, contents())
	dir, _ := create(t, s, k, CreateOptions{})
	before := readDir(t, dir)
	if _, err := s.Create(t.Context(), k, dir, CreateOptions{Site: "dc1"}); err != nil {
		t.Errorf("Create of the same bundle again = %v; want no error", err)
	}
	if _, err := s.Create(t.Context(), k, dir, CreateOptions{Site: "dc1", VolumeSize: 1 << 20}); err == nil || !strings.Contains(err.Error(), "another bundle") {
		t.Errorf("Create over another bundle = %v; want it refused", err)
	}
	if !maps.EqualFunc(before, readDir(t, dir), bytes.Equal) {
		t.Error("the folder changed")
	}
}

// A folder in which another create was interrupted is used and tidied.
func TestCreateAfterInterruptedOne(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	addSnapshot(t, s, "one", 1, contents())
	want, _ := create(t, s, k, CreateOptions{})
	dir, b := create(t, s, k, CreateOptions{VolumeSize: MinVolumeSize})
	if err := errors.Join(os.Remove(filepath.Join(dir, IndexFile)), os.WriteFile(filepath.Join(dir, ".volume.tmp"), []byte("half"), 0o600)); err != nil || len(b.Volumes) < 2 {
		t.Fatal(err, len(b.Volumes))
	}
	if _, err := s.Create(t.Context(), k, dir, CreateOptions{Site: "dc1"}); err != nil {
		t.Fatal(err)
	}
	if got := readDir(t, dir); !maps.EqualFunc(got, readDir(t, want), bytes.Equal) {
		t.Errorf("the folder has %v; want the new bundle only", slices.Sorted(maps.Keys(got)))
	}
}

func TestDeltaReplayAndRollback(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	one, two := contents(), contents()
	two["pool/d"] = noise(4, 10_000)
	delete(two, "pool/a")
	addSnapshot(t, s, "one", 1, one)
	full, _ := create(t, s, k, CreateOptions{})
	addSnapshot(t, s, "two", 2, two)

	other := testStore(t)
	r, err := importDirs(t, other, k.Public(), false, full)
	if err != nil {
		t.Fatal(err)
	}
	base, err := s.Base(r)
	if err != nil || base != "one" {
		t.Fatalf("Base(receipt) = %q, %v; want one", base, err)
	}
	delta, b := create(t, s, k, CreateOptions{Base: base})
	if b.Blobs != 2 || b.Bytes != b.Snapshot.Size+10_000 {
		t.Errorf("the delta has %d blobs with %d bytes; want the snapshot and pool/d", b.Blobs, b.Bytes)
	}
	if _, err := importDirs(t, testStore(t), k.Public(), false, delta); !errors.Is(err, ErrBase) {
		t.Errorf("Import of a delta without its base = %v; want %v", err, ErrBase)
	}
	if _, err := importDirs(t, other, k.Public(), false, delta); err != nil {
		t.Fatal(err)
	}
	checkServed(t, other, "two", two)

	if _, err := importDirs(t, other, k.Public(), false, full); !errors.Is(err, ErrRollback) {
		t.Errorf("Import of an older bundle = %v; want %v", err, ErrRollback)
	}
	checkServed(t, other, "two", two)
	if _, err := importDirs(t, other, k.Public(), true, full); err != nil {
		t.Errorf("Import with rollback allowed = %v", err)
	}
	checkServed(t, other, "one", one)

	// Another connected side with the same key and the same serial.
	twin := testStore(t)
	addSnapshot(t, twin, "two-b", 2, one)
	forged, _ := create(t, twin, k, CreateOptions{})
	if _, err := importDirs(t, other, k.Public(), true, forged); err == nil || !strings.Contains(err.Error(), "same serial") {
		t.Errorf("Import of another snapshot with the same serial = %v; want it refused", err)
	}
}

// TestEveryByteIsCovered flips each byte of a small bundle, one after the
// other: verify and import refuse, and what was served stays.
func TestEveryByteIsCovered(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	addSnapshot(t, s, "one", 1, map[string][]byte{"old": []byte("old")})
	oldDir, _ := create(t, s, k, CreateOptions{})
	addSnapshot(t, s, "two", 2, map[string][]byte{"a": noise(1, 100), "t": bytes.Repeat([]byte("t"), 500)})
	dir, _ := create(t, s, k, CreateOptions{})
	other := testStore(t)
	if _, err := importDirs(t, other, k.Public(), false, oldDir); err != nil {
		t.Fatal(err)
	}
	for name, good := range readDir(t, dir) {
		path := filepath.Join(dir, name)
		try := func(what string, bad []byte) {
			t.Helper()
			if err := os.WriteFile(path, bad, 0o644); err != nil {
				t.Fatal(err)
			}
			b, err := OpenBundle(k.Public(), dir)
			if err == nil {
				err = b.Verify(t.Context(), nil)
			}
			if err == nil {
				t.Errorf("Verify with %s of %s = nil; want it refused", what, name)
			}
			if _, err := importDirs(t, other, k.Public(), false, dir); err == nil {
				t.Errorf("Import with %s of %s = nil; want it refused", what, name)
			}
		}
		// Importing is slower than looking: every byte in the index and its
		// signature, every third of the others.
		step := 1
		if strings.HasSuffix(name, ".fvol") || name == ReadmeFile || name == SumsFile {
			step = 3
		}
		if testing.Short() {
			step = 17
		}
		for i := 0; i < len(good); i += step {
			bad := bytes.Clone(good)
			bad[i] ^= 0x20
			try("a flipped bit", bad)
			if t.Failed() {
				return
			}
		}
		try("the last byte cut", good[:len(good)-1])
		try("half", good[:len(good)/2])
		try("nothing", nil)
		try("a byte more", append(bytes.Clone(good), '\n'))
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	checkServed(t, other, "one", map[string][]byte{"old": []byte("old")})
	if _, err := importDirs(t, other, k.Public(), false, dir); err != nil {
		t.Errorf("Import of the mended bundle = %v", err)
	}
	if _, err := importDirs(t, testStore(t), testKey(t, "B").Public(), false, dir); !errors.Is(err, ErrSignature) {
		t.Errorf("Import with another key = %v; want %v", err, ErrSignature)
	}
}

func TestVolumesOutOfPlace(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	addSnapshot(t, s, "one", 1, contents())
	dir, b := create(t, s, k, CreateOptions{VolumeSize: 100_000})
	addSnapshot(t, s, "two", 2, map[string][]byte{"x": noise(9, 350_000)})
	otherDir, _ := create(t, s, k, CreateOptions{VolumeSize: 100_000})
	good := readDir(t, dir)
	for _, tt := range []struct {
		name string
		do   func(files map[string][]byte)
		want string
	}{
		{"missing", func(f map[string][]byte) { delete(f, "volume-0003.fvol") }, "volume-0003.fvol"},
		{"swapped", func(f map[string][]byte) {
			f["volume-0001.fvol"], f["volume-0002.fvol"] = f["volume-0002.fvol"], f["volume-0001.fvol"]
		}, "volume-0001.fvol"},
		{"of another bundle, rightly signed", func(f map[string][]byte) { f["volume-0001.fvol"] = readDir(t, otherDir)["volume-0001.fvol"] }, "volume-0001.fvol"},
		{"table of another volume", func(f map[string][]byte) {
			v := b.Volumes[1]
			tail := f[v.File][len(f[v.File])-200:]
			f["volume-0001.fvol"] = append(f["volume-0001.fvol"][:len(f["volume-0001.fvol"])-200], tail...)
		}, "volume-0001.fvol"},
		{"signature of another bundle", func(f map[string][]byte) { f[SignatureFile] = readDir(t, otherDir)[SignatureFile] }, "not good"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string][]byte{}
			for n, data := range good {
				files[n] = bytes.Clone(data)
			}
			tt.do(files)
			bad := t.TempDir()
			for n, data := range files {
				if err := os.WriteFile(filepath.Join(bad, n), data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			other := testStore(t)
			_, err := importDirs(t, other, k.Public(), false, bad)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Import = %v; want an error with %q", err, tt.want)
			}
			if name, err := other.Served(); name != "" || err != nil {
				t.Errorf("Served() = %q, %v; want nothing", name, err)
			}
		})
	}
}

// A package that is swapped, in its volume, for an older one of the same size
// is refused, although both were once signed.
func TestSwapForAnOlderPackage(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	old, fresh := noise(1, 30_000), noise(2, 30_000)
	addSnapshot(t, s, "one", 1, map[string][]byte{"pool/ssh": old, "z": noise(3, 1000)})
	addSnapshot(t, s, "two", 2, map[string][]byte{"pool/ssh": fresh, "z": noise(3, 1000)})
	dir, b := create(t, s, k, CreateOptions{})
	path := filepath.Join(dir, b.Volumes[0].File)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, fresh)
	if at < 0 {
		t.Fatal("the volume does not hold the package as it is")
	}
	copy(data[at:], old)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	other := testStore(t)
	if _, err := importDirs(t, other, k.Public(), false, dir); !errors.Is(err, ErrDamaged) {
		t.Errorf("Import of a bundle with an older package in it = %v; want %v", err, ErrDamaged)
	}
	// A medium that cannot be read right is read again, so parity hides damage,
	// never a change of what is served: the snapshot's digests decide.
	if other.Blobs().Has(blob.FromBytes(old)) {
		t.Error("the older package is in the store")
	}
}

// Volumes may come one by one, in any order, on media of their own.
func TestImportVolumeByVolume(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	addSnapshot(t, s, "one", 1, contents())
	dir, b := create(t, s, k, CreateOptions{VolumeSize: 100_000})
	files, other := readDir(t, dir), testStore(t)
	left := len(b.Volumes)
	for i := len(b.Volumes) - 1; i >= 0; i-- {
		medium := t.TempDir()
		for _, n := range []string{IndexFile, SignatureFile, b.Volumes[i].File} {
			if err := os.WriteFile(filepath.Join(medium, n), files[n], 0o644); err != nil {
				t.Fatal(err)
			}
		}
		left--
		_, err := importDirs(t, other, k.Public(), false, medium)
		var missing *MissingVolumeError
		switch {
		case left == 0 && err != nil:
			t.Fatalf("Import of the last volume = %v", err)
		case left > 0 && (!errors.As(err, &missing) || len(missing.Missing) != left || !strings.Contains(err.Error(), "what the others hold is kept")):
			t.Fatalf("Import = %v; want %d volumes missing, and that the others are kept", err, left)
		}
	}
	checkServed(t, other, "one", contents())
}

// An import that is cut at any place goes on where it was.
func TestImportResumes(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	addSnapshot(t, s, "one", 1, contents())
	dir, _ := create(t, s, k, CreateOptions{VolumeSize: 150_000})
	for cut := int64(1); cut < 500_000; cut += 60_000 {
		other := testStore(t)
		b, err := OpenBundle(k.Public(), dir)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, err = other.Import(ctx, b, ImportOptions{Now: func() time.Time { return testTime }, Progress: func(done, _ int64) {
			if done >= cut {
				cancel()
			}
		}})
		cancel()
		if err == nil {
			continue // it ended before it was cut
		}
		if name, _ := other.Served(); name != "" {
			t.Errorf("cut at %d: served %q; want nothing", cut, name)
		}
		if _, err := importDirs(t, other, k.Public(), false, dir); err != nil {
			t.Errorf("cut at %d: Import again = %v", cut, err)
		}
		checkServed(t, other, "one", contents())
	}
}

func TestCreateRefusesDamagedStore(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	snap := addSnapshot(t, s, "one", 1, contents())
	path := s.Blobs().Path(snap.Trees[0].Files[0].SHA256)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[5] ^= 1
	if err := errors.Join(os.Remove(path), os.WriteFile(path, data, 0o644)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := s.Create(t.Context(), k, dir, CreateOptions{Site: "dc1"}); err == nil || !strings.Contains(err.Error(), "packing big") {
		t.Errorf("Create from a damaged store = %v; want it refused", err)
	}
	if files := readDir(t, dir); len(files) > 0 {
		t.Errorf("Create left %v", slices.Sorted(maps.Keys(files)))
	}
}

func FuzzBundleIndex(f *testing.F) {
	s, k := testStore(f), testKey(f, "A")
	addSnapshot(f, s, "one", 1, contents())
	dir, _ := create(f, s, k, CreateOptions{VolumeSize: 150_000})
	f.Add(readDir(f, dir)[IndexFile])
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseIndex(data)
		if err != nil {
			return
		}
		for _, v := range b.Volumes {
			if filepath.Base(v.File) != v.File || v.Size < minVolume {
				t.Errorf("parseIndex lets volume %+v through", v)
			}
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add([]byte(`{"volume":1,"id":"x","number":1,"frames":[{"blob":"sha256:` + strings.Repeat("a", 64) + `","size":1,"offset":0,"length":1,"stored":1,"encoding":"raw","sha256":"sha256:` + strings.Repeat("a", 64) + `"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tab, err := parseTable(data)
		if err != nil {
			return
		}
		for _, fr := range tab.Frames {
			if fr.Stored > frameSize || fr.Offset+fr.Length > fr.Size || fr.Stored < 0 {
				t.Errorf("parseTable lets frame %+v through", fr)
			}
		}
	})
}

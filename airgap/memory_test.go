package airgap

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/blob"
)

// bigSnapshot keeps a snapshot of n files of size bytes that do not compress.
func bigSnapshot(t testing.TB, s *Store, n, size int) {
	t.Helper()
	snap := Snapshot{Version: snapshotVersion, Name: "big", Serial: 1, Created: testTime,
		Lock: Lock{LockVersion, []LockedMirror{{Name: "m", Format: "files", Spec: Mirror{Name: "m", Format: "files"}, Inputs: blob.FromBytes(nil), Trust: []Trust{}, Items: []Item{}}}}}
	tree := Tree{Mirror: "m", Format: "files"}
	data := noise(1, size)
	for i := range n {
		copy(data, fmt.Sprintf("%020d", i))
		d, _, err := s.Blobs().Put(t.Context(), bytes.NewReader(data), "")
		if err != nil {
			t.Fatal(err)
		}
		tree.Files = append(tree.Files, File{fmt.Sprintf("f%06d", i), int64(size), d})
	}
	snap.Trees = []Tree{tree}
	text, err := marshal(snap)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.add(snap, text); err != nil {
		t.Fatal(err)
	}
}

// peak runs a child and returns the most memory that it had, in MB, as it
// says itself: what wait4 tells counts this process too, from before the exec.
func peak(t testing.TB, args ...string) int64 {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), "AIRGAP_TEST_CHILD="+strings.Join(args, " "))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", args[0], err)
	}
	_, rest, _ := strings.Cut(string(out), "VmHWM:")
	var kb int64
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatalf("%s did not say its memory: %v: %q", args[0], err, out)
	}
	return kb >> 10
}

// TestMemoryIsFlat makes and imports a small bundle and one of eight times its
// size, each in a process of its own, in volumes with parity.
func TestMemoryIsFlat(t *testing.T) {
	if testing.Short() {
		t.Skip("it moves a gigabyte")
	}
	k := testKey(t, "A")
	var created, imported [2]int64
	for i, n := range []int{2, 16} {
		s, other, out := testStore(t), testStore(t), filepath.Join(t.TempDir(), "out")
		bigSnapshot(t, s, n, 40<<20)
		created[i] = peak(t, "create-big", s.Dir(), k.Reveal(), out)
		imported[i] = peak(t, "import", other.Dir(), k.Public().String(), out)
	}
	t.Logf("create: %d MB for 80 MB, %d MB for 640 MB; import: %d MB, %d MB", created[0], created[1], imported[0], imported[1])
	for _, p := range [][2]int64{created, imported} {
		if p[1] > p[0]+25 || p[1] > 130 {
			t.Errorf("memory grows from %d to %d MB with the bundle", p[0], p[1])
		}
	}
}

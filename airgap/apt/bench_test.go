package apt

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
)

// BenchmarkSync mirrors 2,010 signed packages, 572 MB, from loopback: the case
// that other mirror programs are measured with. Run it with -benchtime 1x.
func BenchmarkSync(b *testing.B) {
	const count, size = 2010, 572_000_000 / 2010
	a := newArchive(b)
	r := rand.NewChaCha8([32]byte{1})
	var text strings.Builder
	data := make([]byte, size)
	for i := range count {
		_, _ = r.Read(data)
		p := fmt.Sprintf("pool/p%d.deb", i)
		a.put(p, bytes.Clone(data))
		fmt.Fprintf(&text, "Package: p%d\nVersion: 1\nArchitecture: amd64\nFilename: %s\nSize: %d\nSHA256: %s\n\n", i, p, size, digest(data).Hex())
	}
	packed := pack(b, ".gz", []byte(text.String()))
	a.put("dists/stable/main/binary-amd64/Packages.gz", packed)
	a.sign("stable", releaseText(packed, 0)[:strings.LastIndex(releaseText(packed, 0), "\n ")]+"\n", false)
	m := a.mirror([]string{"stable"})
	for b.Loop() {
		s := syncer(b)
		lock, err := s.Resolve(b.Context(), []airgap.Mirror{m}, airgap.Lock{})
		if err != nil {
			b.Fatal(err)
		}
		snap, _, err := s.Sync(b.Context(), lock, "")
		if err != nil {
			b.Fatal(err)
		}
		n, total := snap.Size()
		b.SetBytes(total)
		if n < count {
			b.Fatalf("%d files; want at least %d", n, count)
		}
	}
}

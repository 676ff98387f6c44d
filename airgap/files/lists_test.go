package files

import (
	"bytes"
	"crypto"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/airgaptest"
	"github.com/fettle-dev/fettle/blob"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// upstream is files on loopback.
type upstream struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string][]byte
}

func newUpstream(t testing.TB) *upstream {
	u := &upstream{files: map[string][]byte{}}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		data, ok := u.files[r.URL.Path]
		u.mu.Unlock()
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) put(path string, data []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files[path] = data
}

// side is a connected side with one mirror, m.
type side struct{ *airgaptest.Side }

func newSide(t testing.TB) *side {
	t.Helper()
	return &side{airgaptest.New(t, now, func(site string) airgap.Format { return Format{Dir: site} })}
}

func newKey(t testing.TB) (*openpgp.Entity, []byte) {
	t.Helper()
	e, err := openpgp.NewEntity("upstream", "", "", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA256, Time: func() time.Time { return now.Add(-time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	return e, []byte(airgaptest.PublicKey(t, e))
}

func detached(t testing.TB, e *openpgp.Entity, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&b, e, bytes.NewReader(data), &packet.Config{Time: func() time.Time { return now.Add(-time.Minute) }}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestChecksums(t *testing.T) {
	key, public := newKey(t)
	evil, _ := newKey(t)
	iso, fw := []byte(strings.Repeat("iso ", 1000)), []byte("firmware")
	list := fmt.Appendf(nil, "# release 12\n%s *debian.iso\n%s  ./fw/a.bin\nSHA256 (old.iso) = %s\n", blob.FromBytes(iso).Hex(), blob.FromBytes(fw).Hex(), strings.Repeat("0", 64))
	inline := func(data []byte) []byte {
		var b bytes.Buffer
		w, err := clearsign.Encode(&b, key.PrivateKey, &packet.Config{Time: func() time.Time { return now.Add(-time.Minute) }})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(data)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return append(b.Bytes(), '\n')
	}
	for _, tt := range []struct {
		name, wrong string
		change      func(u *upstream, w *airgap.WantChecked)
		want        []string
	}{
		{"some", "", nil, []string{"12/SHA256SUMS", "12/SHA256SUMS.asc", "12/debian.iso", "12/fw/a.bin"}},
		{"clear-signed", "", func(u *upstream, w *airgap.WantChecked) {
			u.put("/r/SHA256SUMS", inline(list))
			w.Signature = ""
		}, []string{"12/SHA256SUMS", "12/debian.iso", "12/fw/a.bin"}},
		{"another key", "no trusted key signed it", func(u *upstream, _ *airgap.WantChecked) { u.put("/r/SHA256SUMS.asc", detached(t, evil, list)) }, nil},
		{"another list", "no trusted key signed it", func(u *upstream, _ *airgap.WantChecked) { u.put("/r/SHA256SUMS", append(list, '\n')) }, nil},
		{"another file", "other bytes", func(u *upstream, _ *airgap.WantChecked) { u.put("/r/fw/a.bin", []byte("firmwarf")) }, nil},
		{"a file that is gone", "not at upstream", func(_ *upstream, w *airgap.WantChecked) { w.Files = nil }, nil},
		{"no such file", `no file matches "*.img"`, func(_ *upstream, w *airgap.WantChecked) { w.Files = []string{"*.iso", "*.img"} }, nil},
		{"a name that leaves", "leaves its folder", func(u *upstream, _ *airgap.WantChecked) {
			bad := fmt.Appendf(nil, "%s  ../../x\n", blob.FromBytes(iso).Hex())
			u.put("/r/SHA256SUMS", bad)
			u.put("/r/SHA256SUMS.asc", detached(t, key, bad))
		}, nil},
		{"md5", "no sha256 digests", func(u *upstream, _ *airgap.WantChecked) {
			bad := fmt.Appendf(nil, "%s  x\n", strings.Repeat("a", 32))
			u.put("/r/SHA256SUMS", bad)
			u.put("/r/SHA256SUMS.asc", detached(t, key, bad))
		}, nil},
	} {
		u := newUpstream(t)
		u.put("/r/SHA256SUMS", list)
		u.put("/r/SHA256SUMS.asc", detached(t, key, list))
		u.put("/r/debian.iso", iso)
		u.put("/r/fw/a.bin", fw)
		w := airgap.WantChecked{URL: u.URL + "/r/SHA256SUMS", Signature: u.URL + "/r/SHA256SUMS.asc", Files: []string{"debian.iso", "a.bin"}, Path: "12"}
		if tt.change != nil {
			tt.change(u, &w)
		}
		s := newSide(t)
		if err := os.WriteFile(filepath.Join(s.Site, "up.asc"), public, 0o644); err != nil {
			t.Fatal(err)
		}
		m := airgap.Mirror{Checksums: []airgap.WantChecked{w}, Keyrings: []string{"up.asc"}}
		snap, _, err := s.Mirror(t, m)
		if tt.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("%s: sync = %v; want an error with %q", tt.name, err, tt.wrong)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got []string
		for _, f := range snap.Trees[0].Files {
			got = append(got, f.Path)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: files = %q; want %q", tt.name, got, tt.want)
		}
		if tr := s.Lock.Mirrors[0].Trust[0]; tr.SignedBy == "" || tr.Source != "up.asc" {
			t.Errorf("%s: trust = %+v; want the key", tt.name, tr)
		}
		if _, made, err := s.Mirror(t, m); err != nil || made {
			t.Errorf("%s: sync again = %v, %v; want nothing new", tt.name, made, err)
		}
	}
	s := newSide(t)
	if _, _, err := s.Mirror(t, airgap.Mirror{Checksums: []airgap.WantChecked{{URL: "https://example.org/S"}}}); err == nil || !strings.Contains(err.Error(), "needs keyrings") {
		t.Errorf("sync without keyrings = %v; want an error", err)
	}
}

func FuzzList(f *testing.F) {
	f.Add(strings.Repeat("a", 64) + "  x\nSHA256 (y) = " + strings.Repeat("B", 64) + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		ls, err := parseList(text)
		for _, l := range ls {
			if err == nil && (airgap.CheckPath(l.name) != nil || l.sha256.Validate() != nil) {
				t.Errorf("parseList took %+v", l)
			}
		}
	})
}

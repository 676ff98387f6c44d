// Package airgaptest is what the tests of airgap's formats share: a side of the
// gap that mirrors from an upstream of the test's own and serves what it has.
// Programs do not import it.
package airgaptest

import (
	"bytes"
	"cmp"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// Side is a connected side: a site folder, a store, and a server of it. It has
// one key, always the same.
type Side struct {
	*airgap.Syncer
	Site   string
	Server *httptest.Server
	Lock   airgap.Lock // the last that was resolved
	format string
}

// New makes a side with the format that make gives for its site folder, as of now.
func New(t testing.TB, now time.Time, make func(site string) airgap.Format) *Side {
	t.Helper()
	st, err := airgap.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key, err := airgap.ParseKey("fettle-secret-key-1:" + strings.Repeat("A", 43) + "=")
	if err != nil {
		t.Fatal(err)
	}
	site := t.TempDir()
	f := make(site)
	s := &Side{Site: site, format: f.Name(), Syncer: &airgap.Syncer{Store: st, Formats: []airgap.Format{f}, Key: key, Now: func() time.Time { return now },
		Fetch: &airgap.Fetcher{Blobs: st.Blobs(), Dir: st.Dir(), Tries: 1}}}
	s.Server = httptest.NewServer(airgap.NewHandler(st, nil, f))
	t.Cleanup(s.Server.Close)
	return s
}

// Mirror resolves mirrors and syncs what the lock says after it was written and
// read. A mirror without a name is m.
func (s *Side) Mirror(t testing.TB, ms ...airgap.Mirror) (airgap.Snapshot, bool, error) {
	t.Helper()
	for i := range ms {
		ms[i].Format = s.format
		if ms[i].Name == "" {
			ms[i].Name = "m"
		}
	}
	lock, err := s.Resolve(t.Context(), ms, s.Lock)
	if err != nil {
		return airgap.Snapshot{}, false, err
	}
	data, err := airgap.MarshalLock(lock)
	if err != nil {
		return airgap.Snapshot{}, false, err
	}
	if s.Lock, err = airgap.ParseLock(data); err != nil {
		return airgap.Snapshot{}, false, err
	}
	return s.Sync(t.Context(), s.Lock, "")
}

// Write writes a file of the site folder.
func (s *Side) Write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.Site, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Fetched has curl do what a rehearsal tries on a machine that has no client of
// the format: all must be there, and with another digest in the lock all must
// fail.
func (s *Side) Fetched(t testing.TB) {
	t.Helper()
	NeedTool(t, "curl")
	text := func(t airgap.Trial) string { return cmp.Or(t.Else, t.Command) }
	tries := 0
	for _, lm := range s.Lock.Mirrors {
		for _, f := range s.Formats {
			triers, ok := f.(airgap.Trier)
			if !ok {
				t.Fatalf("format %s has no trials", f.Name())
			}
			request := airgap.ClientRequest{HTTP: s.Server.URL}
			wrong := lm
			wrong.Items = append([]airgap.Item(nil), lm.Items...)
			for i := range wrong.Items {
				wrong.Items[i].SHA256 = blob.FromBytes([]byte("another"))
			}
			bad := triers.Trials(wrong, request)
			for i, trial := range triers.Trials(lm, request) {
				tries++
				if out, err := exec.CommandContext(t.Context(), "sh", "-c", text(trial)).CombinedOutput(); err != nil {
					t.Errorf("%s, fetched: %v\n%s\n%s", trial.Name, err, text(trial), out)
				}
				if err := exec.CommandContext(t.Context(), "sh", "-c", text(bad[i])).Run(); err == nil {
					t.Errorf("%s, fetched and compared with another digest = nil; want it to fail", trial.Name)
				}
			}
		}
	}
	if tries == 0 {
		t.Error("there is nothing to try")
	}
}

// NeedTool skips without programs, except in CI.
func NeedTool(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed", n)
			}
			t.Skipf("%s is not installed", n)
		}
	}
}

// PublicKey is an OpenPGP key as people send it.
func PublicKey(t testing.TB, e *openpgp.Entity) string {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Serialize(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

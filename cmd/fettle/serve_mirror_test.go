package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/files"
	"github.com/fettle-dev/fettle/blob"
	"github.com/fettle-dev/fettle/site"
)

// loopStack listens on loopback, whatever the address.
type loopStack struct {
	stack
	at map[uint16]net.Addr // by the port that was asked for
}

func (l loopStack) Listen(ctx context.Context, _ site.Network, at netip.AddrPort) (net.Listener, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err == nil {
		l.at[at.Port()] = ln.Addr()
	}
	return ln, err
}

// What is mirrored is served to machines over HTTP and, with the site's CA,
// over HTTPS; what comes after the start, too.
func TestServeMirror(t *testing.T) {
	store, err := airgap.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "firmware") }))
	defer upstream.Close()
	ca := serveTestCA(t)
	server := netip.MustParseAddr("127.0.0.1")
	conf, err := serverTLS(ca, nil, []netip.Addr{server}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	st := loopStack{at: map[uint16]net.Addr{}}
	s := &services{mirror: store, stack: st, log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	g, ctx := errgroup.WithContext(ctx)
	if err := s.serveMirror(ctx, g, site.Network{Name: "prov", Server: server}, conf); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	}()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM())
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	get := func(scheme string, port uint16) (int, string) {
		t.Helper()
		r, err := hc.Get(scheme + "://" + st.at[port].String() + "/files/drivers/fw.bin")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(b)
	}
	if code, _ := get("http", mirrorPort); code != http.StatusServiceUnavailable {
		t.Errorf("before anything is mirrored: %d; want %d", code, http.StatusServiceUnavailable)
	}
	if f, err := s.clients(t.Context(), server); err != nil || len(f) != 0 {
		t.Errorf("client files before anything is mirrored = %v, %v; want none", f, err)
	}
	sy := &airgap.Syncer{Store: store, Formats: []airgap.Format{files.Format{}}, Now: time.Now, Fetch: &airgap.Fetcher{Blobs: store.Blobs(), Dir: store.Dir()}}
	lock, err := sy.Resolve(t.Context(), []airgap.Mirror{{Name: "drivers", Format: "files",
		Files: []airgap.WantFile{{URL: upstream.URL + "/fw.bin", SHA256: blob.FromBytes([]byte("firmware"))}}}}, airgap.Lock{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := sy.Sync(t.Context(), lock, ""); err != nil {
		t.Fatal(err)
	}
	for scheme, port := range map[string]uint16{"http": mirrorPort, "https": mirrorTLSPort} {
		if code, body := get(scheme, port); code != http.StatusOK || body != "firmware" {
			t.Errorf("GET over %s = %d %q; want the file", scheme, code, body)
		}
	}
	if f, err := s.clients(t.Context(), server); err != nil || len(f) != 0 {
		t.Errorf("client files of single files = %v, %v; want none: no client is configured for them", f, err)
	}
}

func serveTestCA(t *testing.T) *site.CA {
	t.Helper()
	keys, err := openLabKeys(filepath.Join(t.TempDir(), "keys"), "test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return keys.ca
}

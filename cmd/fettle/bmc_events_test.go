package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// TestDeliverEvents: a lab's BMC reaches listeners on loopback and on the lab's
// fabric, and nothing else.
func TestDeliverEvents(t *testing.T) {
	got := make(chan string, 1)
	ts := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- r.Header.Get("X-Key") + " " + string(b)
	}))
	defer ts.Close()
	var asked []string
	deliver := deliverEvents(labOnly(func(_ context.Context, _, addr string) (net.Conn, error) {
		asked = append(asked, addr)
		return nil, errors.New("not in this lab")
	}))
	to := vbmc.Subscription{Destination: ts.URL, Headers: http.Header{"X-Key": {"k"}}}
	if err := deliver(t.Context(), to, []byte("{}")); err != nil {
		t.Fatalf("deliver to loopback = %v", err)
	}
	if g := <-got; g != "k {}" {
		t.Errorf("delivered %q", g)
	}
	for _, dest := range []string{"http://192.0.2.9:8080/", "http://listener.example.org/"} {
		if err := deliver(t.Context(), vbmc.Subscription{Destination: dest}, nil); err == nil {
			t.Errorf("deliver to %s = nil; want that the fabric refused", dest)
		}
	}
	if len(asked) != 2 || asked[0] != "192.0.2.9:8080" || asked[1] != "listener.example.org:80" {
		t.Errorf("the fabric was asked for %q; want both", asked)
	}
}

// TestEventFile: what is kept is read by its owner alone.
func TestEventFile(t *testing.T) {
	f := eventFile(filepath.Join(t.TempDir(), "bmc", "gpu-01.events.json"))
	if b, err := f.Load(); err != nil || b != nil {
		t.Errorf("Load() of nothing = %q, %v", b, err)
	}
	if err := f.Save([]byte("{}")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(string(f))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := f.Load(); err != nil || string(b) != "{}" || info.Mode().Perm() != 0o600 {
		t.Errorf("Load() = %q, %v, mode %o; want {} and 600", b, err, info.Mode().Perm())
	}
}

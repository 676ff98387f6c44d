package web

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/state"
)

// unable skips a test that this machine cannot run; in CI it fails.
func unable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// A page in a real browser shows what happens after it was loaded, and its
// script is let run by the page's own policy. The browser prints the page when
// all of it is loaded, so the icon is held back until the page was fetched
// three times: at first, for an event that changes it, and for one more, which
// the script asks for a second after it has put the first in place.
func TestPageRefreshesItself(t *testing.T) {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		unable(t, "chromium is not installed: apt-get install chromium")
	}
	if strings.HasPrefix(browser, "/snap/") {
		unable(t, "chromium is a snap, which cannot read this test's folder")
	}
	b := newBench(t)
	b.server.c.Authenticate = func(*http.Request) (Identity, error) { return Identity{Name: "browser", Role: RoleViewer}, nil }
	b.phase(t, "gpu-01", state.Netboot, "")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // a first start reads 300 MB
	defer cancel()

	following, fetched, shown := make(chan struct{}, 1), make(chan struct{}, 10), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/static/icon.svg":
			select {
			case <-shown:
			case <-ctx.Done():
			}
		case r.URL.Query().Get("follow") == "1":
			select {
			case following <- struct{}{}:
			default:
			}
		}
		b.server.ServeHTTP(w, r)
		if r.URL.Path == "/" {
			fetched <- struct{}{}
		}
	}))
	defer srv.Close()
	defer b.server.Close()
	wait := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		case <-ctx.Done():
			return false
		}
	}
	var story sync.WaitGroup
	story.Go(func() {
		if !wait(fetched) || !wait(following) {
			return
		}
		b.phase(t, "gpu-01", state.Failed, "the disk WD-1 is missing")
		if !wait(fetched) {
			return
		}
		b.phase(t, "gpu-01", state.Failed, "the disk WD-1 is missing")
		if wait(fetched) {
			close(shown)
		}
	})
	defer story.Wait()
	defer cancel()
	// Not t.TempDir: its processes write there for a moment after the first one
	// has ended.
	profile, err := os.MkdirTemp("", "fettle-browser-")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir="+profile, "--dump-dom", srv.URL+"/")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = kill, 10*time.Second
	out, err := cmd.Output()
	if cmd.Process != nil {
		_ = kill() // what it left
	}
	for end := time.Now().Add(10 * time.Second); os.RemoveAll(profile) != nil && time.Now().Before(end); {
		<-time.After(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatalf("%s: %v", browser, err)
	}
	for _, want := range []string{"the disk WD-1 is missing", `<span class="pill bad">failed</span>`, `role="status">live<`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the page after the event lacks %q:\n%s", want, out)
		}
	}
}

package bmc

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

const sessionsURI = "/redfish/v1/SessionService/Sessions"

func TestBadBMCs(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before func(w http.ResponseWriter, r *http.Request) bool
		is     error
		errs   []string
	}{
		{"html", func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = io.WriteString(w, "<html>welcome</html>")
			return true
		}, nil, []string{"not a Redfish resource"}},
		{"html error page", func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, "<html>\n<p>later</p></html>")
			return true
		}, nil, []string{"503", "a page of HTML"}},
		{"half an answer", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"Systems":`)
			return true
		}, nil, []string{"not a Redfish resource"}},
		{"redirect elsewhere", func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "https://portal.example.org/", http.StatusFound)
			return true
		}, nil, []string{"redirects to https://portal.example.org/"}},
		{"not found", func(w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true }, ErrUnsupported, []string{"404"}},
		{"empty root", func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = io.WriteString(w, "{}")
			return true
		}, nil, []string{"gpu-01: logging in"}},
		{"no token", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost {
				return false
			}
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, "{}")
			return true
		}, nil, []string{"no session token"}},
		{"login forbidden", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost {
				return false
			}
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"error":{"message":"account locked"}}`)
			return true
		}, ErrPassword, []string{"403", "account locked"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.intercept(tc.before)
			_, err := Open(t.Context(), r.target())
			wantErr(t, err, tc.is, tc.errs...)
			r.noSession(t)
		})
	}
}

func TestSilentBMC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts by the kernel, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tg := Target{Name: "dead", Address: netip.MustParseAddrPort(l.Addr().String()), Timeout: 100 * time.Millisecond}
	start := time.Now()
	_, err = Open(t.Context(), tg)
	wantErr(t, err, context.DeadlineExceeded, "dead", "did not answer within 100ms")
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("Open took %s; want about 100ms", d)
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	_, err = Open(t.Context(), Target{Name: "gone", Address: addr, Timeout: time.Second})
	wantErr(t, err, nil, "gone", "nothing listens at "+addr.String())
	_, err = Open(t.Context(), Target{Name: "empty"})
	wantErr(t, err, nil, "no BMC address")
	_, err = Open(t.Context(), Target{Name: "odd", Address: addr, Protocol: "telnet"})
	wantErr(t, err, nil, `protocol "telnet"`)
}

func TestPlainHTTP(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	_, err := Open(t.Context(), Target{Name: "plain", Address: netip.MustParseAddrPort(s.Listener.Addr().String()), Timeout: time.Second})
	wantErr(t, err, nil, "plain", "TLS")
}

// TestNoWay: who cannot reach a BMC is told what to look at.
func TestNoWay(t *testing.T) {
	for _, why := range []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH} {
		for _, p := range []Protocol{Redfish, IPMI} {
			no := func() error { return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", why)} }
			_, err := Open(t.Context(), Target{Name: "far", Protocol: p, User: "root", Address: netip.MustParseAddrPort("192.0.2.1:443"), Timeout: 10 * time.Second,
				Dial:    func(context.Context, string, string) (net.Conn, error) { return nil, no() },
				DialUDP: func(context.Context, string) (net.Conn, error) { return nil, no() }})
			wantErr(t, err, why, "far", "there is no way to 192.0.2.1:443 from here", "routes")
		}
	}
}

// TestNoTLS: what answers is neither TLS nor HTTP, such as SSH on a port that was
// mistyped.
func TestNoTLS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
			_, _ = c.Read(make([]byte, 1)) // or it would be reset
			c.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	_, err = Open(t.Context(), Target{Name: "mistyped", Address: netip.MustParseAddrPort(l.Addr().String()), Timeout: 10 * time.Second})
	wantErr(t, err, nil, "mistyped", "what answers at "+l.Addr().String()+" does not speak TLS: check the port")
}

func TestOperationTimesOut(t *testing.T) {
	r := newRig(t)
	c := r.open(t)
	r.mem.SetFault(vbmc.Fault{Delay: time.Minute})
	enough := c.t.Timeout
	c.t.Timeout = inVain // of this alone: logging in and out may take their time
	_, err := c.Status(t.Context())
	wantErr(t, err, context.DeadlineExceeded, "reading the status", "did not answer within 300ms")
	c.t.Timeout = enough
	if err := c.Close(t.Context()); err != nil { // sessions do not touch the chassis
		t.Error(err)
	}
	r.noSession(t)
}

func TestChassisFails(t *testing.T) {
	r := newRig(t)
	c := r.open(t)
	r.mem.SetFault(vbmc.Fault{Err: errors.New("boom")})
	_, err := c.Status(t.Context())
	wantErr(t, err, nil, "500", "internal service error")
}

func TestBriefTroubleWhileWaiting(t *testing.T) {
	r := newRig(t)
	c := r.open(t)
	var gone atomic.Int32
	r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodPost {
			gone.Store(3)
			return false
		}
		if gone.Add(-1) >= 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	})
	if err := c.SetPower(t.Context(), PowerOn); err != nil {
		t.Errorf("SetPower(on) = %v; want nil: the BMC was busy for a moment", err)
	}
}

func TestSessionLost(t *testing.T) {
	r := newRig(t)
	c := r.open(t)
	r.intercept(func(w http.ResponseWriter, q *http.Request) bool { q.Header.Del("X-Auth-Token"); return false })
	_, err := c.Power(t.Context())
	wantErr(t, err, ErrSession, "it answered 401")
	if errors.Is(err, ErrPassword) {
		t.Errorf("%v is ErrPassword; a lost session is not", err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("Close() of a lost session = %v; want nil", err)
	}
}

func TestCancelledLoginLeavesNoSession(t *testing.T) {
	for _, when := range []string{"before the answer", "after the answer"} {
		t.Run(when, func(t *testing.T) {
			r := newRig(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
				if q.Method != http.MethodPost || q.URL.Path != sessionsURI {
					return false
				}
				if when == "before the answer" {
					cancel()
				}
				r.bmc.ServeHTTP(w, q)
				if when != "before the answer" {
					cancel()
				}
				return true
			})
			c, err := Open(ctx, r.target())
			if err == nil { // the answer won the race: Close must still log out
				if err := c.Close(ctx); err != nil {
					t.Error(err)
				}
			} else {
				wantErr(t, err, context.Canceled, "given up")
			}
			r.noSession(t)
		})
	}
}

func TestCloseAfterCancel(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Open(ctx, r.target())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = c.Status(ctx)
	wantErr(t, err, context.Canceled)
	if err := c.Close(ctx); err != nil {
		t.Errorf("Close() with an ended context = %v; want nil", err)
	}
	r.noSession(t)
}

func TestPrecondition(t *testing.T) {
	r := newRig(t)
	c := r.open(t)
	first := true
	r.intercept(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodPatch {
			if q.Header.Get("If-Match") == "" {
				t.Error("PATCH without If-Match")
			}
			if first { // somebody else was faster
				first = false
				if err := r.mem.SetIdentify(q.Context(), true); err != nil {
					t.Error(err)
				}
			}
		}
		return false
	})
	if err := c.SetNextBoot(t.Context(), NextBoot{Device: BootPXE, UEFI: true}); err != nil {
		t.Errorf("SetNextBoot() = %v; want nil after a second try", err)
	}
}

func TestHostileLinks(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"/redfish/v1/Systems/1", "/redfish/v1/Systems/1"},
		{"https://10.0.0.1/redfish/v1/x?y=1", "/redfish/v1/x?y=1"},
		{"//evil.example.org/x", "/x"},
		{"@evil.example.org/", ""},
		{"", ""},
		{"%zz", ""},
	} {
		if got := localPath(tc.in); got != tc.want {
			t.Errorf("localPath(%q) = %q; want %q", tc.in, got, tc.want)
		}
	}
}

func TestNoExpand(t *testing.T) {
	r := newRig(t)
	var refused atomic.Int32
	r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
		if strings.Contains(q.URL.RawQuery, "expand") {
			refused.Add(1)
			w.WriteHeader(http.StatusNotImplemented)
			return true
		}
		return false
	})
	inv, err := r.open(t).Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(inv.GPUs) != 1 || len(inv.NICs) != 2 || len(inv.Drives) != 1 {
		t.Errorf("Inventory() without $expand = %+v", inv)
	}
	if n := refused.Load(); n != 1 {
		t.Errorf("$expand was tried %d times; want once", n)
	}
}

package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
)

// TestSameTaskAgain: a task that was done is reported again and not done again.
func TestSameTaskAgain(t *testing.T) {
	img := makeImage(t)
	s := newFakeServer(t, img)
	s.tasks = []wire.Task{s.deploy("t1")} // for ever
	d := newFileDisk(t, diskBytes)
	fs := &dirFS{dir: t.TempDir()}
	runAgent(t, s, disksOf(d), fs, nil)
	for range 3 {
		if rep := s.final(t); rep.Step != wire.StepDone || rep.Task != "t1" {
			t.Fatalf("final report = %+v; want done of t1", rep)
		}
	}
	if fs.unmounts != 1 {
		t.Errorf("the task was done %d times; want once", fs.unmounts)
	}
}

// TestInventoryAgain: 409 makes the agent introduce itself again.
func TestInventoryAgain(t *testing.T) {
	s := newFakeServer(t, nil)
	again := make(chan struct{})
	var once sync.Once
	s.fault = func(n int, w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == wire.PathTask && n == 2:
			http.Error(w, "who are you?", http.StatusConflict)
			return true
		case r.URL.Path == wire.PathInventory && n == 2:
			once.Do(func() { close(again) })
		}
		return false
	}
	runAgent(t, s, &oneDisk{}, nil, nil)
	select {
	case <-again:
	case <-time.After(10 * time.Second):
		t.Error("no second inventory within 10 s of a 409")
	}
}

// TestEnded: 410 to a report stops the deployment before it is done.
func TestEnded(t *testing.T) {
	img := makeImage(t)
	s := newFakeServer(t, img)
	task := s.deploy("t1")
	s.tasks = []wire.Task{task, {Kind: wire.TaskWait}}
	asked := make(chan struct{}, 100)
	s.fault = func(n int, w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case wire.PathReport:
			w.WriteHeader(http.StatusGone)
			return true
		case "/disk.zst":
			if n > 1 {
				<-r.Context().Done() // never gets further
				return true
			}
		case wire.PathTask:
			asked <- struct{}{}
		}
		return false
	}
	d := newFileDisk(t, diskBytes)
	runAgent(t, s, disksOf(d), &dirFS{dir: t.TempDir()}, nil)
	for range 2 { // the second means that the deployment has ended
		select {
		case <-asked:
		case <-time.After(10 * time.Second):
			t.Fatal("the agent did not ask for another task within 10 s of 410")
		}
	}
}

type fakePower struct{ did chan string }

func (p fakePower) Reboot() error   { p.did <- "reboot"; return nil }
func (p fakePower) PowerOff() error { p.did <- "poweroff"; return errors.New("no ACPI") }

func TestPowerTasks(t *testing.T) {
	for _, c := range []struct {
		kind wire.TaskKind
		want string
	}{{wire.TaskReboot, "reboot"}, {wire.TaskPowerOff, "poweroff"}} {
		t.Run(string(c.kind), func(t *testing.T) {
			s := newFakeServer(t, nil)
			s.tasks = []wire.Task{{ID: "t", Kind: c.kind}}
			p := fakePower{make(chan string, 10)}
			runAgent(t, s, &oneDisk{}, nil, func(cfg *Config) { cfg.Power = p })
			select {
			case got := <-p.did:
				if got != c.want {
					t.Errorf("did %s; want %s", got, c.want)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("nothing within 10 s")
			}
			if c.kind == wire.TaskPowerOff { // which failed
				if rep := s.final(t); rep.Step != wire.StepFailed || !strings.Contains(rep.Error, "use the BMC") {
					t.Errorf("final report = %+v; want failed, with advice", rep)
				}
			}
		})
	}
}

func TestUnknownTask(t *testing.T) {
	s := newFakeServer(t, nil)
	s.tasks = []wire.Task{{ID: "t", Kind: "dance"}}
	runAgent(t, s, &oneDisk{}, nil, nil)
	if rep := s.final(t); rep.Step != wire.StepFailed || !strings.Contains(rep.Error, `"dance"`) {
		t.Errorf("final report = %+v; want failed, naming the kind", rep)
	}
}

type fakeMemory struct {
	task, words string
	mu          sync.Mutex
	begun       []string
}

func (m *fakeMemory) Crashed() (string, string) { return m.task, m.words }
func (m *fakeMemory) Begin(t string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begun = append(m.begun, t)
	return nil
}

// TestCrash: the task that killed the last process is reported as failed, and
// not tried again when the server gives it again.
func TestCrash(t *testing.T) {
	img := makeImage(t)
	s := newFakeServer(t, img)
	s.tasks = []wire.Task{s.deploy("t1")}
	d := newFileDisk(t, diskBytes)
	before := sumOf(t, d.f.Name())
	runAgent(t, s, disksOf(d), &dirFS{dir: t.TempDir()}, func(c *Config) { c.Memory = &fakeMemory{task: "t1", words: "panic: out of luck"} })
	for range 2 {
		if rep := s.final(t); rep.Step != wire.StepFailed || !strings.Contains(rep.Error, "panic: out of luck") {
			t.Fatalf("final report = %+v; want failed with the panic", rep)
		}
	}
	if sumOf(t, d.f.Name()) != before {
		t.Error("the disk was written; want it untouched")
	}
}

// TestTokenStaysHome: another server than the command line's gets no token,
// and no log shows it.
func TestTokenStaysHome(t *testing.T) {
	img := makeImage(t)
	s := newFakeServer(t, img)
	other := newFakeServer(t, img)
	task := s.deploy("t1")
	task.Deploy.DataURL = other.URL + "/disk.zst"
	s.tasks = []wire.Task{task}
	d := newFileDisk(t, diskBytes)
	var log lockedBuffer
	runAgent(t, s, disksOf(d), &dirFS{dir: t.TempDir()}, func(c *Config) {
		c.Token = "sekret-token"
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	if rep := s.final(t); rep.Step != wire.StepDone {
		t.Fatalf("final report = %+v; want done", rep)
	}
	other.mu.Lock()
	defer other.mu.Unlock()
	for _, a := range other.auth {
		if a != "" {
			t.Errorf("another server got Authorization %q; want none", a)
		}
	}
	if strings.Contains(log.String(), "sekret") {
		t.Errorf("the log shows the token: %s", log.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type fakeClock struct {
	mu  sync.Mutex
	off time.Duration
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *fakeClock) Set(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = time.Until(t)
	return nil
}

// selfSigned is a certificate that is its own CA.
func selfSigned(t *testing.T, from, to time.Time) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "site"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestClockAndTLS(t *testing.T) {
	now := time.Now()
	good, goodCA := selfSigned(t, now.Add(-time.Hour), now.Add(time.Hour))
	expired, expiredCA := selfSigned(t, now.Add(-2*time.Hour), now.Add(-time.Hour))
	_, otherCA := selfSigned(t, now.Add(-time.Hour), now.Add(time.Hour))
	future, _ := selfSigned(t, now.Add(100*time.Hour), now.Add(200*time.Hour))
	for _, c := range []struct {
		name  string
		cert  tls.Certificate
		ca    []byte
		off   time.Duration // of the machine's clock
		want  string        // part of the error
		moved bool          // whether the clock is right afterwards
	}{
		{"right clock", good, goodCA, 0, "", true},
		{"clock in 1970", good, goodCA, -50 * 365 * 24 * time.Hour, "", true},
		{"clock an hour behind, certificate valid", good, goodCA, -30 * time.Minute, "", true},
		{"clock ahead: never moved back", good, goodCA, 30 * time.Minute, "", false},
		{"clock ahead of the certificate", good, goodCA, 48 * time.Hour, "set the clock in the firmware", false},
		{"expired certificate", expired, expiredCA, 0, "renew the certificate", true},
		{"another CA", good, otherCA, 0, "unknown authority", true},
		{"another CA's certificate from the future moves nothing", future, goodCA, 0, "certificate", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{c.cert}}
			srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
			srv.StartTLS()
			defer srv.Close()
			u, err := url.Parse(srv.URL)
			must(t, err)
			clock := &fakeClock{off: c.off}
			cl, err := newClient(u, "tok", c.ca, clock, slog.New(slog.DiscardHandler))
			must(t, err)
			err = cl.call(context.Background(), "/x", struct{}{}, nil)
			if c.want == "" && err != nil {
				t.Errorf("call = %v; want nil", err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("call = %v; want an error with %q", err, c.want)
			}
			off := time.Until(clock.Now()).Abs()
			if right := off < time.Minute; right != c.moved {
				t.Errorf("the clock is off by %v; want right = %v", off, c.moved)
			}
		})
	}
}

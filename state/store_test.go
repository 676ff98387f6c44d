package state

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// helperEnv makes the test binary a process that appends to the directory
// named in it, and prints each acknowledged Seq.
const helperEnv = "FETTLE_STATE_TEST_APPENDER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperEnv); dir != "" {
		os.Exit(appender(dir))
	}
	if dir := os.Getenv(leaserEnv); dir != "" {
		os.Exit(leaser(dir))
	}
	os.Exit(m.Run())
}

// clock starts at a fixed time, and moves when told.
type clock struct{ t time.Time }

func newClock() *clock               { return &clock{time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)} }
func (c *clock) now() time.Time      { return c.t }
func (c *clock) add(d time.Duration) { c.t = c.t.Add(d) }

// unable skips a test that this machine cannot run; in CI it fails.
func unable(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func openConfig(t testing.TB, c Config) *Store {
	t.Helper()
	c.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatalf("Open(%s%v) = %v; want nil", c.Dir, c.Endpoints, err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	})
	return s
}

// leftDir is a folder for an etcd that gives up: what is left of it may still
// make a file there while the folder is removed, which t.TempDir fails of.
func leftDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fettle-state-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); ; <-time.After(20 * time.Millisecond) {
			err := os.RemoveAll(dir)
			if err == nil {
				return
			}
			if time.Now().After(end) {
				t.Errorf("removing the test's folder: %v", err)
				return
			}
		}
	})
	return dir
}

func openTest(t testing.TB) *Store { return openConfig(t, Config{Dir: t.TempDir()}) }

// startCluster runs an etcd that listens on loopback, like one that fettle is
// given, and returns how to reach it.
func startCluster(t testing.TB) (endpoint string, conf *tls.Config) {
	t.Helper()
	died := newFatal(func(error) {})
	c := memberConfig(t.TempDir(), slog.New(slog.NewTextHandler(t.Output(), nil)), died)
	listen := url.URL{Scheme: "https", Host: "127.0.0.1:0"}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{listen}, []url.URL{listen}
	c.ClientAutoTLS = true
	c.MaxRequestBytes = embed.DefaultMaxRequestBytes // as a cluster has it by default
	t.Cleanup(died.left.leave)
	e, err := startEtcd(t.Context(), c, died)
	if err != nil {
		t.Fatalf("starting etcd: %v", err)
	}
	t.Cleanup(e.Close)
	pem, err := os.ReadFile(filepath.Join(c.Dir, "fixtures", "client", "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatal("etcd made no certificate")
	}
	return "https://" + e.Clients[0].Addr().String(), &tls.Config{RootCAs: roots}
}

func data(t testing.TB, v any) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func phaseEvent(t testing.TB, machine string, p Phase, reason string) Event {
	return Event{Machine: machine, Kind: KindPhase, Text: "is " + string(p), Data: data(t, PhaseData{p, reason})}
}

func mustAppend(t testing.TB, s *Store, events ...Event) int64 {
	t.Helper()
	seq, err := s.Append(t.Context(), events...)
	if err != nil {
		t.Fatalf("Append(%d events) = %v; want nil", len(events), err)
	}
	return seq
}

// TestLeftBehindIsSilent has an etcd speak that was closed: what is left of one
// that gave up does, seconds later.
func TestLeftBehindIsSilent(t *testing.T) {
	var log strings.Builder
	s, err := Open(t.Context(), Config{Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	etcd := zapTo(s.log, s.session.Load().member.died)
	part := etcd.With(zap.String("part", "raft"))
	part.Warn("in time")
	if err := s.Close(); err != nil {
		t.Errorf("Close() = %v; want nil", err)
	}
	etcd.Warn("too late")
	part.Warn("too late")
	if got := log.String(); strings.Count(got, "in time") != 1 || strings.Contains(got, "too late") {
		t.Errorf("logged %q; want what was said in time and nothing after", got)
	}
}

func TestOpenIsQuickAndQuiet(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long-", 30), "state") // beyond a unix socket's path
	quickest := time.Hour
	for _, step := range []string{"new", "existing", "used"} {
		var log strings.Builder
		start := time.Now()
		s, err := Open(t.Context(), Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatalf("Open of a %s directory = %v; want nil", step, err)
		}
		quickest = min(quickest, time.Since(start))
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("second Close() = %v; want nil", err)
		}
		for line := range strings.Lines(log.String()) {
			// Of the disk and of the processor it may complain, when others keep them busy.
			if !strings.Contains(line, "slow fdatasync") && !strings.Contains(line, "took too long") && !strings.Contains(line, "cannot campaign") {
				t.Errorf("Open and Close of a %s directory logged %swant nothing", step, line)
			}
		}
		if _, err := s.Append(t.Context(), Event{Kind: "test"}); !errors.Is(err, ErrClosed) {
			t.Errorf("Append after Close = %v; want ErrClosed", err)
		}
		if _, err := s.Statuses(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Statuses after Close = %v; want ErrClosed", err)
		}
	}
	// Nobody waits for elections or sockets; once of three times this machine
	// should have had nothing else to do.
	if quickest > 2*time.Second {
		t.Errorf("Open took %s at best; want under 2s", quickest)
	}
}

func TestOpenRefuses(t *testing.T) {
	broken := func(t *testing.T, glob string, spoil func([]byte)) string {
		dir := leftDir(t)
		s := openConfig(t, Config{Dir: dir})
		for range 50 {
			mustAppend(t, s, phaseEvent(t, "gpu-01", Agent, ""))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		names, err := filepath.Glob(filepath.Join(dir, glob))
		if err != nil || len(names) == 0 {
			t.Fatalf("Glob(%s) = %v, %v", glob, names, err)
		}
		b, err := os.ReadFile(names[0])
		if err != nil {
			t.Fatal(err)
		}
		spoil(b)
		if err := os.WriteFile(names[0], b, 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	tests := []struct {
		name string
		dir  func(t *testing.T) string
		want string
	}{
		{"a file", func(t *testing.T) string {
			f := filepath.Join(t.TempDir(), "state")
			if err := os.WriteFile(f, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return f
		}, "cannot be made"},
		{"not writable", func(*testing.T) string { return "/proc/self/task" }, "is not writable"},
		{"no database in the database file", func(t *testing.T) string {
			return broken(t, "etcd/member/snap/db", func(b []byte) {
				for i := range b {
					b[i] = 0x5a
				}
			})
		}, "etcd cannot open"},
		{"garbage in the write-ahead log", func(t *testing.T) string {
			return broken(t, "etcd/member/wal/*-*.wal", func(b []byte) {
				for i := range 4096 {
					b[i] ^= 0x5a
				}
			})
		}, "restore it from a backup"},
		{"a changed byte in the write-ahead log", func(t *testing.T) string {
			return broken(t, "etcd/member/wal/*-*.wal", func(b []byte) { b[3000] ^= 0x01 })
		}, "restore it from a backup"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := tt.dir(t)
			s, err := Open(t.Context(), Config{Dir: dir})
			if err == nil {
				t.Fatalf("Open(%s) = nil; want an error: closing gave %v", dir, s.Close())
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "state directory "+dir) {
				t.Errorf("Open = %v; want it to name %s and say %q", err, dir, tt.want)
			}
			t.Log(err)
		})
	}
	if _, err := Open(t.Context(), Config{}); err == nil {
		t.Error("Open with neither directory nor endpoints = nil; want an error")
	}
}

func TestOpenDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	s := openConfig(t, Config{Dir: dir})
	_, err := Open(t.Context(), Config{Dir: dir})
	if !errors.Is(err, ErrDirInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second Open in this process = %v; want ErrDirInUse, naming %s", err, dir)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"="+dir)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), ErrDirInUse.Error()) || !strings.Contains(string(out), dir) ||
		!strings.Contains(string(out), strconv.Itoa(os.Getpid())) {
		t.Errorf("Open in a second process = %v: %s; want it refused, naming %s and process %d", err, out, dir, os.Getpid())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openConfig(t, Config{Dir: dir}) // free again
}

// appender is the process of TestSurvivesKill.
func appender(dir string) int {
	ctx := context.Background()
	s, err := Open(ctx, Config{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for i := 0; ; i++ {
		seq, err := s.Append(ctx, Event{Machine: fmt.Sprintf("gpu-%02d", i%7), Kind: "test", Text: strconv.Itoa(i)})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(seq)
	}
}

func TestSurvivesKill(t *testing.T) {
	dir := leftDir(t)
	want := int64(0)
	for round := range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), helperEnv+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		n := 0
		for ; lines.Scan(); n++ {
			seq, err := strconv.ParseInt(lines.Text(), 10, 64)
			if err != nil || seq <= want {
				t.Fatalf("the process acknowledged %q after %d; want a greater number", lines.Text(), want)
			}
			want = seq
			if n == 150 { // mid-write; what is in the pipe is read too
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the killed process ended well; want killed")
		}
		if n < 150 {
			t.Fatalf("the process acknowledged %d events; want at least 150", n)
		}

		s := openConfig(t, Config{Dir: dir})
		events, err := s.Events(t.Context(), Query{})
		if err != nil {
			t.Fatalf("Events after kill %d = %v; want nil", round, err)
		}
		if int64(len(events)) < want {
			t.Fatalf("%d events after kill %d; want the %d acknowledged", len(events), round, want)
		}
		for i, e := range events {
			if e.Seq != int64(i+1) {
				t.Fatalf("event %d has Seq %d; want %d", i, e.Seq, i+1)
			}
		}
		want = int64(len(events)) // one may be written and not acknowledged
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d acknowledged events survived 3 kills", want)
}

// smallDisk mounts a file system of its own.
func smallDisk(t *testing.T, bytes int64) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		unable(t, "a small file system cannot be mounted here: "+err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return dir
}

func TestFullDisk(t *testing.T) {
	t.Run("at the start", func(t *testing.T) {
		dir := smallDisk(t, 64<<20)
		_, err := Open(t.Context(), Config{Dir: dir})
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), dir) {
			t.Errorf("Open on a full disk = %v; want ENOSPC naming %s", err, dir)
		}
		t.Log(err)
	})
	t.Run("while running, and free again", func(t *testing.T) {
		dir := smallDisk(t, 256<<20)
		s := openConfig(t, Config{Dir: dir})
		other := filepath.Join(dir, "other")
		// Less than the reserve stays, whether etcd has its second log of 64 MB
		// already or not, which it makes beside.
		if err := os.WriteFile(other, make([]byte, 108<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		l := Lease{Network: "boot", Addr: netip.MustParseAddr("192.0.2.10"), Granted: time.Now(), Expires: time.Now().Add(time.Hour)}
		if _, err := s.Append(t.Context(), Event{Kind: "test", Text: "x"}); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), dir) {
			t.Errorf("Append on a full disk = %v; want ENOSPC naming %s", err, dir)
		}
		if err := s.PutLease(t.Context(), l); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), dir) {
			t.Errorf("PutLease on a full disk = %v; want ENOSPC naming %s", err, dir)
		}
		if err := os.Remove(other); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Append(t.Context(), Event{Kind: "test", Text: "x"}); err != nil {
			t.Errorf("Append with space again = %v", err)
		}
		if err := s.PutLease(t.Context(), l); err != nil {
			t.Errorf("PutLease with space again = %v", err)
		}
	})
	t.Run("filled faster than is seen", func(t *testing.T) {
		dir := smallDisk(t, 256<<20)
		s, err := Open(t.Context(), Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		s.free = nil
		big := Event{Machine: "gpu-01", Kind: "test", Text: strings.Repeat("x", 256<<10)}
		acknowledged := 0
		for range 2000 {
			if _, err = s.Append(t.Context(), big); err != nil {
				break
			}
			acknowledged++
		}
		if err == nil {
			t.Fatal("2000 events of 256 KiB fit 256 MiB; want an error")
		}
		if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("Append on a full disk = %v; want it to name %s and the lack of space", err, dir)
		}
		t.Log(err)
		if _, err := s.Events(t.Context(), Query{Limit: 1}); err == nil {
			t.Error("Events after etcd gave up = nil; want its reason")
		}
		start := time.Now()
		_ = s.Close() // its error is that etcd gave up
		if d := time.Since(start); d > closeTimeout+5*time.Second {
			t.Errorf("Close after etcd gave up took %s; want it bounded", d)
		}
		t.Logf("%d events were acknowledged", acknowledged)
	})
}

func TestClusterThatDoesNotAnswer(t *testing.T) {
	_, err := Open(t.Context(), Config{Endpoints: []string{"http://127.0.0.1:1"}})
	if err == nil || !strings.Contains(err.Error(), "http://127.0.0.1:1") || !strings.Contains(err.Error(), "check the endpoints") {
		t.Errorf("Open of a dead cluster = %v; want it to name the endpoint and what to check", err)
	}
}

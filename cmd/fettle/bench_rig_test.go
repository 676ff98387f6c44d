//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/pxe/load"
)

// The wire of the benchmarks, in namespaces of their own: one veth pair, the
// server on one end and on one processor, its clients on the others.
const (
	benchServer   = "198.18.0.1"
	benchClient   = "198.18.0.2"
	benchRelay    = "10.255.0.2" // whose clients are those of the exchanges
	benchMachines = "198.18.128.0/17"
	benchLoadEnv  = "FETTLE_BENCH_LOAD"
	benchSmall    = 1 << 20
	benchBig      = 40 << 20
)

const benchSiteYAML = `name: bench
domain: bench.example.org
networks:
  - name: wire
    purpose: boot
    prefix: 198.18.0.0/16
    server: 198.18.0.1
    pools:
      - from: 198.18.128.1
        to: 198.18.255.254
  - name: far
    purpose: boot
    prefix: 10.0.0.0/8
    server: 198.18.0.1
    relays: [10.255.0.2]
    pools:
      - from: 10.0.0.1
        to: 10.15.255.254
policy:
  unknown-machines: inspect
`

// benchRig is two namespaces, and the files that are fetched.
type benchRig struct {
	t        *testing.T
	srv, cli *rackNS
	dir, bin string
	env      []string
	tftp     string // folder for the peers
	serverOn string // processors of the server, as taskset has them
	loadOn   string
}

func newBenchRig(t *testing.T) *benchRig {
	t.Helper()
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	b := &benchRig{t: t, srv: newRackNS(t), cli: newRackNS(t), serverOn: "0", loadOn: "1"}
	if n := runtime.NumCPU(); n > 2 {
		b.loadOn = fmt.Sprintf("1-%d", n-1)
	}
	// Beside the repository: the disk that the state's syncs are measured on.
	if b.dir, err = os.MkdirTemp("/tmp", "fb"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(b.dir) })
	if err := os.Chmod(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.bin = e2eBinary(t, repo, b.dir)
	b.env = append(os.Environ(), "HOME="+b.dir, "XDG_CONFIG_HOME="+b.path("config"), "FETTLE_STORE="+b.path("store"), "FETTLE_SITE="+b.path("site"), "FETTLE_SERVER=", "FETTLE_LAB=",
		"PATH="+os.Getenv("PATH")+":"+filepath.Join(repo, ".cache/peers/usr/sbin"))
	b.srv.run(t, "ip", "link", "add", "srv0", "type", "veth", "peer", "name", "cli0", "netns", b.cli.name)
	b.srv.run(t, "ip", "addr", "add", benchServer+"/16", "dev", "srv0")
	b.srv.run(t, "ip", "link", "set", "srv0", "up")
	b.srv.run(t, "ip", "route", "add", "10.0.0.0/8", "dev", "srv0")
	b.cli.run(t, "ip", "addr", "add", benchClient+"/16", "dev", "cli0")
	b.cli.run(t, "ip", "addr", "add", benchRelay+"/8", "dev", "cli0")
	b.cli.run(t, "ip", "link", "set", "cli0", "up")
	b.files()
	b.command("init", b.path("site"))
	if err := os.WriteFile(b.path("site/site.yaml"), []byte(benchSiteYAML), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, example := range []string{"site/machines", "site/profiles"} {
		if err := os.RemoveAll(b.path(example)); err != nil {
			t.Fatal(err)
		}
	}
	b.command("site", "check")
	return b
}

func (b *benchRig) path(name string) string { return filepath.Join(b.dir, name) }

func (b *benchRig) command(args ...string) {
	b.t.Helper()
	cmd := exec.Command(b.bin, args...)
	cmd.Env = b.env
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("fettle %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// files makes what is fetched, as releases and as files for the peers.
func (b *benchRig) files() {
	b.t.Helper()
	b.tftp = b.path("www")
	if err := os.MkdirAll(b.tftp, 0o755); err != nil {
		b.t.Fatal(err)
	}
	st, err := images.OpenStore(b.path("store"))
	if err != nil {
		b.t.Fatal(err)
	}
	add := func(name string, kind images.Kind, files map[string]int) {
		r := images.Release{Name: name, Kind: kind, Arch: "amd64", Created: time.Now()}
		for file, size := range files {
			data := make([]byte, size)
			rng := rand.NewChaCha8([32]byte{byte(len(file)), byte(size)})
			rng.Read(data)
			d, n, err := st.Blobs().Put(b.t.Context(), bytes.NewReader(data), "")
			if err != nil {
				b.t.Fatal(err)
			}
			r.Files = append(r.Files, images.File{Name: file, Digest: d, Size: n})
			if err := os.WriteFile(filepath.Join(b.tftp, file), data, 0o644); err != nil {
				b.t.Fatal(err)
			}
		}
		r.Inputs = r.Files[0].Digest
		if err := st.Add(b.t.Context(), r); err != nil {
			b.t.Fatal(err)
		}
	}
	add("loaders", images.KindLoaders, map[string]int{"small": benchSmall, "big": benchBig, "undionly.kpxe": benchSmall, "snponly.efi": benchSmall, "ipxe.efi": benchSmall})
	add("agent", images.KindAgent, map[string]int{images.FileKernel: 10_000_000, images.FileInitrd: 40_000_000})
}

// benchPeer is a server that is measured.
type benchPeer struct {
	name  string
	tool  string
	start func(b *benchRig, dir string) [][]string // command lines, in the server's namespace
}

// benchProc is a running server: one or more processes.
type benchProc struct {
	b    *benchRig
	name string
	cmds []*exec.Cmd
	logs []*lockedBuffer
	ends []chan error
}

// begin starts a server; nil when it is not installed.
func (b *benchRig) begin(p benchPeer) *benchProc {
	b.t.Helper()
	dir, err := os.MkdirTemp(b.dir, "run")
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		b.t.Fatal(err)
	}
	pr := &benchProc{b: b, name: p.name}
	for _, args := range p.start(b, dir) {
		cmd := b.srv.command(context.Background(), append([]string{"taskset", "-c", b.serverOn}, args...)...)
		log := &lockedBuffer{}
		cmd.Env, cmd.Stdout, cmd.Stderr = b.env, log, log
		end := make(chan error, 1)
		started := make(chan error, 1)
		go func() { // Pdeathsig goes by the thread that forked
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			err := cmd.Start()
			started <- err
			if err == nil {
				end <- cmd.Wait()
			}
		}()
		if err := <-started; err != nil {
			b.t.Fatal(err)
		}
		pr.cmds, pr.logs, pr.ends = append(pr.cmds, cmd), append(pr.logs, log), append(pr.ends, end)
	}
	return pr
}

// have reports whether a peer's programs are there.
func (b *benchRig) have(tool string) bool {
	for name := range strings.SplitSeq(tool, ",") {
		found := false
		for _, e := range b.env {
			if path, ok := strings.CutPrefix(e, "PATH="); ok {
				found = false
				for dir := range strings.SplitSeq(path, ":") {
					_, err := os.Stat(filepath.Join(dir, name))
					found = found || err == nil
				}
			}
		}
		if !found && name != "" {
			return false
		}
	}
	return true
}

// stop kills the server's processes, a parent before its children: it would
// start them again.
func (p *benchProc) stop() {
	for i, c := range p.cmds {
		children := p.children(c.Process.Pid)
		c.Process.Kill()
		for _, pid := range children {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		<-p.ends[i]
	}
}

func (p *benchProc) text() string {
	s := ""
	for _, l := range p.logs {
		t := l.String()
		s += t[max(0, len(t)-2000):]
	}
	return s
}

// children are the processes below one.
func (p *benchProc) children(pid int) (out []int) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			continue
		}
		for _, w := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(w); err == nil {
				out = append(append(out, n), p.children(n)...)
			}
		}
	}
	return out
}

// cpu is what the server's processes have used, from /proc, with what those of
// their children used that have ended.
func (p *benchProc) cpu() time.Duration {
	ticks := 0
	for _, c := range p.cmds {
		for _, pid := range append(p.children(c.Process.Pid), c.Process.Pid) {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil {
				continue
			}
			_, rest, _ := strings.Cut(string(b), ") ")
			f := strings.Fields(rest)
			for _, i := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime
				n, err := strconv.Atoi(f[i])
				if err == nil {
					ticks += n
				}
			}
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// memory is the resident memory of the server's processes, in bytes: what they
// hold now, and the most they held.
func (p *benchProc) memory() (now, most int64) {
	for _, c := range p.cmds {
		for _, pid := range append(p.children(c.Process.Pid), c.Process.Pid) {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(b)) {
				f := strings.Fields(line)
				if len(f) != 3 {
					continue
				}
				n, err := strconv.ParseInt(f[1], 10, 64)
				switch {
				case err != nil:
				case f[0] == "VmRSS:":
					now += n << 10
				case f[0] == "VmHWM:":
					most += n << 10
				}
			}
		}
	}
	return now, most
}

// benchLoad is what a process of clients does: TestBenchLoad.
type benchLoad struct {
	Kind    string        `json:"kind"` // exchanges, burst, tftp, http
	Clients int           `json:"clients"`
	For     time.Duration `json:"for"`
	Series  byte          `json:"series"`
	Name    string        `json:"name"`
	Window  int           `json:"window"`
	Loss    float64       `json:"loss"`
	Wait    time.Duration `json:"wait"` // of a TFTP client, before it asks again
}

type benchLoadResult struct {
	Exchanges load.ExchangeResult `json:"exchanges"`
	Lost      int                 `json:"lost"`
	Time      load.Spread         `json:"time"`
	Fetched   load.FetchResult    `json:"fetched"`
	Error     string              `json:"error"`
}

// TestBenchLoad is a process of clients, for TestBenchPXE.
func TestBenchLoad(t *testing.T) {
	text := os.Getenv(benchLoadEnv)
	if text == "" {
		t.Skip("a part of TestBenchPXE")
	}
	var l benchLoad
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		t.Fatal(err)
	}
	r, err := l.run(t.Context())
	if err != nil {
		r.Error = err.Error()
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nRESULT %s\n", b)
}

func (l benchLoad) run(ctx context.Context) (r benchLoadResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.For+90*time.Second)
	defer cancel()
	server := netip.MustParseAddr(benchServer)
	x := load.ExchangeConfig{Server: netip.AddrPortFrom(server, 67), Relay: netip.MustParseAddr(benchRelay), Open: l.Clients, For: l.For, Series: l.Series}
	if l.Kind == "exchanges" || l.Kind == "burst" {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
			return errors.Join(cerr, err)
		}}
		if x.Conn, err = lc.ListenPacket(ctx, "udp4", benchRelay+":67"); err != nil {
			return r, err
		}
		defer x.Conn.Close()
	}
	switch l.Kind {
	case "exchanges":
		r.Exchanges, err = load.Exchanges(ctx, x)
	case "burst":
		r.Lost, r.Time, err = load.Burst(ctx, x, l.Clients)
	case "tftp":
		r.Fetched = load.Fetches(ctx, l.Clients, func(ctx context.Context, _ int) (int64, error) {
			conn, err := net.ListenPacket("udp4", benchClient+":0")
			if err != nil {
				return 0, err
			}
			defer conn.Close()
			return load.Fetch{Server: netip.AddrPortFrom(server, 69), Name: l.Name, Blksize: 1468, Window: l.Window, Loss: l.Loss, Timeout: l.Wait, Tries: 12}.Run(ctx, conn)
		})
	case "http":
		var d net.Dialer
		r.Fetched = load.Fetches(ctx, l.Clients, func(ctx context.Context, _ int) (int64, error) {
			n, _, err := load.Get(ctx, d.DialContext, l.Name, 0, 0)
			return n, err
		})
	}
	return r, err
}

// load runs clients in a process of their own, and returns with what they saw
// the CPU time that the server used meanwhile.
func (b *benchRig) load(p *benchProc, l benchLoad) (r benchLoadResult, cpu time.Duration) {
	b.t.Helper()
	text, err := json.Marshal(l)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), l.For+2*time.Minute)
	defer cancel()
	cmd := b.cli.command(ctx, "taskset", "-c", b.loadOn, fmt.Sprintf("/proc/%d/exe", os.Getpid()), "-test.run=^TestBenchLoad$")
	cmd.SysProcAttr = nil
	cmd.Env = append(b.env, benchLoadEnv+"="+string(text))
	done := p.perf(l.Kind)
	before := p.cpu()
	out, err := cmd.CombinedOutput()
	cpu = p.cpu() - before
	done()
	_, rest, ok := strings.Cut(string(out), "\nRESULT ")
	line, _, _ := strings.Cut(rest, "\n")
	if err != nil || !ok || json.Unmarshal([]byte(line), &r) != nil {
		b.t.Fatalf("%s with %s: %v\n%s\n%s", p.name, text, err, out, p.text())
	}
	if r.Error != "" {
		b.t.Errorf("%s with %s: %s", p.name, text, r.Error)
	}
	for _, f := range r.Fetched.Failed {
		b.t.Logf("%s with %s: %d failed: %s", p.name, text, f.Count, f.Text)
	}
	return r, cpu
}

// perf lets perf(1) watch a server meanwhile, where FETTLE_BENCH_PERF names its
// command and options, such as "record -g" or "stat -e instructions:u"; what
// comes of it lies in FETTLE_BENCH_PERF_DIR.
func (p *benchProc) perf(kind string) (done func()) {
	args := strings.Fields(os.Getenv("FETTLE_BENCH_PERF"))
	if len(args) == 0 {
		return func() {}
	}
	var pids []string
	for _, c := range p.cmds {
		for _, pid := range append(p.children(c.Process.Pid), c.Process.Pid) {
			pids = append(pids, strconv.Itoa(pid))
		}
	}
	file := filepath.Join(os.Getenv("FETTLE_BENCH_PERF_DIR"), "perf-"+kind+"-"+p.name)
	cmd := exec.Command("taskset", slices.Concat([]string{"-c", p.b.loadOn, "perf", args[0], "-o", file, "-p", strings.Join(pids, ",")}, args[1:])...)
	if err := cmd.Start(); err != nil {
		p.b.t.Fatal(err)
	}
	return func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait() // perf ends with the signal that it was sent
	}
}

// storm runs fettle bench storm.
func (b *benchRig) storm(p *benchProc, count int, limit time.Duration, series int, args ...string) (r load.StormResult, cpu time.Duration) {
	b.t.Helper()
	// The kernel keeps 1,024 neighbours where nobody says otherwise: this storm's
	// have to fit beside those of the storms before.
	b.srv.run(b.t, "ip", "neigh", "flush", "all")
	ctx, cancel := context.WithTimeout(b.t.Context(), limit+30*time.Second)
	defer cancel()
	cmd := b.cli.command(ctx, append([]string{"taskset", "-c", b.loadOn, b.bin, "--output", "json", "bench", "storm", "--server", benchServer, "--interface", "cli0", "--addresses", benchMachines,
		"--count", strconv.Itoa(count), "--limit", limit.String(), "--series", strconv.Itoa(series)}, args...)...)
	cmd.SysProcAttr = nil
	var out, errOut bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = b.env, &out, &errOut
	done := p.perf("storm")
	before := p.cpu()
	err := cmd.Run()
	cpu = p.cpu() - before
	done()
	if jerr := json.Unmarshal(out.Bytes(), &r); jerr != nil {
		b.t.Fatalf("fettle bench storm of %s: %v, %v\n%s%s\n%s", p.name, err, jerr, &out, &errOut, p.text())
	}
	if r.Booted < r.Machines {
		b.t.Logf("%s: %s", p.name, r.Summary())
	}
	return r, cpu
}

// answers waits until a server answers, by TFTP, HTTP or DHCP.
func (b *benchRig) answers(p *benchProc, kind string) time.Duration {
	b.t.Helper()
	start := time.Now()
	type result struct{ err error }
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- result{b.answered(kind, start)}
	}()
	if r := <-done; r.err != nil {
		b.t.Fatalf("%s does not answer by %s: %v\n%s", p.name, kind, r.err, p.text())
	}
	return time.Since(start)
}

func (b *benchRig) answered(kind string, start time.Time) error {
	fd, err := unix.Open("/run/netns/"+b.cli.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for time.Since(start) < 30*time.Second {
		switch kind {
		case "http":
			if c, err := net.DialTimeout("tcp4", benchServer+":80", 100*time.Millisecond); err == nil {
				return c.Close()
			}
		case "tftp":
			c, err := net.Dial("udp4", benchServer+":69")
			if err != nil {
				return err
			}
			c.SetDeadline(time.Now().Add(100 * time.Millisecond))
			c.Close()
			pc, err := net.ListenPacket("udp4", benchClient+":0")
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			_, err = load.Fetch{Server: netip.MustParseAddrPort(benchServer + ":69"), Name: "none-such", Timeout: 200 * time.Millisecond, Tries: 1}.Run(ctx, pc)
			cancel()
			pc.Close()
			if err != nil && strings.HasPrefix(err.Error(), "error ") {
				return nil
			}
		case "dhcp":
			pc, err := net.ListenPacket("udp4", benchRelay+":67")
			if err != nil {
				return err
			}
			lost, _, err := load.Burst(context.Background(), load.ExchangeConfig{Conn: pc, Server: netip.MustParseAddrPort(benchServer + ":67"), Relay: netip.MustParseAddr(benchRelay), For: 200 * time.Millisecond, Series: 0xee}, 1)
			pc.Close()
			if err == nil && lost == 0 {
				return nil
			}
		}
		<-tick.C
	}
	return io.ErrNoProgress
}

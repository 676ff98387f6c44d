package bmc

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/bmc/vbmc/conformance"
)

// rack is many virtual BMCs in a process of their own, as TestBenchBMC hears
// of them.
type rack struct {
	IPMI, Redfish []netip.AddrPort
	Fingerprint   string
}

// benchPart is what this program does when TestBenchBMC starts it again: it
// serves a rack, or polls one. It is true when it was such a part.
func benchPart() bool {
	var err error
	part := os.Getenv("FETTLE_BENCH_PART")
	if to := os.Getenv("FETTLE_BENCH_PROFILE"); to != "" && part != "" {
		f, err := os.Create(to + "." + part)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			log.Fatal(err)
		}
		defer func() {
			pprof.StopCPUProfile()
			_ = f.Close()
			if h, err := os.Create(to + "." + part + ".heap"); err == nil {
				runtime.GC()
				_ = pprof.WriteHeapProfile(h)
				_ = h.Close()
			}
		}()
	}
	switch part {
	case "":
		return false
	case "serve":
		err = serveRack(os.Stdin, os.Stdout)
	case "poll":
		err = pollRack(os.Stdin, os.Stdout)
	}
	if err != nil {
		log.Fatal(err)
	}
	return true
}

// serveRack serves FETTLE_BENCH_MANY BMCs that look like FETTLE_BENCH_TREE,
// until its input ends. Each has its Redfish at a loopback address of its own,
// because keys of TLS are kept by address.
func serveRack(in io.Reader, out io.Writer) error {
	many, err := strconv.Atoi(os.Getenv("FETTLE_BENCH_MANY"))
	if err != nil {
		return err
	}
	var tree *vbmc.Tree
	if name := os.Getenv("FETTLE_BENCH_TREE"); name != "" {
		if tree, err = vbmc.Personality(name); err != nil {
			return err
		}
	}
	var key crypto.Signer
	if os.Getenv("FETTLE_BENCH_KEY") == "rsa" {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)},
		&x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(der)
	r := rack{Fingerprint: hex.EncodeToString(sum[:])}
	conf := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i := range many {
		info := testInfo()
		info.Name = fmt.Sprintf("bmc-%04d", i)
		srv, err := vbmc.New(vbmc.Config{Chassis: vbmc.NewMemory(info), Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}, Tree: tree})
		if err != nil {
			return err
		}
		udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		tcp, err := net.Listen("tcp4", fmt.Sprintf("127.9.%d.%d:0", i/250, 1+i%250))
		if err != nil {
			return err
		}
		hs := &http.Server{Handler: srv, TLSConfig: conf, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
		go func() { _ = srv.ServeIPMI(ctx, udp) }()  // ends with the process
		go func() { _ = hs.ServeTLS(tcp, "", "") }() // too
		r.IPMI = append(r.IPMI, udp.LocalAddr().(*net.UDPAddr).AddrPort())
		r.Redfish = append(r.Redfish, tcp.Addr().(*net.TCPAddr).AddrPort())
	}
	if err := json.NewEncoder(out).Encode(r); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// pollRack reads a rack and asks each BMC for its power state by
// FETTLE_BENCH_PROTOCOL, one session each. With FETTLE_BENCH_AGAIN it does so
// three times, going on with the keys of the time before, as fettle serve does,
// and says what the last time took.
func pollRack(in io.Reader, out io.Writer) error {
	var r rack
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return err
	}
	p, addrs := IPMI, r.IPMI
	if os.Getenv("FETTLE_BENCH_PROTOCOL") == "redfish" {
		p, addrs = Redfish, r.Redfish
	}
	parallel, _ := strconv.Atoi(os.Getenv("FETTLE_BENCH_PARALLEL"))
	var ts []Target
	for _, a := range addrs {
		ts = append(ts, Target{Name: a.String(), Address: a, Protocol: p, User: "root", Password: "s3cret", Fingerprint: r.Fingerprint})
	}
	ask := func() []Result[Power] {
		return Each(context.Background(), ts, EachOptions{Parallel: parallel}, func(ctx context.Context, c *Client) (Power, error) { return c.Power(ctx) })
	}
	if os.Getenv("FETTLE_BENCH_AGAIN") != "" {
		kept := tls.NewLRUClientSessionCache(2 * len(ts))
		for i := range ts {
			ts[i].TLSSessions = kept
		}
		ask()
		ask()
	}
	if os.Getenv("GOGC") == "" { // as fettle bmc does
		debug.SetGCPercent(400)
	}
	before, start := used(), time.Now()
	all := ask()
	fmt.Fprintf(out, "took %d %d\n", (used() - before).Milliseconds(), time.Since(start).Milliseconds())
	for _, x := range all {
		if x.Err != nil {
			return x.Err
		}
		fmt.Fprintf(out, "%s: %s\n", x.Target.Name, x.Value)
	}
	return nil
}

// used is the CPU time of this process.
func used() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// part starts this program again as one of its parts.
func part(ctx context.Context, name string, env ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), append(env, "FETTLE_BENCH_PART="+name)...)
	cmd.Stderr = os.Stderr
	return cmd, nil
}

// startRack starts a rack; it ends with the test.
func startRack(t *testing.T, env ...string) (rack, int) {
	t.Helper()
	cmd, err := part(context.Background(), "serve", env...)
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the rack ended with %v", err)
		}
	})
	var r rack
	if err := json.NewDecoder(out).Decode(&r); err != nil {
		t.Fatalf("the rack did not start: %v", err)
	}
	return r, cmd.Process.Pid
}

// memoryOf reads resident memory from /proc, in MiB.
func memoryOf(t *testing.T, pid int, what string) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(what + `:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("/proc/%d/status has no %s", pid, what)
	}
	kb, _ := strconv.ParseFloat(string(m[1]), 64)
	return kb / 1024
}

// cpuOf is the time that a process has used, by /proc in ticks of 10 ms.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	u, _ := strconv.Atoi(f[11])
	s, _ := strconv.Atoi(f[12])
	return time.Duration(u+s) * 10 * time.Millisecond
}

// figures are what one program took, a value a round.
type figures struct{ wall, cpu, server []time.Duration }

// load is the machine's load average, so that figures of a busy one are known as such.
func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(b), " ")
	return one
}

func median(v []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// TestBenchBMC is `make bench-bmc`: see BENCH.md.
func TestBenchBMC(t *testing.T) {
	if os.Getenv("FETTLE_BENCH") == "" {
		t.Skip("it measures: make bench-bmc")
	}
	many, rounds := 1000, 5
	if n, err := strconv.Atoi(os.Getenv("FETTLE_BENCH_ROUNDS")); err == nil && n > 0 {
		rounds = n
	}
	env := "FETTLE_BENCH_MANY=" + strconv.Itoa(many)
	var report strings.Builder
	say := func(format string, args ...any) {
		fmt.Fprintf(&report, format+"\n", args...)
		t.Logf(format, args...)
	}
	say("%s, %d cores, load %s, %d rounds, interleaved.\n", runtime.Version(), runtime.NumCPU(), load(), rounds)

	r, pid := startRack(t, env)
	idle := memoryOf(t, pid, "VmRSS")
	_, twinPID := startRack(t, env, "FETTLE_BENCH_TREE=dgx-h100")
	idleTwins := memoryOf(t, twinPID, "VmRSS")
	spec, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	poll := func(protocol, parallel string) func() (*exec.Cmd, error) {
		return func() (*exec.Cmd, error) {
			cmd, err := part(t.Context(), "poll", "FETTLE_BENCH_PROTOCOL="+protocol, "FETTLE_BENCH_PARALLEL="+parallel)
			if err == nil {
				cmd.Stdin = bytes.NewReader(spec)
			}
			return cmd, err
		}
	}
	var hosts []string
	for _, a := range r.IPMI {
		hosts = append(hosts, a.String())
	}
	programs := []struct {
		name string
		cmd  func() (*exec.Cmd, error)
	}{
		{"fettle, IPMI", poll("ipmi", "")},
		{"FreeIPMI ipmipower, host list", func() (*exec.Cmd, error) {
			p, err := exec.LookPath("ipmipower")
			if err != nil {
				return nil, err
			}
			return exec.CommandContext(t.Context(), p, "-D", "LAN_2_0", "-I", "17", "-u", "root", "-p", "s3cret", "-h", strings.Join(hosts, ","), "--stat"), nil
		}},
		{"fettle, IPMI, 8 at once", poll("ipmi", "8")},
		{"fettle, IPMI, 128 at once", poll("ipmi", "128")},
		{"fettle, Redfish", poll("redfish", "")},
		{"fettle, Redfish, once more with the keys of before", func() (*exec.Cmd, error) {
			cmd, err := poll("redfish", "")()
			if err == nil {
				cmd.Env = append(cmd.Env, "FETTLE_BENCH_AGAIN=1")
			}
			return cmd, err
		}},
	}
	got := make([]figures, len(programs))
	for range rounds {
		for i, p := range programs {
			cmd, err := p.cmd()
			if errors.Is(err, exec.ErrNotFound) {
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			cmd.Stdout = &out
			before, start := cpuOf(t, pid), time.Now()
			err = cmd.Run()
			wall := time.Since(start)
			if n := strings.Count(out.String(), ": off"); err != nil || n != many {
				t.Fatalf("%s: %d of %d answered off: %v", p.name, n, many, err)
			}
			cpu, server := cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), cpuOf(t, pid)-before
			if slices.Contains(cmd.Env, "FETTLE_BENCH_AGAIN=1") { // the last of three times; the BMCs' CPU is of all
				m := regexp.MustCompile(`(?m)^took (\d+) (\d+)$`).FindStringSubmatch(out.String())
				c, _ := strconv.Atoi(m[1])
				w, _ := strconv.Atoi(m[2])
				cpu, wall, server = time.Duration(c)*time.Millisecond, time.Duration(w)*time.Millisecond, server/3
			}
			got[i].wall, got[i].cpu, got[i].server = append(got[i].wall, wall), append(got[i].cpu, cpu), append(got[i].server, server)
		}
	}
	say("| power status of %d BMCs | wall | CPU | the BMCs' CPU | wall to ipmipower's | CPU to ipmipower's |\n|---|---|---|---|---|---|", many)
	ms := func(v []time.Duration) string { return fmt.Sprintf("%d ms", median(v).Milliseconds()) }
	for i, p := range programs {
		f := got[i]
		if len(f.wall) == 0 {
			say("| %s | absent | | | | |", p.name)
			continue
		}
		ratio := func(of func(figures) []time.Duration) string {
			if i == 1 || len(got[1].wall) == 0 {
				return ""
			}
			return fmt.Sprintf("%.2f", float64(median(of(f)))/float64(median(of(got[1]))))
		}
		say("| %s | %s | %s | %s | %s | %s |", p.name, ms(f.wall), ms(f.cpu), ms(f.server),
			ratio(func(f figures) []time.Duration { return f.wall }), ratio(func(f figures) []time.Duration { return f.cpu }))
	}
	say("\n| memory of %d virtual BMCs in one process, both protocols | resident |\n|---|---|", many)
	say("| as started | %.1f MiB |\n| after all rounds | %.1f MiB |\n| meanwhile, the highest | %.1f MiB |\n| wearing dgx-h100, one tree for all, as started | %.1f MiB |",
		idle, memoryOf(t, pid, "VmRSS"), memoryOf(t, pid, "VmHWM"), idleTwins)
	benchInventory(t, say)
	if to := os.Getenv("FETTLE_BENCH_OUT"); to != "" {
		if err := os.WriteFile(to, []byte(report.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// benchInventory counts the requests of an inventory of a DGX-like machine.
func benchInventory(t *testing.T, say func(string, ...any)) {
	t.Helper()
	tree, err := vbmc.Personality("dgx-h100")
	if err != nil {
		t.Fatal(err)
	}
	say("\n| inventory of dgx-h100, a tree of %d resources | GETs | time | GPUs |\n|---|---|---|---|", tree.Len())
	for _, expand := range []bool{true, false} {
		r := &rig{mem: vbmc.NewMemory(testInfo())}
		if r.bmc, err = vbmc.New(vbmc.Config{Chassis: r.mem, Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}, Tree: tree}); err != nil {
			t.Fatal(err)
		}
		r.serve(t, r.bmc)
		var gets atomic.Int32
		r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
			if q.Method == http.MethodGet {
				gets.Add(1)
			}
			if !expand && strings.Contains(q.URL.RawQuery, "expand") {
				http.Error(w, "{}", http.StatusNotImplemented)
				return true
			}
			return false
		})
		c := r.open(t)
		gets.Store(0)
		start := time.Now()
		inv, err := c.Inventory(t.Context())
		took := time.Since(start)
		if err != nil || len(inv.GPUs) != 8 {
			t.Errorf("Inventory() = %d GPUs, %v; want 8", len(inv.GPUs), err)
		}
		name := "with $expand"
		if !expand {
			name = "of a BMC that refuses $expand"
		}
		say("| %s | %d | %d ms | %d |", name, gets.Load(), took.Milliseconds(), len(inv.GPUs))
	}
}

// matrix is what the tests saw of our client and of bmclib, for vbmc/CONFORMANCE.md.
var matrix conformance.Matrix

func TestMain(m *testing.M) {
	if benchPart() {
		return
	}
	os.Exit(matrix.Run(m, filepath.Join("vbmc", "CONFORMANCE.md"), "bmc"))
}

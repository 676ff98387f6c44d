//go:build linux

package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	benchSelf    = "FETTLE_BENCH_SERVER" // set: this process is the server that is measured
	benchServer  = "198.18.0.1"          // in RFC 2544's range for benchmarks, in a namespace
	benchClient  = "198.18.0.2"
	benchPrefix  = "198.18.0.0/15"
	benchClients = 50
	benchSize    = 1 << 20
	benchRounds  = 3
	benchDHCP    = 3 * time.Second
	benchOpen    = 64 // DHCP exchanges under way at once
)

// benchPeer is a server that is measured.
type benchPeer struct {
	name  string
	tools []string
	start func(dir string) *exec.Cmd
}

// TestBenchServer is our server in a process of its own, for TestBenchPeers.
// Leases are in memory: what is measured is the wire.
func TestBenchServer(t *testing.T) {
	dir := os.Getenv(benchSelf)
	if dir == "" {
		t.Skip("a part of TestBenchPeers")
	}
	n := Network{Name: "bench", Prefix: netip.MustParsePrefix(benchPrefix), Server: netip.MustParseAddr(benchServer)}
	n.Relays = []netip.Addr{netip.MustParseAddr(benchClient)}
	leases := &benchLeases{next: netip.MustParseAddr("198.18.1.0"), by: map[[6]byte]netip.Addr{}}
	s, err := New(Config{Networks: []Network{n}, Leases: leases, Files: mapFiles{"loaders/f": "@" + filepath.Join(dir, "f")},
		Booter: booterFunc(func(Client) (Decision, error) { return Decision{Action: Ignore}, nil })})
	if err != nil {
		t.Fatal(err)
	}
	dhcp, err := ListenDHCP("srv0")
	if err != nil {
		t.Fatal(err)
	}
	tftp, err := net.ListenPacket("udp4", benchServer+":69")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { check(t, "ServeDHCP", s.ServeDHCP(ctx, "bench", dhcp)) })
	wg.Go(func() {
		check(t, "ServeTFTP", s.ServeTFTP(ctx, tftp, func(ctx context.Context, local netip.Addr) (net.PacketConn, error) {
			var lc net.ListenConfig
			return lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(local, 0).String())
		}))
	})
	wg.Wait()
}

type benchLeases struct {
	mu   sync.Mutex
	next netip.Addr
	by   map[[6]byte]netip.Addr
}

func (l *benchLeases) Offer(_ context.Context, c Client, _ netip.Addr) (Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := [6]byte(c.MAC)
	if !l.by[k].IsValid() {
		l.by[k], l.next = l.next, l.next.Next()
	}
	return Lease{Addr: l.by[k], Duration: time.Hour}, nil
}
func (l *benchLeases) Commit(ctx context.Context, c Client, _ netip.Addr) (Lease, error) {
	return l.Offer(ctx, c, netip.Addr{})
}
func (l *benchLeases) Release(context.Context, Client, netip.Addr) error { return nil }
func (l *benchLeases) Decline(context.Context, Client, netip.Addr) error { return nil }

// TestBenchPeers measures this server and others on the same wire, one after
// the other in every round, and prints medians and ratios: make bench-pxe.
func TestBenchPeers(t *testing.T) {
	if os.Getenv("FETTLE_BENCH") == "" {
		t.Skip("takes a minute and both cores: make bench-pxe")
	}
	server, client := newNS(t), newNS(t)
	server.run(t, "ip", "link", "add", "srv0", "type", "veth", "peer", "name", "cli0", "netns", client.name)
	server.run(t, "ip", "addr", "add", benchServer+"/15", "dev", "srv0")
	server.run(t, "ip", "link", "set", "srv0", "up")
	client.run(t, "ip", "addr", "add", benchClient+"/15", "dev", "cli0")
	client.run(t, "ip", "link", "set", "cli0", "up")
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte(pattern(benchSize)), 0o644); err != nil {
		t.Fatal(err)
	}
	peers := []benchPeer{
		{"fettle", nil, func(dir string) *exec.Cmd {
			c := server.command(context.Background(), "/proc/"+strconv.Itoa(os.Getpid())+"/exe", "-test.run=^TestBenchServer$")
			c.Env = append(os.Environ(), benchSelf+"="+dir)
			return c
		}},
		{"dnsmasq", []string{"dnsmasq"}, func(dir string) *exec.Cmd {
			return server.command(context.Background(), "dnsmasq", "-k", "--user=root", "--conf-file=/dev/null", "--port=0", "--no-ping", "--bind-interfaces", "--interface=srv0", "--quiet-dhcp", "--quiet-tftp",
				"--dhcp-leasefile="+dir+"/leases", "--pid-file="+dir+"/pid", "--dhcp-range=198.18.1.0,198.19.254.254,255.254.0.0,1h", "--dhcp-lease-max=200000", "--enable-tftp", "--tftp-root="+dir, "--tftp-max=1000")
		}},
		{"tftpd-hpa", []string{"in.tftpd"}, func(dir string) *exec.Cmd {
			return server.command(context.Background(), "in.tftpd", "-L", "-u", "root", "-a", benchServer+":69", "-s", dir)
		}},
	}
	results := map[string]map[string][]float64{}
	add := func(what, name string, v float64) {
		if results[what] == nil {
			results[what] = map[string][]float64{}
		}
		results[what][name] = append(results[what][name], v)
	}
	for round := range benchRounds {
		for _, p := range peers {
			if slices.ContainsFunc(p.tools, func(tool string) bool { return !haveTool(tool) }) {
				if round == 0 {
					t.Logf("%s is not installed: it is left out", p.name)
				}
				continue
			}
			os.Remove(filepath.Join(dir, "leases"))
			cmd := p.start(dir)
			var log bytes.Buffer
			cmd.Stdout, cmd.Stderr = &log, &log
			exited, err := start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			stop := func() { cmd.Process.Kill(); <-exited }
			fetchAll := func(clients, window int) (float64, error) {
				return benchFetch(client, clients, window, 30*time.Second)
			}
			if err := eventually(t.Context(), 10*time.Second, func() bool { _, err := benchFetch(client, 1, 1, time.Second); return err == nil }); err != nil {
				stop()
				t.Fatalf("%s does not serve TFTP: %v\n%s", p.name, err, &log)
			}
			rate, err := fetchAll(benchClients, 1)
			if err != nil {
				t.Errorf("%s: %v\n%s", p.name, err, &log)
			}
			add("TFTP MB/s, 50 clients of 1 MiB, blksize 1468", p.name, rate)
			if p.name == "fettle" {
				if rate, err = fetchAll(benchClients, 16); err != nil {
					t.Errorf("%s with a window: %v", p.name, err)
				}
				add("the same with windowsize 16 (the others have none)", p.name, rate)
			}
			if p.name != "tftpd-hpa" {
				n, lost, err := benchExchange(client, byte(round))
				if err != nil {
					t.Errorf("%s: %v\n%s", p.name, err, &log)
				}
				add("DHCP exchanges/s, new clients, 64 at once (ours in memory)", p.name, n)
				add("DHCP packets lost or refused", p.name, float64(lost))
			}
			stop()
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "medians of %d rounds, %d CPUs:\n", benchRounds, runtime.NumCPU())
	for _, what := range []string{"TFTP MB/s, 50 clients of 1 MiB, blksize 1468", "the same with windowsize 16 (the others have none)", "DHCP exchanges/s, new clients, 64 at once (ours in memory)", "DHCP packets lost or refused"} {
		fmt.Fprintf(&b, "%s\n", what)
		ours := median(results[what]["fettle"])
		for _, p := range peers {
			if v := results[what][p.name]; len(v) > 0 {
				m := median(v)
				ratio := ""
				if p.name != "fettle" && m > 0 {
					ratio = fmt.Sprintf("  fettle/%s = %.2f", p.name, ours/m)
				}
				fmt.Fprintf(&b, "  %-10s %9.0f%s   (%.0f)\n", p.name, m, ratio, v)
			}
		}
	}
	t.Log(b.String())
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// benchFetch has clients fetch a file at once and returns MB/s.
func benchFetch(ns *netns, clients, window int, limit time.Duration) (float64, error) {
	var conns []net.PacketConn
	err := ns.do(func() error {
		for range clients {
			c, err := net.ListenPacket("udp4", benchClient+":0")
			if err != nil {
				return err
			}
			conns = append(conns, c)
			if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
				return err
			}
		}
		return nil
	})
	for _, c := range conns {
		defer c.Close()
	}
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	errs := make(chan error, clients)
	for _, c := range conns {
		go func() {
			n, err := fetchOn(c, benchServer+":69", "f", 1468, window, io.Discard)
			if err == nil && n != benchSize {
				err = fmt.Errorf("fetched %d bytes; want %d", n, benchSize)
			}
			errs <- err
		}()
	}
	for range clients {
		if e := <-errs; e != nil {
			err = e
		}
	}
	return float64(clients*benchSize) / 1e6 / time.Since(begin).Seconds(), err
}

// benchExchange runs whole exchanges of new clients through a relay's socket,
// in a closed loop, and returns how many a second, and how often a packet had
// to be repeated after 1 s or was refused.
func benchExchange(ns *netns, series byte) (float64, int, error) {
	var conn net.PacketConn
	if err := ns.do(func() (err error) {
		conn, err = net.ListenPacket("udp4", benchClient+":67")
		return err
	}); err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(benchServer + ":67"))
	type slot struct {
		packet []byte
		sent   time.Time
	}
	slots := make([]slot, benchOpen)
	next, done, lost := uint32(0), 0, 0
	send := func(i int, b []byte) error {
		slots[i] = slot{b, time.Now()}
		_, err := conn.WriteTo(b, to)
		return err
	}
	build := func(i int, kind dhcpv4.MessageType, mac net.HardwareAddr, opts map[byte][]byte) []byte {
		return ask(kind, opts, func(p *dhcpv4.DHCPv4) {
			p.ClientHWAddr, p.GatewayIPAddr = mac, net.ParseIP(benchClient)
			binary.BigEndian.PutUint32(p.TransactionID[:], uint32(i)<<24|binary.BigEndian.Uint32(mac[2:])&0xffffff)
		})
	}
	begin := func(i int) error {
		next++
		mac := net.HardwareAddr{2, series, 0, 0, 0, 0}
		binary.BigEndian.PutUint32(mac[2:], next)
		return send(i, build(i, dhcpv4.MessageTypeDiscover, mac, nil))
	}
	for i := range slots {
		if err := begin(i); err != nil {
			return 0, 0, err
		}
	}
	start := time.Now()
	buf := make([]byte, 4096)
	for checked := start; time.Since(start) < benchDHCP; {
		if time.Since(checked) > 100*time.Millisecond {
			checked = time.Now()
			for i := range slots {
				if time.Since(slots[i].sent) > time.Second {
					lost++
					if err := send(i, slots[i].packet); err != nil {
						return 0, lost, err
					}
				}
			}
		}
		if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return 0, lost, err
		}
		k, _, err := conn.ReadFrom(buf)
		if err != nil {
			continue // the deadline: some are asked again
		}
		m, err := dhcpv4.FromBytes(buf[:k])
		if err != nil {
			return 0, lost, err
		}
		i := int(m.TransactionID[0])
		if i >= len(slots) || !bytes.Equal(slots[i].packet[4:8], m.TransactionID[:]) {
			continue // of an exchange that is over
		}
		switch m.MessageType() {
		case dhcpv4.MessageTypeOffer:
			err = send(i, build(i, dhcpv4.MessageTypeRequest, m.ClientHWAddr, map[byte][]byte{optServerID: m.Options[optServerID], optRequestedAddr: m.YourIPAddr.To4()}))
		case dhcpv4.MessageTypeAck:
			done++
			err = begin(i)
		default: // dnsmasq offers one address to two clients, and refuses the second
			lost++
			err = begin(i)
		}
		if err != nil {
			return 0, lost, err
		}
	}
	return float64(done) / time.Since(start).Seconds(), lost, nil
}

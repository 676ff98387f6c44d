package bmc

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/lanplus"
	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// ipmiRig is a virtual BMC that speaks IPMI on loopback.
type ipmiRig struct {
	Target
	mem *vbmc.Memory
	bmc *vbmc.Server
}

func newIPMIRig(t testing.TB, conf vbmc.Config) *ipmiRig {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := serveIPMI(t, conf, conn)
	r.Address = conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return r
}

func serveIPMI(t testing.TB, conf vbmc.Config, conn net.PacketConn) *ipmiRig {
	t.Helper()
	r := &ipmiRig{mem: vbmc.NewMemory(testInfo())}
	if conf.Chassis == nil {
		conf.Chassis = r.mem
	}
	if conf.Accounts == nil {
		conf.Accounts = []vbmc.Account{{User: "root", Password: "s3cret"}, {User: "oper", Password: "op3r", Role: vbmc.Operator}, {User: "view", Password: "v1ew", Role: vbmc.ReadOnly}}
	}
	var err error
	if r.bmc, err = vbmc.New(conf); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.bmc.ServeIPMI(ctx, conn); err != nil {
			t.Errorf("ServeIPMI() = %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait(); conn.Close() })
	r.Target = Target{Name: "ipmi-01", Protocol: IPMI, User: "root", Password: "s3cret", Timeout: 5 * time.Second, PowerWait: time.Minute}
	return r
}

func (r *ipmiRig) open(t testing.TB) *Client {
	t.Helper()
	c, err := Open(t.Context(), r.Target)
	if err != nil {
		t.Fatal(err)
	}
	c.poll = 4 * time.Millisecond
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestIPMI(t *testing.T) {
	matrix.Test(t, "fettle, IPMI", "status, power, next boot, light, inventory")
	r := newIPMIRig(t, vbmc.Config{})
	c := r.open(t)
	st, err := c.Status(t.Context())
	want := Status{Power: Off, Boot: NextBoot{Device: BootNone, UEFI: true}, Health: "OK", Vendor: "Acme", Model: "GX", Serial: "SN1", Firmware: "1.00"}
	if err != nil || st != want {
		t.Errorf("Status() = %+v, %v; want %+v", st, err, want)
	}
	for _, tc := range []struct {
		do   Action
		want Power
	}{{PowerOn, On}, {PowerOn, On}, {PowerCycle, On}, {Reset, On}, {Shutdown, Off}, {PowerCycle, On}, {PowerOff, Off}} {
		if err := c.SetPower(t.Context(), tc.do); err != nil {
			t.Errorf("SetPower(%s) = %v", tc.do, err)
		}
		if p, err := c.Power(t.Context()); err != nil || p != tc.want {
			t.Errorf("Power() after %s = %s, %v; want %s", tc.do, p, err, tc.want)
		}
	}
	for _, nb := range []NextBoot{
		{Device: BootPXE, UEFI: true}, {Device: BootDisk, Permanent: true, UEFI: true}, {Device: BootCD}, {Device: BootSetup, UEFI: true}, {Device: BootNone},
	} {
		if err := c.SetNextBoot(t.Context(), nb); err != nil {
			t.Errorf("SetNextBoot(%s) = %v", nb, err)
		}
		if st, err := c.Status(t.Context()); err != nil || st.Boot.String() != nb.String() {
			t.Errorf("Status().Boot = %s, %v; want %s", st.Boot, err, nb)
		}
	}
	wantErr(t, c.SetNextBoot(t.Context(), NextBoot{Device: BootHTTP, UEFI: true}), ErrUnsupported, "no boot device uefi_http")
	for _, on := range []bool{true, false} {
		if err := c.Identify(t.Context(), on); err != nil {
			t.Errorf("Identify(%v) = %v", on, err)
		}
		if st, err := c.Status(t.Context()); err != nil || st.Identify != on {
			t.Errorf("Status().Identify = %v, %v; want %v", st.Identify, err, on)
		}
	}
	inv, err := c.Inventory(t.Context())
	if err != nil || inv.Status.Serial != "SN1" || len(inv.Firmware) != 1 || inv.Firmware[0].Version != "1.00" || len(inv.Missing) != 1 {
		t.Errorf("Inventory() = %+v, %v; want the status, the BMC's firmware and what is missing", inv, err)
	}
}

// A BMC that accepts everything and changes nothing.
func TestIPMIReadsBack(t *testing.T) {
	r := newIPMIRig(t, vbmc.Config{})
	c := r.open(t)
	c.t.Timeout, c.t.PowerWait = 2*time.Second, inVain
	r.mem.SetFault(vbmc.Fault{Lie: true})
	wantErr(t, c.SetNextBoot(t.Context(), NextBoot{Device: BootDisk}), errNothing, "the next boot still reads none")
	wantErr(t, c.Identify(t.Context(), true), errNothing)
	wantErr(t, c.SetPower(t.Context(), PowerOn), errNothing, "the power still reads off")
	c.t.Timeout, c.t.PowerWait = r.Timeout, r.PowerWait
	r.mem.SetFault(vbmc.Fault{RefuseReset: []vbmc.ResetType{vbmc.ResetOn}, RefuseBoot: true})
	wantErr(t, c.SetPower(t.Context(), PowerOn), nil, "completion code D5h")
	wantErr(t, c.SetNextBoot(t.Context(), NextBoot{Device: BootDisk}), nil, "completion code CCh")
	r.mem.SetFault(vbmc.Fault{Err: errors.New("broken")})
	_, err := c.Power(t.Context())
	wantErr(t, err, nil, "ipmi-01: reading the power state", "completion code FFh")
}

// relay stands between the driver and a BMC. change may alter, drop (nil) or
// double what the BMC answers.
func relay(t testing.TB, to netip.AddrPort, change func(n int, fromBMC bool, p []byte) [][]byte) netip.AddrPort {
	t.Helper()
	front, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var client atomic.Value
	var n atomic.Int64
	pump := func(read func([]byte) (int, error), write func([]byte), fromBMC bool) {
		buf := make([]byte, 2048)
		for {
			k, err := read(buf)
			if errors.Is(err, syscall.ECONNREFUSED) {
				continue
			}
			if err != nil {
				return
			}
			for _, p := range change(int(n.Add(1)), fromBMC, append([]byte(nil), buf[:k]...)) {
				write(p)
			}
		}
	}
	wg.Go(func() {
		pump(func(b []byte) (int, error) {
			k, from, err := front.ReadFrom(b)
			client.Store(&from)
			return k, err
		}, func(p []byte) { _, _ = back.Write(p) }, false)
	})
	wg.Go(func() {
		pump(back.Read, func(p []byte) { _, _ = front.WriteTo(p, *client.Load().(*net.Addr)) }, true)
	})
	t.Cleanup(func() { front.Close(); back.Close(); wg.Wait() })
	return front.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestIPMILoginOnce(t *testing.T) {
	for _, tc := range []struct {
		name, user, password string
		is                   error
		says                 string
		rakp1                int64
	}{
		{"right", "root", "s3cret", nil, "", 1},
		{"operator", "oper", "op3r", nil, "", 2}, // administrator is refused before the password is looked at
		{"wrong password", "root", "guess", ErrPassword, "made with another password", 1},
		{"no such user", "mallory", "s3cret", ErrPassword, "Unauthorized name", 1},
		{"reader", "view", "v1ew", nil, "Unauthorized role", 2},
		{"long password", "root", strings.Repeat("x", 21), nil, "20 characters at most", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newIPMIRig(t, vbmc.Config{Lockout: 2})
			var rakp1 atomic.Int64
			r.Address = relay(t, r.Address, func(_ int, fromBMC bool, p []byte) [][]byte {
				if !fromBMC && p[5] == lanplus.RAKP1 {
					rakp1.Add(1)
				}
				return [][]byte{p}
			})
			r.User, r.Password = tc.user, Password(tc.password)
			c, err := Open(t.Context(), r.Target)
			if tc.says != "" {
				wantErr(t, err, tc.is, "ipmi-01: logging in", tc.says)
			} else if err != nil {
				t.Fatal(err)
			} else if err := c.SetPower(t.Context(), PowerOn); err != nil {
				t.Error(err)
			} else if err := c.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if n := rakp1.Load(); n != tc.rakp1 {
				t.Errorf("%d RAKP 1 messages; want %d", n, tc.rakp1)
			}
		})
	}
}

// The driver falls back to suite 3 where the BMC says that it lacks 17, and
// takes no weaker one that the BMC chooses.
func TestIPMISuites(t *testing.T) {
	matrix.Test(t, "fettle, IPMI", "cipher suites 17 and 3")
	for _, tc := range []struct {
		name   string
		answer func(p []byte) []byte // to Open Session Request of suite 17
		says   string
	}{
		{"no suite 17", func(p []byte) []byte {
			return lanplus.Packet(lanplus.Open+1, 0, 0, append([]byte{p[16], 0x11, 0, 0}, p[20:24]...))
		}, ""},
		{"a weaker one", func(p []byte) []byte { p[16+12+4] = 0; return p }, "another cipher suite"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newIPMIRig(t, vbmc.Config{})
			r.Address = relay(t, r.Address, func(n int, fromBMC bool, p []byte) [][]byte {
				if fromBMC && p[5] == lanplus.Open+1 && n == 2 {
					p = tc.answer(p)
				}
				return [][]byte{p}
			})
			c, err := Open(t.Context(), r.Target)
			if tc.says != "" {
				wantErr(t, err, nil, tc.says)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p, err := c.Power(t.Context()); err != nil || p != Off {
				t.Errorf("Power() = %s, %v; want off", p, err)
			}
			if err := c.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// In a session only what the BMC signed counts: what is forged, cut, in clear
// or old is passed over, and the true answer taken when it comes.
func TestIPMIForgedAnswers(t *testing.T) {
	r := newIPMIRig(t, vbmc.Config{})
	var old []byte
	r.Address = relay(t, r.Address, func(_ int, fromBMC bool, p []byte) [][]byte {
		if !fromBMC || p[5] != lanplus.IPMI|lanplus.Encrypted|lanplus.Authentic {
			return [][]byte{p}
		}
		clear := lanplus.Packet(lanplus.IPMI, 0, 0, []byte{0x81, 0x04, 0x7b, 0x20, 0, 1, 0, 1, 0, 0, 0})
		bad := append([]byte(nil), p...)
		bad[20] ^= 1
		all := [][]byte{{}, p[:8], p[:20], clear, bad, p[:len(p)-1], old, p, p}
		if old == nil {
			all = [][]byte{bad, p}
		}
		old = p
		return all
	})
	c := r.open(t)
	for _, want := range []Power{Off, On, Off} {
		if want == On {
			if err := c.SetPower(t.Context(), PowerOn); err != nil {
				t.Fatal(err)
			}
		} else if err := c.SetPower(t.Context(), PowerOff); err != nil {
			t.Fatal(err)
		}
		if p, err := c.Power(t.Context()); err != nil || p != want {
			t.Errorf("Power() = %s, %v; want %s", p, err, want)
		}
	}
}

// Lost packets are sent again; the session survives.
func TestIPMILoss(t *testing.T) {
	r := newIPMIRig(t, vbmc.Config{})
	r.Timeout = 20 * time.Second
	r.Address = relay(t, r.Address, func(n int, _ bool, p []byte) [][]byte {
		if n == 1 || n == 4 || n == 9 { // a request or an answer, in the login and after it
			return nil
		}
		return [][]byte{p}
	})
	c := r.open(t)
	if p, err := c.Power(t.Context()); err != nil || p != Off {
		t.Errorf("Power() = %s, %v; want off", p, err)
	}
}

// Who cannot prove in RAKP 4 that it is the BMC is not trusted.
func TestIPMIImpostor(t *testing.T) {
	r := newIPMIRig(t, vbmc.Config{})
	r.Address = relay(t, r.Address, func(_ int, fromBMC bool, p []byte) [][]byte {
		if fromBMC && p[5] == lanplus.RAKP3+1 {
			p[len(p)-1] ^= 1
		}
		return [][]byte{p}
	})
	_, err := Open(t.Context(), r.Target)
	wantErr(t, err, nil, "did not prove that it is the BMC (RAKP 4)")
}

func TestIPMIBadPeers(t *testing.T) {
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	addr := func(c net.PacketConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }
	tg := Target{Name: "ipmi-01", Protocol: IPMI, User: "root", Password: "s3cret", Timeout: 300 * time.Millisecond}
	tg.Address = addr(silent)
	begun := time.Now()
	_, err = Open(t.Context(), tg)
	wantErr(t, err, context.DeadlineExceeded, "no IPMI answer", "IPMI over LAN is enabled")
	if d := time.Since(begun); d > 3*time.Second {
		t.Errorf("Open took %s; its time was 300 ms", d)
	}
	tg.Address = addr(closed)
	_, err = Open(t.Context(), tg)
	wantErr(t, err, syscall.ECONNREFUSED, "nothing listens")
	tg.Timeout, tg.Address = time.Minute, addr(silent)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun = time.Now()
	if _, err := Open(ctx, tg); err == nil {
		t.Error("Open of a silent BMC succeeded")
	}
	if d := time.Since(begun); d > loginGrace+3*time.Second {
		t.Errorf("Open took %s after its context ended", d)
	}
	tg.Dial = new(net.Dialer).DialContext
	_, err = Open(t.Context(), tg)
	wantErr(t, err, ErrUnsupported, "another network stack")
}

// pipeConn is a UDP socket without a network: the lab's stack stands here. As
// with UDP, its other end does not hear that it is closed.
type pipeConn struct{ net.Conn }

func (pipeConn) Close() error { return nil }

// packetPipe is the BMC's end of a pipeConn.
type packetPipe struct{ net.Conn }

func (p packetPipe) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := p.Read(b)
	return n, p.RemoteAddr(), err
}
func (p packetPipe) WriteTo(b []byte, _ net.Addr) (int, error) { return p.Write(b) }

// IPMI goes by Target.DialUDP, so that it runs on any network stack.
func TestIPMIDialUDP(t *testing.T) {
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close() }) // once the service has ended
	r := serveIPMI(t, vbmc.Config{}, packetPipe{far})
	r.Address = netip.MustParseAddrPort("192.0.2.1:623")
	r.DialUDP = func(_ context.Context, addr string) (net.Conn, error) {
		if addr != "192.0.2.1:623" {
			t.Errorf("DialUDP(%s); want 192.0.2.1:623", addr)
		}
		return pipeConn{near}, nil
	}
	r.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no TCP") }
	if p, err := r.open(t).Power(t.Context()); err != nil || p != Off {
		t.Errorf("Power() = %s, %v; want off", p, err)
	}
}

func TestParseBootFlags(t *testing.T) {
	for _, tc := range []struct {
		flags, device byte
		want          NextBoot
	}{
		{0x80, 0x04, NextBoot{Device: BootPXE}},
		{0xe0, 0x04, NextBoot{Device: BootPXE, Permanent: true, UEFI: true}},
		{0xa0, 0x08, NextBoot{Device: BootDisk, UEFI: true}},
		{0x80, 0x0c, NextBoot{Device: BootDisk}},
		{0x80, 0x14, NextBoot{Device: BootCD}},
		{0x80, 0x18, NextBoot{Device: BootSetup}},
		{0x80, 0x3c, NextBoot{Device: "ipmi-15"}},
		{0x00, 0x04, NextBoot{Device: BootNone}},
		{0xc0, 0x00, NextBoot{Device: BootNone}},
	} {
		if got := parseBootFlags(tc.flags, tc.device); got != tc.want {
			t.Errorf("parseBootFlags(%02x, %02x) = %+v; want %+v", tc.flags, tc.device, got, tc.want)
		}
	}
}

func TestFRUText(t *testing.T) {
	for _, tc := range []struct {
		kind byte
		in   []byte
		want string
	}{
		{3, []byte("PowerEdge \x00"), "PowerEdge"},
		{0, []byte("GX\xff"), "GX"},
		{2, []byte{0x29, 0xdc, 0xa6}, "IPMI"}, // the example of FRU definition §13.1
		{1, []byte{0x12, 0xab}, "12 -"},
		{3, nil, ""},
	} {
		if got := fruText(tc.kind, tc.in); got != tc.want {
			t.Errorf("fruText(%d, %x) = %q; want %q", tc.kind, tc.in, got, tc.want)
		}
	}
}

// BenchmarkIPMIStatus is a power status with login and logout: ours, and by
// the program ipmitool.
func BenchmarkIPMIStatus(b *testing.B) {
	r := newIPMIRig(b, vbmc.Config{})
	b.Run("native", func(b *testing.B) {
		for b.Loop() {
			c, err := Open(b.Context(), r.Target)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := c.Power(b.Context()); err != nil {
				b.Fatal(err)
			}
			if err := c.Close(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ipmitool", func(b *testing.B) {
		p, err := exec.LookPath("ipmitool")
		if err != nil {
			b.Skip("no ipmitool on this machine")
		}
		host, port, _ := net.SplitHostPort(r.Address.String())
		for b.Loop() {
			cmd := exec.CommandContext(b.Context(), p, "-I", "lanplus", "-C", "17", "-H", host, "-p", port, "-U", "root", "-E", "power", "status")
			cmd.Env = []string{"IPMITOOL_PASSWORD=s3cret"}
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%s: %v", out, err)
			}
		}
	})
}

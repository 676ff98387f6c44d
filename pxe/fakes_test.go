package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// booterFunc decides by a function.
type booterFunc func(Client) (Decision, error)

func (f booterFunc) Boot(_ context.Context, c Client) (Decision, error) { return f(c) }

// memLeases gives fixed addresses by MAC.
type memLeases struct {
	mu       sync.Mutex
	fixed    map[string]netip.Addr
	fixed6   map[string]netip.Addr
	uuids    map[string]net.HardwareAddr
	unproven bool

	declineErr error
	deny       func(Client) bool
	err        error
	commits    int
	released   []netip.Addr
	declined   []netip.Addr
}

func (m *memLeases) find(c Client) (Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return Lease{}, m.err
	}
	if m.deny != nil && m.deny(c) {
		return Lease{}, ErrNoLease
	}
	fixed := m.fixed
	if c.IPv6 {
		fixed = m.fixed6
	}
	a, ok := fixed[c.MAC.String()]
	if !ok {
		return Lease{}, ErrNoLease
	}
	return Lease{Addr: a, Hostname: "node-1", Duration: time.Hour, Unproven: m.unproven}, nil
}

func (m *memLeases) MACOf(_ context.Context, _, uuid string) net.HardwareAddr { return m.uuids[uuid] }

func (m *memLeases) Offer(_ context.Context, c Client, _ netip.Addr) (Lease, error) { return m.find(c) }

func (m *memLeases) Commit(_ context.Context, c Client, a netip.Addr) (Lease, error) {
	l, err := m.find(c)
	if err == nil && l.Addr != a {
		err = fmt.Errorf("%v: %w", a, ErrWrongAddress)
	}
	if err == nil {
		m.mu.Lock()
		m.commits++
		m.mu.Unlock()
	}
	return l, err
}

func (m *memLeases) Release(_ context.Context, _ Client, a netip.Addr) error {
	m.released = append(m.released, a)
	return nil
}

func (m *memLeases) Decline(_ context.Context, _ Client, a netip.Addr) error {
	m.declined = append(m.declined, a)
	return m.declineErr
}

// mapFiles serves bytes, or files of the disk for values that start with "@".
type mapFiles map[string]string

type memFile struct{ *bytes.Reader }

func (memFile) Close() error { return nil }

func (m mapFiles) Open(ctx context.Context, name string) (*File, error) {
	if !fs.ValidPath(name) {
		return nil, fmt.Errorf("Files was asked for %q", name)
	}
	v, ok := m[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	if path, ok := strings.CutPrefix(v, "@"); ok {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		st, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return &File{ReadSeekCloser: f, Size: st.Size(), ModTime: st.ModTime()}, nil
	}
	return &File{ReadSeekCloser: ctxFile{memFile{bytes.NewReader([]byte(v))}, ctx}, Size: int64(len(v))}, nil
}

// ctxFile reads while the context that it was opened with lives, as the store
// of images does.
type ctxFile struct {
	memFile
	ctx context.Context
}

func (f ctxFile) Read(p []byte) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	return f.memFile.Read(p)
}

// timeline keeps what the server recorded.
type timeline struct {
	mu     sync.Mutex
	all    []Exchange
	notify chan struct{}
	log    func(string)
}

// tell shows the timeline in the test's log. An HTTP handler may end after its
// server was closed, and after the test.
func (l *timeline) tell(t testing.TB) {
	l.log = func(s string) { t.Log(s) }
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.log = nil
	})
}

func (l *timeline) Record(e Exchange) {
	l.mu.Lock()
	l.all = append(l.all, e)
	if l.log != nil {
		l.log(fmt.Sprintf("%-15s %v %v %s", e.Kind, e.MAC, e.Addr, e.Text))
	}
	l.mu.Unlock()
	if l.notify != nil {
		select {
		case l.notify <- struct{}{}:
		default:
		}
	}
}

func (l *timeline) find(match func(Exchange) bool) (Exchange, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.all {
		if match(e) {
			return e, true
		}
	}
	return Exchange{}, false
}

func (l *timeline) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, e := range l.all {
		fmt.Fprintf(&b, "%s\t%s\n", e.Kind, e.Text)
	}
	return b.String()
}

// datagram is a packet of the fake wire.
type datagram struct {
	b     []byte
	addr  net.Addr
	frame net.HardwareAddr // sent as a frame to this MAC
}

// fakeConn is a packet connection in memory.
type fakeConn struct {
	local    net.Addr
	in, out  chan datagram
	mu       sync.Mutex
	deadline *time.Timer
	expired  chan struct{}
	closed   chan struct{}
	once     sync.Once
}

func newFakeConn(local string) *fakeConn {
	return &fakeConn{local: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local)),
		in: make(chan datagram, 64), out: make(chan datagram, 64),
		expired: make(chan struct{}), closed: make(chan struct{})}
}

func (c *fakeConn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.mu.Lock()
	expired := c.expired
	c.mu.Unlock()
	select {
	case d := <-c.in:
		return copy(b, d.b), d.addr, nil
	case <-expired:
		return 0, nil, os.ErrDeadlineExceeded
	case <-c.closed:
		return 0, nil, net.ErrClosed
	}
}

func (c *fakeConn) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case c.out <- datagram{b: bytes.Clone(b), addr: to}:
		return len(b), nil
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *fakeConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *fakeConn) LocalAddr() net.Addr { return c.local }

func (c *fakeConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deadline != nil {
		c.deadline.Stop()
	}
	expired := make(chan struct{})
	if t.Before(time.Unix(2, 0)) {
		close(c.expired) // wakes a reader that waits already
		c.expired = expired
		close(expired)
		return nil
	}
	c.expired = expired
	c.deadline = time.AfterFunc(time.Until(t), func() { close(expired) })
	return nil
}

func (c *fakeConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *fakeConn) SetWriteDeadline(time.Time) error { return nil }

// frameConn is a fakeConn that can send frames.
type frameConn struct{ *fakeConn }

func (c frameConn) SendFrame(to net.HardwareAddr, src, dst netip.AddrPort, payload []byte) error {
	c.out <- datagram{b: bytes.Clone(payload), addr: net.UDPAddrFromAddrPort(dst), frame: to}
	return nil
}

var (
	testMAC  = net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}
	testAddr = netip.MustParseAddr("192.0.2.10")

	testAddr6 = netip.MustParseAddr("2001:db8::10")
)

// testNetwork6 is testNetwork with an IPv6 side.
func testNetwork6() Network {
	n := testNetwork()
	n.IPv6 = Network6{Prefix: netip.MustParsePrefix("2001:db8::/64"), Server: netip.MustParseAddr("2001:db8::1"), DNS: []netip.Addr{netip.MustParseAddr("2001:db8::53")}}
	return n
}

// testNetworkOnly6 is a network without IPv4.
func testNetworkOnly6() Network {
	six := testNetwork6()
	return Network{Name: six.Name, Domain: six.Domain, MTU: six.MTU, IPv6: six.IPv6}
}

func testNetwork() Network {
	return Network{
		Name: "prov", Prefix: netip.MustParsePrefix("192.0.2.0/24"),
		Server: netip.MustParseAddr("192.0.2.1"), Gateway: netip.MustParseAddr("192.0.2.254"),
		DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, Domain: "lab.example.org", MTU: 1500,
		NTP: []netip.Addr{netip.MustParseAddr("192.0.2.123")},
	}
}

// fixture is a server with everything fake around it.
type fixture struct {
	*Server
	leases   *memLeases
	timeline *timeline
	decision Decision
	bootErr  error
	asked    []Client
	clock    time.Time
}

func newFixture(t testing.TB, networks ...Network) *fixture {
	t.Helper()
	if len(networks) == 0 {
		networks = []Network{testNetwork()}
	}
	f := &fixture{
		leases:   &memLeases{fixed: map[string]netip.Addr{testMAC.String(): testAddr}, fixed6: map[string]netip.Addr{testMAC.String(): testAddr6}},
		timeline: &timeline{},
		decision: Decision{Action: BootKernel, Kernel: "agent/vmlinuz", Initrds: []string{"agent/initrd"}, Cmdline: "console=ttyS0", Reason: "to be inspected"},
		clock:    time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC),
	}
	s, err := New(Config{
		Networks: networks,
		Booter: booterFunc(func(c Client) (Decision, error) {
			f.asked = append(f.asked, c)
			return f.decision, f.bootErr
		}),
		Leases: f.leases, Recorder: f.timeline, Now: func() time.Time { return f.clock },
		Files: mapFiles{"loaders/undionly.kpxe": "bios loader", "loaders/snponly.efi": "uefi loader", "agent/vmlinuz": "kernel", "agent/initrd": "ramdisk"},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Server = s
	return f
}

func haveTool(name string) bool {
	if strings.HasPrefix(name, "/") {
		_, err := os.Stat(name)
		return err == nil
	}
	_, err := exec.LookPath(name)
	return err == nil
}

// needTool skips a test whose tool is missing, but fails it in CI.
func needTool(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if !haveTool(n) {
			missing(t, "%s is not installed", n)
		}
	}
}

func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// newLeases gives new addresses to new clients.
type newLeases struct {
	mu   sync.Mutex
	next netip.Addr
	by   map[[6]byte]netip.Addr
}

func (l *newLeases) Offer(_ context.Context, c Client, _ netip.Addr) (Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := [6]byte(c.MAC)
	if !l.by[k].IsValid() {
		l.by[k], l.next = l.next, l.next.Next()
	}
	return Lease{Addr: l.by[k], Duration: time.Hour}, nil
}

func (l *newLeases) Commit(ctx context.Context, c Client, _ netip.Addr) (Lease, error) {
	return l.Offer(ctx, c, netip.Addr{})
}
func (l *newLeases) Release(context.Context, Client, netip.Addr) error { return nil }
func (l *newLeases) Decline(context.Context, Client, netip.Addr) error { return nil }

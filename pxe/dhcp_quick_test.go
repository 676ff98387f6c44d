package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// batchConn is a fakeConn that reads and writes batches, as a kernel's socket
// does.
type batchConn struct {
	*fakeConn
	batches chan [][]byte // from the relay
}

func newBatchConn() batchConn {
	return batchConn{newFakeConn("192.0.2.1:67"), make(chan [][]byte, 64)}
}

var testRelay = netip.MustParseAddr("192.0.2.2")

func (c batchConn) ReadBatch(to []Datagram) (int, error) {
	c.mu.Lock()
	expired := c.expired
	c.mu.Unlock()
	select {
	case b := <-c.batches:
		for i := range b {
			to[i].Data = to[i].Data[:copy(to[i].Data, b[i])]
			to[i].Peer = netip.AddrPortFrom(testRelay, 67)
		}
		return len(b), nil
	case <-expired:
		return 0, os.ErrDeadlineExceeded
	}
}

func (c batchConn) WriteBatch(from []Datagram) (int, error) {
	for _, d := range from {
		if _, err := c.WriteTo(d.Data, net.UDPAddrFromAddrPort(d.Peer)); err != nil {
			return 0, err
		}
	}
	return len(from), nil
}

// quickLeases are newLeases that answer from memory. How a commit is told is
// what a test looks at.
type quickLeases struct {
	*newLeases
	how  func(tell func()) bool // of CommitSoon
	errs map[byte]error         // by the MAC's last byte

	mu     sync.Mutex
	waited []byte // who was committed by a worker
}

func (l *quickLeases) Quick() bool { return true }

func (l *quickLeases) CommitSoon(c Client, addr netip.Addr, w Waiter) bool {
	err := l.errs[c.MAC[5]]
	lease, _ := l.Offer(context.Background(), c, addr)
	return l.how(func() { w.Committed(lease, err) })
}

func (l *quickLeases) Commit(ctx context.Context, c Client, addr netip.Addr) (Lease, error) {
	l.mu.Lock()
	l.waited = append(l.waited, c.MAC[5])
	l.mu.Unlock()
	if err := l.errs[c.MAC[5]]; err != nil {
		return Lease{}, err
	}
	return l.newLeases.Commit(ctx, c, addr)
}

// relayed is a packet of client i that came by the relay.
func relayed(i byte, kind dhcpv4.MessageType, opts map[byte][]byte) []byte {
	return ask(kind, opts, func(p *dhcpv4.DHCPv4) {
		p.ClientHWAddr = net.HardwareAddr{2, 0, 0, 0, 0, i}
		p.GatewayIPAddr = testRelay.AsSlice()
		p.TransactionID = dhcpv4.TransactionID{0, 0, byte(kind), i}
	})
}

// serveBatches serves a network in a bubble until the test ends.
func serveBatches(t *testing.T, leases Leases) (*fixture, batchConn) {
	n := testNetwork()
	n.Relays = []netip.Addr{testRelay}
	f := newFixture(t, n)
	f.now = time.Now
	f.Server.leases = leases
	c := newBatchConn()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.ServeDHCP(ctx, "prov", c) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeDHCP = %v; want nil after ctx ended", err)
		}
	})
	return f, c
}

// replies are those that came, by client.
func (c batchConn) replies(t *testing.T) map[byte]*dhcpv4.DHCPv4 {
	t.Helper()
	synctest.Wait()
	got := map[byte]*dhcpv4.DHCPv4{}
	for range len(c.out) {
		d := <-c.out
		m, err := dhcpv4.FromBytes(d.b)
		if err != nil {
			t.Fatal(err)
		}
		i := m.ClientHWAddr[5]
		if got[i] != nil || m.TransactionID[3] != i || d.addr.String() != "192.0.2.2:67" {
			t.Errorf("client %d: %v of transaction %v to %v; want one answer of its own, to the relay", i, m.MessageType(), m.TransactionID, d.addr)
		}
		got[i] = m
	}
	return got
}

// TestQuickLeases: where leases are stored many at a time, each client is
// answered when its own is, whenever that is told, and nobody before.
func TestQuickLeases(t *testing.T) {
	const clients, wrong, broken = 60, 7, 8
	for name, tc := range map[string]struct {
		how    func(told *[]func()) func(tell func()) bool
		worker bool
	}{
		"told before it returns": {func(*[]func()) func(func()) bool { return func(tell func()) bool { tell(); return true } }, false},
		"told later, the last first": {func(told *[]func()) func(func()) bool {
			return func(tell func()) bool { *told = append(*told, tell); return true }
		}, false},
		"not done": {func(*[]func()) func(func()) bool { return func(func()) bool { return false } }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told []func()
				leases := &quickLeases{newLeases: &newLeases{next: netip.MustParseAddr("192.0.2.10"), by: map[[6]byte]netip.Addr{}}, how: tc.how(&told),
					errs: map[byte]error{wrong: fmt.Errorf("it is another's: %w", ErrWrongAddress), broken: errors.New("the disk is full")}}
				f, c := serveBatches(t, leases)
				var packets [][]byte
				for i := range byte(clients) {
					packets = append(packets, relayed(i, dhcpv4.MessageTypeDiscover, nil))
				}
				c.batches <- append(packets, []byte("junk"))
				offers := c.replies(t)
				packets = nil
				for i := range byte(clients) {
					if offers[i] == nil || offers[i].MessageType() != dhcpv4.MessageTypeOffer {
						t.Fatalf("client %d was answered %v; want an offer", i, offers[i])
					}
					packets = append(packets, relayed(i, dhcpv4.MessageTypeRequest, map[byte][]byte{optServerID: {192, 0, 2, 1}, optRequestedAddr: offers[i].YourIPAddr.To4()}))
				}
				c.batches <- packets
				acks := c.replies(t)
				if len(told) > 0 {
					if len(acks) > 0 {
						t.Errorf("%d clients were answered before their leases were stored; want none", len(acks))
					}
					slices.Reverse(told)
					for _, tell := range told {
						tell()
					}
					acks = c.replies(t)
				}
				for i := range byte(clients) {
					want := dhcpv4.MessageTypeAck
					switch i {
					case wrong:
						want = dhcpv4.MessageTypeNak
					case broken:
						if acks[i] != nil {
							t.Errorf("client %d, whose lease was not stored, was answered %v; want silence", i, acks[i])
						}
						continue
					}
					if acks[i] == nil || acks[i].MessageType() != want || want == dhcpv4.MessageTypeAck && !acks[i].YourIPAddr.Equal(offers[i].YourIPAddr) {
						t.Errorf("client %d was answered %v; want %v of what it was offered", i, acks[i], want)
					}
				}
				if _, ok := f.timeline.find(func(e Exchange) bool { return e.Err != nil && strings.Contains(e.Text, "the disk is full") }); !ok {
					t.Errorf("the timeline does not tell that the disk is full:\n%s", f.timeline.text())
				}
				if want := map[bool]int{true: clients}[tc.worker]; len(leases.waited) != want {
					t.Errorf("workers waited for %d commits; want %d", len(leases.waited), want)
				}
			})
		})
	}
}

// TestQuickLeasesEnd: a server that ends answers nobody whose lease is stored
// later, and writes to no socket that is closed.
func TestQuickLeasesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []func()
		leases := &quickLeases{newLeases: &newLeases{next: netip.MustParseAddr("192.0.2.10"), by: map[[6]byte]netip.Addr{}},
			how: func(tell func()) bool { told = append(told, tell); return true }}
		n := testNetwork()
		n.Relays = []netip.Addr{testRelay}
		f := newFixture(t, n)
		f.Server.leases = leases
		c := newBatchConn()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.ServeDHCP(ctx, "prov", c) }()
		c.batches <- [][]byte{relayed(1, dhcpv4.MessageTypeRequest, map[byte][]byte{optServerID: {192, 0, 2, 1}, optRequestedAddr: {192, 0, 2, 10}})}
		synctest.Wait()
		cancel()
		if err := <-done; err != nil || len(told) != 1 {
			t.Fatalf("ServeDHCP = %v with %d commits under way; want nil, and 1", err, len(told))
		}
		c.Close()
		told[0]()
		if got := c.replies(t); len(got) > 0 {
			t.Errorf("after its end the server answered %v; want silence", got)
		}
	})
}

// TestSlowRequestsHoldUpNobody has a request whose decision takes long, in one
// batch with another: that is answered meanwhile, although one worker was free.
func TestSlowRequestsHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := serveBatches(t, &newLeases{next: netip.MustParseAddr("192.0.2.10"), by: map[[6]byte]netip.Addr{}})
		free := make(chan struct{})
		f.Server.booter = booterFunc(func(c Client) (Decision, error) {
			if c.MAC[5] < 10 {
				<-free
			}
			return Decision{Action: Ignore}, nil
		})
		c.batches <- [][]byte{relayed(20, dhcpv4.MessageTypeDiscover, uefiOpts)} // whose worker is free then
		if got := c.replies(t); len(got) != 1 {
			t.Fatalf("%d answers; want 1", len(got))
		}
		c.batches <- [][]byte{relayed(1, dhcpv4.MessageTypeDiscover, uefiOpts), relayed(21, dhcpv4.MessageTypeDiscover, uefiOpts)}
		if got := c.replies(t); len(got) != 1 || got[21] == nil {
			t.Errorf("%d are answered beside one whose decision takes long; want the other", len(got))
		}
		close(free)
		if got := c.replies(t); len(got) != 1 || got[1] == nil {
			t.Errorf("%d are answered when it is made; want that one", len(got))
		}
	})
}

package pxe

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// raConn is an AdvertiseConn in memory.
type raConn struct {
	in   chan datagram
	sent []datagram
	stop chan struct{}
}

func (c *raConn) HardwareAddr() net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, 1} }

func (c *raConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-c.in:
		return copy(b, d.b), d.addr, nil
	case <-c.stop:
		return 0, nil, os.ErrDeadlineExceeded
	}
}

func (c *raConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.sent = append(c.sent, datagram{b: append([]byte{}, b...), addr: to})
	return len(b), nil
}

func (c *raConn) SetReadDeadline(time.Time) error {
	c.stop <- struct{}{}
	return nil
}

func (c *raConn) Close() error                     { return nil }
func (c *raConn) LocalAddr() net.Addr              { return &net.IPAddr{} }
func (c *raConn) SetDeadline(time.Time) error      { return nil }
func (c *raConn) SetWriteDeadline(time.Time) error { return nil }

// advertising runs a network's advertisements in a bubble; f speaks to it.
func advertising(t *testing.T, n Network, f func(fx *fixture, c *raConn)) *raConn {
	t.Helper()
	c := &raConn{}
	synctest.Test(t, func(t *testing.T) {
		c.in, c.stop = make(chan datagram), make(chan struct{}, 1) // the bubble's own
		fx := newFixture(t, n)
		fx.now = time.Now
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- fx.ServeAdvertisements(ctx, n.Name, c) }()
		synctest.Wait()
		f(fx, c)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeAdvertisements = %v; want nil after its context ended", err)
		}
	})
	return c
}

func (c *raConn) says(src string, b []byte) {
	c.in <- datagram{b: b, addr: &net.IPAddr{IP: netip.MustParseAddr(src).AsSlice()}}
	synctest.Wait()
}

// pause lets the bubble's time go on.
func pause(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var solicitation6 = append([]byte{icmpSolicit, 0, 0, 0, 0, 0, 0, 0, ndpSourceLink, 1}, testMAC...)

const allNodes6 = "ff02::1"

// TestAdvertiseNothing answers machines that wait for a router that is not
// there. Issue 3: "answering IPv6 router solicitations and sending option
// 175.176 lets iPXE configure its NIC in 0.1 s instead of 16.4".
func TestAdvertiseNothing(t *testing.T) {
	n := testNetwork()
	n.Advertise = AdvertiseNothing
	const machine = "fe80::5054:ff:fe01:203"
	c := advertising(t, n, func(fx *fixture, c *raConn) {
		if len(c.sent) != 1 || c.sent[0].b[0] != icmpSolicit {
			t.Fatalf("sent %v at first; want a solicitation alone: are there other routers?", c.sent)
		}
		c.says(machine, solicitation6)
		pause(time.Hour)
		if len(c.sent) != 2 || c.sent[1].addr.String() != machine {
			t.Fatalf("sent %v; want one advertisement to %s, and nothing unasked", c.sent, machine)
		}
		// Another router speaks: its word counts, for an hour.
		other := testNetwork6()
		other.Advertise, other.IPv6.Gateway = AdvertiseManaged, other.IPv6.Server
		c.says("fe80::9", other.advertisement(nil, time.Hour))
		c.says(machine, solicitation6)
		if len(c.sent) != 2 {
			t.Fatalf("sent %v beside another router; want silence", c.sent)
		}
		pause(raOtherFor + time.Second)
		c.says(machine, solicitation6)
		if len(c.sent) != 3 {
			t.Fatalf("sent %v after the other router went; want an answer", c.sent)
		}
	})
	got := c.sent[1].b
	if got[0] != icmpAdvertise || got[5] != 0 || got[6] != 0 || got[7] != 0 {
		t.Errorf("advertisement %x; want no flags and no lifetime", got)
	}
	if speaks, err := parseAdvertisement(got); speaks || err != nil {
		t.Errorf("parseAdvertisement = %v, %v; want one that says nothing", speaks, err)
	}
}

// TestAdvertiseAlone gives way to another router, whatever it would say.
func TestAdvertiseAlone(t *testing.T) {
	n := testNetwork6()
	n.Advertise, n.AdvertiseAlone = AdvertiseManaged, true
	const machine = "fe80::5054:ff:fe01:203"
	c := advertising(t, n, func(_ *fixture, c *raConn) {
		c.says(machine, solicitation6)
		pause(time.Hour)
		other := testNetwork6()
		other.Advertise = AdvertiseSLAAC
		c.says("fe80::9", other.advertisement(nil, time.Hour))
		c.says(machine, solicitation6)
	})
	if len(c.sent) != 2 || c.sent[0].b[0] != icmpSolicit || c.sent[1].addr.String() != machine || c.sent[1].b[5] != raManaged|raOther {
		t.Errorf("sent %v; want a solicitation, and one answer that says managed", c.sent)
	}
}

// TestAdvertiseManaged speaks unasked too, and takes its word back at the end.
func TestAdvertiseManaged(t *testing.T) {
	n := testNetwork6()
	n.Advertise, n.IPv6.Gateway = AdvertiseManaged, n.IPv6.Server
	c := advertising(t, n, func(fx *fixture, c *raConn) {
		pause(raFirstInterval*2 + raInterval*2 + time.Second)
		if len(c.sent) != 5 { // at once, after 16 and 32 s, and twice by the interval
			t.Errorf("%d advertisements; want 5", len(c.sent))
		}
		fx.noteStage(Client{MAC: testMAC, Network: "prov", IPXE: true}, stageIPXE, "")
		c.says("fe80::5054:ff:fe01:203", solicitation6)
		if e, ok := fx.timeline.find(func(e Exchange) bool { return e.Kind == "ra" }); !ok || e.MAC.String() != testMAC.String() {
			t.Errorf("timeline has no ra of %v:\n%s", testMAC, fx.timeline.text())
		}
		before := len(c.sent)
		pause(raMulticastGap)
		for range 5 { // without an address: everybody is told, not too often
			c.says("::", []byte{icmpSolicit, 0, 0, 0, 0, 0, 0, 0})
		}
		if got := len(c.sent) - before; got != 1 {
			t.Errorf("%d advertisements to all nodes in a burst; want 1", got)
		}
	})
	for i, lifetime := range map[int]byte{0: 7, len(c.sent) - 1: 0} { // 1800 is 0x0708
		d := c.sent[i]
		if d.addr.String() != allNodes6 || d.b[5] != raManaged|raOther || d.b[6] != lifetime {
			t.Errorf("advertisement %d to %v = %x; want M, O and lifetime %d", i, d.addr, d.b, lifetime)
		}
	}
}

// TestSolicitations drops what RFC 4861 §6.1.1 wants dropped.
func TestSolicitations(t *testing.T) {
	ll := netip.MustParseAddr("fe80::1")
	for _, tc := range []struct {
		name string
		src  netip.Addr
		b    []byte
		ok   bool
	}{
		{"right", ll, solicitation6, true},
		{"short", ll, solicitation6[:7], false},
		{"code", ll, append([]byte{icmpSolicit, 1}, solicitation6[2:]...), false},
		{"empty option", ll, append(solicitation6[:8:8], 1, 0, 0, 0, 0, 0, 0, 0), false},
		{"option beyond the end", ll, append(solicitation6[:8:8], 1, 2, 0, 0, 0, 0, 0, 0), false},
		{"from nowhere, with an address", netip.IPv6Unspecified(), solicitation6, false},
		{"from nowhere", netip.IPv6Unspecified(), solicitation6[:8], true},
		{"from a group", netip.MustParseAddr(allNodes6), solicitation6, false},
	} {
		if _, err := parseSolicitation(tc.b, tc.src); (err == nil) != tc.ok {
			t.Errorf("%s: parseSolicitation = %v; want ok %v", tc.name, err, tc.ok)
		}
	}
}

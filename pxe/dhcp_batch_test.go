//go:build linux

package pxe

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// TestServeDHCPBatches has a burst of relayed clients over a kernel's socket:
// each gets its own answer, whatever batch it came in.
func TestServeDHCPBatches(t *testing.T) {
	server, client := vethPair(t)
	client.run(t, "ip", "addr", "add", "192.0.2.2/24", "dev", "cli0")
	// Each knows the other's MAC: the kernel keeps 101 packets while it asks.
	mac := func(n *netns, dev string) string {
		return strings.TrimSpace(n.run(t, "cat", "/sys/class/net/"+dev+"/address"))
	}
	server.run(t, "ip", "neigh", "replace", "192.0.2.2", "lladdr", mac(client, "cli0"), "dev", "srv0")
	client.run(t, "ip", "neigh", "replace", "192.0.2.1", "lladdr", mac(server, "srv0"), "dev", "cli0")
	n := testNetwork()
	relay := netip.MustParseAddr("192.0.2.2")
	n.Relays = []netip.Addr{relay}
	f := newFixture(t, n)
	f.now = time.Now
	leases := &newLeases{next: netip.MustParseAddr("192.0.2.10"), by: map[[6]byte]netip.Addr{}}
	f.Server.leases = leases
	f.Server.booter = booterFunc(func(Client) (Decision, error) { return Decision{Action: Ignore}, nil })
	server.serve(t, f.Server, "srv0")
	var conn net.PacketConn
	if err := client.do(func() (err error) {
		conn, err = net.ListenPacket("udp4", "192.0.2.2:67")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The answers come while the questions are still sent: the usual buffer of
	// 208 KiB holds 167 of them.
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var sized error
	if err := raw.Control(func(fd uintptr) { sized = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) }); err != nil || sized != nil {
		t.Fatalf("sizing the receive buffer: %v, %v", err, sized)
	}
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:67"))
	const clients = 200
	for i := range clients {
		b := ask(dhcpv4.MessageTypeDiscover, uefiOpts, func(p *dhcpv4.DHCPv4) {
			p.ClientHWAddr = net.HardwareAddr{2, 0, 0, 0, 0, byte(i)}
			p.GatewayIPAddr = relay.AsSlice()
			p.TransactionID = dhcpv4.TransactionID{0, 0, 1, byte(i)}
		})
		if _, err := conn.WriteTo(b, to); err != nil {
			t.Fatal(err)
		}
		// Between them what nobody reads.
		if _, err := conn.WriteTo(b[:i], to); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for buf := make([]byte, 2000); len(got) < clients; {
		k, _, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatalf("%d of %d clients were answered: %v", len(got), clients, err)
		}
		m, err := dhcpv4.FromBytes(buf[:k])
		if err != nil {
			t.Fatal(err)
		}
		if m.TransactionID != (dhcpv4.TransactionID{0, 0, 1, m.ClientHWAddr[5]}) || m.MessageType() != dhcpv4.MessageTypeOffer {
			t.Errorf("%v of %v has transaction %v", m.MessageType(), m.ClientHWAddr, m.TransactionID)
		}
		if got[m.YourIPAddr.String()] {
			t.Errorf("%v was offered to two clients", m.YourIPAddr)
		}
		got[m.YourIPAddr.String()] = true
	}
	if d := f.Drops(); d["DHCP: "+errTooShort.Error()] == 0 {
		t.Errorf("Drops = %v; want the short packets in it", d)
	}
}

// TestContextsEnd has the contexts of requests end with their parent.
func TestContextsEnd(t *testing.T) {
	parent, cancel := context.WithCancel(t.Context())
	c := contexts{parent: parent}
	defer c.end()
	ctx := c.now()
	if c.now() != ctx {
		t.Error("two requests at once have two contexts; want one")
	}
	cancel()
	<-ctx.Done()
	c.made = time.Now().Add(-time.Minute)
	if c.now() == ctx {
		t.Error("a request a minute later has the same context; want another")
	}
}

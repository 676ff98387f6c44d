package fabric

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestQEMU boots SeaBIOS and iPXE in QEMU on a UDP port, gives it an address
// from a host's sockets, and waits until it asks for its boot file, which it
// does at once only if its router solicitation was answered.
func TestQEMU(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine")
	}
	qemu := need(t, "qemu-system-x86_64")
	s := startSwitch(t, Config{})
	local, peer := udpPort(t, s, PortConfig{Name: "machine", VLAN: 10})
	host, err := s.NewHost(HostConfig{Name: "server", VLAN: 10, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, RouterAdvertisements: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 60*time.Second)
	server := netip.MustParseAddr("192.0.2.1")
	dhcp, tftp := listenUDP(t, host, "0.0.0.0:67"), listenUDP(t, host, "0.0.0.0:69")
	deadline, _ := ctx.Deadline()
	dhcp.SetDeadline(deadline)
	tftp.SetDeadline(deadline)

	addr := mac(7)
	var console bytes.Buffer
	cmd := exec.CommandContext(ctx, qemu, "-machine", "pc", "-accel", "tcg", "-m", "128", "-display", "none", "-nodefaults",
		"-serial", "none", "-boot", "n", "-no-reboot",
		"-netdev", fmt.Sprintf("socket,id=n,udp=%s,localaddr=%s", local, peer),
		"-device", "virtio-net-pci,netdev=n,mac="+addr.String())
	cmd.Stdout, cmd.Stderr = &console, &console
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-gone
		if t.Failed() {
			t.Logf("QEMU said: %s", console.String())
		}
	})

	var acked time.Time
	for acked.IsZero() {
		ask := readDHCP(t, dhcp)
		if !bytes.Equal(ask.ClientHWAddr, addr) {
			t.Fatalf("%v asks; want %v", ask.ClientHWAddr, addr)
		}
		reply := dhcpv4.MessageTypeOffer
		if ask.MessageType() == dhcpv4.MessageTypeRequest {
			reply = dhcpv4.MessageTypeAck
			acked = time.Now()
		} else {
			t.Logf("%v from iPXE after %v", ask.MessageType(), time.Since(start).Round(time.Millisecond))
		}
		sendDHCP(t, dhcp, ask, reply, server)
	}
	rrq, from := readFrom(t, tftp)
	// Without an advertisement this iPXE waits 16 s for one.
	if d := time.Since(acked); d > 8*time.Second {
		t.Errorf("TFTP request %v after the ACK; want at most 8 s", d)
	} else {
		t.Logf("TFTP request %v after the ACK", d.Round(time.Millisecond))
	}
	if !strings.HasPrefix(rrq, "\x00\x01boot.0\x00") || from.Addr() != netip.MustParseAddr("192.0.2.50") {
		t.Errorf("got %q from %v; want a TFTP read of boot.0 from 192.0.2.50", rrq, from)
	}
	if st := s.Port("machine").Stats(); st.Malformed+st.WrongVLAN+st.WriteErrors+st.Overflow != 0 {
		t.Errorf("Stats() = %+v; want nothing dropped", st)
	}
}

func readDHCP(t *testing.T, c net.PacketConn) *dhcpv4.DHCPv4 {
	t.Helper()
	b := make([]byte, 1500)
	n, _, err := c.ReadFrom(b)
	if err != nil {
		t.Fatalf("no DHCP request: %v", err)
	}
	m, err := dhcpv4.FromBytes(b[:n])
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// sendDHCP answers by frame: the machine has no address yet.
func sendDHCP(t *testing.T, c *PacketConn, ask *dhcpv4.DHCPv4, kind dhcpv4.MessageType, server netip.Addr) {
	t.Helper()
	yours := netip.MustParseAddr("192.0.2.50")
	m, err := dhcpv4.NewReplyFromRequest(ask,
		dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(yours.AsSlice()), dhcpv4.WithServerIP(server.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server.AsSlice())),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithLeaseTime(300),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), []byte{176, 1, 1}))) // no-pxedhcp
	if err != nil {
		t.Fatal(err)
	}
	m.BootFileName = "boot.0"
	if err := c.SendFrame(ask.ClientHWAddr, netip.AddrPortFrom(server, 67), netip.AddrPortFrom(yours, 68), m.ToBytes()); err != nil {
		t.Fatal(err)
	}
}

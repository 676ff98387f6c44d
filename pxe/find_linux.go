package pxe

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// FindServers asks on an interface which DHCP and DHCPv6 servers answer there:
// three DISCOVERs and SOLICITs in as many seconds, and no REQUEST, so that it
// takes no lease. It needs root or CAP_NET_RAW.
func FindServers(ctx context.Context, ifname string) ([]FoundServer, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w: see `ip link` for the names", ifname, err)
	}
	if len(ifi.HardwareAddr) != 6 {
		return nil, fmt.Errorf("interface %s is no Ethernet interface (hardware address %q)", ifname, ifi.HardwareAddr)
	}
	var xid findXID
	rand.Read(xid[:]) // it does not fail
	heard, err := openFind(ifi.Index)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket on %s: %w%s", ifname, err, listenHint(err))
	}
	defer heard.Close()
	ask6, err := findSocket6(ctx, ifname)
	if err == nil {
		defer ask6.Close()
	}
	const tries = 3
	ctx, cancel := context.WithTimeout(ctx, tries*time.Second)
	defer cancel()
	sent := make(chan error, 1)
	go func() { sent <- findAsk(ctx, heard, ask6, ifi, xid, tries) }()
	found, err := findHear(ctx, heard, xid)
	cancel()
	return found, errors.Join(<-sent, err)
}

// findSocket6 is nil with an error where the interface has no IPv6.
func findSocket6(ctx context.Context, ifname string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, ifname) })
		return errors.Join(cerr, err)
	}}
	return lc.ListenPacket(ctx, "udp6", "[::]:0")
}

// findAsk sends the questions, one of each kind a second.
func findAsk(ctx context.Context, frames *os.File, six net.PacketConn, ifi *net.Interface, xid findXID, tries int) error {
	from := netip.AddrPortFrom(netip.IPv4Unspecified(), dhcpClientPort)
	to := netip.AddrPortFrom(limitedBroadcast(), dhcpServerPort)
	frame, err := udpFrame(net.HardwareAddr{255, 255, 255, 255, 255, 255}, ifi.HardwareAddr, from, to, findDiscover(ifi.HardwareAddr, xid))
	if err != nil {
		return err
	}
	all := net.UDPAddrFromAddrPort(netip.AddrPortFrom(allServers6().WithZone(ifi.Name), dhcp6ServerPort))
	for try := range tries {
		if _, err := frames.Write(frame); err != nil {
			return fmt.Errorf("asking on %s: %w", ifi.Name, err)
		}
		if six != nil {
			if _, err := six.WriteTo(findSolicit(ifi.HardwareAddr, xid), all); err != nil {
				six = nil // no IPv6 there: nobody answers either
			}
		}
		if try+1 == tries {
			return nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// openFind opens a packet socket that hears UDP to the clients' ports.
func openFind(index int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	filter, err := filterOf([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: etherIPv4, SkipTrue: 5},
		bpf.LoadAbsolute{Off: etherHeader + 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoUDP, SkipTrue: 9},
		bpf.LoadMemShift{Off: etherHeader},
		bpf.LoadIndirect{Off: etherHeader + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: dhcpClientPort, SkipTrue: 5, SkipFalse: 6},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: etherIPv6, SkipTrue: 5},
		bpf.LoadAbsolute{Off: etherHeader + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoUDP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: etherHeader + ip6Header + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: dhcp6ClientPort, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	})
	if err == nil {
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, filter)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: 0x0300}) // ETH_P_ALL in network order
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "find"), nil
}

// findHear collects answers until ctx ends.
func findHear(ctx context.Context, frames *os.File, xid findXID) ([]FoundServer, error) {
	stop := context.AfterFunc(ctx, func() { frames.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var found []FoundServer
	buf := make([]byte, 4096)
	for {
		k, err := frames.Read(buf)
		if ctx.Err() != nil {
			return found, nil
		}
		if err != nil {
			return found, fmt.Errorf("hearing DHCP answers: %w", err)
		}
		b := buf[:k]
		if len(b) < etherHeader {
			continue
		}
		p, ok := decodeFrame(linkEthernet, b, time.Time{})
		if !ok {
			continue
		}
		f, ok := readOffer(p.Data, xid)
		if binary.BigEndian.Uint16(b[12:]) == etherIPv6 {
			f, ok = readAdvertise(p.Data, xid)
		}
		if !ok {
			continue
		}
		if !f.Server.IsValid() {
			f.Server = p.From.Addr()
		}
		f.MAC = append(net.HardwareAddr{}, b[6:12]...)
		if !slices.ContainsFunc(found, f.same) {
			found = append(found, f)
		}
	}
}

package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownNetwork puts the test's thread into namespaces of its own: nothing that it
// does to the network or to files of /etc is done to this machine. There are two
// veth pairs, port with switch and other with elsewhere.
func ownNetwork(t *testing.T) *netlink.Handle {
	t.Helper()
	runtime.LockOSThread() // and not unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		runtime.UnlockOSThread()
		if os.Getenv("CI") == "true" {
			t.Fatalf("namespaces: %v", err)
		}
		t.Skipf("needs root for namespaces: %v", err)
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE) // of this namespace, for any thread
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	for name, peer := range map[string]string{"port": "switch", "other": "elsewhere"} {
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"port", "switch", "other", "elsewhere"} {
		l, err := h.LinkByName(name)
		if err == nil {
			err = h.LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// TestAwaitRoute: a router that speaks after the DHCPv6 server is waited for,
// so that a server behind it is not looked for on the link.
func TestAwaitRoute(t *testing.T) {
	h := ownNetwork(t)
	port, err := h.LinkByName("port")
	if err != nil {
		t.Fatal(err)
	}
	server := netip.MustParseAddr("2001:db8:90::1")
	if routed, err := awaitRoute(t.Context(), port, server, 0); routed || err != nil {
		t.Fatalf("awaitRoute() without a route = %t, %v; want false", routed, err)
	}
	// Another port's router is of no help: the server is not asked for there.
	other, err := h.LinkByName("other")
	if err != nil {
		t.Fatal(err)
	}
	_, near, _ := net.ParseCIDR("2001:db8:90::/64")
	if err := h.RouteAdd(&netlink.Route{LinkIndex: other.Attrs().Index, Dst: near}); err != nil {
		t.Fatal(err)
	}
	if routed, err := awaitRoute(t.Context(), port, server, 0); routed || err != nil {
		t.Fatalf("awaitRoute() with a route by another port = %t, %v; want false", routed, err)
	}
	ended, end := context.WithCancelCause(t.Context())
	why := errors.New("the agent ends")
	end(why)
	if _, err := awaitRoute(ended, port, server, time.Hour); !errors.Is(err, why) {
		t.Errorf("awaitRoute() at the end = %v; want %v", err, why)
	}
	added := make(chan error, 1)
	go func() {
		_, all, _ := net.ParseCIDR("2001:db8::/32")
		added <- h.RouteAdd(&netlink.Route{LinkIndex: port.Attrs().Index, Dst: all})
	}()
	routed, err := awaitRoute(t.Context(), port, server, time.Minute)
	if e := <-added; e != nil {
		t.Fatal(e)
	}
	if !routed || err != nil {
		t.Errorf("awaitRoute() of a route that comes = %t, %v; want true", routed, err)
	}
	// And although the kernel would prefer it, its narrower one.
	if by, err := netlink.RouteGet(server.AsSlice()); err != nil || len(by) != 1 || by[0].LinkIndex != port.Attrs().Index {
		t.Errorf("the server is reached by %+v, %v; want by the port", by, err)
	}
}

// TestTake6: an address that another machine on the link has is not taken, the
// first time or later.
func TestTake6(t *testing.T) {
	h := ownNetwork(t)
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(resolv, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no /etc/resolv.conf to put another in the place of: %v", err)
	}
	port, err := h.LinkByName("port")
	if err != nil {
		t.Fatal(err)
	}
	neighbour, err := h.LinkByName("switch")
	if err != nil {
		t.Fatal(err)
	}
	taken, free := net.ParseIP("2001:db8:90::7"), net.ParseIP("2001:db8:90::8")
	whole := func(ip net.IP) *net.IPNet { return &net.IPNet{IP: ip, Mask: net.CIDRMask(128, 128)} }
	if err := h.AddrAdd(neighbour, &netlink.Addr{IPNet: whole(taken), Flags: unix.IFA_F_NODAD}); err != nil {
		t.Fatal(err)
	}
	_, all, _ := net.ParseCIDR("2001:db8:90::/64")
	if err := h.RouteAdd(&netlink.Route{LinkIndex: port.Attrs().Index, Dst: all}); err != nil {
		t.Fatal(err)
	}
	reply, err := dhcpv6.NewMessage()
	if err != nil {
		t.Fatal(err)
	}
	n := &network{port: "port", log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	take := func(ip net.IP) error {
		return n.take6(t.Context(), port, &lease6{reply, &dhcpv6.OptIANA{}, &dhcpv6.OptIAAddress{IPv6Addr: ip}}, netip.MustParseAddr("2001:db8:90::1"))
	}
	for _, tt := range []struct {
		name string
		ip   net.IP
		want error
	}{{"another's", taken, errDuplicate}, {"a free one", free, nil}, {"the same again", free, nil}, {"another's, at a renewal", taken, errDuplicate}} {
		if err := take(tt.ip); !errors.Is(err, tt.want) {
			t.Errorf("%s: take6() = %v; want %v", tt.name, err, tt.want)
		}
	}
}

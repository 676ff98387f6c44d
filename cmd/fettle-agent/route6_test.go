package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestAwaitRoute: a router that speaks after the DHCPv6 server is waited for,
// so that a server behind it is not looked for on the link.
func TestAwaitRoute(t *testing.T) {
	runtime.LockOSThread() // and not unlocked: the thread, in its own network namespace, ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		if os.Getenv("CI") == "true" {
			t.Fatalf("a network namespace: %v", err)
		}
		t.Skipf("needs root for a network namespace: %v", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE) // of this namespace, for any thread
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port"}, PeerName: "switch"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"port", "switch"} {
		l, err := h.LinkByName(name)
		if err == nil {
			err = h.LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	port, err := h.LinkByName("port")
	if err != nil {
		t.Fatal(err)
	}
	server := netip.MustParseAddr("2001:db8:90::1")
	if routed, err := awaitRoute(t.Context(), server, 0); routed || err != nil {
		t.Fatalf("awaitRoute() without a route = %t, %v; want false", routed, err)
	}
	ended, end := context.WithCancelCause(t.Context())
	why := errors.New("the agent ends")
	end(why)
	if _, err := awaitRoute(ended, server, time.Hour); !errors.Is(err, why) {
		t.Errorf("awaitRoute() at the end = %v; want %v", err, why)
	}
	added := make(chan error, 1)
	go func() {
		_, all, _ := net.ParseCIDR("2001:db8::/32")
		added <- h.RouteAdd(&netlink.Route{LinkIndex: port.Attrs().Index, Dst: all})
	}()
	routed, err := awaitRoute(t.Context(), server, time.Minute)
	if e := <-added; e != nil {
		t.Fatal(e)
	}
	if !routed || err != nil {
		t.Errorf("awaitRoute() of a route that comes = %t, %v; want true", routed, err)
	}
}

package main

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/bmc/vbmc"
)

func TestRootURL(t *testing.T) {
	at := netip.MustParseAddr("192.0.2.7")
	for listens, want := range map[string]string{
		"127.0.0.1:8443": "https://127.0.0.1:8443/redfish/v1/", "192.0.2.9:443": "https://192.0.2.9/redfish/v1/",
		"[::]:443": "https://192.0.2.7/redfish/v1/", "0.0.0.0:8443": "https://192.0.2.7:8443/redfish/v1/",
	} {
		if got := rootURL(listens, at); got != want {
			t.Errorf("rootURL(%s) = %s; want %s", listens, got, want)
		}
	}
}

// TestSSDPMulticast: a search by multicast finds the virtual BMC, from a socket
// at an address of the network as fettle serve has one.
func TestSSDPMulticast(t *testing.T) {
	ns := newRackNS(t)
	ns.run(t, "ip", "link", "add", "oob", "type", "veth", "peer", "name", "rack")
	ns.run(t, "ip", "link", "set", "rack", "up")
	ns.run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "oob")
	ns.run(t, "ip", "link", "set", "oob", "up", "multicast", "on")
	type conns struct {
		hears, asks net.PacketConn
		at          netip.Addr
		err         error
	}
	done := make(chan conns, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var c conns
		defer func() { done <- c }()
		fd, err := unix.Open("/run/netns/"+ns.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			c.err = err
			return
		}
		defer unix.Close(fd)
		if c.err = unix.Setns(fd, unix.CLONE_NEWNET); c.err != nil {
			return
		}
		if c.hears, c.at, c.err = listenSSDP("oob"); c.err == nil {
			c.asks, c.err = net.ListenPacket("udp4", "192.0.2.1:0")
		}
	}()
	c := <-done
	if c.err != nil {
		t.Fatal(c.err)
	}
	defer c.hears.Close()
	defer c.asks.Close()
	in := virtualInfo()
	srv, err := vbmc.New(vbmc.Config{Chassis: vbmc.NewMemory(in), Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeSSDP(ctx, c.hears, rootURL("0.0.0.0:443", c.at)) }()
	defer func() { cancel(); <-ended }()
	got, err := bmc.SearchSSDP(t.Context(), c.asks, bmc.SSDPGroup)
	if want := (bmc.Announced{From: c.at, Root: "https://192.0.2.1/redfish/v1/", UUID: in.UUID}); err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("SearchSSDP() = %+v, %v; want %+v", got, err, want)
	}
}

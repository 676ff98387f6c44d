package bmc

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// TestSearchSSDP: virtual BMCs answer a search once, until it is switched off;
// what is no answer is passed over.
func TestSearchSSDP(t *testing.T) {
	const id = "6a0f0f5e-2f6b-4f0e-9d58-5d1c7a3d0001"
	srv, err := vbmc.New(vbmc.Config{Chassis: vbmc.NewMemory(vbmc.Info{UUID: id}), Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}})
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.PacketConn {
		t.Helper()
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	group, mine := listen(), listen()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.ServeSSDP(ctx, group, "https://192.0.2.9/redfish/v1/") }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeSSDP() = %v; want nil at the end", err)
		}
	}()
	liar := listen() // somebody who answers whatever comes to mine
	for _, b := range []string{"", "HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nAL: https://192.0.2.8/\r\n\r\n", "HTTP/1.1 200 OK\r\nST: " + ssdpTarget + "\r\nAL: file:///etc/passwd\r\n\r\n"} {
		if _, err := liar.WriteTo([]byte(b), mine.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	got, err := SearchSSDP(t.Context(), mine, netip.MustParseAddrPort(group.LocalAddr().String()))
	want := Announced{netip.MustParseAddr("127.0.0.1"), "https://192.0.2.9/redfish/v1/", id}
	if err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("SearchSSDP() = %+v, %v; want %+v", got, err, want)
	}
	left, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if _, err := SearchSSDP(left, listen(), netip.MustParseAddrPort(group.LocalAddr().String())); err == nil {
		t.Error("SearchSSDP() of who left = nil; want why")
	}
}

func FuzzSSDP(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nST: " + ssdpTarget + ":0\r\nUSN: uuid:x::y\r\nAL: https://192.0.2.8/redfish/v1/\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := parseSSDP(b); ok && a.Root == "" {
			t.Errorf("parseSSDP(%q) gives no URL", b)
		}
	})
}

package main

import (
	"net/netip"
	"testing"

	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/site"
)

// TestLabOnABridge: services for a boot network that is a bridge of this machine
// are on this machine's own stack.
func TestLabOnABridge(t *testing.T) {
	s, err := site.Load("../../examples/two-gpu")
	if err != nil {
		t.Fatal(err)
	}
	boot, _ := s.Network("prov")
	stack := labStack{&labs.Lab{}, &hostStack{interfaces: map[string]string{"prov": "lo"}}}
	loopback := netip.MustParseAddrPort("127.0.0.1:0")
	ln, err := stack.Listen(t.Context(), boot, loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := stack.ListenPacket(t.Context(), boot, loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if bmcs, _ := s.Network("bmc"); stack.on(boot) == nil || stack.on(bmcs) != nil || (labStack{}).on(boot) != nil {
		t.Error("a lab with a bridge has BMCs on this machine's stack, or its boot network on the fabric")
	}
}

package pxe

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestWaysOfBooting: firmware that asks in a way that the network does not
// allow gets an address, no boot file, and a sentence.
func TestWaysOfBooting(t *testing.T) {
	ipxe := map[byte][]byte{optVendorClass: []byte("PXEClient:Arch:00016:UNDI:003010"), optUserClass: []byte("iPXE"), optArch: arch(16), optIPXE: {ipxeHTTP, 1, 1}}
	for _, tc := range []struct {
		name string
		ways []Way
		opts map[byte][]byte
		bars string
	}{
		{"all, HTTP", nil, httpOpts, ""},
		{"PXE only, PXE", []Way{WayPXE}, uefiOpts, ""},
		{"PXE only, HTTP", []Way{WayPXE}, httpOpts, "its firmware (UEFI x64) sent HTTPClient and the network allows PXE only"},
		{"HTTP only, PXE", []Way{WayHTTP}, uefiOpts, "its firmware (UEFI x64) sent PXEClient and the network allows HTTP boot only"},
		{"HTTP only, iPXE that came by it", []Way{WayHTTP}, ipxe, ""},
		{"both", []Way{WayPXE, WayHTTP}, httpOpts, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := testNetwork()
			n.Ways = tc.ways
			f := newFixture(t, n)
			for range 4 {
				p := decode(t, f.answer(context.Background(), f.order[0], ask(dhcpv4.MessageTypeDiscover, tc.opts), nil))
				if got := p.BootFileName != "" || len(p.Options[optBootFile]) > 0; got != (tc.bars == "") {
					t.Errorf("boot file %q; want one: %v", p.BootFileName, tc.bars == "")
				}
				f.clock = f.clock.Add(8 * time.Second)
			}
			why := Why(f.timeline.all, f.clock)
			want := "asked 4 times and took no offer: " + tc.bars
			if tc.bars != "" && why != want {
				t.Errorf("Why() = %q; want %q", why, want)
			}
			if tc.bars == "" && strings.Contains(why, "allows") {
				t.Errorf("Why() = %q; want no word of ways", why)
			}
		})
	}
}

// TestRelayPort: what a listed relay says of the client's port is recorded
// (RFC 3046; the forms are those that switches send).
func TestRelayPort(t *testing.T) {
	for _, tc := range []struct {
		name            string
		circuit, remote []byte
		port, sw        string
	}{
		{"names", []byte("Ethernet7"), []byte("leaf-3"), "Ethernet7", "leaf-3"},
		{"Cisco", []byte{0, 4, 0, 10, 1, 7}, []byte{0, 6, 0x02, 0, 0, 0xaa, 0xbb, 0xcc}, "vlan 10, 1/7", "02:00:00:aa:bb:cc"},
		{"a bare MAC address", []byte{1, 2}, []byte{0x02, 0, 0, 0xaa, 0xbb, 0xcc}, "0102", "02:00:00:aa:bb:cc"},
		{"hostile", []byte("a\x1b[2Jb"), nil, "611b5b324a62", ""},
		{"none", nil, nil, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := testNetwork()
			n.Relays = []netip.Addr{netip.MustParseAddr("192.0.2.3")}
			f := newFixture(t, n)
			opts := map[byte][]byte{}
			for k, v := range uefiOpts {
				opts[k] = v
			}
			var info []byte
			for tag, v := range map[byte][]byte{relayCircuitID: tc.circuit, relayRemoteID: tc.remote} {
				if v != nil {
					info = append(append(info, tag, byte(len(v))), v...)
				}
			}
			opts[optRelayInfo] = info
			b := ask(dhcpv4.MessageTypeDiscover, opts)
			f.answer(context.Background(), f.order[0], b, nil) // no relay: nobody vouches for option 82
			copy(b[24:28], []byte{192, 0, 2, 3})
			f.answer(context.Background(), f.order[0], b, nil)
			var got []Relay
			for _, e := range f.timeline.all {
				if e.Kind == "dhcp.discover" {
					got = append(got, e.Asker.Relay)
				}
			}
			want := Relay{Agent: netip.MustParseAddr("192.0.2.3"), Circuit: tc.port, Remote: tc.sw}
			if len(got) != 2 || got[0] != (Relay{}) || got[1] != want {
				t.Errorf("relays recorded: %+v; want none, then %+v", got, want)
			}
		})
	}
}

package pxe

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// sparing is a recorder that wants nothing of whom it does not know.
type sparing struct {
	Recorder
	known net.HardwareAddr
}

func (s sparing) Wants(mac net.HardwareAddr, _ netip.Addr, _ time.Time) bool {
	return string(mac) == string(s.known)
}

// TestRecordLimit says nothing of a client that the recorder wants nothing of,
// and answers it all the same.
func TestRecordLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		known net.HardwareAddr
		want  int
	}{"wanted": {testMAC, 3}, "not wanted": {net.HardwareAddr{2, 0, 0, 0, 0, 0xff}, 0}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.limit = sparing{f.recorder, tc.known}
			offer := decode(t, f.ask(dhcpv4.MessageTypeDiscover, uefiOpts))
			decode(t, f.ask(dhcpv4.MessageTypeRequest, uefiOpts, func(p *dhcpv4.DHCPv4) {
				p.UpdateOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr))
				p.UpdateOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier()))
			}))
			got := 0
			f.timeline.find(func(e Exchange) bool {
				got++
				return false
			})
			if got != tc.want {
				t.Errorf("%d exchanges are recorded; want %d:\n%s", got, tc.want, f.timeline.text())
			}
		})
	}
}

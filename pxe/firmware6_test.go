//go:build linux

package pxe

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestFirmwareIPv6 boots OVMF over IPv6 alone: PXE (TFTP by URL, option 59)
// and HTTP boot, each to iPXE and its script. FIELD-NOTES item 20: "DHCPv6:
// options 59 to 62, 16; EDK2 chokes on 60."
func TestFirmwareIPv6(t *testing.T) {
	for _, tc := range []struct {
		name  string
		off   []string
		fetch string // kind
		class string
		way   string
	}{
		{"PXE", []string{"IPv4PXESupport", "IPv4HTTPSupport", "IPv6HTTPSupport"}, "tftp.read", "PXEClient", "PXE over IPv6 → snponly.efi → script → kernel"},
		{"HTTP", []string{"IPv4PXESupport", "IPv6PXESupport"}, "http.get", "HTTPClient", "HTTP boot over IPv6 → snponly.efi → script → kernel"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := testNetwork6()
			n.Advertise = AdvertiseManaged
			ns, f := firmwareRig(t, "/usr/lib/ipxe/snponly.efi", n)
			// Nothing of IPv4 may help: OVMF, which tries its HTTP boot first
			// whatever it is told, is sent on, and iPXE gets no address.
			f.leases.deny = func(c Client) bool { return !c.IPv6 && c.IPXE }
			f.booter = booterFunc(func(c Client) (Decision, error) {
				if !c.IPv6 {
					return Decision{Action: BootDisk}, nil
				}
				f.asked = append(f.asked, c)
				return f.decision, nil
			})
			m := qemu(t, ns, ovmf(t, tc.off...)...)
			m.await(t, f, "script fetched", func() bool {
				_, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "script" && e.Addr == testAddr6 })
				return ok
			})
			e, ok := f.timeline.find(func(e Exchange) bool {
				return e.Kind == tc.fetch && e.Name == "loaders/snponly.efi" && e.Err == nil && e.Bytes > 0
			})
			if !ok || e.Addr != testAddr6 || e.MAC.String() != testMAC.String() {
				t.Errorf("%s = %+v; want the loader fetched by %v of %v\n%s", tc.fetch, e, testAddr6, testMAC, f.timeline.text())
			}
			c := f.asked[0]
			if !c.IPv6 || !c.UEFI || !strings.HasPrefix(c.VendorClass, tc.class) || c.UUID != testUUID {
				t.Errorf("first Client = %+v; want %s, UEFI, UUID %s", c, tc.class, testUUID)
			}
			m.await(t, f, "kernel fetched", func() bool {
				_, ok := f.timeline.find(func(e Exchange) bool {
					return e.Kind == "http.get" && e.Name == "agent/vmlinuz" && e.Err == nil && e.Addr == testAddr6
				})
				return ok
			})
			m.saw(t, fwOVMF, tc.way, "the kernel is fetched")
		})
	}
}

// TestFirmwareIPv6Only boots OVMF, with all its ways of booting, on a network
// without IPv4: to the kernel, and to an init in its ramdisks.
func TestFirmwareIPv6Only(t *testing.T) {
	n := testNetworkOnly6()
	n.Advertise = AdvertiseManaged
	ns, f := firmwareRig(t, testKernel(t), n)
	ramdisks(t, f)
	m := qemu(t, ns, ovmf(t, "IPv4PXESupport", "IPv4HTTPSupport")...)
	m.await(t, f, "init of the ramdisk ran", func() bool { return strings.Contains(m.console(), "MARK") && strings.Contains(m.console(), "cmdline=") })
	if con := m.console(); !strings.Contains(con, "MARK a=first b=second!") {
		t.Errorf("console lacks the ramdisks' mark:\n%s", con[max(0, len(con)-3000):])
	}
	if e, ok := f.timeline.find(func(e Exchange) bool { return e.Addr.Is4() || strings.HasPrefix(e.Kind, "dhcp.") && e.Err != nil }); ok {
		t.Errorf("the timeline of a network without IPv4 has %+v", e)
	}
	m.saw(t, fwOVMF, "network without IPv4: snponly.efi → script → kernel, 2 ramdisks", "the ramdisk's init runs")
}

// TestFirmwareIPv6ROM boots iPXE of BIOS by IPv6 alone, with an address that
// DHCPv6 gave or one that it made itself (options by DHCPv6, or none).
func TestFirmwareIPv6ROM(t *testing.T) {
	for _, tc := range []struct {
		name string
		how  Advertise
		addr netip.Addr
	}{
		{"managed", AdvertiseManaged, testAddr6},
		{"other", AdvertiseOther, netip.MustParseAddr("2001:db8::5054:ff:fe01:203")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := testNetwork6()
			n.Advertise = tc.how
			ns, f := firmwareRig(t, "/usr/lib/ipxe/snponly.efi", n)
			f.leases.deny = func(c Client) bool { return !c.IPv6 }
			m := qemu(t, ns, bios()...)
			m.await(t, f, "script fetched", func() bool {
				_, ok := f.timeline.find(func(e Exchange) bool {
					return e.Kind == "script" && e.Addr == tc.addr && e.MAC.String() == testMAC.String()
				})
				return ok
			})
		})
	}
}

// TestFirmwareAdvertise boots iPXE on a network without IPv6. Issue 3:
// "answering IPv6 router solicitations and sending option 175.176 lets iPXE
// configure its NIC in 0.1 s instead of 16.4".
func TestFirmwareAdvertise(t *testing.T) {
	n := testNetwork()
	n.Advertise = AdvertiseNothing
	ns, f := firmwareRig(t, "/usr/lib/ipxe/snponly.efi", n)
	m := qemu(t, ns, bios()...)
	var asked, script time.Time
	m.await(t, f, "script fetched", func() bool {
		e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "script" })
		script = e.Time
		return ok
	})
	e, _ := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.discover" })
	asked = e.Time
	// The time is the proof. Whether the timeline has the answer too depends on
	// which came first: a solicitation before the first DISCOVER is answered, but
	// it is of a machine that nobody knows yet (TestAdvertiseManaged has the event).
	if took := script.Sub(asked); took > 8*time.Second {
		t.Errorf("%v from the first DISCOVER to the script; want well below the 16 s that iPXE waits for a router", took)
	} else {
		t.Logf("%v from the first DISCOVER to the script", took)
	}
}

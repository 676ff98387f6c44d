package provision

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/blob"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// TestWhyTellsWhatStopsABoot reads exchanges back from the state.
func TestWhyTellsWhatStopsABoot(t *testing.T) {
	b := newBench(t, nil)
	b.deploy("gpu-01")
	record := func(kind, name, text string, err error) {
		b.p.Record(pxe.Exchange{Time: time.Now(), MAC: net.HardwareAddr(bootMAC[:]), Network: "prov", Kind: kind, Name: name, Client: "PXE firmware (UEFI x64)", Text: text, Err: err})
	}
	for range 4 {
		record("dhcp.discover", "", "asked for an address", nil)
		record("dhcp.offer", "snponly.efi", "was offered 10.77.0.11", nil)
	}
	b.until("gpu-01", state.Netboot)
	last := func() string {
		t.Helper()
		why, err := b.p.Why(t.Context(), "gpu-01")
		if err != nil || len(why) == 0 {
			t.Fatalf("Why(gpu-01) = %q, %v", why, err)
		}
		return why[len(why)-1]
	}
	await := func(want string) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !strings.Contains(last(), want); {
			if time.Now().After(end) {
				t.Fatalf("Why ends with %q; want %q", last(), want)
			}
			b.settle("gpu-01")
		}
	}
	await("gpu-01 asked 4 times and took no offer: PXE firmware (UEFI x64) was offered snponly.efi")
	record("dhcp.ack", "snponly.efi", "has 10.77.0.11", nil)
	record("tftp.read", "snponly.efi", "did not get snponly.efi by TFTP: the disk is full", errors.New("the disk is full"))
	await("gpu-01 did not get snponly.efi by TFTP: the disk is full.")
}

// TestWhyTellsOfBarredWays: the machine's own sentence, and that of one that
// the site does not know.
func TestWhyTellsOfBarredWays(t *testing.T) {
	b := newBench(t, nil)
	b.deploy("gpu-01")
	const barred = "its firmware (UEFI x64) sent HTTPClient and the network allows PXE only"
	for _, tc := range []struct {
		name string
		mac  net.HardwareAddr
	}{{"gpu-01", bootMAC[:]}, {"mac-020000000908", stranger(8)}} {
		for range 4 {
			for _, e := range []pxe.Exchange{{Kind: "dhcp.discover", Text: "asked for an address"}, {Kind: "boot.barred", Text: barred}, {Kind: "dhcp.offer", Text: "was offered an address and no boot file"}} {
				e.Time, e.MAC, e.Network, e.Client = time.Now(), tc.mac, "prov", "HTTP boot firmware (UEFI x64 HTTP)"
				b.p.Record(e)
			}
		}
		want := tc.name + " asked 4 times and took no offer: " + barred + "."
		var why []string
		for end := time.Now().Add(10 * time.Second); ; {
			var err error
			if why, err = b.p.Why(t.Context(), tc.name); err == nil && strings.HasSuffix(why[len(why)-1], want) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("Why(%s) = %q, %v; want it to end with %q", tc.name, why, err, want)
			}
			if _, err := b.store.Events(t.Context(), state.Query{Machine: tc.name}); err != nil { // a bounded poll: reads take time
				t.Fatal(err)
			}
		}
	}
}

// TestForeignAddress has the address that another DHCP server gave be its
// machine's: the agent is let in by it.
func TestForeignAddress(t *testing.T) {
	b := newBench(t, nil)
	token := b.deploy("gpu-01")
	at := netip.MustParseAddr("10.77.0.150")
	b.from = netip.AddrPortFrom(at, 999).String()
	b.want("GET", wire.PathTask, token, nil, 403)
	learn := func(mac []byte) {
		b.p.learnAddress(t.Context(), pxe.Exchange{Time: time.Now(), MAC: mac, Addr: at, Network: "prov", Kind: "dhcp.address"})
	}
	learn(bootMAC[:])
	b.want("GET", wire.PathTask, token, nil, 409) // let in: it must send its inventory first
	learn([]byte{2, 0, 0, 0, 0, 7})               // that server gave it to somebody else
	b.want("GET", wire.PathTask, token, nil, 403)
}

// TestLoaderOf: the site's word about a machine's firmware reaches the boot
// server.
func TestLoaderOf(t *testing.T) {
	for _, tt := range []struct {
		name string
		m    site.Machine
		want pxe.Loader
	}{
		{"nothing said", site.Machine{Firmware: site.UEFI}, pxe.LoaderDefault},
		{"Secure Boot", site.Machine{Firmware: site.UEFI, SecureBoot: true}, pxe.LoaderSigned},
		{"the firmware's NIC driver", site.Machine{Firmware: site.UEFI, Loader: site.LoaderSNP}, pxe.LoaderSNP},
		{"drivers of its own", site.Machine{Firmware: site.UEFI, Loader: site.LoaderIPXE}, pxe.LoaderNative},
		{"one EFI program", site.Machine{Firmware: site.UEFI, Loader: site.LoaderUKI}, pxe.LoaderUnified},
		{"HTTPS", site.Machine{Firmware: site.UEFI, HTTPSBoot: true}, pxe.LoaderUnified},
		{"HTTPS, then iPXE", site.Machine{Firmware: site.UEFI, HTTPSBoot: true, Loader: site.LoaderSNP}, pxe.LoaderSNP},
	} {
		if got := loaderOf(tt.m); got != tt.want {
			t.Errorf("%s: loaderOf = %v; want %v", tt.name, got, tt.want)
		}
	}
}

// TestBootByMachine: what the site says of a machine's firmware and what its
// firmware says of its architecture are in every decision about it.
func TestBootByMachine(t *testing.T) {
	rel := testReleases()
	b := newBench(t, func(c *Config) { c.Releases = rel })
	b.site.Machines[0].HTTPSBoot = true
	if d, err := b.p.Boot(t.Context(), client()); err != nil || d.Action != pxe.BootDisk || !d.HTTPS {
		t.Errorf("Boot before a run = %+v, %v; want its disk, by HTTPS", d, err)
	}
	b.deploy("gpu-01")
	if d, err := b.p.Boot(t.Context(), client()); err != nil || !d.HTTPS || d.Loader != pxe.LoaderUnified || !strings.Contains(d.Cmdline, "console=ttyS0,115200") {
		t.Errorf("Boot = %+v, %v; want HTTPS with a unified image", d, err)
	}
	c := client()
	c.Arch, c.ArchKnown = pxe.ArchARM64, true
	if d, err := b.p.Boot(t.Context(), c); err != nil || d.Action != pxe.Ignore || !strings.Contains(d.Reason, "fettle image build agent-arm64") {
		t.Errorf("Boot of arm64 = %+v, %v; want that its agent is not built", d, err)
	}
	rel["agent-arm64"] = images.Release{Name: "agent-arm64", Inputs: blob.FromBytes([]byte("arm"))}
	if d, err := b.p.Boot(t.Context(), c); err != nil || !strings.HasPrefix(d.Kernel, "release/agent-arm64/") || strings.Contains(d.Cmdline, "console=") {
		t.Errorf("Boot of arm64 = %+v, %v; want its own agent and console", d, err)
	}
}

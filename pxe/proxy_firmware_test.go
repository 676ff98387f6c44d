//go:build linux

package pxe

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"
	"time"
)

// proxyRig is a wire with dnsmasq as the DHCP server, in a namespace of its
// own, our server beside it, and a tap for firmware. serve says what of ours
// runs.
func proxyRig(t *testing.T, dnsmasqArgs ...string) (*netns, *fixture) {
	t.Helper()
	return neighbourRig(t, func(other *netns) {
		dnsmasq(t, other, append([]string{"--interface=eth0", "--dhcp-range=192.0.2.70,192.0.2.90,255.255.255.0,1h"}, dnsmasqArgs...)...)
	})
}

// neighbourRig is proxyRig with any DHCP server.
func neighbourRig(t *testing.T, neighbour func(other *netns)) (*netns, *fixture) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots firmware: left out with -short")
	}
	ns, other := newNS(t), newNS(t)
	for _, args := range [][]string{
		{"ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0"},
		{"ip", "link", "add", "v0", "type", "veth", "peer", "name", "eth0", "netns", other.name},
		{"ip", "tuntap", "add", "dev", "tap0", "mode", "tap"},
		{"ip", "link", "set", "v0", "master", "br0", "up"},
		{"ip", "link", "set", "tap0", "master", "br0", "up"},
		{"ip", "addr", "add", "192.0.2.1/24", "dev", "br0"},
		{"ip", "link", "set", "br0", "up"},
	} {
		ns.run(t, args...)
	}
	other.run(t, "ip", "addr", "add", "192.0.2.2/24", "dev", "eth0")
	other.run(t, "ip", "link", "set", "eth0", "up")
	neighbour(other)

	n := testNetwork()
	n.Proxy, n.Advertise = true, AdvertiseNothing
	f := newFixture(t, n)
	f.now = time.Now
	f.timeline.tell(t)
	files := mapFiles{"agent/vmlinuz": "@/usr/lib/ipxe/snponly.efi", "agent/initrd": "ramdisk"}
	for _, n := range LoaderNames() {
		if haveTool("/usr/lib/ipxe/" + n) {
			files["loaders/"+n] = "@/usr/lib/ipxe/" + n
		}
	}
	f.files = files
	saveCapture(t, f)
	return ns, f
}

// dnsmasq runs dnsmasq in a namespace until the test ends.
func dnsmasq(t testing.TB, ns *netns, args ...string) {
	t.Helper()
	needTool(t, "dnsmasq")
	dir := t.TempDir()
	cmd := ns.command(context.Background(), append([]string{"dnsmasq", "--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--port=0", "--no-ping", "--bind-interfaces",
		"--dhcp-authoritative", "--dhcp-leasefile=" + filepath.Join(dir, "leases"), "--pid-file=" + filepath.Join(dir, "pid"), "--log-dhcp", "--log-facility=-"}, args...)...)
	var log bytes.Buffer
	cmd.Stderr = &log
	exited, err := start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("dnsmasq %v:\n%s", args, &log)
		}
	})
}

// TestFirmwareProxy boots firmware to its script with dnsmasq giving the
// addresses and our server the boot files.
func TestFirmwareProxy(t *testing.T) {
	for _, tc := range []struct {
		name   string
		args   func(t *testing.T) []string
		loader string
		row    matrixRow
	}{
		{"BIOS with iPXE ROM", func(*testing.T) []string { return bios() }, "", matrixRow{fwSeaBIOS, "ProxyDHCP beside dnsmasq → script"}},
		{"UEFI PXE", func(t *testing.T) []string { return uefi(t) }, "tftp.read", matrixRow{fwOVMF, "ProxyDHCP beside dnsmasq → snponly.efi → script"}},
		{"UEFI HTTP", func(t *testing.T) []string { return uefi(t, "IPv4PXESupport") }, "http.get", matrixRow{fwOVMF, "ProxyDHCP beside dnsmasq, HTTP boot → snponly.efi → script"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ns, f := proxyRig(t)
			ns.serve(t, f.Server, "br0")
			m := qemu(t, ns, tc.args(t)...)
			m.await(t, f, "script fetched", func() bool {
				_, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "script" && e.MAC != nil && e.Err == nil })
				return ok
			})
			if tc.loader != "" {
				if _, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == tc.loader && e.Err == nil && e.Bytes > 0 && e.MAC != nil }); !ok {
					t.Errorf("no %s of the machine:\n%s", tc.loader, f.timeline.text())
				}
			}
			if _, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.address" }); !ok || f.leases.commits > 0 {
				t.Errorf("%d leases of ours; want dnsmasq's address on the timeline:\n%s", f.leases.commits, f.timeline.text())
			}
			m.saw(t, tc.row.firmware, tc.row.way, "the script is fetched")
		})
	}
}

// TestFirmwareBINL has a DHCP server that says PXEClient and names our server,
// but neither a boot file nor option 43, as sites with Windows Deployment
// Services do: EDK2 asks on port 4011 (FIELD-NOTES item 15).
func TestFirmwareBINL(t *testing.T) {
	ns, f := proxyRig(t, "--dhcp-option-force=60,PXEClient", "--dhcp-boot=,,192.0.2.1")
	ns.serveBut67(t, f.Server)
	m := qemu(t, ns, uefi(t)...)
	m.await(t, f, "loader fetched", func() bool {
		_, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "tftp.read" && e.Err == nil && e.Bytes > 0 })
		return ok
	})
	if e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.binl" }); !ok || !e.Addr.Is4() || e.MAC.String() != testMAC.String() {
		t.Errorf("no question on port 4011:\n%s", f.timeline.text())
	}
	m.saw(t, fwOVMF, "port 4011 → snponly.efi", "the loader is fetched")
}

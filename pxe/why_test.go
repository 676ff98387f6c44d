package pxe

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// take has a client take the address that it is offered.
func take(f *fixture, opts map[byte][]byte) {
	f.ask(dhcpv4.MessageTypeDiscover, opts)
	with := map[byte][]byte{optServerID: {192, 0, 2, 1}, optRequestedAddr: {192, 0, 2, 10}}
	for k, v := range opts {
		with[k] = v
	}
	f.ask(dhcpv4.MessageTypeRequest, with)
}

// TestWhy breaks boots off where they break off in life, with a real server,
// and reads its timeline.
func TestWhy(t *testing.T) {
	get := func(f *fixture, path string) {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.RemoteAddr = "192.0.2.10:1025"
		f.Handler().ServeHTTP(httptest.NewRecorder(), r)
	}
	loader := func(f *fixture) {
		f.timeline.Record(Exchange{Time: f.clock, Kind: "tftp.read", Name: "loaders/snponly.efi", Bytes: 11})
	}
	script := func(f *fixture) { get(f, "/boot/script/52:54:00:01:02:03") }
	for _, tc := range []struct {
		name string
		do   func(f *fixture)
		want []string
	}{
		{"nothing", func(*fixture) {}, []string{"sent nothing", "boot order"}},
		{"takes no offer", func(f *fixture) {
			for range 4 {
				f.ask(dhcpv4.MessageTypeDiscover, httpOpts)
			}
		}, []string{"asked 4 times and took no offer: HTTP boot firmware (UEFI x64 HTTP) was offered http://192.0.2.1/boot/files/loaders/snponly.efi"}},
		{"offered no boot file", func(f *fixture) {
			f.decision = Decision{Action: Ignore}
			f.ask(dhcpv4.MessageTypeDiscover, uefiOpts)
		}, []string{"asked once and took no offer: PXE firmware (UEFI x64) was offered an address without a boot file"}},
		{"no address for it", func(f *fixture) {
			f.leases.err = ErrNoLease
			f.ask(dhcpv4.MessageTypeDiscover, uefiOpts)
		}, []string{"asked once and got no answer", "this server has none for it"}},
		{"nobody decides", func(f *fixture) {
			f.bootErr = errors.New("the state is down")
			f.ask(dhcpv4.MessageTypeDiscover, uefiOpts)
		}, []string{"got no answer", "the state is down"}},
		{"takes another's offer", func(f *fixture) {
			f.ask(dhcpv4.MessageTypeDiscover, uefiOpts)
			f.ask(dhcpv4.MessageTypeRequest, map[byte][]byte{optVendorClass: []byte(classUEFI), optServerID: {192, 0, 2, 99}, optRequestedAddr: {192, 0, 2, 50}})
		}, []string{"took the offer of another DHCP server, 192.0.2.99"}},
		{"insists on a wrong address", func(f *fixture) {
			f.ask(dhcpv4.MessageTypeRequest, map[byte][]byte{optVendorClass: []byte(classUEFI), optArch: arch(7), optRequestedAddr: {192, 0, 2, 11}})
		}, []string{"insists on an address that is not its own (once)"}},
		{"never fetches the loader", func(f *fixture) { take(f, uefiOpts) }, []string{"was told to fetch snponly.efi 1m0s ago, and never asked for it: TFTP"}},
		{"never fetches the URL", func(f *fixture) { take(f, httpOpts) }, []string{"never asked for it: HTTP from it"}},
		{"the loader is not there", func(f *fixture) {
			take(f, uefiOpts)
			get(f, "/boot/files/loaders/none.efi")
		}, []string{"no such file: loaders/none.efi"}},
		{"the loader does not start", func(f *fixture) { take(f, uefiOpts); loader(f) }, []string{"fetched loaders/snponly.efi 1m0s ago and then nothing came", "Secure Boot"}},
		{"shim or GRUB is refused", func(f *fixture) {
			f.decision.Loader = LoaderSigned
			take(f, uefiOpts)
			f.timeline.Record(Exchange{Time: f.clock, Kind: "tftp.read", Name: "loaders/shimx64.efi", Bytes: 11})
		}, []string{"fetched loaders/shimx64.efi 1m0s ago and then nothing came: the firmware or shim refused it"}},
		{"Secure Boot by HTTP", func(f *fixture) {
			f.decision.Loader = LoaderSigned
			take(f, httpOpts)
			get(f, "/boot/files/"+quirkNotByHTTP)
		}, []string{"asked by HTTP boot 1m0s ago, and there is no signed loader", "put PXE over IPv4 into its boot order"}},
		{"GRUB without a kernel", func(f *fixture) {
			f.decision.Loader = LoaderSigned
			take(f, uefiOpts)
			f.timeline.Record(Exchange{Time: f.clock, Kind: "script", Name: grubConfig, Bytes: 11})
		}, []string{"fetched its GRUB configuration 1m0s ago and no kernel: TFTP"}},
		{"iPXE without its script", func(f *fixture) { take(f, uefiOpts); loader(f); take(f, ipxeOpts) }, []string{"runs iPXE and was told to fetch http://192.0.2.1/boot/script/52:54:00:01:02:03"}},
		{"script without a kernel", func(f *fixture) { take(f, ipxeOpts); script(f) }, []string{"fetched its script 1m0s ago and no kernel"}},
		{"the kernel is refused, and shim not fetched", func(f *fixture) {
			take(f, ipxeUEFI)
			script(f)
			get(f, "/boot/files/agent/vmlinuz")
			get(f, "/boot/script/52:54:00:01:02:03?refused=1")
		}, []string{"was told by its script 1m0s ago to start the signed loader, and never asked for it: TFTP"}},
		{"iPXE of a signed machine gets shim, which does not start", func(f *fixture) {
			f.decision.Loader = LoaderSigned
			take(f, uefiOpts)
			loader(f)
			take(f, ipxeUEFI)
			script(f)
			f.timeline.Record(Exchange{Time: f.clock, Kind: "tftp.read", Name: "loaders/shimx64.efi", Bytes: 11})
		}, []string{"fetched loaders/shimx64.efi 1m0s ago and then nothing came: the firmware or shim refused it"}},
		{"the kernel is refused, and nothing else would do", func(f *fixture) {
			get(f, "/boot/script/52:54:00:01:02:03?refused=1&platform=efi")
		}, []string{"fetched its iPXE script, which goes back to its firmware: its firmware starts signed loaders alone, and there is none for"}},
		{"the kernel does not report", func(f *fixture) {
			take(f, ipxeOpts)
			script(f)
			get(f, "/boot/files/agent/vmlinuz")
			get(f, "/boot/files/agent/initrd")
		}, []string{"fetched agent/initrd 1m0s ago, and its kernel has not reported"}},
		{"the system asks and does not report", func(f *fixture) {
			take(f, ipxeOpts)
			script(f)
			get(f, "/boot/files/agent/initrd")
			take(f, nil)
		}, []string{"runs what it fetched (agent/initrd)", "has not reported"}},
		{"began again", func(f *fixture) {
			for range 3 {
				take(f, uefiOpts)
				loader(f)
			}
		}, []string{"then nothing came", "it began 3 times"}},
		{"sent to its disk by a script", func(f *fixture) {
			f.decision = Decision{Action: BootDisk}
			take(f, ipxeOpts)
			script(f)
		}, []string{"was sent to its own disk"}},
		{"sent to its disk by a missing file", func(f *fixture) {
			f.decision = Decision{Action: BootDisk}
			take(f, uefiOpts)
		}, []string{"was sent to its own disk"}},
		{"boots its disk unasked", func(f *fixture) { take(f, map[byte][]byte{optVendorClass: []byte("udhcp 1.35.0")}) }, []string{`asked as a client of class "udhcp 1.35.0"`, "boot order"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			tc.do(f)
			got := Why(f.timeline.all, f.clock.Add(time.Minute))
			for _, w := range tc.want {
				if !strings.Contains(got, w) {
					t.Errorf("Why() = %q; want %q in it\n%s", got, w, f.timeline.text())
				}
			}
		})
	}
}

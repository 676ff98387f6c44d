package pxe

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var (
	ubootOpts = map[byte][]byte{optVendorClass: []byte("U-Boot.armv8"), optArch: arch(22)}
	piOpts    = map[byte][]byte{optVendorClass: []byte("PXEClient:Arch:00000:UNDI:002001"), optArch: arch(0)}
)

// lease has a machine take an address, and returns the acknowledgement.
func (f *fixture) lease(t *testing.T, mac net.HardwareAddr, opts map[byte][]byte) *dhcpv4.DHCPv4 {
	t.Helper()
	f.leases.fixed[mac.String()] = testAddr
	p := f.ask(dhcpv4.MessageTypeRequest, opts, func(p *dhcpv4.DHCPv4) {
		p.ClientHWAddr = mac
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(testAddr.AsSlice()))
		p.UpdateOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1)))
	})
	if p == nil {
		t.Fatal("a REQUEST got no answer")
	}
	return decode(t, p)
}

// read fetches a file by TFTP's names.
func (f *fixture) read(name string, at netip.Addr) (string, error) {
	file, _, err := f.openTFTP(context.Background(), f.order[0], at, name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	b, err := io.ReadAll(file)
	return string(b), err
}

// TestPxelinux: U-Boot is sent to this server, finds there what its machine
// boots and nothing of others.
func TestPxelinux(t *testing.T) {
	const name = "pxelinux.cfg/01-52-54-00-01-02-03"
	kernel := Decision{Action: BootKernel, Kernel: "agent/vmlinuz", Initrds: []string{"agent/a", "agent/b"}, Cmdline: `console=ttyAMA0 fettle.token=abc`}
	elsewhere := testAddr.Next()
	for _, tc := range []struct {
		name     string
		decision Decision
		booter   error
		file     string
		at       netip.Addr
		want     string // in the file; "" = all of it is named by wantErr
		wantErr  error
	}{
		{name: "kernel", decision: kernel, file: name, at: testAddr,
			want: "label fettle\n\tkernel /agent/vmlinuz\n\tinitrd /ramdisk/52-54-00-01-02-03\n\tappend console=ttyAMA0 fettle.token=abc\n"},
		{name: "in a folder of its boot file", decision: kernel, file: "/some/" + name, at: testAddr, want: "kernel /agent/vmlinuz"},
		{name: "no ramdisk", decision: Decision{Action: BootKernel, Kernel: "agent/vmlinuz"}, file: name, at: testAddr, want: "kernel /agent/vmlinuz\n"},
		{name: "disk", decision: Decision{Action: BootDisk, Reason: "it is\nready"}, file: name, at: testAddr, want: "# it isready\ndefault fettle\nprompt 0\ntimeout 1\nlabel fettle\n\tlocalboot 1\n"},
		{name: "another's address", decision: kernel, file: name, at: elsewhere, wantErr: fs.ErrPermission},
		{name: "another machine's", decision: kernel, file: "pxelinux.cfg/01-52-54-00-01-02-04", at: testAddr, wantErr: fs.ErrPermission},
		{name: "by address", decision: kernel, file: "pxelinux.cfg/C000020A", at: testAddr, wantErr: fs.ErrNotExist},
		{name: "default", decision: kernel, file: "pxelinux.cfg/default-arm-qemu", at: testAddr, wantErr: fs.ErrNotExist},
		{name: "no MAC address", decision: kernel, file: "pxelinux.cfg/01-zz", at: testAddr, wantErr: fs.ErrNotExist},
		{name: "ramdisks in one, the second from a multiple of 4", decision: kernel, file: "/ramdisk/52-54-00-01-02-03", at: testAddr, want: "abcde\x00\x00\x00fg"},
		{name: "another's ramdisk", decision: kernel, file: "ramdisk/52-54-00-01-02-03", at: elsewhere, wantErr: fs.ErrPermission},
		{name: "no ramdisk now", decision: Decision{Action: BootDisk}, file: "ramdisk/52-54-00-01-02-03", at: testAddr, wantErr: fs.ErrNotExist},
		{name: "script", decision: kernel, file: "boot.scr.uimg", at: testAddr, want: "if pxe get; then pxe boot; fi\n"},
		{name: "another's script", decision: kernel, file: "boot.scr.uimg", at: elsewhere, wantErr: fs.ErrNotExist},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			f.files = mapFiles{"agent/vmlinuz": "kernel", "agent/a": "abcde", "agent/b": "fg"}
			f.decision = kernel
			ack := f.lease(t, testMAC, ubootOpts)
			if !ack.ServerIPAddr.Equal(net.IPv4(192, 0, 2, 1)) || ack.BootFileName != "" {
				t.Errorf("ACK names server %v and file %q; want ours and none", ack.ServerIPAddr, ack.BootFileName)
			}
			f.decision = tc.decision
			got, err := f.read(tc.file, tc.at)
			if tc.wantErr != nil {
				if !errors.Is(err, tc.wantErr) {
					t.Errorf("openTFTP(%s) = %q, %v; want %v", tc.file, got, err, tc.wantErr)
				}
				return
			}
			if err != nil || !strings.Contains(got, tc.want) {
				t.Errorf("openTFTP(%s) = %q, %v; want %q in it", tc.file, got, err, tc.want)
			}
		})
	}
}

// TestPxelinuxRefuses: arguments that U-Boot would change are refused before
// the machine hears of them, and the timeline says so.
func TestPxelinuxRefuses(t *testing.T) {
	for _, line := range []string{"a=$(b)", `a="b c"'`, `a=\b`, "a=${b}", "a\nkernel /other"} {
		f := newFixture(t)
		f.decision = Decision{Action: Ignore}
		f.lease(t, testMAC, ubootOpts)
		f.decision = Decision{Action: BootKernel, Kernel: "agent/vmlinuz", Cmdline: line}
		if got, err := f.read("pxelinux.cfg/01-52-54-00-01-02-03", testAddr); err == nil {
			t.Errorf("configuration with arguments %q = %q; want it refused", line, got)
		}
	}
}

// TestRaspberryPi: a Raspberry Pi is offered the menu that it looks for, and
// finds below its serial number, or its MAC address, what its machine boots.
func TestRaspberryPi(t *testing.T) {
	mac := net.HardwareAddr{0xdc, 0xa6, 0x32, 1, 2, 3}
	f := newFixture(t)
	f.files = mapFiles{"agent/vmlinuz": "kernel", "agent/a": "abcde", "agent/b": "fg", "loaders/raspberry-pi/start4.elf": "firmware"}
	f.decision = Decision{Action: BootKernel, Kernel: "agent/vmlinuz", Initrds: []string{"agent/a", "agent/b"}, Cmdline: "console=ttyAMA10 fettle.token=abc"}
	ack := f.lease(t, mac, piOpts)
	// As dnsmasq writes pxe-service=0,"Raspberry Pi Boot", which the Pi's
	// documentation tells people to use.
	menu := "\x06\x01\x03\x0a\x04\x00PXE\x09\x14\x00\x00\x11Raspberry Pi Boot\xff"
	if got := string(ack.Options[optVendor]); got != menu {
		t.Errorf("option 43 = %q; want %q", got, menu)
	}
	if ack.ClassIdentifier() != "PXEClient" || !ack.ServerIPAddr.Equal(net.IPv4(192, 0, 2, 1)) || ack.TFTPServerName() != "192.0.2.1" || ack.BootFileName != "" {
		t.Errorf("ACK = class %q, server %v, option 66 %q, file %q; want PXEClient, ours and no file", ack.ClassIdentifier(), ack.ServerIPAddr, ack.TFTPServerName(), ack.BootFileName)
	}
	for name, want := range map[string]string{
		"1a2b3c4d/config.txt":          "kernel=vmlinuz\ninitramfs initrd followkernel\n",
		"dc-a6-32-01-02-03/config.txt": "kernel=vmlinuz\n",
		"1a2b3c4d/cmdline.txt":         "console=ttyAMA10 fettle.token=abc\n",
		"1a2b3c4d/vmlinuz":             "kernel",
		"1a2b3c4d/initrd":              "abcde\x00\x00\x00fg",
		"1a2b3c4d/start4.elf":          "firmware",
	} {
		if got, err := f.read(name, testAddr); err != nil || !strings.Contains(got, want) {
			t.Errorf("openTFTP(%s) = %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"1a2b3c4d/start.elf", "1a2b3c4/config.txt", "1a2b3c4g/config.txt"} {
		if got, err := f.read(name, testAddr); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("openTFTP(%s) = %q, %v; want that there is none", name, got, err)
		}
	}
	if got, err := f.read("1a2b3c4d/cmdline.txt", testAddr.Next()); err == nil {
		t.Errorf("another address was given its arguments: %q", got)
	}
	f.decision = Decision{Action: BootDisk, Reason: "ready"}
	if got, err := f.read("1a2b3c4d/config.txt", testAddr); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("config.txt of a machine that boots its disk = %q, %v; want none, so that it goes on", got, err)
	}
	if ack := f.lease(t, mac, piOpts); len(ack.Options[optVendor]) > 0 && strings.Contains(string(ack.Options[optVendor]), "Raspberry") {
		t.Error("a Pi that boots its disk is offered the menu; want that it goes on")
	}
}

// FuzzBootName opens files by names of the wire, as a Raspberry Pi at its
// address and as somebody at another: nobody else gets what a machine boots.
func FuzzBootName(f *testing.F) {
	for _, name := range []string{"pxelinux.cfg/01-dc-a6-32-01-02-03", "pxelinux.cfg/default", "ramdisk/dc-a6-32-01-02-03", "ramdisk/02", "1a2b3c4d/cmdline.txt",
		"dc:a6:32:01:02:03/../config.txt", "boot.scr.uimg", "grub/grub.cfg", "uki/dc-a6-32-01-02-03.efi", `1a2b3c4d\\initrd`, "snponly.efi\xff"} {
		f.Add(name)
	}
	s := newFixture(f)
	mac := net.HardwareAddr{0xdc, 0xa6, 0x32, 1, 2, 3}
	s.leases.fixed[mac.String()] = testAddr
	s.decision = Decision{Action: BootKernel, Kernel: "agent/vmlinuz", Initrds: []string{"agent/initrd"}, Cmdline: "fettle.token=abc"}
	s.ask(dhcpv4.MessageTypeRequest, piOpts, func(p *dhcpv4.DHCPv4) {
		p.ClientHWAddr = mac
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(testAddr.AsSlice()))
		p.UpdateOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1)))
	})
	f.Fuzz(func(t *testing.T, name string) {
		if got, err := s.read(name, testAddr); err == nil && strings.Contains(got, "fettle.token") {
			if _, err := cleanName(name); err != nil {
				t.Errorf("openTFTP(%q) = %q; want the name refused", name, got)
			}
		}
		if got, err := s.read(name, testAddr.Next()); err == nil && strings.Contains(got, "fettle.token") {
			t.Errorf("openTFTP(%q) of another's address = %q", name, got)
		}
	})
}

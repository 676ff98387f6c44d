package pxe

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
)

var update = flag.Bool("update", false, "write the golden files")

func replayConfig(networks ...Network) Config {
	return Config{
		Networks: networks,
		Booter: booterFunc(func(Client) (Decision, error) {
			return Decision{Action: BootKernel, Kernel: "agent/vmlinuz", Initrds: []string{"agent/initrd"}, Cmdline: "console=ttyS0", Reason: "test"}, nil
		}),
		Leases: &memLeases{fixed: map[string]netip.Addr{testMAC.String(): testAddr}, fixed6: map[string]netip.Addr{testMAC.String(): testAddr6}},
		Files: mapFiles{"loaders/undionly.kpxe": "bios loader", "loaders/snponly.efi": "uefi loader", "agent/vmlinuz": "kernel", "agent/initrd": "ramdisk",
			"agent/a": "a", "agent/b": "b"},
	}
}

// TestReplayCaptures replays what real firmware sent (testdata/*.pcapng, see
// BOOTING.md) and compares every answer, option by option, with the golden
// file.
func TestReplayCaptures(t *testing.T) {
	files, err := filepath.Glob("testdata/*.pcapng")
	if err != nil || len(files) < 3 {
		t.Fatalf("testdata holds %d captures, %v; want the BIOS, EDK2 PXE and EDK2 HTTP ones", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".pcapng"), func(t *testing.T) {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			packets, err := ReadCapture(f)
			if err != nil {
				t.Fatal(err)
			}
			n := testNetwork()
			if strings.Contains(file, "ipv6") {
				n = testNetwork6()
			}
			n.Proxy = strings.Contains(file, "proxy")
			answers, err := Replay(t.Context(), replayConfig(n), n.Name, packets)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, a := range answers {
				fmt.Fprintf(&b, "%d %s %s\n", a.Number, a.Machine, a.Request)
				for _, s := range a.Said {
					fmt.Fprintf(&b, "    %s\n", s)
				}
				fmt.Fprintf(&b, "  = %s\n", a.Reply)
				for _, o := range a.Options {
					fmt.Fprintf(&b, "      %s\n", o)
				}
			}
			golden := strings.TrimSuffix(file, ".pcapng") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || b.String() != string(want) {
				t.Errorf("replay of %s = %v\n%s; want\n%s(go test ./pxe -run Replay -update, after looking)", file, err, b.String(), want)
			}
		})
	}
}

// TestReplayForeign replays a conversation with another server as if it had
// been with ours.
func TestReplayForeign(t *testing.T) {
	from, to := netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67")
	packets := []Packet{
		{MAC: testMAC, From: from, To: to, Data: ask(dhcpv4.MessageTypeDiscover, uefiOpts)},
		{MAC: testMAC, From: netip.MustParseAddrPort("10.9.9.1:67"), To: netip.MustParseAddrPort("255.255.255.255:68"), Sent: true, Data: []byte("x")},
		{MAC: testMAC, From: from, To: to, Data: ask(dhcpv4.MessageTypeRequest, map[byte][]byte{optVendorClass: []byte(classUEFI), optArch: arch(7),
			optServerID: {10, 9, 9, 1}, optRequestedAddr: {10, 9, 9, 77}})},
		{MAC: testMAC, From: netip.MustParseAddrPort("10.9.9.77:1000"), To: netip.MustParseAddrPort("10.9.9.1:69"), Data: []byte("\x00\x01snponly.efi\x00octet\x00tsize\x000\x00blksize\x009000\x00")},
		{MAC: testMAC, From: netip.MustParseAddrPort("10.9.9.77:1001"), To: netip.MustParseAddrPort("10.9.9.1:69"), Data: []byte("\x00\x01pxelinux.cfg\x00octet\x00")},
		{MAC: testMAC, From: netip.MustParseAddrPort("10.9.9.77:1002"), To: netip.MustParseAddrPort("10.9.9.1:5000"), Data: []byte("syslog")},
		{MAC: testMAC, From: netip.MustParseAddrPort("10.9.9.77:1003"), To: netip.MustParseAddrPort("10.9.9.1:80"), TCP: true, Data: []byte("GET /boot/script/52:54:00:01:02:03 HTTP/1.1\r\nHost: x\r\n\r\n")},
	}
	answers, err := Replay(t.Context(), replayConfig(testNetwork()), "prov", packets)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		number         int
		request, reply string
	}{
		{1, "DHCP DISCOVER from PXE firmware (UEFI x64)", "DHCP OFFER to 192.0.2.10:68 as a frame to 52:54:00:01:02:03, address 192.0.2.10, file snponly.efi"},
		{3, "DHCP REQUEST from PXE firmware (UEFI x64), which took 10.9.9.77 of server 10.9.9.1 and is replayed as if it took ours", "DHCP ACK to 192.0.2.10:68 as a frame to 52:54:00:01:02:03, address 192.0.2.10, file snponly.efi"},
		{4, "TFTP read of snponly.efi blksize=9000 tsize", "loaders/snponly.efi, 11 bytes, OACK blksize=1468 tsize=11"},
		{5, "TFTP read of pxelinux.cfg", "TFTP error 1: no such file"},
		{7, "HTTP GET /boot/script/52:54:00:01:02:03", "HTTP 200, "},
	}
	if len(answers) != len(want) {
		t.Fatalf("%d answers; want %d: %+v", len(answers), len(want), answers)
	}
	for i, w := range want {
		if a := answers[i]; a.Number != w.number || a.Request != w.request || !strings.HasPrefix(a.Reply, w.reply) || a.Machine != testMAC.String() {
			t.Errorf("answer %d = %+v; want %+v of %v", i, a, w, testMAC)
		}
	}
	if _, err := Replay(t.Context(), replayConfig(testNetwork()), "other", packets); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("Replay on an unknown network = %v; want an error that names it", err)
	}
}

// FuzzReplay feeds packets of any content.
func FuzzReplay(f *testing.F) {
	f.Add(ask(dhcpv4.MessageTypeDiscover, uefiOpts), uint16(67), false)
	f.Add([]byte("\x00\x01a\x00octet\x00"), uint16(69), false)
	f.Add([]byte("GET /boot/x HTTP/1.1\r\n\r\n"), uint16(80), true)
	f.Add(ask6(f, dhcpv6.MessageTypeSolicit, iana6(1)), uint16(547), false)
	f.Fuzz(func(t *testing.T, b []byte, port uint16, tcp bool) {
		p := Packet{MAC: net.HardwareAddr(testMAC), From: netip.MustParseAddrPort("192.0.2.10:1"), To: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port), TCP: tcp, Data: bytes.Clone(b)}
		six := p
		six.From, six.To = linkLocal6, netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), port)
		if _, err := Replay(context.Background(), replayConfig(testNetwork6()), "prov", []Packet{p, six}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestCaptureIPv6 writes packets of IPv6 and reads them back; tcpdump
// understands them, checksums and all.
func TestCaptureIPv6(t *testing.T) {
	server := netip.MustParseAddr("2001:db8::1")
	packets := []Packet{
		{MAC: testMAC, From: linkLocal6, To: netip.AddrPortFrom(allServers6(), dhcp6ServerPort), Data: ask6(t, dhcpv6.MessageTypeSolicit, iana6(1))},
		{MAC: testMAC, From: netip.AddrPortFrom(server, dhcp6ServerPort), To: linkLocal6, Sent: true, Data: []byte{msg6Advertise, 1, 2, 3}},
		{MAC: testMAC, From: netip.AddrPortFrom(testAddr6, 1069), To: netip.AddrPortFrom(server, 69), Data: rrq("snponly.efi", "tsize", "0")},
		{MAC: testMAC, From: netip.AddrPortFrom(testAddr6, 1080), To: netip.AddrPortFrom(server, 80), TCP: true, Data: []byte("GET /boot/x HTTP/1.1\r\n\r\n")},
	}
	path := filepath.Join(t.TempDir(), "x.pcapng")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteCapture(file, packets); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	got, err := ReadCapture(file)
	if err != nil || len(got) != len(packets) {
		t.Fatalf("ReadCapture = %d packets, %v; want %d", len(got), err, len(packets))
	}
	for i, want := range packets {
		if g := got[i]; g.From != want.From || g.To != want.To || g.Sent != want.Sent || g.TCP != want.TCP || !bytes.Equal(g.Data, want.Data) {
			t.Errorf("packet %d = %+v; want %+v", i, g, want)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	needTool(t, "tcpdump")
	out, err := exec.CommandContext(t.Context(), "tcpdump", "-nvvr", path).CombinedOutput()
	for _, want := range []string{"dhcp6 solicit", "dhcp6 advertise", "RRQ \"snponly.efi\"", "GET /boot/x"} {
		if err != nil || !strings.Contains(string(out), want) || strings.Contains(string(out), "bad") {
			t.Errorf("tcpdump: %v\n%s; want %q and right checksums", err, out, want)
		}
	}
}

package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func capturePackets() []Packet {
	at := time.Date(2026, 11, 21, 12, 0, 0, 123456789, time.UTC)
	ap := netip.MustParseAddrPort
	return []Packet{
		{Time: at, MAC: testMAC, From: ap("0.0.0.0:68"), To: ap("255.255.255.255:67"), Data: ask(dhcpv4.MessageTypeDiscover, uefiOpts), Size: len(ask(dhcpv4.MessageTypeDiscover, uefiOpts))},
		{Time: at.Add(time.Second), MAC: testMAC, From: ap("192.0.2.10:2000"), To: ap("192.0.2.1:69"), Data: []byte("\x00\x01snponly.efi\x00octet\x00"), Size: 20},
		{Time: at.Add(2 * time.Second), MAC: testMAC, From: ap("192.0.2.1:3000"), To: ap("192.0.2.10:2000"), Sent: true, Data: []byte("\x00\x03\x00\x01start"), Size: 1472},
		{Time: at.Add(3 * time.Second), MAC: testMAC, From: ap("192.0.2.10:4000"), To: ap("192.0.2.1:80"), TCP: true, Data: []byte("GET /boot/x HTTP/1.1\r\n\r\n"), Size: 24},
	}
}

func TestCaptureRoundTrip(t *testing.T) {
	var b bytes.Buffer
	want := capturePackets()
	if err := WriteCapture(&b, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadCapture(bytes.NewReader(b.Bytes()))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ReadCapture(WriteCapture(p)) = %+v, %v; want %+v", got, err, want)
	}
	for n := range b.Len() {
		if got, err := ReadCapture(bytes.NewReader(b.Bytes()[:n])); err == nil && len(got) == len(want) {
			t.Errorf("a file cut at %d of %d bytes reads as whole", n, b.Len())
		}
	}
}

// TestCaptureFormats reads what other tools write.
func TestCaptureFormats(t *testing.T) {
	needTool(t, "tcpdump")
	dir := t.TempDir()
	in := filepath.Join(dir, "in.pcapng")
	var b bytes.Buffer
	want := capturePackets()
	if err := WriteCapture(&b, want); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(in, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	// A real peer reads our file, checksums too, and writes the older format.
	text, err := exec.CommandContext(t.Context(), "tcpdump", "-n", "-vv", "-r", in).CombinedOutput()
	if err != nil || !strings.Contains(string(text), "Vendor-Class") || !strings.Contains(string(text), `RRQ "snponly.efi" octet`) || !strings.Contains(string(text), "GET /boot/x") || strings.Contains(string(text), "incorrect") || strings.Contains(string(text), "bad udp cksum") {
		t.Errorf("tcpdump -r = %v\n%s\nwant DHCP, TFTP and HTTP with right checksums", err, text)
	}
	out := filepath.Join(dir, "out.pcap")
	if text, err := exec.CommandContext(t.Context(), "tcpdump", "-n", "-r", in, "-w", out).CombinedOutput(); err != nil {
		t.Fatalf("tcpdump -w: %v\n%s", err, text)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := ReadCapture(f)
	if err != nil || len(got) != len(want) {
		t.Fatalf("ReadCapture of tcpdump's file = %d packets, %v; want %d", len(got), err, len(want))
	}
	for i := range got {
		got[i].Time = want[i].Time // to the microsecond only
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("packet %d = %+v; want %+v", i, got[i], want[i])
		}
	}
}

func TestReadCaptureErrors(t *testing.T) {
	for name, b := range map[string]string{
		"empty":         "",
		"text":          "this is no capture at all",
		"huge block":    "\x0a\x0d\x0d\x0a\xff\xff\xff\x7f\x4d\x3c\x2b\x1a",
		"no byte order": "\x0a\x0d\x0d\x0a\x1c\x00\x00\x00\x00\x00\x00\x00",
		"cut pcap":      "\xd4\xc3\xb2\xa1\x02\x00",
	} {
		if _, err := ReadCapture(strings.NewReader(b)); !errors.Is(err, errCapture) {
			t.Errorf("ReadCapture of %s = %v; want %v", name, err, errCapture)
		}
	}
}

func FuzzReadCapture(f *testing.F) {
	var b bytes.Buffer
	if err := WriteCapture(&b, capturePackets()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte("\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00\x71\x00\x00\x00" + strings.Repeat("\x10\x00\x00\x00", 12)))
	f.Fuzz(func(t *testing.T, b []byte) {
		packets, err := ReadCapture(bytes.NewReader(b))
		if err != nil {
			return
		}
		var out bytes.Buffer
		for _, p := range packets {
			if len(p.Data) > p.Size {
				t.Fatalf("packet holds %d bytes of %d", len(p.Data), p.Size)
			}
		}
		if err := WriteCapture(&out, packets); err != nil && len(packets) > 0 {
			for _, p := range packets {
				if len(p.Data) < 65000 {
					continue
				}
				return
			}
			t.Fatalf("WriteCapture of what was read = %v", err)
		}
	})
}

// TestServerCapture records a server's own conversation.
func TestServerCapture(t *testing.T) {
	f := newFixture(t)
	f.capture = NewCapture()
	pr, pw := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	streamed := make(chan error, 1)
	go func() {
		err := f.capture.Stream(ctx, pw, testMAC)
		pw.Close()
		streamed <- err
	}()
	var head [60]byte
	if _, err := io.ReadFull(pr, head[:]); err != nil { // at once
		t.Fatal(err)
	}
	rest := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(pr)
		rest <- b
	}()
	c := newFakeConn("0.0.0.0:67")
	served := make(chan error, 1)
	go func() { served <- f.ServeDHCP(ctx, "prov", c) }()
	other := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	for _, p := range [][]byte{
		ask(dhcpv4.MessageTypeDiscover, nil, func(p *dhcpv4.DHCPv4) { p.ClientHWAddr = other }), // not asked for
		ask(dhcpv4.MessageTypeRequest, uefiOpts, func(p *dhcpv4.DHCPv4) {
			p.Options[optServerID], p.Options[optRequestedAddr] = []byte{192, 0, 2, 1}, []byte{192, 0, 2, 10}
		}),
	} {
		c.in <- datagram{b: p, addr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort("0.0.0.0:68"))}
	}
	<-c.out
	r := httptest.NewRequest(http.MethodGet, "/boot/files/agent/vmlinuz", nil)
	r.RemoteAddr = "192.0.2.10:1025"
	f.Handler().ServeHTTP(httptest.NewRecorder(), r)
	cancel()
	if err := errors.Join(<-streamed, <-served); err != nil {
		t.Errorf("Stream and ServeDHCP = %v; want nil after ctx ended", err)
	}
	packets, err := ReadCapture(bytes.NewReader(append(head[:], <-rest...)))
	var got []string
	for _, p := range packets {
		if p.MAC.String() != testMAC.String() && p.MAC.String() != "ff:ff:ff:ff:ff:ff" {
			t.Errorf("packet of %v in the capture of %v", p.MAC, testMAC)
		}
		got = append(got, fmt.Sprintf("%v>%v %v", p.From, p.To, p.TCP))
	}
	want := []string{"0.0.0.0:68>255.255.255.255:67 false", "192.0.2.1:67>192.0.2.10:68 false", "192.0.2.10:1025>192.0.2.1:80 true", "192.0.2.1:80>192.0.2.10:1025 true"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("capture = %q, %v; want %q", got, err, want)
	}
}

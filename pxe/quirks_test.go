package pxe

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// authenticode is what a signature of a program covers: all but its checksum,
// where its certificates are, and these.
func authenticode(t *testing.T, b []byte) [32]byte {
	t.Helper()
	le := binary.LittleEndian
	opt := int(le.Uint32(b[0x3c:])) + 4 + peFileHeader
	sum, dir := opt+peOptImageSize+8, opt+peOptSecurity
	at, size := int(le.Uint32(b[dir:])), int(le.Uint32(b[dir+4:]))
	if at+size != len(b) {
		t.Fatalf("certificates of %d bytes at %d in a program of %d", size, at, len(b))
	}
	h := sha256.New()
	h.Write(b[:sum])
	h.Write(b[sum+4 : dir])
	h.Write(b[dir+8 : at])
	return [32]byte(h.Sum(nil))
}

// TestQuirkFill: the signed GRUB that an iPXE fetches for shim is as long as
// shim's buffer, its signature still covers it, and its list of certificates can
// be read to its end. Who is not iPXE gets the file as it is.
func TestQuirkFill(t *testing.T) {
	const grub = "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"
	needTool(t, grub)
	plain, err := os.ReadFile(grub)
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	f.files = mapFiles{"loaders/grubx64.efi": string(plain)}
	fetch := func() []byte {
		t.Helper()
		got, _, err := f.openTFTP(t.Context(), f.order[0], testAddr, "//grubx64.efi")
		if err != nil {
			t.Fatal(err)
		}
		defer got.Close()
		b, err := io.ReadAll(got)
		if err != nil || int64(len(b)) != got.Size {
			t.Fatalf("%d bytes, %v; want the %d that it says", len(b), err, got.Size)
		}
		// TFTP's retransmissions do not seek, HTTP's ranges do.
		if _, err := got.Seek(100, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if again, err := io.ReadAll(got); err != nil || !bytes.Equal(again, b[100:]) {
			t.Errorf("after Seek(100): %d bytes, %v; want the same %d", len(again), err, len(b)-100)
		}
		return b
	}
	take(f, uefiOpts)
	if got := fetch(); !bytes.Equal(got, plain) {
		t.Errorf("firmware gets %d bytes; want the %d of the file", len(got), len(plain))
	}
	take(f, ipxeUEFI)
	got := fetch()
	if len(got) != shimBuffer {
		t.Errorf("iPXE gets %d bytes; want %d", len(got), shimBuffer)
	}
	if authenticode(t, got) != authenticode(t, plain) {
		t.Error("the signature does not cover what iPXE gets")
	}
	le := binary.LittleEndian
	opt := int(le.Uint32(got[0x3c:])) + 4 + peFileHeader
	kinds := []uint16{}
	for at := int(le.Uint32(got[opt+peOptSecurity:])); at < len(got); {
		kinds = append(kinds, le.Uint16(got[at+6:]))
		size := int(le.Uint32(got[at:]))
		if size < 8 || at+size > len(got) {
			t.Fatalf("a certificate of %d bytes at %d of %d", size, at, len(got))
		}
		at += (size + 7) &^ 7
	}
	if n := len(kinds); n < 2 || kinds[0] != 2 || kinds[n-1] != 3 {
		t.Errorf("certificates are of the types %v; want the signature (2) first and the filling (3) last", kinds)
	}
}

// TestQuirkFillLeavesAlone: what is no signed program of the known form stays as
// it is.
func TestQuirkFillLeavesAlone(t *testing.T) {
	unsigned := readStub(t)
	signed := append([]byte(nil), unsigned...)
	opt := int(binary.LittleEndian.Uint32(signed[0x3c:])) + 4 + peFileHeader
	binary.LittleEndian.PutUint32(signed[opt+peOptSecurity:], uint32(len(signed)))
	binary.LittleEndian.PutUint32(signed[opt+peOptSecurity+4:], 16)
	far := append([]byte(nil), unsigned...)
	binary.LittleEndian.PutUint32(far[0x3c:], 1<<31)
	for name, b := range map[string][]byte{
		"empty": nil, "a text": []byte("#!ipxe\n"), "a long text": bytes.Repeat([]byte("MZ"), 5000), "unsigned": unsigned,
		"certificates beyond its end": signed, "headers beyond its end": far,
	} {
		f := &File{ReadSeekCloser: memFile{bytes.NewReader(b)}, Size: int64(len(b))}
		got, err := quirkFill(f)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if all, err := io.ReadAll(got); err != nil || !bytes.Equal(all, b) {
			t.Errorf("%s: %d bytes, %v; want the %d as they are", name, len(all), err, len(b))
		}
	}
}

// TestQuirkFillIsForIPXE: an address that a machine has no more makes no iPXE of
// the next.
func TestQuirkFillIsForIPXE(t *testing.T) {
	f := newFixture(t)
	take(f, ipxeUEFI)
	if c, ok := f.clients.at(testAddr); !ok || !c.IPXE {
		t.Fatalf("client at %v = %+v, %v; want iPXE", testAddr, c, ok)
	}
	f.ask(dhcpv4.MessageTypeDiscover, uefiOpts)
	if c, ok := f.clients.at(testAddr); !ok || c.IPXE {
		t.Errorf("client at %v after its firmware asked = %+v, %v; want no iPXE", testAddr, c, ok)
	}
	if _, ok := f.clients.at(netip.MustParseAddr("192.0.2.99")); ok {
		t.Error("an address that nobody has is known")
	}
}

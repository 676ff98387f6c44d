package pxe

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"path"
	"strings"
)

// Everything in this file is an exception to a specification, with the
// observation that made it necessary.

// piOUIs are the vendor prefixes of Raspberry Pi. Observed (FIELD-NOTES
// item 9): a Raspberry Pi 5 says architecture 0 (BIOS) in options 93 and 60,
// and would take undionly.kpxe, which it cannot run.
var piOUIs = [...][3]byte{
	{0xb8, 0x27, 0xeb}, {0xdc, 0xa6, 0x32}, {0xe4, 0x5f, 0x01},
	{0xd8, 0x3a, 0xdd}, {0x2c, 0xcf, 0x67}, {0x28, 0xcd, 0xc1}, {0x88, 0xa2, 0x9e},
}

// quirkArch mends an architecture that the hardware is known to lie about.
func quirkArch(mac net.HardwareAddr, a Arch) Arch {
	if a == ArchBIOS && len(mac) == 6 {
		for _, o := range piOUIs {
			if bytes.Equal(mac[:3], o[:]) {
				return ArchRaspberryPi41
			}
		}
	}
	return a
}

// quirkName mends the file name of a TFTP request. Observed (FIELD-NOTES
// item 7): Intel boot ROMs append 0xFF to the name; old EDK2 writes a NUL over
// the byte after option 67 and others copy what follows it into the name;
// Windows loaders ask with backslashes; shim asks for "//grubx64.efi". The
// name ends at the first NUL or 0xFF, backslashes become slashes, and leading
// and repeated slashes go.
func quirkName(name string) string {
	if i := strings.IndexAny(name, "\x00"); i >= 0 {
		name = name[:i]
	}
	// 0xFF is no valid UTF-8, so IndexAny would match any other bad byte too.
	if i := strings.IndexByte(name, 0xff); i >= 0 {
		name = name[:i]
	}
	name = strings.ReplaceAll(name, `\`, "/")
	for strings.Contains(name, "//") {
		name = strings.ReplaceAll(name, "//", "/")
	}
	name = strings.TrimLeft(name, "/")
	return strings.TrimRight(name, " \r\n")
}

// quirkNextDevice is a boot file that does not exist. Observed with OVMF
// 2022.11: EDK2 takes no offer without a boot file; it asks again after 4, 8,
// 16 and 32 s and only then goes on to its next boot device, whereas the
// server's "no such file" sends it on at once.
const quirkNextDevice = "next-boot-device"

// quirkNotByHTTP is another, for firmware whose loader must be signed.
// Observed with OVMF 2022.11: shim 16.1 fetches GRUB by HTTP boot, and Debian's
// signed GRUB 2.06 then asks for no configuration and waits at its prompt for
// ever. The firmware's screen shows this name.
const quirkNotByHTTP = "secure-boot-works-by-pxe-not-by-http"

// quirkMissing says for a boot file that must not exist what it means that a
// client asked for it.
func quirkMissing(name string) (text string, ok bool) {
	switch name {
	case quirkNextDevice:
		return goesOn, true
	case quirkNotByHTTP:
		return goesOnSigned, true
	}
	return "", false
}

// quirkNoEnd: the options of a packet may end without option 255, see
// packet.options. Observed: some relays and hand-made clients (nmap's
// dhcp-discover of old) leave it away when options fill the packet exactly.

// Boot file parameters of DHCPv6 (option 60, RFC 5970 §3.2) are never sent.
// Observed (FIELD-NOTES item 20): EDK2 chokes on them; no loader here takes
// any, and iPXE takes what it needs from its script.
//
// The vendor class (option 16) is echoed to HTTP boot alone. Observed with OVMF
// 2022.11: beside "PXEClient" its PXE takes the address, gives it back at once
// and fetches nothing; without it, it boots.

// quirkUserClass decodes the user class. Observed (FIELD-NOTES item 12):
// iPXE sends option 77 as the bare text "iPXE"; others code it as RFC 3004
// §4 says, with a length before each class.
func quirkUserClass(b []byte) string {
	if len(b) > 1 && int(b[0]) == len(b)-1 {
		return string(b[1:])
	}
	if len(b) > 1 && int(b[0]) < len(b)-1 && b[0] > 0 && b[0] < 0x20 {
		return string(b[1 : 1+b[0]])
	}
	return string(b)
}

// shimBuffer is what shim fetches its second stage into at first; it takes one
// twice as long when that is too small.
const shimBuffer = 4 << 20

// quirkFill makes a signed program as long as that buffer. Observed: shim 16.1
// takes the whole buffer for the program when iPXE fetched it, because iPXE (of
// 2019, and until 2026) does not say how long it is, refuses it ("Malformed
// binary after Attribute Certificate Table") and waits for a key for ever. What
// is added is a certificate of a reserved type, which nobody looks at; no
// signature covers the list of certificates (Authenticode PE format, "Calculating
// the PE image hash"). A program of another form stays as it is.
func quirkFill(f *File) (*File, error) {
	head := make([]byte, min(4096, f.Size))
	if _, err := io.ReadFull(f, head); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if len(head) < 4096 || string(head[:2]) != "MZ" || le.Uint32(head[0x3c:]) > 2048 {
		return f, nil
	}
	opt := int(le.Uint32(head[0x3c:])) + 4 + peFileHeader
	at, size := le.Uint32(head[opt+peOptSecurity:]), le.Uint32(head[opt+peOptSecurity+4:])
	if le.Uint16(head[opt:]) != peMagicPlus || at == 0 || size%8 != 0 || int64(at)+int64(size) != f.Size || f.Size > 1<<30 {
		return f, nil
	}
	whole := int64(shimBuffer)
	for whole < f.Size+8 && whole != f.Size {
		whole *= 2
	}
	if whole == f.Size {
		return f, nil
	}
	fill := uint32(whole - f.Size)
	certificate := le.AppendUint32(nil, fill)
	certificate = le.AppendUint16(certificate, 0x0200) // WIN_CERT_REVISION_2_0
	certificate = le.AppendUint16(certificate, 0x0003) // WIN_CERT_TYPE_RESERVED_1
	out := &joined{}
	out.add(ukiFile{&patched{ReadSeeker: f, at: int64(opt + peOptSecurity + 4), with: le.AppendUint32(nil, size+fill)}, f.Size})
	out.add(ukiFile{bytes.NewReader(certificate), int64(len(certificate))})
	out.add(ukiFile{io.NewSectionReader(zeroes{}, 0, int64(fill)-int64(len(certificate))), int64(fill) - int64(len(certificate))})
	return &File{ReadSeekCloser: openUKI{out, closers{f}}, Size: whole, ModTime: f.ModTime, Type: f.Type}, nil
}

// patched reads a file with other bytes at one place.
type patched struct {
	io.ReadSeeker
	at   int64
	with []byte
	pos  int64
}

func (p *patched) Read(b []byte) (int, error) {
	n, err := p.ReadSeeker.Read(b)
	for i, c := range p.with {
		if k := p.at + int64(i) - p.pos; k >= 0 && k < int64(n) {
			b[k] = c
		}
	}
	p.pos += int64(n)
	return n, err
}

func (p *patched) Seek(offset int64, whence int) (int64, error) {
	at, err := p.ReadSeeker.Seek(offset, whence)
	p.pos = at
	return at, err
}

// zeroes is as many as are read.
type zeroes struct{}

func (zeroes) ReadAt(b []byte, _ int64) (int, error) {
	clear(b)
	return len(b), nil
}

// quirkOptional names what loaders ask for and can do without. Observed: shim
// 16.1 asks for revocations_sku.efi, revocations_sbat.efi and
// shim_certificate_0.efi before its second stage, and Debian's signed GRUB 2.06
// for x86_64-efi/grub.cfg and for lists of modules; U-Boot 2023.01, given no boot
// file, for one named after its address (C000020A.img) before it asks for
// pxelinux.cfg, and for boot.scr.uimg and dtb/ in its standard environment.
func quirkOptional(name string) bool {
	base := path.Base(name)
	if mac, ok := pxelinuxName(name); ok && mac == nil {
		return true // U-Boot asks by address and for defaults when it has no configuration
	}
	switch {
	case len(name) == 12 && strings.HasSuffix(name, ".img") && strings.Trim(name[:8], "0123456789ABCDEF") == "", name == ubootScript, path.Dir(name) == "dtb":
		return true
	case strings.HasPrefix(base, "revocations_"), strings.HasPrefix(base, "shim_certificate_"):
		return true
	case strings.HasSuffix(path.Dir(name), "-efi"):
		return base == grubConfig || strings.HasSuffix(base, ".lst")
	}
	return false
}

// CipherSuites are those of a TLS 1.2 listener that firmware can talk to.
// Observed: OVMF 2022.11 has no elliptic curves in its TLS at all; it offers
// suites with an RSA key exchange or finite-field DHE, the latter of which Go
// has not. It takes certificates with RSA keys alone, the CA's included. Others
// are served with forward secrecy, which Go prefers.
func CipherSuites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	}
}

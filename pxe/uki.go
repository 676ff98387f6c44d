package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"strings"
)

// A unified kernel image is one EFI program: systemd's stub with the kernel,
// its arguments and ramdisks as further sections (the UAPI group's
// specification "Unified Kernel Image"; PE/COFF revision 8.3 §3 and §4). It is
// put together while it is read: a machine's own arguments are in it.

// ukiPart is a section to be added.
type ukiPart struct {
	name  string
	files []ukiFile // one after the other, each from a multiple of 4
}

type ukiFile struct {
	io.ReadSeeker
	size int64
}

// Offsets in the headers of PE32+.
const (
	peSectionCount  = 2  // of the file header: 2 bytes
	peSymbols       = 8  // its symbol table's place and length: 8 bytes
	peOptionalSize  = 16 // 2 bytes
	peFileHeader    = 20 // its length
	peOptSection    = 32 // of the optional header: section alignment, then that of the file, 4 bytes each
	peOptImageSize  = 56 // then the size of the headers and the checksum, 4 bytes each
	peOptSecurity   = 112 + 4*8
	peSectionHeader = 40
	peReadableData  = 0x40000040 // initialized, readable
	peMagicPlus     = 0x20b
)

// newUKI adds sections to a stub. What it returns closes nothing.
func newUKI(stub []byte, parts []ukiPart) (*joined, error) {
	bad := func(why string) (*joined, error) {
		return nil, fmt.Errorf("the stub of unified kernel images is damaged or of an unknown kind: %s", why)
	}
	le := binary.LittleEndian
	if len(stub) < 0x40 || string(stub[:2]) != "MZ" || int64(le.Uint32(stub[0x3c:]))+4+peFileHeader > int64(len(stub)) {
		return bad("it does not begin as a program")
	}
	file := int(le.Uint32(stub[0x3c:])) + 4
	if string(stub[file-4:file]) != "PE\x00\x00" {
		return bad("it is no EFI program")
	}
	opt := file + peFileHeader
	count := int(le.Uint16(stub[file+peSectionCount:]))
	table := opt + int(le.Uint16(stub[file+peOptionalSize:]))
	end := table + count*peSectionHeader
	if opt+peOptSecurity+8 > table || end > len(stub) || le.Uint16(stub[opt:]) != peMagicPlus {
		return bad("its headers are not those of a 64-bit program")
	}
	align, fileAlign := le.Uint32(stub[opt+peOptSection:]), le.Uint32(stub[opt+peOptSection+4:])
	oldHead := le.Uint32(stub[opt+peOptImageSize+4:])
	if fileAlign == 0 || fileAlign > 1<<16 || fileAlign&(fileAlign-1) != 0 || align > 1<<20 || align < fileAlign || align&(align-1) != 0 || int64(oldHead) > int64(len(stub)) || int(oldHead) < end {
		return bad("its alignment or the size of its headers is impossible")
	}
	head := append([]byte(nil), stub[:end]...)
	newHead := up(uint32(end+len(parts)*peSectionHeader), fileAlign)
	shift := newHead - oldHead
	if newHead < oldHead {
		newHead, shift = oldHead, 0
	}
	next := uint32(0) // address after the last section
	for i := range count {
		s := head[table+i*peSectionHeader:]
		va, size, raw, at := le.Uint32(s[12:]), le.Uint32(s[8:]), le.Uint32(s[16:]), le.Uint32(s[20:])
		if va < newHead || va > 1<<30 || max(size, raw) > 1<<30 {
			return bad("it has no room for further sections")
		}
		next = max(next, up(va+max(size, raw), align))
		if at != 0 {
			le.PutUint32(s[20:], at+shift)
		}
	}
	out := &joined{}
	var bodies []ukiFile
	at := int64(newHead) + int64(up(uint32(len(stub))-oldHead, fileAlign))
	for _, p := range parts {
		size := int64(0)
		for i, f := range p.files {
			if i > 0 {
				size = (size + 3) &^ 3
			}
			size += f.size
		}
		if size > 1<<30 || int64(next)+size > 1<<31 || len(p.name) > 8 {
			return nil, fmt.Errorf("section %s of %d bytes does not fit into a unified kernel image", p.name, size)
		}
		var s [peSectionHeader]byte
		copy(s[:8], p.name)
		raw := up(uint32(size), fileAlign)
		le.PutUint32(s[8:], uint32(size))
		le.PutUint32(s[12:], next)
		le.PutUint32(s[16:], raw)
		le.PutUint32(s[20:], uint32(at))
		le.PutUint32(s[36:], peReadableData)
		head = append(head, s[:]...)
		for i, f := range p.files {
			bodies = append(bodies, f)
			if i < len(p.files)-1 {
				bodies = append(bodies, zeros(-f.size&3))
			}
		}
		bodies = append(bodies, zeros(int64(raw)-size))
		at += int64(raw)
		next = up(next+uint32(size), align)
	}
	le.PutUint16(head[file+peSectionCount:], uint16(count+len(parts)))
	clear(head[file+peSymbols : file+peSymbols+8])
	le.PutUint32(head[opt+peOptImageSize:], next)
	le.PutUint32(head[opt+peOptImageSize+4:], newHead)
	clear(head[opt+peOptImageSize+8 : opt+peOptImageSize+12]) // the checksum; firmware does not look
	clear(head[opt+peOptSecurity : opt+peOptSecurity+8])      // a signature would not be of this file
	head = append(head, make([]byte, int(newHead)-len(head))...)
	out.add(ukiFile{bytes.NewReader(head), int64(len(head))})
	rest := stub[oldHead:]
	out.add(ukiFile{bytes.NewReader(rest), int64(len(rest))})
	out.add(zeros(int64(up(uint32(len(rest)), fileAlign)) - int64(len(rest))))
	for _, f := range bodies {
		out.add(f)
	}
	return out, nil
}

func up(n, align uint32) uint32 { return (n + align - 1) &^ (align - 1) }

func zeros(n int64) ukiFile { return ukiFile{bytes.NewReader(make([]byte, n)), n} }

// joined reads files one after the other.
type joined struct {
	files []ukiFile
	size  int64
	pos   int64
}

func (j *joined) add(f ukiFile) {
	if f.size > 0 {
		j.files = append(j.files, f)
		j.size += f.size
	}
}

// Seek implements io.Seeker.
func (j *joined) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += j.pos
	case io.SeekEnd:
		offset += j.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning")
	}
	j.pos = offset
	// Each file goes on from where it is: a whole sequential read is verified.
	at := int64(0)
	for _, f := range j.files {
		if _, err := f.Seek(min(max(offset-at, 0), f.size), io.SeekStart); err != nil {
			return 0, err
		}
		at += f.size
	}
	return offset, nil
}

// Read implements io.Reader.
func (j *joined) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	at := int64(0)
	for _, f := range j.files {
		if j.pos >= at+f.size {
			at += f.size
			continue
		}
		left := at + f.size - j.pos
		n, err := f.Read(b[:min(int64(len(b)), left)])
		j.pos += int64(n)
		if errors.Is(err, io.EOF) {
			err = nil
			if n == 0 {
				err = io.ErrUnexpectedEOF
			}
		}
		if err == nil && int64(n) == left {
			// The end is where a stored file is found to be damaged.
			var more [1]byte
			if k, end := f.Read(more[:]); k != 0 {
				err = errors.New("a file grew while it was read")
			} else if !errors.Is(end, io.EOF) {
				err = end
			}
		}
		return n, err
	}
	return 0, io.EOF
}

// ukiFor is the unified kernel image of a machine, for whoever has the address
// that DHCP gave to that machine: kernel arguments may carry a token.
func (s *Server) ukiFor(ctx context.Context, n *Network, at netip.Addr, macText string) (*File, error) {
	mac, err := net.ParseMAC(macText)
	if err != nil || len(mac) != 6 {
		return nil, fmt.Errorf("%q is not a MAC address: %w", printable([]byte(macText)), fs.ErrNotExist)
	}
	c, known := s.clients.of(mac)
	if !known || !s.clients.holds(mac, at) {
		return nil, fmt.Errorf("the boot image of %v was asked from %v, which is not its address: %w", mac, at, fs.ErrPermission)
	}
	info, _ := archs(c.Arch)
	if info.stub == "" {
		return nil, fmt.Errorf("there is no unified kernel image for %s: %w", c.Arch, fs.ErrNotExist)
	}
	d, err := s.decide(ctx, c)
	if err != nil {
		return nil, err
	}
	if d.Action != BootKernel {
		return nil, fmt.Errorf("%v has nothing to boot from the network now%s: %w", mac, because(d), fs.ErrNotExist)
	}
	var open closers
	fetch := func(name string) (ukiFile, error) {
		f, err := s.files.Open(ctx, name)
		if err != nil {
			return ukiFile{}, fmt.Errorf("opening %s: %w", name, err)
		}
		open = append(open, f)
		return ukiFile{f.ReadSeekCloser, f.Size}, nil
	}
	done := func(err error) (*File, error) { return nil, errors.Join(err, open.Close()) }
	stub, err := s.files.Open(ctx, "loaders/"+info.stub)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", info.stub, err)
	}
	code, err := io.ReadAll(io.LimitReader(stub, 16<<20))
	if err = errors.Join(err, stub.Close()); err != nil {
		return nil, fmt.Errorf("reading %s: %w", info.stub, err)
	}
	kernel, err := fetch(d.Kernel)
	if err != nil {
		return done(err)
	}
	args := d.Cmdline + "\x00"
	parts := []ukiPart{{".cmdline", []ukiFile{{strings.NewReader(args), int64(len(args))}}}, {".linux", []ukiFile{kernel}}}
	if len(d.Initrds) > 0 {
		ramdisks := ukiPart{name: ".initrd"}
		for _, name := range d.Initrds {
			f, err := fetch(name)
			if err != nil {
				return done(err)
			}
			ramdisks.files = append(ramdisks.files, f)
		}
		parts = append(parts, ramdisks)
	}
	image, err := newUKI(code, parts)
	if err != nil {
		return done(err)
	}
	return &File{ReadSeekCloser: openUKI{image, open}, Size: image.size, Type: "application/efi"}, nil
}

type openUKI struct {
	*joined
	closers
}

type closers []io.Closer

// Close implements io.Closer.
func (c closers) Close() error {
	var errs []error
	for _, f := range c {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// ukiMAC reads the MAC of a name such as uki/02:00:00:00:00:01.efi.
func ukiMAC(name string) (mac string, ok bool) {
	name, ok = strings.CutPrefix(name, ukiFolder+"/")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(name, ".efi")
}

// ukiName is a machine's boot image, below the boot server's root.
func ukiName(mac net.HardwareAddr) string {
	return ukiFolder + "/" + strings.ReplaceAll(mac.String(), ":", "-") + ".efi"
}

const ukiFolder = "uki"

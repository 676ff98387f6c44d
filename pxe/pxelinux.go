package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"strings"
)

// U-Boot asks for a configuration in the form of SYSLINUX's PXELINUX by TFTP,
// below pxelinux.cfg/ (U-Boot, doc/README.pxe): the same decision as the iPXE
// script's, in those words. A Raspberry Pi asks for config.txt and what that
// names, below its serial number or its MAC address (its documentation,
// "Network booting").

const (
	pxelinuxFolder = "pxelinux.cfg"
	// ramdiskFolder has each machine's ramdisks as one file: U-Boot takes one.
	ramdiskFolder = "ramdisk"

	piConfig  = "config.txt"
	piCmdline = "cmdline.txt"
	piKernel  = "vmlinuz"
	piRamdisk = "initrd"
	piFolder  = "loaders/raspberry-pi/" // where the Pi's own firmware files are looked for
)

// pxelinuxName tells whether a file name is one under which U-Boot asks for its
// configuration, and for which MAC: pxelinux.cfg/01-02-00-00-00-00-01. It asks
// for others, by its address, and for default, where that one is missing; mac
// is nil then.
func pxelinuxName(name string) (mac net.HardwareAddr, ok bool) {
	folder, base := path.Split(name)
	if path.Base(folder) != pxelinuxFolder {
		return nil, false
	}
	if text, found := strings.CutPrefix(base, "01-"); found {
		if mac, err := net.ParseMAC(text); err == nil && len(mac) == 6 {
			return mac, true
		}
	}
	return nil, true
}

// ramdiskName is where a machine's ramdisks are, joined.
func ramdiskName(mac net.HardwareAddr) string {
	return ramdiskFolder + "/" + strings.ReplaceAll(mac.String(), ":", "-")
}

// ubootScript is what U-Boot's standard environment asks for before it tries to
// be an EFI client. Observed (U-Boot 2023.01): as one it loads shim, and has no
// way for shim to fetch its second stage.
const ubootScript = "boot.scr.uimg"

// ubootScriptFile sends U-Boot to its pxelinux.cfg: a script in the form of its
// own images (U-Boot, include/image.h).
func ubootScriptFile() *File {
	const (
		magic   = 0x27051956
		linux   = 5
		arm64   = 22
		script  = 6
		command = "if pxe get; then pxe boot; fi\n"
	)
	be := binary.BigEndian
	data := be.AppendUint32(nil, uint32(len(command))) // a list of one file, and its end
	data = append(be.AppendUint32(data, 0), command...)
	head := make([]byte, 64)
	be.PutUint32(head[0:], magic)
	be.PutUint32(head[12:], uint32(len(data)))
	be.PutUint32(head[24:], crc32.ChecksumIEEE(data))
	head[28], head[29], head[30] = linux, arm64, script
	copy(head[32:], "fettle")
	be.PutUint32(head[4:], crc32.ChecksumIEEE(head)) // of the header without it
	b := append(head, data...)
	return &File{ReadSeekCloser: nopCloser{bytes.NewReader(b)}, Size: int64(len(b))}
}

// decidedAt is the machine that DHCP gave an address to, and what it boots.
// Kernel arguments may carry a token: nobody else is told.
func (s *Server) decidedAt(ctx context.Context, n *Network, mac net.HardwareAddr, at netip.Addr, what string) (Client, Decision, error) {
	c, known := s.clients.of(mac)
	if !known || !s.clients.holds(mac, at) {
		return c, Decision{}, fmt.Errorf("%s of %v was asked from %v, which is not its address: %w", what, mac, at, fs.ErrPermission)
	}
	d, err := s.decide(ctx, c)
	if err != nil {
		s.record(s.now(), n, c, "boot.undecided", "got no "+what+" yet: "+err.Error(), err)
	}
	return c, d, err
}

// pxelinuxFor is a machine's configuration for U-Boot.
func (s *Server) pxelinuxFor(ctx context.Context, n *Network, at netip.Addr, mac net.HardwareAddr) (text, name string, err error) {
	c, d, err := s.decidedAt(ctx, n, mac, at, "configuration for U-Boot")
	if err == nil {
		err = checkUBoot(d.Cmdline)
	}
	if err != nil {
		return "", pxelinuxFolder, err
	}
	st, name := stageScript, pxelinuxFolder
	if d.Action != BootKernel {
		st, name = stageDisk, scriptDisk
	}
	s.noteStage(c, st, pxelinuxFolder)
	return pxelinux(c, d), name, nil
}

// checkUBoot refuses kernel arguments that U-Boot changes: it expands $( as it
// does ${ (cli_simple_process_macros), and takes a backslash and a quote away.
func checkUBoot(line string) error {
	if strings.Contains(line, "$(") {
		return errors.New(`kernel arguments hold "$(": U-Boot would expand it`)
	}
	if i := strings.IndexAny(line, `'\`); i >= 0 {
		return fmt.Errorf("kernel arguments hold %q, which U-Boot would change: its machines cannot be given them", line[i])
	}
	return nil
}

// pxelinux is a configuration for a decision. A machine that boots its disk is
// told so: U-Boot has nothing that it would run for that, and goes on to its
// next boot target.
func pxelinux(c Client, d Decision) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# fettle: machine %v\n", c.MAC)
	if d.Reason != "" {
		fmt.Fprintf(&b, "# %s\n", printable([]byte(d.Reason)))
	}
	b.WriteString("default fettle\nprompt 0\ntimeout 1\nlabel fettle\n")
	if d.Action != BootKernel {
		b.WriteString("\tlocalboot 1\n")
		return b.String()
	}
	// Names with a slash before them are of the root, wherever this came from.
	fmt.Fprintf(&b, "\tkernel /%s\n", strings.TrimLeft(d.Kernel, "/"))
	if len(d.Initrds) > 0 {
		fmt.Fprintf(&b, "\tinitrd /%s\n", ramdiskName(c.MAC))
	}
	if d.Cmdline != "" {
		fmt.Fprintf(&b, "\tappend %s\n", d.Cmdline)
	}
	return b.String()
}

// ramdiskFor is a machine's ramdisks as one file.
func (s *Server) ramdiskFor(ctx context.Context, n *Network, at netip.Addr, mac net.HardwareAddr) (*File, error) {
	_, d, err := s.decidedAt(ctx, n, mac, at, "ramdisk")
	if err != nil {
		return nil, err
	}
	if d.Action != BootKernel || len(d.Initrds) == 0 {
		return nil, fmt.Errorf("%v has no ramdisk to boot now%s: %w", mac, because(d), fs.ErrNotExist)
	}
	return s.joinFiles(ctx, d.Initrds)
}

// joinFiles reads files one after the other, each from a multiple of 4, as
// Linux wants its ramdisks.
func (s *Server) joinFiles(ctx context.Context, names []string) (*File, error) {
	out := &joined{}
	var open closers
	for _, name := range names {
		f, err := s.files.Open(ctx, name)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("opening %s: %w", name, err), open.Close())
		}
		open = append(open, f)
		out.add(zeros(-out.size & 3))
		out.add(ukiFile{f.ReadSeekCloser, f.Size})
	}
	return &File{ReadSeekCloser: openUKI{out, open}, Size: out.size, Type: "application/octet-stream"}, nil
}

// piName is the name of a file that a Raspberry Pi asks for below its serial
// number (eight hexadecimal digits) or its MAC address.
func piName(name string) (rest string, ok bool) {
	folder, rest, ok := strings.Cut(name, "/")
	if !ok || rest == "" {
		return "", false
	}
	if mac, err := net.ParseMAC(folder); err == nil && len(mac) == 6 {
		return rest, true
	}
	return rest, len(folder) == 8 && strings.Trim(strings.ToLower(folder), "0123456789abcdef") == ""
}

// piFor is a file of a Raspberry Pi: what it boots in the words of its
// firmware, or a file of that firmware.
func (s *Server) piFor(ctx context.Context, n *Network, c Client, at netip.Addr, rest string) (f *File, name string, err error) {
	switch rest {
	case piConfig, piCmdline, piKernel, piRamdisk:
	default:
		f, err := s.files.Open(ctx, piFolder+rest)
		return f, piFolder + rest, err
	}
	_, d, err := s.decidedAt(ctx, n, c.MAC, at, rest)
	if err != nil {
		return nil, rest, err
	}
	if d.Action != BootKernel {
		return nil, rest, fmt.Errorf("%v has nothing to boot from the network now%s: %w", c.MAC, because(d), fs.ErrNotExist)
	}
	text, what := "", "config.txt"
	switch rest {
	case piKernel:
		f, err := s.files.Open(ctx, d.Kernel)
		return f, d.Kernel, err
	case piRamdisk:
		f, err := s.ramdiskFor(ctx, n, at, c.MAC)
		return f, ramdiskName(c.MAC), err
	case piCmdline:
		text, what = d.Cmdline+"\n", "kernel arguments"
	case piConfig:
		text = "# fettle: machine " + c.MAC.String() + "\narm_64bit=1\nenable_uart=1\nkernel=" + piKernel + "\n"
		if len(d.Initrds) > 0 {
			text += "initramfs " + piRamdisk + " followkernel\n"
		}
		s.noteStage(c, stageScript, piConfig)
	}
	return textFile(what, text), rest, nil
}

// textFile is a file of a configuration, which may carry a token.
func textFile(what, text string) *File {
	return &File{ReadSeekCloser: nopCloser{strings.NewReader(text)}, Size: int64(len(text)), config: what}
}

// piMenu is option 43 as a Raspberry Pi wants it, or it takes no offer: PXE's
// discovery control, a prompt, and a boot menu whose one item has this name
// (PXE 2.1 §2.2.3; the bootloader looks for the text).
func piMenu() []byte {
	const item = "Raspberry Pi Boot"
	v := []byte{6, 1, 3, 10, 4, 0, 'P', 'X', 'E', 9, byte(3 + len(item)), 0, 0, byte(len(item))}
	return append(append(v, item...), optEnd)
}

package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// machine is one of a storm.
type machine struct {
	*storm
	firmware Firmware
	mac      [6]byte
	xid      uint32
	addr     netip.Addr
	bytes    int64
	repeated int
}

// stage does one part of a boot and measures it.
func (m *machine) stage(name string, do func() error) error {
	start := time.Now()
	if err := do(); err != nil {
		return stageError(name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.took[name] = append(m.took[name], time.Since(start))
	return nil
}

// boot goes the way of the machine's firmware.
func (m *machine) boot(ctx context.Context) error {
	var got message
	if m.firmware != IPXE {
		if err := m.stage(StageFirmware, func() (err error) { got, err = m.lease(ctx, m.firmwareOptions()); return err }); err != nil {
			return err
		}
		if err := m.stage(StageLoader, func() error { return m.loader(ctx, got) }); err != nil {
			return err
		}
	}
	if err := m.stage(StageIPXE, func() (err error) { got, err = m.lease(ctx, m.ipxeOptions()); return err }); err != nil {
		return err
	}
	var script string
	if err := m.stage(StageScript, func() (err error) { script, err = m.script(ctx, got); return err }); err != nil {
		return err
	}
	if err := m.stage(StageFiles, func() error { return m.files(ctx, script) }); err != nil {
		return err
	}
	if m.Report == "" {
		return nil
	}
	return m.stage(StageReport, func() error {
		_, _, err := m.get(ctx, m.Report, 4096, 0)
		return err
	})
}

// uuid is option 97: a type byte, and a UUID of the machine's own.
func (m *machine) uuid() []byte {
	v := make([]byte, 17)
	copy(v[1:], "fettle-bch")
	copy(v[11:], m.mac[:])
	return v
}

func (m *machine) firmwareOptions() [][]byte {
	arch := byte(0)
	if m.firmware == EDK2 {
		arch = 7
	}
	return [][]byte{
		option(optList, 1, 3, 6, 12, 15, 43, 54, 60, 66, 67, 97),
		option(optUUID, m.uuid()...), option(optArch, 0, arch),
		textOption(optClass, fmt.Sprintf("PXEClient:Arch:%05d:UNDI:002001", arch)),
	}
}

func (m *machine) ipxeOptions() [][]byte {
	arch := byte(0)
	if m.firmware == EDK2 {
		arch = 7
	}
	return [][]byte{
		option(optList, 1, 3, 6, 12, 15, 17, 43, 60, 66, 67, 119, 128, 175, 203),
		option(optUUID, m.uuid()...), option(optArch, 0, arch),
		textOption(optClass, fmt.Sprintf("PXEClient:Arch:%05d:UNDI:002001", arch)),
		textOption(optUserClass, "iPXE"),
		// HTTP, TFTP, DNS, bzImage (iPXE's feature tags).
		option(optIPXE, 0x13, 1, 1, 0x11, 1, 1, 0x12, 1, 1, 0x18, 1, 1),
	}
}

// lease gets an address, asking as often and as patiently as firmware does.
func (m *machine) lease(ctx context.Context, opts [][]byte) (message, error) {
	m.xid++
	xid := m.xid<<24 | uint32(binary.BigEndian.Uint16(m.mac[4:])) | uint32(m.Series&0xff)<<16
	in := make(chan message, 4)
	m.mu.Lock()
	m.waiting[xid] = in
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.waiting, xid)
		m.mu.Unlock()
	}()
	var refused bool
	ask := func(packet []byte, want byte) (message, error) {
		for i, wait := range dhcpWaits() {
			if i > 0 {
				m.repeated++
			}
			if _, err := m.conn.WriteTo(packet, m.to); err != nil {
				return message{}, quiet(err)
			}
			timer := time.NewTimer(wait)
			for asking := true; asking; {
				select {
				case got := <-in:
					if got.mac != m.mac || got.server != m.Server {
						continue // somebody else's offer is not what is measured
					}
					if got.kind == nak {
						timer.Stop()
						refused = true
						return got, errors.New("the server took its offer back (NAK)")
					}
					if got.kind == want {
						timer.Stop()
						return got, nil
					}
				case <-timer.C:
					asking = false
				case <-ctx.Done():
					timer.Stop()
					return message{}, ctx.Err()
				}
			}
		}
		return message{}, errSilent
	}
	for try := 0; ; try++ {
		refused = false
		o, err := ask(encode(discover, xid, m.mac, netip.Addr{}, opts...), offer)
		if err != nil {
			return o, err
		}
		packet := encode(request, xid, m.mac, netip.Addr{}, append(slices.Clone(opts), addrOption(optServer, o.server), addrOption(optWant, o.yiaddr))...)
		a, err := ask(packet, ack)
		if err != nil && refused && try < 3 {
			m.repeated++
			continue
		}
		if err != nil {
			return a, err
		}
		return a, m.take(a)
	}
}

// take checks the address that the machine was given.
func (m *machine) take(a message) error {
	if !m.Allowed.Contains(a.yiaddr) {
		return fmt.Errorf("was given an address outside %v", m.Allowed)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if other, ok := m.has[a.yiaddr]; ok && other != m.mac {
		m.twice[a.yiaddr] = true
		return errors.New("was given an address that another machine has")
	}
	m.has[a.yiaddr] = m.mac
	m.addr = a.yiaddr
	return nil
}

// mayAsk refuses hosts that the caller did not name.
func (m *machine) mayAsk(a netip.Addr) error {
	if a == m.Server || slices.Contains(m.Also, a) {
		return nil
	}
	return fmt.Errorf("was sent to %v, which is not among the addresses that this storm may ask", a)
}

// loader fetches the boot loader by TFTP.
func (m *machine) loader(ctx context.Context, got message) error {
	if got.file == "" {
		return errors.New("was told no boot file")
	}
	server := got.siaddr
	if a, err := netip.ParseAddr(got.tftp); err == nil && (!server.IsValid() || server.IsUnspecified()) {
		server = a
	}
	if err := m.mayAsk(server); err != nil {
		return err
	}
	conn, err := m.Wire.ListenPacket(ctx, m.addr)
	if err != nil {
		return quiet(err)
	}
	defer conn.Close()
	name, _, _ := strings.Cut(got.file, "\x00")
	f := Fetch{Server: netip.AddrPortFrom(server, 69), Name: strings.TrimSuffix(name, "\xff"), Blksize: 1456}
	if m.firmware == EDK2 {
		f.Blksize, f.Window = 1468, 4
	}
	n, err := f.Run(ctx, conn)
	m.bytes += n
	if err == nil && n == 0 {
		err = errors.New("the boot loader is empty")
	}
	return quiet(err)
}

// get fetches a URL of a host that the storm may ask.
func (m *machine) get(ctx context.Context, rawURL string, keep int, limit int64) (int64, []byte, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return 0, nil, fmt.Errorf("%q is no URL", rawURL)
	}
	a, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return 0, nil, errors.New("was sent to a host by name, which firmware may not find")
	}
	if err := m.mayAsk(a); err != nil {
		return 0, nil, err
	}
	n, b, err := Get(ctx, func(ctx context.Context, _, addr string) (net.Conn, error) { return m.Wire.Dial(ctx, m.addr, addr) }, rawURL, keep, limit)
	m.bytes += n
	return n, b, err
}

const maxScript = 64 << 10

// script fetches the iPXE script that DHCP named.
func (m *machine) script(ctx context.Context, got message) (string, error) {
	if got.file == "" {
		return "", errors.New("iPXE was told no script")
	}
	mac := net.HardwareAddr(m.mac[:]).String()
	where := strings.NewReplacer("${net0/mac}", mac, "${mac}", mac).Replace(got.file)
	if !strings.HasPrefix(where, "http://") {
		return "", errors.New("iPXE was told a file that is no HTTP URL")
	}
	_, b, err := m.get(ctx, where, maxScript, 0)
	if err == nil && !strings.HasPrefix(string(b), "#!ipxe") {
		err = errors.New("what DHCP named is no iPXE script")
	}
	return string(b), err
}

// files fetches what the script loads.
func (m *machine) files(ctx context.Context, script string) error {
	urls, _ := scriptFiles(script)
	if len(urls) == 0 {
		return errors.New("the script loads no kernel: the server sends this machine to its disk, or ignores it")
	}
	for _, u := range urls {
		if _, _, err := m.get(ctx, u, 0, m.Bytes); err != nil {
			return err
		}
	}
	return nil
}

package pxe

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// Blocks of a pcapng file (draft-ietf-opsawg-pcapng, formerly
// draft-tuexen-opsawg-pcapng §4) and link types (tcpdump.org's registry).
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockSimple    = 3
	blockEnhanced  = 6
	byteOrderMagic = 0x1a2b3c4d

	pcapMicro = 0xa1b2c3d4
	pcapNano  = 0xa1b23c4d

	optTSResol   = 9 // of an interface: units of its time stamps
	optDropCount = 4 // of a packet: packets lost before it

	linkEthernet = 1
	linkRaw      = 101
	linkSLL      = 113 // tcpdump -i any, before 2020
	linkSLL2     = 276

	captureMaxBlock   = 1 << 20
	captureMaxPackets = 1 << 20
)

// captureMAC is the server's address in files that we write; its own is not
// known to it everywhere (a lab's fabric).
func captureMAC() net.HardwareAddr { return net.HardwareAddr{0x02, 'f', 'e', 't', 't', 'l'} }

func writeCaptureHeader(w io.Writer) error {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, blockSection)
	b = le.AppendUint32(b, 28)
	b = le.AppendUint32(b, byteOrderMagic)
	b = le.AppendUint16(b, 1)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, ^uint64(0)) // length unknown
	b = le.AppendUint32(b, 28)
	b = le.AppendUint32(b, blockInterface)
	b = le.AppendUint32(b, 32)
	b = le.AppendUint16(b, linkEthernet)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, 0) // no limit
	b = le.AppendUint16(b, optTSResol)
	b = le.AppendUint16(b, 1)
	b = append(b, 9, 0, 0, 0) // nanoseconds
	b = le.AppendUint32(b, 0) // end of options
	b = le.AppendUint32(b, 32)
	_, err := w.Write(b)
	return err
}

// writeCapturePacket writes p in a frame of its own (an enhanced packet
// block); lost counts what was dropped before it.
func writeCapturePacket(w io.Writer, p Packet, lost int64) error {
	frame, size, err := p.frame()
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	ts := uint64(p.Time.UnixNano())
	body := le.AppendUint32(nil, 0)
	body = le.AppendUint32(body, uint32(ts>>32))
	body = le.AppendUint32(body, uint32(ts))
	body = le.AppendUint32(body, uint32(len(frame)))
	body = le.AppendUint32(body, uint32(size))
	body = append(body, frame...)
	body = append(body, make([]byte, -len(body)&3)...)
	if lost > 0 {
		body = le.AppendUint16(body, optDropCount)
		body = le.AppendUint16(body, 8)
		body = le.AppendUint64(body, uint64(lost))
		body = le.AppendUint32(body, 0)
	}
	total := uint32(len(body) + 12)
	b := le.AppendUint32(nil, blockEnhanced)
	b = le.AppendUint32(b, total)
	b = append(b, body...)
	_, err = w.Write(le.AppendUint32(b, total))
	return err
}

// frame is p as an Ethernet frame, and that frame's length on the wire.
func (p Packet) frame() ([]byte, int, error) {
	client := p.MAC
	if len(client) != 6 {
		client = make(net.HardwareAddr, 6)
	}
	to, from := captureMAC(), client
	if p.Sent {
		to, from = client, captureMAC()
	}
	if p.To.Addr() == limitedBroadcast() {
		to = net.HardwareAddr{255, 255, 255, 255, 255, 255}
	}
	if p.To.Addr().Is6() {
		return p.frame6(to, from)
	}
	if p.TCP {
		return tcpFrame(to, from, p.From, p.To, p.Data)
	}
	f, err := udpFrame(to, from, p.From, p.To, p.Data)
	if err != nil {
		return nil, 0, fmt.Errorf("packet from %v to %v: %w", p.From, p.To, err)
	}
	cut := max(p.Size-len(p.Data), 0)
	if cut > 0 { // the lengths are those on the wire; the checksum is not known
		ip := f[etherHeader:]
		binary.BigEndian.PutUint16(ip[2:], uint16(ipHeader+udpHeader+p.Size))
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^sum16(ip[:ipHeader], 0))
		binary.BigEndian.PutUint16(ip[ipHeader+4:], uint16(udpHeader+p.Size))
		binary.BigEndian.PutUint16(ip[ipHeader+6:], 0)
	}
	return f, len(f) + cut, nil
}

// frame6 is frame over IPv6.
func (p Packet) frame6(to, from net.HardwareAddr) ([]byte, int, error) {
	if p.To.Addr().IsMulticast() { // RFC 2464 §7
		a := p.To.Addr().As16()
		to = net.HardwareAddr{0x33, 0x33, a[12], a[13], a[14], a[15]}
	}
	proto, sum, head := byte(protoUDP), 6, make([]byte, udpHeader)
	size := max(p.Size, len(p.Data)) + udpHeader
	if p.TCP {
		proto, sum, head, size = protoTCP, 16, make([]byte, tcpHeader), len(p.Data)+tcpHeader
		head[7], head[11] = 1, 1
		head[12], head[13], head[14] = tcpHeader/4<<4, 0x18, 0xff // as in tcpFrame
	} else {
		binary.BigEndian.PutUint16(head[4:], uint16(size))
	}
	binary.BigEndian.PutUint16(head, p.From.Port())
	binary.BigEndian.PutUint16(head[2:], p.To.Port())
	f, err := frame6(to, from, p.From.Addr(), p.To.Addr(), proto, append(head, p.Data...), sum, size)
	if err != nil {
		return nil, 0, fmt.Errorf("packet from %v to %v: %w", p.From, p.To, err)
	}
	return f, etherHeader + ip6Header + size, nil
}

// tcpFrame carries the head of an HTTP message as one segment: there was a
// connection, but the server sees messages.
func tcpFrame(to, from net.HardwareAddr, src, dst netip.AddrPort, data []byte) ([]byte, int, error) {
	// 12 bytes of it become the rest of a TCP header.
	f, err := udpFrame(to, from, src, dst, append(make([]byte, tcpHeader-udpHeader), data...))
	if err != nil {
		return nil, 0, fmt.Errorf("message from %v to %v: %w", src, dst, err)
	}
	ip := f[etherHeader:]
	ip[9] = protoTCP
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^sum16(ip[:ipHeader], 0))
	tcp := ip[ipHeader:]
	clear(tcp[4:tcpHeader])
	tcp[7], tcp[11] = 1, 1
	tcp[12] = tcpHeader / 4 << 4
	tcp[13] = 0x18 // PSH, ACK
	tcp[14] = 0xff // window
	binary.BigEndian.PutUint16(tcp[16:], ^sum16(tcp, uint32(sum16(ip[12:20], protoTCP+uint32(len(tcp))))))
	return f, len(f), nil
}

var errCapture = errors.New("not a capture that can be read")

// captureIface is what a section says of an interface.
type captureIface struct {
	link uint16
	unit time.Duration // of a time stamp; 0: less than a nanosecond
}

// ReadCapture reads the UDP and TCP packets of a pcap or pcapng file, from us
// or from tcpdump.
func ReadCapture(r io.Reader) ([]Packet, error) {
	br := bufio.NewReader(r)
	head, err := br.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("%w: it is shorter than a header", errCapture)
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(head) {
		case blockSection:
			return readPcapng(br)
		case pcapMicro:
			return readPcap(br, order, time.Microsecond)
		case pcapNano:
			return readPcap(br, order, time.Nanosecond)
		}
	}
	return nil, fmt.Errorf("%w: it begins with %x; write it with fettle boot capture or tcpdump -w", errCapture, head)
}

// readPcap reads the older format (draft-ietf-opsawg-pcap).
func readPcap(r io.Reader, order binary.ByteOrder, unit time.Duration) ([]Packet, error) {
	var head [24]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("%w: its header is cut off", errCapture)
	}
	link := uint16(order.Uint32(head[20:]))
	var out []Packet
	for len(out) < captureMaxPackets {
		var rec [16]byte
		if _, err := io.ReadFull(r, rec[:]); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return out, fmt.Errorf("%w: its last packet is cut off", errCapture)
		}
		n := order.Uint32(rec[8:])
		if n > captureMaxBlock {
			return out, fmt.Errorf("%w: a packet of %d bytes", errCapture, n)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return out, fmt.Errorf("%w: its last packet is cut off", errCapture)
		}
		t := time.Unix(int64(order.Uint32(rec[:])), 0).Add(time.Duration(order.Uint32(rec[4:])) * unit)
		if p, ok := decodeFrame(link, b, t.UTC()); ok {
			out = append(out, p)
		}
	}
	return out, fmt.Errorf("%w: more than %d packets", errCapture, captureMaxPackets)
}

// readPcapng reads blocks until the end.
func readPcapng(r io.Reader) ([]Packet, error) {
	var (
		order  binary.ByteOrder = binary.LittleEndian
		ifaces []captureIface
		out    []Packet
	)
	for len(out) < captureMaxPackets {
		var head [12]byte
		if _, err := io.ReadFull(r, head[:8]); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return out, fmt.Errorf("%w: its last block is cut off", errCapture)
		}
		kind, read := order.Uint32(head[:]), 8
		if kind == blockSection { // the same in both orders
			if _, err := io.ReadFull(r, head[8:]); err != nil {
				return out, fmt.Errorf("%w: a section's header is cut off", errCapture)
			}
			read = 12
			order = binary.LittleEndian
			if order.Uint32(head[8:]) != byteOrderMagic {
				order = binary.BigEndian
			}
			if order.Uint32(head[8:]) != byteOrderMagic {
				return out, fmt.Errorf("%w: a section has no byte order", errCapture)
			}
			ifaces = nil
		}
		n := int64(order.Uint32(head[4:]))
		if n < 12 || n < int64(read) || n > captureMaxBlock || n%4 != 0 {
			return out, fmt.Errorf("%w: a block of %d bytes", errCapture, n)
		}
		b := make([]byte, n-int64(read))
		if _, err := io.ReadFull(r, b); err != nil {
			return out, fmt.Errorf("%w: its last block is cut off", errCapture)
		}
		if len(b) < 4 {
			return out, fmt.Errorf("%w: a block of %d bytes", errCapture, n)
		}
		b = b[:len(b)-4]
		switch kind {
		case blockInterface:
			if len(b) >= 8 && len(ifaces) < 1024 {
				ifaces = append(ifaces, captureIface{order.Uint16(b), timeUnit(b[8:], order)})
			}
		case blockEnhanced:
			if len(b) < 20 {
				continue
			}
			i, k := order.Uint32(b), order.Uint32(b[12:])
			if int64(i) >= int64(len(ifaces)) || int64(k) > int64(len(b)-20) {
				continue
			}
			ts := uint64(order.Uint32(b[4:]))<<32 | uint64(order.Uint32(b[8:]))
			if p, ok := decodeFrame(ifaces[i].link, b[20:20+k], ifaces[i].time(ts)); ok {
				out = append(out, p)
			}
		case blockSimple:
			if len(b) >= 4 && len(ifaces) > 0 {
				k := min(int64(order.Uint32(b)), int64(len(b)-4))
				if p, ok := decodeFrame(ifaces[0].link, b[4:4+k], time.Time{}); ok {
					out = append(out, p)
				}
			}
		}
	}
	return out, fmt.Errorf("%w: more than %d packets", errCapture, captureMaxPackets)
}

// timeUnit reads if_tsresol; microseconds unless it says otherwise. Powers of
// two are rare and taken as the nearest that fits.
func timeUnit(opts []byte, order binary.ByteOrder) time.Duration {
	for len(opts) >= 4 {
		code, n := order.Uint16(opts), int(order.Uint16(opts[2:]))
		if code == 0 || 4+n > len(opts) {
			break
		}
		if code == optTSResol && n == 1 {
			unit := time.Second
			for range min(int(opts[4]&0x7f), 63) {
				if opts[4]&0x80 != 0 {
					unit /= 2
				} else {
					unit /= 10
				}
			}
			return unit
		}
		opts = opts[min(4+n+(-n&3), len(opts)):]
	}
	return time.Microsecond
}

func (c captureIface) time(ts uint64) time.Time {
	unit := uint64(max(c.unit, 1))
	per := uint64(time.Second) / unit
	return time.Unix(int64(ts/per), int64(ts%per*unit)).UTC()
}

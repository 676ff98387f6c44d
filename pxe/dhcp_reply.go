package pxe

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	msgOffer = byte(dhcpv4.MessageTypeOffer)
	msgAck   = byte(dhcpv4.MessageTypeAck)
	msgNak   = byte(dhcpv4.MessageTypeNak)

	dhcpHeader    = 240 // with the magic cookie
	dhcpMinPacket = 300 // BOOTP's packet (RFC 1542 §2.1): shorter ones are dropped by old relays and ROMs
	replyRoom     = 640 // of an answer that is not unusually long
	dhcpMinMax    = 576 // what every client must take, IP header and all (RFC 2131 §2)
	udpIPHeaders  = 28
)

// reply is an encoded answer and where it goes.
type reply struct {
	bytes        []byte
	to           netip.AddrPort
	mac          net.HardwareAddr
	unicastFrame bool // to a client that cannot answer ARP yet
	// onLink says that the client has its address, here: a frame to its MAC
	// where the socket can, so that nobody is asked for by ARP. An address that
	// nobody has would hold the answers of others in the socket's buffer for
	// seconds: TestDHCPFlood saw that.
	onLink bool
}

// answer is the reply with these bytes.
func (r *request) answer(b []byte) *reply {
	r.reply = reply{bytes: b, mac: r.client.MAC}
	return &r.reply
}

// reply encodes an OFFER or an ACK. Options come in a fixed order: what a
// client cannot do without first, the boot file (67) last but for the relay's
// own option (82), which the relay takes out again: old EDK2 writes a NUL over
// the byte after option 67 (FIELD-NOTES item 7).
func (x *exchange) reply(kind byte, lease Lease, boot bootInfo) *reply {
	r, n := x.r, x.n
	server := x.on.Server
	e := newEncoder(r, kind, x.serverID())
	if lease.Addr.IsValid() {
		e.header(16, lease.Addr)
		secs := leaseSeconds(lease.Duration)
		e.u32(optLeaseTime, secs)
		e.u32(optRenewal, secs/2)     // RFC 2131 §4.4.5
		e.u32(optRebinding, secs/8*7) //
	}
	e.u32(optSubnetMask, ^uint32(0)<<(32-n.Prefix.Bits()))
	e.addrs(optRouter, n.Gateway)
	// Always: without it the Debian installer asks a person for name servers.
	e.addrs(optDNS, n.DNS...)
	if boot.file != "" || boot.asks != "" {
		e.boot(server, boot.file, r)
	}
	if r.client.IPXE {
		// This server owns DHCP here: saves iPXE's wait for a proxy's offer
		// (FIELD-NOTES item 13).
		e.bytes(optIPXE, []byte{ipxeNoProxy, 1, 1})
	}
	e.text(optHostname, lease.Hostname)
	e.text(optDomain, n.Domain)
	if n.MTU > 0 && r.wants(optMTU) {
		e.bytes(optMTU, binary.BigEndian.AppendUint16(nil, uint16(n.MTU)))
	}
	if r.wants(optBroadcast) {
		e.addrs(optBroadcast, lastAddr(n.Prefix))
	}
	if r.wants(optNTP) {
		e.addrs(optNTP, n.NTP...)
	}
	if r.giaddr.IsValid() {
		e.bytes(optSubnetSel, r.opt(optSubnetSel)) // it was heeded (RFC 3011 §2)
	}
	n.extras(e)
	p := r.answer(e.finish(boot.file))
	p.destination(r, lease.Addr, false)
	p.onLink = !r.giaddr.IsValid() && p.to.Addr() == r.ciaddr && x.on.Prefix.Contains(r.ciaddr)
	return p
}

// nakReply encodes a NAK (RFC 2131 table 3). Through a relay it carries the
// broadcast flag, so that the relay broadcasts it (§4.3.2).
func (x *exchange) nakReply(why string) *reply {
	e := newEncoder(x.r, msgNak, x.serverID())
	clear(e.b[12:24])
	if x.r.giaddr.IsValid() {
		e.b[10] |= 0x80
	}
	e.text(optMessage, why)
	p := x.r.answer(e.finish(""))
	p.destination(x.r, netip.Addr{}, true)
	return p
}

// encoder appends options to a reply's packet.
type encoder struct {
	b   []byte
	r   *request
	max int // longest packet that the client takes

	proxy bool // the address is another server's
}

// newEncoder writes the header and what every reply carries. xid, flags,
// giaddr and chaddr are the client's own, and so are options 61 and 97
// (FIELD-NOTES items 3 and 11; RFC 6842 for 61).
func newEncoder(r *request, kind byte, server netip.Addr) *encoder {
	b := r.out
	if b == nil {
		b = make([]byte, 0, replyRoom)
	}
	b = b[:dhcpHeader]
	clear(b)
	b[0] = 2
	copy(b[1:3], r.raw[1:3])     // htype, hlen
	copy(b[4:8], r.xid())        //
	copy(b[10:12], r.raw[10:12]) // flags
	copy(b[12:16], r.raw[12:16]) // ciaddr
	copy(b[24:28], r.raw[24:28]) // giaddr
	copy(b[28:34], r.chaddr())
	copy(b[236:240], dhcpCookie[:])
	e := &r.encode
	*e = encoder{b: b, r: r, max: dhcpMinMax - udpIPHeaders}
	if m := r.opt(optMaxSize); len(m) == 2 {
		e.max = max(e.max, min(int(binary.BigEndian.Uint16(m)), 1500)-udpIPHeaders)
	}
	e.bytes(optMessageType, []byte{kind})
	e.addrs(optServerID, server)
	e.bytes(optClientID, r.opt(optClientID))
	e.bytes(optUUID, r.opt(optUUID))
	return e
}

// boot writes the boot server into the header and options 60, 43 and 66;
// siaddr, sname, 66 and 54 agree, and finish adds 67 (FIELD-NOTES item 7).
func (e *encoder) boot(server netip.Addr, file string, r *request) {
	e.header(20, server)
	copy(e.b[44:44+63], server.String())
	if len(file) < 128 {
		copy(e.b[108:108+127], file)
	}
	switch c := r.client; {
	case c.HTTP:
		e.text(optVendorClass, "HTTPClient")
	case c.Arch == ArchRaspberryPi41 && c.ArchKnown && file == "":
		e.text(optVendorClass, "PXEClient")
		e.bytes(optVendor, piMenu())
	case c.PXE && !c.IPXE:
		e.text(optVendorClass, "PXEClient")
		// 43.6 = 8: skip discovery, boot the file named here (PXE 2.1 §2.2.3;
		// FIELD-NOTES item 15). Without a valid 43 EDK2 goes to port 4011.
		v := []byte{6, 1, 8}
		if item := subOption(r.opt(optVendor), pxeBootItem); len(item) == 4 {
			v = append(append(v, pxeBootItem, 4), item...) // mirrored, or the client drops the reply
		}
		e.bytes(optVendor, append(v, 255))
	case e.proxy:
		// iPXE knows a proxy's offer by this.
		e.text(optVendorClass, "PXEClient")
	}
	e.text(optTFTPServer, server.String())
}

func (e *encoder) header(at int, a netip.Addr) {
	v := a.As4()
	copy(e.b[at:at+4], v[:])
}

// bytes appends an option, in pieces if it is long (RFC 3396). An empty value
// is left away, and so is one that would make the packet longer than the
// client takes (option 57), with room kept for 67, 82 and the end.
func (e *encoder) bytes(code byte, v []byte) {
	if len(v) == 0 || len(e.b)+2+len(v)+2*(len(v)/255)+e.reserve() > e.max {
		return
	}
	e.force(code, v)
}

func (e *encoder) force(code byte, v []byte) {
	for len(v) > 0 {
		k := min(len(v), 255)
		e.b = append(e.b, code, byte(k))
		e.b = append(e.b, v[:k]...)
		v = v[k:]
	}
}

func (e *encoder) reserve() int {
	file := 0
	for file < 128 && e.b[108+file] != 0 {
		file++
	}
	return 2 + file + 2 + len(e.r.opt(optRelayInfo)) + 1
}

func (e *encoder) text(code byte, v string) { e.bytes(code, []byte(v)) }

func (e *encoder) u32(code byte, v uint32) {
	var room [4]byte
	binary.BigEndian.PutUint32(room[:], v)
	e.bytes(code, room[:])
}

func (e *encoder) addrs(code byte, as ...netip.Addr) {
	var room [64]byte
	v := room[:0]
	for _, a := range as {
		if a.Is4() {
			a4 := a.As4()
			v = append(v, a4[:]...)
		}
	}
	e.bytes(code, v)
}

// finish appends the boot file, the relay's option unchanged (RFC 3046 §2.2)
// and the end, and pads.
func (e *encoder) finish(file string) []byte {
	e.force(optBootFile, []byte(file))
	e.force(optRelayInfo, e.r.opt(optRelayInfo))
	e.b = append(e.b, optEnd)
	for len(e.b) < dhcpMinPacket {
		e.b = append(e.b, 0)
	}
	return e.b
}

// leaseSeconds is a lease's length on the wire; at least a minute, so that no
// client renews all the time.
func leaseSeconds(d time.Duration) uint32 {
	s := int64(d / time.Second)
	return uint32(min(max(s, 60), 0xfffffffe))
}

// lastAddr is the broadcast address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	v := binary.BigEndian.Uint32(a[:]) | (1<<(32-p.Bits()) - 1)
	binary.BigEndian.PutUint32(a[:], v)
	return netip.AddrFrom4(a)
}

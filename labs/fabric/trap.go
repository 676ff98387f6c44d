package fabric

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// TrapConfig says what a trap is.
type TrapConfig struct {
	// Name is the name of the trap's port; unique in the switch.
	Name string
	VLAN int
	MAC  net.HardwareAddr // nil: made from Name and VLAN
	// Addrs are the IPv4 addresses that the trap answers ARP for: those that
	// machines have been told are their gateway and their name servers.
	Addrs []netip.Addr
	// Known tells which addresses somebody has; who asks by ARP for another one
	// looks for somebody who is not there. nil: such questions are not recorded.
	Known func(netip.Addr) bool
}

// Trap is a gateway that leads nowhere, and a name server that knows no name:
// it refuses everything at once and remembers what was tried, so that a network
// without a way out shows who wanted one.
type Trap struct {
	c    TrapConfig
	mac  net.HardwareAddr
	now  func() time.Time
	link Link

	mu   sync.Mutex
	seen map[attemptKey]*Attempt
	lost int
}

// Attempt is something that a machine tried to reach outside.
type Attempt struct {
	Kind  string         `json:"kind"` // "dns", "tcp", "udp", "icmp", "arp", "ip"
	From  netip.Addr     `json:"from"`
	To    netip.AddrPort `json:"to"`             // port 0: none
	Name  string         `json:"name,omitempty"` // dns: what was asked for, without a dot at its end
	Type  string         `json:"type,omitempty"` // dns: of the record, such as A
	First time.Time      `json:"first"`
	Count int            `json:"count"`
}

func (a Attempt) String() string {
	switch a.Kind {
	case "dns":
		return fmt.Sprintf("%s asked %s for the name %s (%s)", a.From, a.To.Addr(), a.Name, a.Type)
	case "tcp", "udp":
		return fmt.Sprintf("%s tried to reach %s by %s", a.From, a.To, strings.ToUpper(a.Kind))
	case "arp":
		return fmt.Sprintf("%s looked for %s, which nobody has", a.From, a.To.Addr())
	}
	return fmt.Sprintf("%s tried to reach %s (%s)", a.From, a.To.Addr(), a.Kind)
}

type attemptKey struct {
	kind, name, typ string
	from            netip.Addr
	to              netip.AddrPort
}

// maxAttempts bounds what a trap remembers of different attempts.
const maxAttempts = 10_000

// NewTrap plugs a trap into the switch. Run must be called.
func (s *Switch) NewTrap(c TrapConfig) (*Trap, error) {
	t := &Trap{c: c, mac: c.MAC, now: s.now, seen: map[attemptKey]*Attempt{}}
	if t.mac == nil {
		t.mac = macOf(c.Name, c.VLAN)
	}
	near, far := Pipe()
	if _, err := s.Attach(PortConfig{Name: c.Name, VLAN: c.VLAN}, far); err != nil {
		return nil, err
	}
	t.link = near
	return t, nil
}

// Run answers until ctx ends or the switch is closed.
func (t *Trap) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { t.link.Close() })
	defer stop()
	buf := make([]byte, maxFrame)
	for {
		n, err := t.link.ReadFrame(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("trap %s: %w", t.c.Name, err)
		}
		if reply := t.frame(buf[:n]); reply != nil {
			_ = t.link.WriteFrame(reply) // a lost answer is asked for again
		}
	}
}

// Attempts are what was tried so far, the first first. lost counts those
// beyond what is remembered.
func (t *Trap) Attempts() (all []Attempt, lost int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.seen {
		all = append(all, *a)
	}
	slices.SortFunc(all, func(a, b Attempt) int { return cmp.Or(a.First.Compare(b.First), cmp.Compare(a.String(), b.String())) })
	return all, t.lost
}

func (t *Trap) record(a Attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := attemptKey{a.Kind, a.Name, a.Type, a.From, a.To}
	if old := t.seen[k]; old != nil {
		old.Count++
		return
	}
	if len(t.seen) >= maxAttempts {
		t.lost++
		return
	}
	a.First, a.Count = t.now(), 1
	t.seen[k] = &a
}

// frame looks at an untagged frame and makes the answer to it, or nil.
func (t *Trap) frame(b []byte) []byte {
	if len(b) < headerLen {
		return nil
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case uint16(header.ARPProtocolNumber):
		return t.arp(b[headerLen:])
	case uint16(header.IPv4ProtocolNumber):
		if macKey(b) == macKey(t.mac) {
			return t.ip(net.HardwareAddr(b[6:12]), header.IPv4(b[headerLen:]))
		}
	}
	return nil
}

// arp answers for the trap's addresses (RFC 826).
func (t *Trap) arp(b []byte) []byte {
	q := header.ARP(b)
	if !q.IsValid() || q.Op() != header.ARPRequest {
		return nil
	}
	from, to := addr4(q.ProtocolAddressSender()), addr4(q.ProtocolAddressTarget())
	if from == to || from.IsUnspecified() {
		return nil // it announces or probes its own (RFC 5227)
	}
	if !slices.Contains(t.c.Addrs, to) {
		if t.c.Known != nil && !t.c.Known(to) {
			t.record(Attempt{Kind: "arp", From: from, To: netip.AddrPortFrom(to, 0)})
		}
		return nil
	}
	out := make([]byte, headerLen+header.ARPSize, minFrame)
	copy(out, q.HardwareAddressSender())
	copy(out[6:], t.mac)
	binary.BigEndian.PutUint16(out[12:], uint16(header.ARPProtocolNumber))
	r := header.ARP(out[headerLen:])
	r.SetIPv4OverEthernet()
	r.SetOp(header.ARPReply)
	copy(r.HardwareAddressSender(), t.mac)
	copy(r.ProtocolAddressSender(), q.ProtocolAddressTarget())
	copy(r.HardwareAddressTarget(), q.HardwareAddressSender())
	copy(r.ProtocolAddressTarget(), q.ProtocolAddressSender())
	return pad(out, 0)
}

func addr4(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }

// ip records a packet and refuses it.
func (t *Trap) ip(back net.HardwareAddr, p header.IPv4) []byte {
	if !p.IsValid(len(p)) || p.More() || p.FragmentOffset() != 0 {
		return nil
	}
	src, dst := addr4(p.SourceAddressSlice()), addr4(p.DestinationAddressSlice())
	if dst.IsMulticast() || src.IsUnspecified() {
		return nil
	}
	body := p.Payload()
	switch p.TransportProtocol() {
	case header.TCPProtocolNumber:
		return t.tcp(back, src, dst, header.TCP(body))
	case header.UDPProtocolNumber:
		return t.udp(back, src, dst, header.UDP(body))
	case header.ICMPv4ProtocolNumber:
		if len(body) > 0 && header.ICMPv4(body).Type() == header.ICMPv4Echo {
			t.record(Attempt{Kind: "icmp", From: src, To: netip.AddrPortFrom(dst, 0)})
		}
		return nil
	}
	t.record(Attempt{Kind: "ip", From: src, To: netip.AddrPortFrom(dst, 0)})
	return nil
}

// tcp refuses a connection (RFC 9293 §3.5.2).
func (t *Trap) tcp(back net.HardwareAddr, src, dst netip.Addr, b header.TCP) []byte {
	if len(b) < header.TCPMinimumSize || b.Flags()&header.TCPFlagRst != 0 {
		return nil
	}
	if b.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) == header.TCPFlagSyn {
		t.record(Attempt{Kind: "tcp", From: src, To: netip.AddrPortFrom(dst, b.DestinationPort())})
	}
	const ipLen, tcpLen = header.IPv4MinimumSize, header.TCPMinimumSize
	out := frame4(t.mac, back, dst, src, uint8(header.TCPProtocolNumber), tcpLen)
	r := header.TCP(out[headerLen+ipLen:])
	r.Encode(&header.TCPFields{SrcPort: b.DestinationPort(), DstPort: b.SourcePort(), AckNum: b.SequenceNumber() + 1,
		DataOffset: tcpLen, Flags: header.TCPFlagRst | header.TCPFlagAck})
	r.SetChecksum(^r.CalculateChecksum(header.PseudoHeaderChecksum(header.TCPProtocolNumber, address(dst), address(src), tcpLen)))
	return pad(out, 0)
}

// udp records a datagram, and says of a name that there is none.
func (t *Trap) udp(back net.HardwareAddr, src, dst netip.Addr, b header.UDP) []byte {
	if len(b) < header.UDPMinimumSize {
		return nil
	}
	to := netip.AddrPortFrom(dst, b.DestinationPort())
	const dnsPort = 53 // RFC 1035 §4.2.1
	if to.Port() == dnsPort {
		if reply := t.dns(src, to, b.Payload()); reply != nil {
			out, err := udpFrame(t.mac, back, to, netip.AddrPortFrom(src, b.SourcePort()), reply, defaultMTU)
			if err != nil {
				return nil
			}
			return out
		}
	}
	t.record(Attempt{Kind: "udp", From: src, To: to})
	return nil
}

// dns answers a question with NXDOMAIN (RFC 1035 §4.1.1); nil: it is none.
func (t *Trap) dns(src netip.Addr, to netip.AddrPort, b []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || h.Response {
		return nil
	}
	qs, err := p.AllQuestions()
	if err != nil || len(qs) == 0 {
		return nil
	}
	for _, q := range qs {
		t.record(Attempt{Kind: "dns", From: src, To: to, Name: strings.ToLower(strings.TrimSuffix(q.Name.String(), ".")), Type: strings.TrimPrefix(q.Type.String(), "Type")})
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired,
		RecursionAvailable: true, RCode: dnsmessage.RCodeNameError}, Questions: qs}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// frame4 is a frame with an IPv4 header and room for n bytes behind it.
func frame4(from, to net.HardwareAddr, src, dst netip.Addr, protocol uint8, n int) []byte {
	const ipLen = header.IPv4MinimumSize
	b := make([]byte, headerLen+ipLen+n, max(minFrame, headerLen+ipLen+n))
	copy(b, to)
	copy(b[6:], from)
	binary.BigEndian.PutUint16(b[12:], uint16(header.IPv4ProtocolNumber))
	ip := header.IPv4(b[headerLen:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(ipLen + n), TTL: 64, Protocol: protocol, SrcAddr: address(src), DstAddr: address(dst)})
	ip.SetChecksum(^ip.CalculateChecksum())
	return b
}

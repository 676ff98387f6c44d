package pxe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Message types of DHCPv6 (RFC 8415 §7.3).
const (
	msg6Solicit     = 1
	msg6Advertise   = 2
	msg6Request     = 3
	msg6Confirm     = 4
	msg6Renew       = 5
	msg6Rebind      = 6
	msg6Reply       = 7
	msg6Release     = 8
	msg6Decline     = 9
	msg6Reconfigure = 10
	msg6Information = 11
	msg6RelayForw   = 12
	msg6RelayRepl   = 13
)

// Options of DHCPv6 (RFC 8415 §21 unless said otherwise).
const (
	opt6ClientID    = 1
	opt6ServerID    = 2
	opt6NA          = 3
	opt6TA          = 4
	opt6Address     = 5
	opt6Wanted      = 6
	opt6Preference  = 7
	opt6Relayed     = 9
	opt6Status      = 13
	opt6Rapid       = 14
	opt6UserClass   = 15
	opt6VendorClass = 16
	opt6InterfaceID = 18
	opt6DNS         = 23 // RFC 3646
	opt6Search      = 24 // RFC 3646
	opt6PD          = 25
	opt6Refresh     = 32
	opt6RemoteID    = 37 // RFC 4649
	opt6BootURL     = 59 // RFC 5970 §3.1
	opt6BootParam   = 60 // RFC 5970 §3.2: never sent, see quirks.go
	opt6Arch        = 61 // RFC 5970 §3.3
	opt6NII         = 62 // RFC 5970 §3.4
	opt6LinkLayer   = 79 // RFC 6939
	opt6RelayPort   = 135
)

// Status codes (RFC 8415 §21.13).
const (
	status6Success      = 0
	status6NoAddrs      = 2
	status6NoBinding    = 3
	status6NotOnLink    = 4
	status6NoPrefix     = 6
	dhcp6MaxRelays      = 8 // HOP_COUNT_LIMIT, RFC 8415 §7.6
	dhcp6RelayHeader    = 34
	enterpriseIntel     = 343 // of PXE's and HTTP boot's vendor class, UEFI 2.10 §24.7
	duidLLT             = 1
	duidLL              = 3
	duidUUID            = 4 // RFC 6355
	hardwareEthernet    = 1
	dhcp6MaxIAs         = 16
	dhcp6ServerPort     = 547
	dhcp6ClientPort     = 546
	dhcp6InformationTTL = 86400 // seconds after which stateless clients ask again (RFC 8415 §21.23)
)

var errShort6 = errors.New("malformed packet: it ends inside an option")

// options6 walks options without copying them; f gets each in order.
func options6(b []byte, f func(code uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return errShort6
		}
		code, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if 4+n > len(b) {
			return errShort6
		}
		if err := f(code, b[4:4+n]); err != nil {
			return err
		}
		b = b[4+n:]
	}
	return nil
}

// relay6 is one Relay-forward around a message (RFC 8415 §9.1).
type relay6 struct {
	hops        byte
	link, peer  netip.Addr
	interfaceID []byte
	remoteID    []byte // RFC 4649, enterprise number and all
	port        []byte // RFC 8357, echoed
	linkLayer   []byte // option 79: the client's, where this relay is the first
}

// ia6 is an identity association of a client (RFC 8415 §12).
type ia6 struct {
	kind  uint16
	iaid  [4]byte
	addrs []netip.Addr
}

// message6 is a decoded message of a client.
type message6 struct {
	kind     byte
	xid      [3]byte
	relays   []relay6 // the server's neighbour first
	clientID []byte
	serverID []byte
	ias      []ia6
	wanted   []uint16
	rapid    bool
	archs    []byte
	vendor   []byte // data of the vendor class, without its enterprise number
	user     []byte
}

// parse6 decodes a message and the relays around it. It does not keep b.
func parse6(b []byte) (*message6, error) {
	if len(b) > dhcpMaxPacket {
		return nil, fmt.Errorf("packet of %d bytes is too long", len(b))
	}
	m := &message6{}
	for len(b) > 0 && b[0] == msg6RelayForw {
		if len(m.relays) == dhcp6MaxRelays {
			return nil, fmt.Errorf("it came through more than %d relays", dhcp6MaxRelays)
		}
		r, inner, err := parseRelay6(b)
		if err != nil {
			return nil, err
		}
		m.relays = append(m.relays, r)
		b = inner
	}
	if len(b) < 4 {
		return nil, errors.New("malformed packet: it is shorter than a header")
	}
	m.kind, m.xid = b[0], [3]byte(b[1:4])
	return m, options6(b[4:], m.option)
}

func parseRelay6(b []byte) (r relay6, inner []byte, err error) {
	if len(b) < dhcp6RelayHeader {
		return r, nil, errors.New("malformed packet: a relay's header is cut off")
	}
	r.hops = b[1]
	r.link, r.peer = netip.AddrFrom16([16]byte(b[2:18])), netip.AddrFrom16([16]byte(b[18:34]))
	err = options6(b[dhcp6RelayHeader:], func(code uint16, v []byte) error {
		switch code {
		case opt6Relayed:
			inner = v
		case opt6InterfaceID:
			r.interfaceID = append([]byte{}, v...)
		case opt6RemoteID:
			r.remoteID = append([]byte{}, v...)
		case opt6RelayPort:
			r.port = append([]byte{}, v...)
		case opt6LinkLayer:
			r.linkLayer = append([]byte{}, v...)
		}
		return nil
	})
	if err == nil && inner == nil {
		err = errors.New("a relay sent no message")
	}
	return r, inner, err
}

// option takes an option of the client's message.
func (m *message6) option(code uint16, v []byte) error {
	own := func() []byte { return append([]byte{}, v...) }
	switch code {
	case opt6ClientID:
		if len(v) < 3 || len(v) > 130 { // RFC 8415 §11.1
			return fmt.Errorf("a client identifier of %d bytes", len(v))
		}
		m.clientID = own()
	case opt6ServerID:
		m.serverID = own()
	case opt6Wanted:
		for ; len(v) >= 2; v = v[2:] {
			m.wanted = append(m.wanted, binary.BigEndian.Uint16(v))
		}
	case opt6Rapid:
		m.rapid = true
	case opt6Arch:
		m.archs = own()
	case opt6UserClass:
		m.user = firstClass6(v)
	case opt6VendorClass:
		if len(v) >= 4 {
			m.vendor = firstClass6(v[4:])
		}
	case opt6NA, opt6TA, opt6PD:
		if len(m.ias) == dhcp6MaxIAs {
			return fmt.Errorf("more than %d identity associations", dhcp6MaxIAs)
		}
		return m.association(code, v)
	}
	return nil
}

// association takes an IA_NA, IA_TA or IA_PD (RFC 8415 §21.4, §21.5, §21.21).
func (m *message6) association(code uint16, v []byte) error {
	head := 12
	if code == opt6TA {
		head = 4
	}
	if len(v) < head {
		return errShort6
	}
	ia := ia6{kind: code, iaid: [4]byte(v[:4])}
	err := options6(v[head:], func(c uint16, a []byte) error {
		if c != opt6Address {
			return nil
		}
		if len(a) < 24 {
			return errShort6
		}
		ia.addrs = append(ia.addrs, netip.AddrFrom16([16]byte(a[:16])))
		return nil
	})
	m.ias = append(m.ias, ia)
	return err
}

// firstClass6 is the first of the classes in a user or vendor class option,
// each with a length before it (RFC 8415 §21.15 and §21.16). Some send the
// bare text.
func firstClass6(v []byte) []byte {
	if len(v) >= 2 {
		if n := int(binary.BigEndian.Uint16(v)); n <= len(v)-2 && n > 0 {
			return append([]byte{}, v[2:2+n]...)
		}
	}
	return append([]byte{}, v...)
}

// wants reports whether the client asks for an option.
func (m *message6) wants(code uint16) bool {
	for _, c := range m.wanted {
		if c == code {
			return true
		}
	}
	return false
}

// kindName names a message type.
func kindName6(kind byte) string {
	switch kind {
	case msg6Solicit:
		return "SOLICIT"
	case msg6Advertise:
		return "ADVERTISE"
	case msg6Request:
		return "REQUEST"
	case msg6Confirm:
		return "CONFIRM"
	case msg6Renew:
		return "RENEW"
	case msg6Rebind:
		return "REBIND"
	case msg6Reply:
		return "REPLY"
	case msg6Release:
		return "RELEASE"
	case msg6Decline:
		return "DECLINE"
	case msg6Information:
		return "INFORMATION-REQUEST"
	case msg6RelayForw:
		return "RELAY-FORW"
	case msg6RelayRepl:
		return "RELAY-REPL"
	}
	return fmt.Sprintf("message type %d", kind)
}

// append6 appends an option.
func append6(b []byte, code uint16, v ...byte) []byte {
	b = binary.BigEndian.AppendUint16(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(v)))
	return append(b, v...)
}

// appendStatus6 appends a status code with a sentence (RFC 8415 §21.13).
func appendStatus6(b []byte, code uint16, text string) []byte {
	return append6(b, opt6Status, append(binary.BigEndian.AppendUint16(nil, code), text...)...)
}

// appendNames6 appends a list of domain names (RFC 3646 §4, RFC 1035 §3.1).
func appendNames6(b []byte, names []string) []byte {
	var v []byte
	for _, n := range names {
		v = append(v, searchList([]string{n})...) // alone, it points nowhere: RFC 8415 §10
	}
	if len(v) == 0 {
		return b
	}
	return append6(b, opt6Search, v...)
}

package pxe

import (
	"encoding/binary"
	"net/netip"
)

// encode begins an answer: who it is for and who it is from.
func (x *exchange6) encode(kind byte) []byte {
	b := make([]byte, 0, 512)
	b = append(b, kind)
	b = append(b, x.r.xid[:]...)
	if x.r.clientID != nil {
		b = append6(b, opt6ClientID, x.r.clientID...)
	}
	return append6(b, opt6ServerID, x.on.serverDUID()...)
}

// associations answers every IA of the client: the first IA_NA with the lease,
// others with why they get nothing. stale is an address that it must stop to
// use.
func (x *exchange6) associations(b []byte, lease Lease, stale netip.Addr) []byte {
	given := false
	for _, ia := range x.r.ias {
		secs := leaseSeconds(lease.Duration)
		head := append([]byte{}, ia.iaid[:]...)
		switch {
		case ia.kind == opt6NA && !given && lease.Addr.IsValid():
			given = true
			head = binary.BigEndian.AppendUint32(head, secs/2)      // T1
			head = binary.BigEndian.AppendUint32(head, secs-secs/5) // T2, 0.8 (RFC 8415 §21.4)
			head = appendAddress6(head, lease.Addr, secs)
			for _, a := range ia.addrs {
				if a == stale {
					head = appendAddress6(head, a, 0)
				}
			}
		case ia.kind == opt6PD:
			head = append(head, make([]byte, 8)...)
			head = appendStatus6(head, status6NoPrefix, "no prefixes are delegated here")
		case ia.kind == opt6TA:
			head = appendStatus6(head, status6NoAddrs, "no temporary addresses are given here")
		default:
			head = append(head, make([]byte, 8)...)
			if stale.IsValid() && !given {
				for _, a := range ia.addrs {
					head = appendAddress6(head, a, 0)
				}
			}
			head = appendStatus6(head, status6NoAddrs, "this machine gets one address")
		}
		b = append6(b, ia.kind, head...)
	}
	return b
}

func (x *exchange6) noBinding(b []byte, ia ia6) []byte {
	head := append(ia.iaid[:], make([]byte, 8)...)
	return append6(b, ia.kind, appendStatus6(head, status6NoBinding, "not leased here")...)
}

// appendAddress6 appends an address with its lifetimes (RFC 8415 §21.6).
func appendAddress6(b []byte, a netip.Addr, secs uint32) []byte {
	v := a.As16()
	body := binary.BigEndian.AppendUint32(v[:], secs)
	return append6(b, opt6Address, binary.BigEndian.AppendUint32(body, secs)...)
}

// options appends what every client gets, and what a booting one does. A
// client that asks for nothing in particular gets name servers all the same.
func (x *exchange6) options(b []byte, boot bootInfo) []byte {
	m := x.r.message6
	all := len(m.wanted) == 0
	var dns []byte
	for _, a := range x.n.IPv6.DNS {
		v := a.As16()
		dns = append(dns, v[:]...)
	}
	if len(dns) > 0 && (all || m.wants(opt6DNS)) {
		b = append6(b, opt6DNS, dns...)
	}
	if all || m.wants(opt6Search) {
		names := x.n.Search
		if len(names) == 0 && x.n.Domain != "" {
			names = []string{x.n.Domain}
		}
		b = appendNames6(b, names)
	}
	if m.kind == msg6Information {
		b = append6(b, opt6Refresh, binary.BigEndian.AppendUint32(nil, dhcp6InformationTTL)...)
	}
	if boot.file == "" {
		return b
	}
	b = append6(b, opt6BootURL, []byte(boot.file)...)
	// Of HTTP boot, the class that the client named, in Intel's enterprise
	// (UEFI 2.10 §24.7.1): EDK2 takes a URL for HTTP boot only beside it. What
	// is left out is in quirks.go.
	if x.r.client.HTTP {
		b = appendClass6(b, "HTTPClient")
	}
	return b
}

func appendClass6(b []byte, class string) []byte {
	v := binary.BigEndian.AppendUint32(nil, enterpriseIntel)
	v = binary.BigEndian.AppendUint16(v, uint16(len(class)))
	return append6(b, opt6VendorClass, append(v, class...)...)
}

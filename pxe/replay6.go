package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// dhcp6 replays a DHCPv6 message.
func (p *replay) dhcp6(ctx context.Context, packet Packet, a *Answer) {
	m, err := parse6(packet.Data)
	if err != nil {
		a.Request, a.Reply = "DHCPv6 that is dropped: "+err.Error(), silence
		return
	}
	a.Request = fmt.Sprintf("DHCPv6 %s from %s", kindName6(m.kind), clientOf6(m).describe())
	if len(m.relays) > 0 {
		a.Request += fmt.Sprintf(" through relay %v", packet.From.Addr())
	}
	if !p.on.has6() {
		a.Reply = silence + ": network " + p.on.Name + " has no IPv6"
		return
	}
	b, note := p.asOurs6(m, packet.Data)
	a.Request += note
	rep := p.s.answer6(ctx, p.on, b, packet.From, packet.MAC)
	if rep == nil {
		a.Reply = silence
		return
	}
	a.MAC = rep.mac
	body := rep.bytes
	for len(body) > dhcp6RelayHeader && body[0] == msg6RelayRepl {
		var inner []byte
		if err := options6(body[dhcp6RelayHeader:], func(code uint16, v []byte) error {
			if code == opt6Relayed {
				inner = v
			}
			return nil
		}); err != nil {
			break
		}
		body = inner
	}
	if len(body) < 4 {
		a.Reply = "a reply that does not parse"
		return
	}
	a.Reply = fmt.Sprintf("DHCPv6 %s to %v", kindName6(body[0]), rep.to)
	err = options6(body[4:], func(code uint16, v []byte) error {
		a.Options = append(a.Options, fmt.Sprintf("%d %s", code, p.optionValue6(code, v, a)))
		return nil
	})
	if err != nil {
		a.Reply = "a reply that does not parse: " + err.Error()
	}
}

// asOurs6 turns a message to another server, in a capture of another day, into
// one to ours that names what we offered.
func (p *replay) asOurs6(m *message6, b []byte) ([]byte, string) {
	if m.serverID == nil || len(m.relays) > 0 || bytes.Equal(m.serverID, p.on.serverDUID()) {
		return b, ""
	}
	o := p.offered6[string(m.clientID)]
	out := append([]byte{}, b[:4]...)
	err := options6(b[4:], func(code uint16, v []byte) error {
		switch {
		case code == opt6ServerID:
			v = p.on.serverDUID()
		case code == opt6NA && o.IsValid() && len(v) >= 12:
			v = appendAddress6(append([]byte{}, v[:12]...), o, 0)
		}
		out = append6(out, code, v...)
		return nil
	})
	if err != nil {
		return b, ""
	}
	return out, ", which was for another server and is replayed as if it was for ours"
}

// optionValue6 prints an option: names and addresses where it holds them, else
// hex.
func (p *replay) optionValue6(code uint16, v []byte, a *Answer) string {
	switch code {
	case opt6NA:
		if len(v) < 12 {
			break
		}
		s := fmt.Sprintf("iaid %x", v[:4])
		if err := options6(v[12:], func(c uint16, o []byte) error {
			switch {
			case c == opt6Address && len(o) >= 24:
				addr := netip.AddrFrom16([16]byte(o[:16]))
				s += fmt.Sprintf(" %v for %d s", addr, binary.BigEndian.Uint32(o[20:]))
				if binary.BigEndian.Uint32(o[20:]) > 0 {
					p.offered6[p.lastClient6] = addr
					a.Reply += fmt.Sprintf(", address %v", addr)
				}
			case c == opt6Status:
				s += " " + statusText6(o)
			}
			return nil
		}); err != nil {
			break
		}
		return s
	case opt6ClientID:
		p.lastClient6 = string(v)
	case opt6Status:
		return statusText6(v)
	case opt6DNS:
		var s []string
		for ; len(v) >= 16; v = v[16:] {
			s = append(s, netip.AddrFrom16([16]byte(v[:16])).String())
		}
		return strings.Join(s, " ")
	case opt6BootURL:
		a.Reply += ", file " + printable(v)
		return printable(v)
	case opt6VendorClass:
		if len(v) >= 6 {
			return fmt.Sprintf("enterprise %d %s", binary.BigEndian.Uint32(v), printable(v[6:]))
		}
	}
	return fmt.Sprintf("%x", v)
}

func statusText6(v []byte) string {
	if len(v) < 2 {
		return "a status that is cut off"
	}
	return fmt.Sprintf("status %d %s", binary.BigEndian.Uint16(v), printable(v[2:]))
}

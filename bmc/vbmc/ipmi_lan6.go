package vbmc

import (
	"net/netip"
	"slices"
)

// The IPv6 parameters, 50 to 80, of IPMI 2.0 table 23-4 (revision 1.1, from
// errata 5 on). Not there: DUIDs and timing of DHCPv6, whose lengths and support
// say so, and routers that were advertised.

// lan6Kept are those that are kept as they are written, of no effect.
var lan6Kept = map[byte][]byte{
	52: {0},       // traffic class
	53: {64},      // hop limit
	54: {0, 0, 0}, // flow label
	64: {3},       // routers are static ones and advertised ones
}

// lan6Value is a parameter of the interface l; set selects one of several.
// s.mu is held.
func (st *lanParameters) lan6Value(l LAN, p, set byte) ([]byte, error) {
	v6 := l.IPv6
	switch p {
	case 50: // IPv6 alone, or beside IPv4; no alerts
		return []byte{3}, nil
	case 51:
		switch {
		case v6.On && v6.Only:
			return []byte{1}, nil
		case v6.On:
			return []byte{2}, nil
		}
		return []byte{0}, nil
	case 55: // static addresses, others, DHCPv6 and SLAAC
		return []byte{maxStatic6, 1, 3}, nil
	case 56:
		if set >= maxStatic6 {
			return nil, ccRange
		}
		x := emptyStatic
		if int(set) < len(v6.Static) {
			x = v6.Static[set]
		}
		source := byte(0x80) // enabled
		if x.Off {
			source = 0
		}
		return address6(set, source, x.Address, x.Bits, v6.On && x.Address.IsValid() && !x.Off), nil
	case 59:
		if set > 0 {
			return nil, ccRange
		}
		own, ok := linkLocal(l.MAC)
		return address6(set, 1, own.Addr(), max(own.Bits(), 0), v6.On && ok), nil
	case 57, 60, 62, 73, 78, 79: // no DUIDs, no timing, no advertised routers
		return []byte{0}, nil
	case 65, 69:
		return bytes16(v6.router((p - 65) / 4).Address), nil
	case 66, 70:
		return macOf(v6.router((p - 66) / 4)), nil
	case 67, 71:
		return []byte{byte(v6.router((p - 67) / 4).Bits)}, nil
	case 68, 72:
		return bytes16(v6.router((p - 68) / 4).Prefix), nil
	}
	if v := st.kept[p]; v != nil {
		return v, nil
	}
	if v := lan6Kept[p]; v != nil {
		return v, nil
	}
	return nil, ccParameter
}

// emptyStatic is a number of parameter 56 that nobody has written. FreeIPMI
// writes it field by field.
var emptyStatic = Static6{Bits: 64, Off: true}

// address6 are parameters 56 and 59: number, source (0 static, 1 SLAAC; the
// highest bit: enabled), address, length, and whether it is in use.
func address6(set, source byte, a netip.Addr, bits int, active bool) []byte {
	status := byte(1) // disabled
	if active {
		status = 0
	}
	return append(append([]byte{set, source}, bytes16(a)...), byte(bits), status)
}

func macOf(r Router6) []byte { return r.MAC[:] }

func bytes16(a netip.Addr) []byte {
	if !a.Is6() {
		return make([]byte, 16)
	}
	b := a.As16()
	return b[:]
}

// applyLAN6 writes a parameter to l, or keeps it; changed: l was. s.mu is held.
func (st *lanParameters) applyLAN6(l *LAN, p byte, v []byte) (changed bool, err error) {
	l.IPv6 = l.IPv6.clone()
	addr := func(v []byte) (netip.Addr, error) {
		a := netip.AddrFrom16([16]byte(v))
		if a.IsUnspecified() {
			return netip.Addr{}, nil
		}
		if !usable6(a) {
			return a, ccField
		}
		return a, nil
	}
	router := func() *Router6 { // that of parameters 65 to 72
		n := int(p-65) / 4
		for len(l.IPv6.Routers) <= n {
			l.IPv6.Routers = append(l.IPv6.Routers, Router6{})
		}
		return &l.IPv6.Routers[n]
	}
	switch p {
	case 51:
		if v[0] > 2 {
			return false, ccField
		}
		l.IPv6.On, l.IPv6.Only = v[0] != 0, v[0] == 1
		return true, nil
	case 56:
		if v[0] >= maxStatic6 {
			return false, ccRange
		}
		a, err := addr(v[2:18])
		if err != nil || v[18] > 128 {
			return false, ccField
		}
		for len(l.IPv6.Static) <= int(v[0]) {
			l.IPv6.Static = append(l.IPv6.Static, emptyStatic)
		}
		l.IPv6.Static[v[0]] = Static6{Address: a, Bits: int(v[18]), Off: v[1]&0x80 == 0}
		return true, nil
	case 65, 69:
		router().Address, err = addr(v)
		return true, err
	case 66, 70:
		router().MAC = [6]byte(v)
		return true, nil
	case 67, 71:
		if v[0] > 128 {
			return false, ccField
		}
		router().Bits = int(v[0])
		return true, nil
	case 68, 72:
		router().Prefix, err = addr(v)
		return true, err
	case 54:
		if v[0] > 0xf {
			return false, ccField
		}
	case 64:
		if v[0] > 3 {
			return false, ccField
		}
	}
	if st.kept == nil {
		st.kept = map[byte][]byte{}
	}
	st.kept[p] = slices.Clone(v)
	return false, nil
}

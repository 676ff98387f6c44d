package vbmc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// lanRevision is that of the parameters (IPMI 2.0 §23.2).
const lanRevision = 0x11

// lanParameters are the LAN configuration parameters (IPMI 2.0 table 23-4) that
// are not the chassis'.
type lanParameters struct {
	progress byte
	staged   *LAN            // written while somebody is setting, until it is complete
	mask     int             // of an address that is not there yet
	vlan     uint16          // of a VLAN that is off; ipmitool waits until it reads it back
	forget   [2]byte         // parameter 26: time after which bad passwords are forgotten; of no effect
	kept     map[byte][]byte // by number; of no effect, but for 24
}

// lanKept are the parameters that are kept as they are written, as a BMC comes
// with them.
var lanKept = map[byte][]byte{
	7:  {0x40, 0x40, 0x10}, // IPv4 header: TTL, flags, type of service
	8:  {0x6f, 0x02},       // port 623
	9:  {0x98, 0x02},       // port 664
	10: {0x02},             // answers ARP
	11: {0},                // interval of gratuitous ARP
	13: make([]byte, 6),    // MAC of the gateway
	14: make([]byte, 4),    // second gateway
	15: make([]byte, 6),    // its MAC
	16: append([]byte("public"), make([]byte, 12)...),
	21: {0},                               // VLAN priority
	24: {0, 0x44, 0x40, 0, 0, 0, 0, 0, 0}, // highest level by cipher suite, see suiteLimit
}

// lanReadOnly are those that no client may write.
var lanReadOnly = map[byte]bool{1: true, 17: true, 22: true, 23: true,
	50: true, 55: true, 57: true, 59: true, 60: true, 62: true, 73: true, 74: true, 75: true, 76: true, 77: true, 78: true, 79: true}

// lanSuites are the cipher suites in the order of parameter 23.
var lanSuites = []byte{3, 17}

// suiteLimit is the highest privilege level with a cipher suite; 0: it is off.
// IPMI 2.0 counts the levels of parameter 24 by the order of the suites in 23, as
// ipmitool does; FreeIPMI counts them by the number of the suite. What both say
// is allowed, so that neither client grants what the other took.
func (p *lanParameters) suiteLimit(suite byte) byte {
	v := p.kept[24]
	if v == nil {
		v = lanKept[24]
	}
	for n, id := range lanSuites {
		if id == suite {
			limit := level(v, n)
			if id < 16 {
				limit = min(limit, level(v, int(id)))
			}
			return limit
		}
	}
	return 0
}

// level is number n of the levels of parameter 24.
func level(v []byte, n int) byte { return v[1+n/2] >> (4 * (n % 2)) & 0xf }

// present is the BMC's interface as clients of IPMI see it now.
func (i *ipmi) present(ctx context.Context) (LAN, error) {
	i.s.mu.Lock()
	staged := i.s.ipmi.lan.staged
	i.s.mu.Unlock()
	if staged != nil {
		return *staged, nil
	}
	return i.s.lan(ctx)
}

// local is where this service, or another one of the BMC, listens.
func (i *ipmi) local() *net.UDPAddr {
	if i.conn != nil {
		a, _ := i.conn.LocalAddr().(*net.UDPAddr)
		return a
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	for _, c := range i.s.ipmi.lans {
		if a, ok := c.LocalAddr().(*net.UDPAddr); ok {
			return a
		}
	}
	return nil
}

// lanParameter is Get LAN Configuration Parameters (IPMI 2.0 §23.2).
func (i *ipmi) lanParameter(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if !i.isLAN(d[0]) {
		return nil, ccField
	}
	if d[0]&0x80 != 0 {
		return []byte{lanRevision}, nil
	}
	l, err := i.present(ctx)
	if err != nil {
		return nil, err
	}
	v, err := i.lanValue(l, d[1], d[2])
	if err != nil {
		return nil, err
	}
	return append([]byte{lanRevision}, v...), nil
}

// lanValue is a parameter of the interface l; set selects one of several.
func (i *ipmi) lanValue(l LAN, p, set byte) ([]byte, error) {
	here := i.local()
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	st := &i.s.ipmi.lan
	switch p {
	case 0:
		return []byte{st.progress}, nil
	case 1: // authentication types of IPMI 1.5: none
		return []byte{0}, nil
	case 2:
		return make([]byte, 5), nil
	case 3:
		if !l.Address.IsValid() && here != nil { // it is not known but by this
			ip := [4]byte{}
			copy(ip[:], here.IP.To4())
			return ip[:], nil
		}
		return ipv4(l.Address.Addr()), nil
	case 4:
		if l.DHCP {
			return []byte{2}, nil
		}
		return []byte{1}, nil
	case 5:
		mac, err := net.ParseMAC(l.MAC)
		if err != nil || len(mac) != 6 {
			return make([]byte, 6), nil
		}
		return mac, nil
	case 6:
		bits := st.mask
		if l.Address.IsValid() {
			bits = l.Address.Bits()
		}
		return net.CIDRMask(bits, 32), nil
	case 12:
		return ipv4(l.Gateway), nil
	case 17: // alert destinations that are kept: none, but for the volatile one
		return []byte{0}, nil
	case 18, 19:
		if set != 0 {
			return nil, ccField
		}
		if v := st.kept[p]; v != nil {
			return v, nil
		}
		return make([]byte, map[byte]int{18: 4, 19: 13}[p]), nil
	case 20:
		v := uint16(l.VLAN)
		if v != 0 {
			v |= 0x8000
		} else {
			v = st.vlan
		}
		return binary.LittleEndian.AppendUint16(nil, v), nil
	case 22:
		return []byte{byte(len(lanSuites))}, nil
	case 23:
		return append([]byte{0}, lanSuites...), nil
	case 26: // bad passwords: each is logged; threshold, time to forget them, lockout
		out := []byte{1, byte(i.s.lockout), st.forget[0], st.forget[1]}
		return binary.LittleEndian.AppendUint16(out, uint16(i.s.lockFor/lockoutUnit)), nil
	}
	if p >= 50 && p <= 80 {
		return st.lan6Value(l, p, set)
	}
	if v := st.kept[p]; v != nil {
		return v, nil
	}
	if v := lanKept[p]; v != nil {
		return v, nil
	}
	return nil, ccParameter
}

// lockoutUnit is the unit of times in parameter 26.
const lockoutUnit = 10 * time.Second

// ipv4 are the bytes of an address; zeros for none.
func ipv4(a netip.Addr) []byte {
	b := [4]byte{}
	if a.Is4() {
		b = a.As4()
	}
	return b[:]
}

// setLANParameter is Set LAN Configuration Parameters (IPMI 2.0 §23.1). Between
// "set in progress" and "set complete" addresses wait, and are set at once.
func (i *ipmi) setLANParameter(ctx context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	p, v := d[1], d[2:]
	switch {
	case !i.isLAN(d[0]):
		return nil, ccField
	case lanReadOnly[p]:
		return nil, ccReadOnly
	case p == 0:
		return nil, i.setProgress(ctx, x, v[0]&3)
	}
	l, err := i.present(ctx)
	if err != nil {
		return nil, err
	}
	set := byte(0)
	if p == 56 { // one of several
		set = v[0]
	}
	before, err := i.lanValue(l, p, set)
	if err != nil {
		return nil, err
	}
	if len(v) < len(before) {
		return nil, ccLength
	}
	v = v[:len(before)]
	if string(v) == string(before) {
		return nil, nil // nothing to do, even where nothing can be done
	}
	changed, err := i.applyLAN(&l, p, v)
	if err != nil || !changed {
		return nil, err
	}
	i.s.mu.Lock()
	waits := i.s.ipmi.lan.progress == 1
	if waits {
		i.s.ipmi.lan.staged = &l
	}
	i.s.mu.Unlock()
	if waits {
		return nil, nil
	}
	return nil, i.storeLAN(ctx, x, l)
}

// applyLAN writes a parameter to l, or keeps it; changed: l was.
func (i *ipmi) applyLAN(l *LAN, p byte, v []byte) (changed bool, err error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	st := &i.s.ipmi.lan
	switch p {
	case 2: // there is no authentication type of IPMI 1.5 to enable
		return false, ccField
	case 3:
		bits := st.mask
		if l.Address.IsValid() {
			bits = l.Address.Bits()
		}
		st.mask = bits
		if l.Address = netip.PrefixFrom(netip.AddrFrom4([4]byte(v)), bits); l.Address.Addr().IsUnspecified() {
			l.Address = netip.Prefix{}
		}
		return true, nil
	case 4:
		if v[0]&0xf != 1 && v[0]&0xf != 2 {
			return false, ccField
		}
		l.DHCP = v[0]&0xf == 2
		return true, nil
	case 5:
		return false, ccReadOnly
	case 6:
		ones, bits := net.IPMask(v).Size()
		if bits != 32 {
			return false, ccField
		}
		if st.mask = ones; !l.Address.IsValid() {
			return false, nil
		}
		l.Address = netip.PrefixFrom(l.Address.Addr(), ones)
		return true, nil
	case 12:
		if l.Gateway = netip.AddrFrom4([4]byte(v)); l.Gateway.IsUnspecified() {
			l.Gateway = netip.Addr{}
		}
		return true, nil
	case 20:
		id := binary.LittleEndian.Uint16(v)
		if id&0x7000 != 0 || id&0x8000 != 0 && (id&0xfff == 0 || id&0xfff == 0xfff) {
			return false, ccField
		}
		if id&0x8000 == 0 {
			st.vlan, id = id, 0
		}
		l.VLAN = int(id & 0xfff)
		return true, nil
	case 24:
		for n := range 2 * (len(v) - 1) {
			if level(v, n) > privAdmin {
				return false, ccField
			}
		}
	case 26:
		i.s.lockout, st.forget = int(v[1]), [2]byte(v[2:])
		if d := time.Duration(binary.LittleEndian.Uint16(v[4:])) * lockoutUnit; d > 0 {
			i.s.lockFor = d
		}
		return false, nil
	case 18, 19:
		if v[0] != 0 {
			return false, ccField
		}
	}
	if p >= 50 && p <= 80 {
		return st.applyLAN6(l, p, v)
	}
	if st.kept == nil {
		st.kept = map[byte][]byte{}
	}
	st.kept[p] = append([]byte(nil), v...)
	return false, nil
}

// setProgress is parameter 0.
func (i *ipmi) setProgress(ctx context.Context, x *ipmiSession, v byte) error {
	i.s.mu.Lock()
	st := &i.s.ipmi.lan
	if v == 3 || v == 1 && st.progress == 1 {
		i.s.mu.Unlock()
		if v == 3 {
			return ccField
		}
		return ccInProgress
	}
	staged := st.staged
	if v != 1 { // complete, or what there is at once
		st.staged = nil
	}
	if v != 2 {
		st.progress = v
	}
	i.s.mu.Unlock()
	if v == 1 || staged == nil {
		return nil
	}
	return i.storeLAN(ctx, x, *staged)
}

// storeLAN gives the chassis its BMC's interface.
func (i *ipmi) storeLAN(ctx context.Context, x *ipmiSession, l LAN) error {
	h, ok := i.s.chassis.(LANHolder)
	if !ok {
		return ccReadOnly
	}
	err := h.SetLAN(ctx, l)
	if errors.Is(err, ErrUnsupported) {
		return ccReadOnly
	}
	if err != nil {
		return fmt.Errorf("setting the BMC's network interface: %w", err)
	}
	i.s.logEvent("manager", "OK", fmt.Sprintf("Network settings changed by %s over IPMI.", x.user))
	return nil
}

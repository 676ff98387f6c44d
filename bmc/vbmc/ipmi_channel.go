package vbmc

import (
	"context"
	"fmt"
)

// Channels (IPMI 2.0 §6.3): the one LAN channel and the machine's own interface.
const (
	lanChannel     = 0x1
	presentChannel = 0xe // in a request: the one that it came by
	systemChannel  = 0xf
)

// Access modes of a channel (IPMI 2.0 table 6-4).
const (
	accessDisabled byte = 0
	accessPreBoot  byte = 1 // of serial ports
	accessAlways   byte = 2
	accessShared   byte = 3
)

// ccNoMode: the channel has no such access mode.
const ccNoMode = completion(0x83)

// channelAccess is one of a channel's two settings (IPMI 2.0 §22.22).
type channelAccess struct {
	mode  byte
	flags byte // alerting, authentication of each message, of users: disabled
	limit byte // highest privilege level
}

// isLAN tells whether a request means the LAN channel.
func (i *ipmi) isLAN(channel byte) bool {
	c := channel & 0xf
	return c == lanChannel || c == presentChannel && i.conn != nil
}

// authCapabilities (IPMI 2.0 §22.13): RMCP+ only, users with names, every
// packet authenticated.
func (i *ipmi) authCapabilities(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if !i.isLAN(d[0]) || d[1]&0xf == 0 || d[1]&0xf > privAdmin {
		return nil, ccField
	}
	if d[0]&0x80 == 0 { // who asks in the way of IPMI 1.5 finds nothing to log in with
		return []byte{lanChannel, 0, 0x04, 0, 0, 0, 0, 0}, nil
	}
	out := []byte{lanChannel, 0x80, 0x04, 0x02, 0, 0, 0, 0}
	if i.s.keyG() != nil {
		out[2] |= 0x20
	}
	return out, nil
}

// channelCiphers is Get Channel Cipher Suites (IPMI 2.0 §22.15), 16 bytes of
// the list at a time.
func (i *ipmi) channelCiphers(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if !i.isLAN(d[0]) {
		return nil, ccField
	}
	var all []byte
	for _, su := range cipherSuites {
		all = append(all, 0xc0, su.ID, byte(su.Auth), 0x40|byte(su.Integrity), 0x80|byte(su.Crypt))
	}
	at := min(int(d[2]&0x3f)*16, len(all))
	return append([]byte{lanChannel}, all[at:min(at+16, len(all))]...), nil
}

// channelInfo (IPMI 2.0 §22.24): 802.3 LAN with sessions by many, and a system
// interface without.
func (i *ipmi) channelInfo(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	switch c := d[0] & 0xf; {
	case i.isLAN(c):
		return []byte{lanChannel, 0x04, 0x01, 0x80, 0xf2, 0x1b, 0x00, 0, 0}, nil
	case c == systemChannel, c == presentChannel:
		return []byte{systemChannel, 0x0c, 0x05, 0x00, 0xf2, 0x1b, 0x00, 0xff, 0xff}, nil // KCS; no interrupt is told
	}
	return nil, ccField
}

// access is one of the channel's settings: Get Channel Access (IPMI 2.0
// §22.23). That IPMI is off is what Redfish says of it as well.
func (i *ipmi) access(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	which := d[1] >> 6
	if !i.isLAN(d[0]) || which != 1 && which != 2 {
		return nil, ccField
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	a := i.s.ipmi.channel[2-which]
	if which == 2 && i.s.ipmiOff {
		a.mode = accessDisabled
	}
	return []byte{a.flags<<3 | a.mode, a.limit}, nil
}

// setAccess is Set Channel Access (IPMI 2.0 §22.22).
func (i *ipmi) setAccess(_ context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	if !i.isLAN(d[0]) || d[1]>>6 == 3 || d[2]>>6 == 3 {
		return nil, ccField
	}
	mode, flags, limit := d[1]&7, d[1]>>3&7, d[2]&0xf
	if set := d[1]>>6 != 0; set && mode > accessShared {
		return nil, ccField
	} else if set && mode == accessPreBoot {
		return nil, ccNoMode
	}
	if d[2]>>6 != 0 && (limit == 0 || limit > privAdmin) {
		return nil, ccField
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if which := d[1] >> 6; which != 0 {
		a := &i.s.ipmi.channel[2-which]
		a.mode, a.flags = mode, flags
		if which == 2 && i.s.ipmiOff != (mode == accessDisabled) {
			i.s.ipmiOff = mode == accessDisabled
			i.s.record("manager", "OK", fmt.Sprintf("IPMI over LAN enabled: %v, by %s over IPMI.", !i.s.ipmiOff, x.user))
		}
	}
	if which := d[2] >> 6; which != 0 {
		i.s.ipmi.channel[2-which].limit = limit
	}
	return nil, nil
}

// levelLimit is the highest privilege level of the channel with a cipher suite.
func (s *Server) levelLimit(suite byte) byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(s.ipmi.channel[0].limit, s.ipmi.lan.suiteLimit(suite))
}

// keyG is the key of the BMC, if one is set (IPMI 2.0 §13.31, Kg).
func (s *Server) keyG() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.ipmi.keys[1]
	if k == [20]byte{} {
		return nil
	}
	return k[:]
}

// securityKeys is Set Channel Security Keys (IPMI 2.0 §22.25), which reads them
// too: Kr, which no login uses, and Kg. They are never locked.
func (i *ipmi) securityKeys(_ context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	op, id := d[1]&3, d[2]
	switch {
	case !i.isLAN(d[0]), id > 1, op == 3:
		return nil, ccField
	case op == 2:
		return nil, completion(0x83) // it cannot be locked
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	key := &i.s.ipmi.keys[id]
	if op == 0 {
		return append([]byte{0}, key[:]...), nil
	}
	switch n := len(d) - 3; {
	case n < len(key):
		return nil, completion(0x81)
	case n > len(key):
		return nil, completion(0x82)
	}
	copy(key[:], d[3:])
	i.s.record("manager", "OK", fmt.Sprintf("Key %s set by %s over IPMI.", []string{"Kr", "Kg"}[id], x.user))
	return []byte{0}, nil
}

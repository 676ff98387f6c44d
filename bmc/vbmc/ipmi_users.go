package vbmc

import (
	"context"
	"crypto/subtle"
	"fmt"
	"strings"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// Bits of a user's access (IPMI 2.0 §22.26, §22.27).
const (
	accessCallback  = 0x40
	accessLink      = 0x20
	accessMessaging = 0x10
	privNoAccess    = 0x0f
)

// userSlot finds the account that IPMI numbers id: 1 is the first. s.mu is held.
func (i *ipmi) userSlot(id byte) (*account, error) {
	if n := int(id & 0x3f); n >= 1 && n <= len(i.s.accounts) {
		return i.s.accounts[n-1], nil
	}
	return nil, ccField
}

// userAccess is Get User Access (IPMI 2.0 §22.27).
func (i *ipmi) userAccess(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	a, err := i.userSlot(d[1])
	if err != nil || !i.isLAN(d[0]) {
		return nil, ccField
	}
	enabled := byte(0)
	for _, b := range i.s.accounts {
		if b.name != "" && b.enabled {
			enabled++
		}
	}
	state, level := byte(0x80), byte(privNoAccess)
	if a.name != "" {
		if !a.noAccess {
			level = ipmiPrivilege(a.role)
		}
		if a.ipmi && !a.noIPMI {
			level |= accessMessaging
		}
		if a.enabled {
			state = 0x40
		}
	}
	return []byte{byte(len(i.s.accounts)), state | enabled, 0, a.access | level}, nil
}

// setUserAccess is Set User Access (IPMI 2.0 §22.26). The privilege limit is the
// account's role, the same that Redfish shows.
func (i *ipmi) setUserAccess(_ context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	a, err := i.userSlot(d[1])
	if err != nil || !i.isLAN(d[0]) {
		return nil, ccField
	}
	role := a.role
	limit := d[2] & 0xf
	switch limit {
	case privCallback, privUser:
		role = ReadOnly
	case privOperator:
		role = Operator
	case privAdmin:
		role = Administrator
	case privNoAccess, 0: // it keeps its role
	default:
		return nil, ccField
	}
	if d[0]&0x80 != 0 { // the bits are to be changed
		a.access, a.noIPMI = d[0]&(accessCallback|accessLink), d[0]&accessMessaging == 0
	}
	if limit != 0 {
		a.role, a.noAccess = role, limit == privNoAccess
	}
	if a.name != "" {
		i.s.record("manager", "OK", fmt.Sprintf("Access of account %s set by %s over IPMI.", a.name, x.user))
	}
	return nil, nil
}

// userName is Get User Name (IPMI 2.0 §22.29).
func (i *ipmi) userName(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	a, err := i.userSlot(d[0])
	if err != nil {
		return nil, err
	}
	out := make([]byte, ipmiUserMax)
	copy(out, a.name)
	return out, nil
}

// setUserName is Set User Name (IPMI 2.0 §22.28). A new user is disabled, and
// may not log in over IPMI until Set User Access says so; without a name the
// slot is free again.
func (i *ipmi) setUserName(_ context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	name, _, _ := strings.Cut(string(d[1:1+ipmiUserMax]), "\x00")
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	a, err := i.userSlot(d[0])
	if err != nil {
		return nil, err
	}
	for _, c := range []byte(name) {
		if c < ' ' || c > '~' {
			return nil, ccField
		}
	}
	if o := i.s.byName(name); o != nil && o != a {
		return nil, ccField
	}
	switch old := a.name; {
	case name == old:
	case name == "":
		*a = account{id: a.id, role: ReadOnly}
		i.s.expire() // sessions of the account end with it
		i.s.record("manager", "OK", fmt.Sprintf("Account %s removed by %s over IPMI.", old, x.user))
	case old == "":
		*a = account{id: a.id, name: name, role: a.role, noIPMI: true, noAccess: a.noAccess}
		i.s.record("manager", "OK", fmt.Sprintf("Account %s made by %s over IPMI.", name, x.user))
	default:
		a.name = name
		i.s.record("manager", "OK", fmt.Sprintf("Account %s renamed to %s by %s over IPMI.", old, name, x.user))
	}
	return nil, nil
}

// setUserPassword is Set User Password (IPMI 2.0 §22.30): disable, enable, set
// or test, with 16 or 20 bytes of password.
func (i *ipmi) setUserPassword(_ context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	a, err := i.userSlot(d[0])
	if err != nil {
		return nil, err
	}
	size := 16
	if d[0]&0x80 != 0 {
		size = 20
	}
	switch op := d[1] & 3; {
	case op == 0:
		a.enabled = false // of a free slot it is so already
	case op == 1 && a.name != "":
		a.enabled = true
	case a.name == "":
		return nil, ccField
	case len(d) != 2+size:
		return nil, ccLength
	default:
		pw, _, _ := strings.Cut(string(d[2:]), "\x00")
		if op == 2 {
			if pw == "" {
				return nil, ccField
			}
			a.setPassword(pw)
			i.s.record("manager", "OK", fmt.Sprintf("Password of account %s set by %s over IPMI.", a.name, x.user))
			return nil, nil
		}
		if got := hashPassword(pw); subtle.ConstantTimeCompare(got[:], a.hash[:]) != 1 {
			return nil, completion(0x80) // password test failed
		}
	}
	return nil, nil
}

// payloadAccess is Get User Payload Access (IPMI 2.0 §24.7): serial over LAN, or
// not.
func (i *ipmi) payloadAccess(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	a, err := i.userSlot(d[1])
	if err != nil || !i.isLAN(d[0]) {
		return nil, ccField
	}
	on := byte(1 << lanplus.SOL)
	if a.noSOL {
		on = 0
	}
	return []byte{on, 0, 0, 0}, nil
}

// setPayloadAccess is Set User Payload Access (IPMI 2.0 §24.6).
func (i *ipmi) setPayloadAccess(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	a, err := i.userSlot(d[1])
	if err != nil || !i.isLAN(d[0]) || d[1]>>6 > 1 {
		return nil, ccField
	}
	if d[2]&(1<<lanplus.SOL) != 0 {
		a.noSOL = d[1]>>6 == 1 // enable, or disable
	}
	return nil, nil
}

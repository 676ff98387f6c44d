package vbmc

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/bougou/go-ipmi/pkg/crypto"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// Privilege levels (IPMI 2.0 §6.8).
const (
	privNone     = 0 // no session needed
	privCallback = 1
	privUser     = 2
	privOperator = 3
	privAdmin    = 4
)

// ipmiPrivilege is the highest level of a role.
func ipmiPrivilege(role string) byte {
	switch role {
	case Administrator:
		return privAdmin
	case Operator:
		return privOperator
	}
	return privUser
}

// ipmiUserMax is the longest user name of IPMI (§22.28).
const ipmiUserMax = 16

// ipmiKey is the password as IPMI uses it (IPMI 2.0 §13.31, Kuid). IPMI needs
// the password itself: that is how its log-in works. A longer password than 20
// characters cannot be used over IPMI.
func ipmiKey(user, password string) (k [20]byte, ok bool) {
	if len(password) > len(k) || len(user) > ipmiUserMax {
		return k, false
	}
	copy(k[:], password)
	return k, true
}

// cipherSuites are those that are offered. Suite 0 is none of them.
var cipherSuites = []lanplus.Suite{lanplus.Suite17, lanplus.Suite3}

// ipmiSession is a session, or a login on its way to one.
type ipmiSession struct {
	lanplus.Keys
	suite   lanplus.Suite
	maxRole byte // asked for in Open Session; 0: the highest
	used    time.Time

	who          *account
	user         string
	role         byte // of RAKP 1, with the lookup bit
	crand, brand []byte
	rakp3, rakp4 []byte // for a RAKP 3 that is sent again

	active    bool
	max, priv byte
	handle    byte
}

// RMCP+ status codes (IPMI 2.0 table 13-15).
const (
	rmcpOK        = 0x00
	rmcpResources = 0x01
	rmcpSessionID = 0x02
	rmcpRole      = 0x09
	rmcpNoRole    = 0x0a
	rmcpNameLen   = 0x0c
	rmcpName      = 0x0d
	rmcpIntegrity = 0x0f
	rmcpNoSuite   = 0x11
	rmcpIllegal   = 0x12
)

// refusal is an answer of the session set-up that ends it: its status.
func refusal(req []byte, status byte, console uint32) []byte {
	return binary.LittleEndian.AppendUint32([]byte{req[0], status, 0, 0}, console)
}

// openSession is the Open Session Request (IPMI 2.0 §13.17).
func (i *ipmi) openSession(b []byte) []byte {
	if len(b) < 32 {
		return nil
	}
	console := binary.LittleEndian.Uint32(b[4:])
	if console == 0 || b[1]&0xf > privAdmin {
		return refusal(b, rmcpIllegal, console)
	}
	su, ok := chooseSuite(b[8:32])
	if !ok {
		return refusal(b, rmcpNoSuite, console)
	}
	active, pending := 0, 0
	var oldest *ipmiSession
	for _, x := range i.sessions {
		if x.active {
			active++
			continue
		}
		if pending++; oldest == nil || x.used.Before(oldest.used) {
			oldest = x
		}
	}
	limit := i.s.levelLimit(su.ID)
	if limit == 0 {
		return refusal(b, rmcpNoSuite, console)
	}
	if active >= i.s.max {
		return refusal(b, rmcpResources, console)
	}
	if pending >= ipmiPending {
		delete(i.sessions, oldest.Own)
	}
	x := &ipmiSession{Keys: lanplus.Keys{Peer: console, Integrity: su.Integrity}, suite: su, maxRole: b[1] & 0xf, used: i.s.now()}
	for x.Own == 0 || i.sessions[x.Own] != nil {
		x.Own = binary.LittleEndian.Uint32(crypto.RandomBytes(4))
	}
	i.sessions[x.Own] = x
	out := binary.LittleEndian.AppendUint32([]byte{b[0], rmcpOK, limit, 0}, console)
	return append(binary.LittleEndian.AppendUint32(out, x.Own), su.Payloads()...)
}

// chooseSuite finds the suite of three algorithm payloads (IPMI 2.0 table
// 13-9). A payload of length 0 leaves the choice to us.
func chooseSuite(b []byte) (lanplus.Suite, bool) {
next:
	for _, su := range cipherSuites {
		for n, alg := range su.Algorithms() {
			p := b[8*n:]
			if p[0] != byte(n) {
				return su, false
			}
			if p[3] != 0 && p[4]&0x3f != alg {
				continue next
			}
		}
		return su, true
	}
	return lanplus.Suite{}, false
}

// rakp1 answers with RAKP 2 (IPMI 2.0 §13.20, §13.21). It holds a proof that
// was made with the user's password, which anybody may try passwords on: such
// is IPMI 2.0.
func (i *ipmi) rakp1(b []byte) []byte {
	if len(b) < 28 || len(b) < 28+int(b[27]) {
		return nil
	}
	x := i.sessions[binary.LittleEndian.Uint32(b[4:])]
	if x == nil || x.active {
		return refusal(b, rmcpSessionID, 0)
	}
	role, user := b[24], string(b[28:28+int(b[27])])
	end := func(status byte) []byte {
		delete(i.sessions, x.Own)
		return refusal(b, status, x.Peer)
	}
	want := role & 0xf
	switch {
	case len(user) > ipmiUserMax:
		return end(rmcpNameLen)
	case want == 0 || want > privAdmin || x.maxRole != 0 && want > x.maxRole:
		return end(rmcpRole)
	}
	a, key, ok := i.account(user)
	if !ok {
		return end(rmcpName)
	}
	if want > min(ipmiPrivilege(a.role), i.s.levelLimit(x.suite.ID)) {
		return end(rmcpNoRole)
	}
	if x.brand == nil || string(x.crand) != string(b[8:24]) || x.role != role || x.user != user {
		x.crand, x.brand = append([]byte(nil), b[8:24]...), crypto.RandomBytes(16)
		x.role, x.user, x.who = role, user, a
	}
	code, err := crypto.RAKP2AuthCode(x.suite.Auth, x.Peer, x.Own, x.crand, x.brand, i.guid[:], role, user, key[:])
	if err != nil {
		return end(rmcpIllegal)
	}
	out := binary.LittleEndian.AppendUint32([]byte{b[0], rmcpOK, 0, 0}, x.Peer)
	out = append(append(out, x.brand...), i.guid[:]...)
	return append(out, code[:crypto.RAKP2AuthCodeLen(x.suite.Auth)]...)
}

// account finds a user who may log in now, and the key.
func (i *ipmi) account(user string) (*account, [20]byte, bool) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	a := i.s.byName(user)
	if a == nil || !a.enabled || !a.ipmi || a.noIPMI || a.noAccess || a.change || i.s.now().Before(a.until) {
		i.s.record("manager", "Warning", fmt.Sprintf("IPMI login of %q refused.", user))
		return nil, [20]byte{}, false
	}
	key := a.key
	if i.s.refuses() {
		key[0] ^= 0xff
	}
	return a, key, true
}

// rakp3 answers with RAKP 4, and opens the session (IPMI 2.0 §13.22, §13.23).
func (i *ipmi) rakp3(b []byte) []byte {
	if len(b) < 8 {
		return nil
	}
	x := i.sessions[binary.LittleEndian.Uint32(b[4:])]
	if x == nil || x.brand == nil {
		return refusal(b, rmcpSessionID, 0)
	}
	if x.active {
		if string(x.rakp3) == string(b[1:]) { // sent again
			return append([]byte{b[0]}, x.rakp4...)
		}
		return refusal(b, rmcpSessionID, 0)
	}
	delete(i.sessions, x.Own) // whatever is wrong: no slot is held
	if b[1] != rmcpOK {
		i.failed(x, "its password is another")
		return nil
	}
	a, key, ok := i.account(x.user)
	if !ok || a != x.who {
		return refusal(b, rmcpName, x.Peer)
	}
	want, err := crypto.RAKP3AuthCode(x.suite.Auth, x.brand, x.Peer, x.role, x.user, key[:])
	if err != nil || !crypto.Equal(want, b[8:]) {
		i.failed(x, "wrong password")
		return refusal(b, rmcpIntegrity, x.Peer)
	}
	kg := i.s.keyG()
	if kg == nil {
		kg = key[:] // IPMI 2.0 §13.31
	}
	sik, k1, k2, err := crypto.DeriveSessionKeys(x.suite.Auth, x.crand, x.brand, x.role, x.user, kg)
	if err != nil {
		return refusal(b, rmcpIllegal, x.Peer)
	}
	icv, err := crypto.RAKP4ICV(x.suite.Auth, x.crand, x.Own, i.guid[:], sik)
	if err != nil {
		return refusal(b, rmcpIllegal, x.Peer)
	}
	i.handle++
	x.active, x.K1, x.K2, x.max, x.handle = true, k1, k2, x.role&0xf, i.handle
	x.priv, x.used = min(privUser, x.max), i.s.now()
	x.rakp3 = append([]byte(nil), b[1:]...)
	x.rakp4 = append(binary.LittleEndian.AppendUint32([]byte{rmcpOK, 0, 0}, x.Peer), icv...)
	i.sessions[x.Own] = x
	i.s.mu.Lock()
	a.failures = 0
	i.s.mu.Unlock()
	return append([]byte{b[0]}, x.rakp4...)
}

// failed counts a wrong password: enough of them lock the account, for Redfish
// as well.
func (i *ipmi) failed(x *ipmiSession, why string) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.s.fail(x.who)
	i.s.record("manager", "Warning", fmt.Sprintf("IPMI login of %q refused: %s.", x.user, why), 0x2a, 2)
}

// expire ends logins and sessions that went quiet, and those of accounts that
// are gone; a session of an account that may do less by now does no more.
func (i *ipmi) expire() {
	now := i.s.now()
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	for id, x := range i.sessions {
		limit := ipmiSetup
		if x.active {
			limit = ipmiIdle
		}
		if now.Sub(x.used) > limit || x.active && (x.who.name != x.user || !x.who.enabled || x.who.noAccess) {
			delete(i.sessions, id)
			continue
		}
		if x.active {
			x.max = min(x.max, ipmiPrivilege(x.who.role))
			x.priv = min(x.priv, x.max)
		}
	}
}

// seal encrypts and signs an answer of a payload type; nil where it cannot be.
func (x *ipmiSession) seal(payload byte, m []byte) []byte {
	p, err := x.Seal(payload, m)
	if err != nil {
		return nil
	}
	return p
}

// parseUUID reads RFC 4122 text.
func parseUUID(s string) (u [16]byte, ok bool) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(u) {
		return u, false
	}
	return [16]byte(b), true
}

package vbmc

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/bougou/go-ipmi/pkg/crypto"
	"github.com/bougou/go-ipmi/pkg/types"
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

// cipherSuite is one of IPMI 2.0 table 22-20. Suite 0 is none of them.
type cipherSuite struct {
	id    byte
	auth  types.AuthAlg
	integ types.IntegrityAlg
	crypt types.CryptAlg
}

var cipherSuites = []cipherSuite{
	{17, types.AuthAlg_HMAC_SHA256, types.IntegrityAlg_HMAC_SHA256_128, types.CryptAlg_AES_CBC_128},
	{3, types.AuthAlg_HMAC_SHA1, types.IntegrityAlg_HMAC_SHA1_96, types.CryptAlg_AES_CBC_128},
}

// ipmiSession is a session, or a login on its way to one.
type ipmiSession struct {
	id, console uint32
	suite       cipherSuite
	maxRole     byte // asked for in Open Session; 0: the highest
	used        time.Time

	who          *account
	user         string
	role         byte // of RAKP 1, with the lookup bit
	crand, brand []byte
	rakp3, rakp4 []byte // for a RAKP 3 that is sent again

	active    bool
	max, priv byte
	handle    byte
	k1, k2    []byte
	seq       uint32
	seen      sequenceWindow
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
	limit := i.s.levelLimit(su.id)
	if limit == 0 {
		return refusal(b, rmcpNoSuite, console)
	}
	if active >= i.s.max {
		return refusal(b, rmcpResources, console)
	}
	if pending >= ipmiPending {
		delete(i.sessions, oldest.id)
	}
	x := &ipmiSession{console: console, suite: su, maxRole: b[1] & 0xf, used: i.s.now()}
	for x.id == 0 || i.sessions[x.id] != nil {
		x.id = binary.LittleEndian.Uint32(crypto.RandomBytes(4))
	}
	i.sessions[x.id] = x
	out := binary.LittleEndian.AppendUint32([]byte{b[0], rmcpOK, limit, 0}, console)
	out = binary.LittleEndian.AppendUint32(out, x.id)
	for n, alg := range []byte{byte(su.auth), byte(su.integ), byte(su.crypt)} {
		out = append(out, byte(n), 0, 0, 8, alg, 0, 0, 0)
	}
	return out
}

// chooseSuite finds the suite of three algorithm payloads (IPMI 2.0 table
// 13-9). A payload of length 0 leaves the choice to us.
func chooseSuite(b []byte) (cipherSuite, bool) {
next:
	for _, su := range cipherSuites {
		for n, alg := range []byte{byte(su.auth), byte(su.integ), byte(su.crypt)} {
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
	return cipherSuite{}, false
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
		delete(i.sessions, x.id)
		return refusal(b, status, x.console)
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
	if want > min(ipmiPrivilege(a.role), i.s.levelLimit(x.suite.id)) {
		return end(rmcpNoRole)
	}
	if x.brand == nil || string(x.crand) != string(b[8:24]) || x.role != role || x.user != user {
		x.crand, x.brand = append([]byte(nil), b[8:24]...), crypto.RandomBytes(16)
		x.role, x.user, x.who = role, user, a
	}
	code, err := crypto.RAKP2AuthCode(x.suite.auth, x.console, x.id, x.crand, x.brand, i.guid[:], role, user, key[:])
	if err != nil {
		return end(rmcpIllegal)
	}
	out := binary.LittleEndian.AppendUint32([]byte{b[0], rmcpOK, 0, 0}, x.console)
	out = append(append(out, x.brand...), i.guid[:]...)
	return append(out, code[:crypto.RAKP2AuthCodeLen(x.suite.auth)]...)
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
	if i.s.trouble.Refuse {
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
	delete(i.sessions, x.id) // whatever is wrong: no slot is held
	if b[1] != rmcpOK {
		i.failed(x, "its password is another")
		return nil
	}
	a, key, ok := i.account(x.user)
	if !ok || a != x.who {
		return refusal(b, rmcpName, x.console)
	}
	want, err := crypto.RAKP3AuthCode(x.suite.auth, x.brand, x.console, x.role, x.user, key[:])
	if err != nil || !crypto.Equal(want, b[8:]) {
		i.failed(x, "wrong password")
		return refusal(b, rmcpIntegrity, x.console)
	}
	kg := i.s.keyG()
	if kg == nil {
		kg = key[:] // IPMI 2.0 §13.31
	}
	sik, k1, k2, err := crypto.DeriveSessionKeys(x.suite.auth, x.crand, x.brand, x.role, x.user, kg)
	if err != nil {
		return refusal(b, rmcpIllegal, x.console)
	}
	icv, err := crypto.RAKP4ICV(x.suite.auth, x.crand, x.id, i.guid[:], sik)
	if err != nil {
		return refusal(b, rmcpIllegal, x.console)
	}
	i.handle++
	x.active, x.k1, x.k2, x.max, x.handle = true, k1, k2, x.role&0xf, i.handle
	x.priv, x.used = min(privUser, x.max), i.s.now()
	x.rakp3 = append([]byte(nil), b[1:]...)
	x.rakp4 = append(binary.LittleEndian.AppendUint32([]byte{rmcpOK, 0, 0}, x.console), icv...)
	i.sessions[x.id] = x
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
// are gone.
func (i *ipmi) expire() {
	now := i.s.now()
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	for id, x := range i.sessions {
		limit := ipmiSetup
		if x.active {
			limit = ipmiIdle
		}
		if now.Sub(x.used) > limit || x.active && (x.who.name != x.user || !x.who.enabled) {
			delete(i.sessions, id)
		}
	}
}

// verify checks the integrity of a packet of the session (IPMI 2.0 §13.28.4).
func (x *ipmiSession) verify(p []byte) bool {
	n, ok := crypto.IntegrityAuthCodeLen(x.suite.integ)
	body := int(binary.LittleEndian.Uint16(p[14:]))
	if !ok || len(p) < 16+body+2+n {
		return false
	}
	want, err := crypto.SessionIntegrityAuthCode(x.suite.integ, p[4:len(p)-n], x.k1, "")
	return err == nil && crypto.Equal(want, p[len(p)-n:])
}

// seal encrypts and signs an answer.
func (x *ipmiSession) seal(m []byte) []byte { return x.sealAs(0, m) }

// sealAs encrypts and signs a packet of a payload type.
func (x *ipmiSession) sealAs(payload byte, m []byte) []byte {
	body, err := crypto.EncryptAESPayload(m, x.k2, crypto.RandomBytes(16))
	if err != nil {
		return nil
	}
	x.seq++
	p := plusPacket(0xc0|payload, x.console, x.seq, body)
	pad := types.IntegrityPadLen(12, len(body))
	for range pad {
		p = append(p, 0xff)
	}
	p = append(p, byte(pad), 0x07)
	sum, err := crypto.SessionIntegrityAuthCode(x.suite.integ, p[4:], x.k1, "")
	if err != nil {
		return nil
	}
	return append(p, sum...)
}

// plusPacket is an RMCP+ packet without trailer (IPMI 2.0 table 13-8).
func plusPacket(kind byte, session, seq uint32, body []byte) []byte {
	p := []byte{0x06, 0, 0xff, classIPMI, 0x06, kind}
	p = binary.LittleEndian.AppendUint32(p, session)
	p = binary.LittleEndian.AppendUint32(p, seq)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(body)))
	return append(p, body...)
}

func parsePlus(p []byte) (kind byte, session, seq uint32, body []byte, ok bool) {
	if len(p) < 16 {
		return 0, 0, 0, nil, false
	}
	n := int(binary.LittleEndian.Uint16(p[14:]))
	if n > len(p)-16 {
		return 0, 0, 0, nil, false
	}
	return p[5], binary.LittleEndian.Uint32(p[6:]), binary.LittleEndian.Uint32(p[10:]), p[16 : 16+n], true
}

// sequenceWindow refuses packets that were seen (IPMI 2.0 §6.12.13).
type sequenceWindow struct {
	top, bits uint32 // bit n: top-n was seen
}

func (w *sequenceWindow) accept(n uint32) bool {
	switch d := int32(n - w.top); {
	case n == 0:
		return false
	case w.bits == 0 || d >= 32:
		w.top, w.bits = n, 1
	case d > 0:
		w.top, w.bits = n, w.bits<<d|1
	case d <= -32 || w.bits&(1<<-d) != 0:
		return false
	default:
		w.bits |= 1 << -d
	}
	return true
}

// parseUUID reads RFC 4122 text.
func parseUUID(s string) (u [16]byte, ok bool) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(u) {
		return u, false
	}
	return [16]byte(b), true
}

package vbmc

import (
	"context"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/crypto"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// fakeConn is the packet connection of a service that is called directly.
type fakeConn struct{ net.PacketConn }

func (fakeConn) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 623} }

// newIPMI is an ipmi that is called directly, on a clock that the test sets.
func newIPMI(t testing.TB, c Config) (*ipmi, *time.Time) {
	t.Helper()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	c.Chassis, c.Now = NewMemory(testInfo()), func() time.Time { return now }
	if c.Accounts == nil {
		c.Accounts = []Account{{User: "root", Password: "s3cret"}, {User: "view", Password: "v1ew", Role: ReadOnly}}
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	i := &ipmi{s: s, conn: fakeConn{}, life: t.Context(), sessions: map[uint32]*ipmiSession{}}
	if err := i.identity(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.mu.Lock(); defer s.mu.Unlock(); s.stopLight(); s.stopWatchdog() })
	return i, &now
}

// console logs in step by step, as a remote console does.
type console struct {
	t    testing.TB
	i    *ipmi
	user string
	key  []byte
	role byte

	x    ipmiSession // what the console knows of its session: ids are exchanged
	last byte        // status of the last answer
	data []byte      // of the last command, behind its completion code
}

func newConsole(t testing.TB, i *ipmi, user, password string, role byte) *console {
	return &console{t: t, i: i, user: user, key: crypto.PadPassword20([]byte(password)), role: 0x10 | role}
}

func (c *console) send(p []byte) []byte { return c.i.packet(context.Background(), p) }

func (c *console) step(kind byte, b []byte) []byte {
	out := c.send(lanplus.Packet(kind, 0, 0, b))
	if out == nil {
		return nil
	}
	u, ok := lanplus.Unpack(out)
	if !ok || u.Kind != kind+1 {
		c.t.Fatalf("answer to %02x is %x", kind, out)
	}
	c.last = u.Body[1]
	return u.Body
}

func openRequest(su lanplus.Suite) []byte {
	return append([]byte{1, 0, 0, 0, 0x44, 0x33, 0x22, 0x11}, su.Payloads()...)
}

// login goes through RAKP 4 and tells whether it got a session.
func (c *console) login(su lanplus.Suite) bool {
	c.x = ipmiSession{Keys: lanplus.Keys{Own: 0x11223344, Integrity: su.Integrity}, suite: su, crand: make([]byte, 16)}
	b := c.step(0x10, openRequest(su))
	if c.last != 0 {
		return false
	}
	c.x.Peer = binary.LittleEndian.Uint32(b[8:])
	req := append(binary.LittleEndian.AppendUint32([]byte{2, 0, 0, 0}, c.x.Peer), c.x.crand...)
	if b = c.step(0x12, append(append(req, c.role, 0, 0, byte(len(c.user))), c.user...)); c.last != 0 {
		return false
	}
	c.x.brand = append([]byte(nil), b[8:24]...)
	code, err := crypto.RAKP3AuthCode(su.Auth, c.x.brand, c.x.Own, c.role, c.user, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.step(0x14, append(binary.LittleEndian.AppendUint32([]byte{3, 0, 0, 0}, c.x.Peer), code...)); c.last != 0 {
		return false
	}
	_, c.x.K1, c.x.K2, err = crypto.DeriveSessionKeys(su.Auth, c.x.crand, c.x.brand, c.role, c.user, c.key)
	return err == nil
}

// seal is a packet to the BMC.
func (c *console) seal(netFn, cmd byte, data ...byte) []byte {
	return c.x.seal(lanplus.IPMI, ipmiMessage(netFn, cmd, data...))
}

func ipmiMessage(netFn, cmd byte, data ...byte) []byte {
	return lanplus.Message(0x20, netFn<<2, 0x81, 4, cmd, data...)
}

// command returns the completion code, and whether there was an answer.
func (c *console) command(netFn, cmd byte, data ...byte) (completion, bool) {
	return c.answer(c.send(c.seal(netFn, cmd, data...)))
}

func (c *console) answer(out []byte) (completion, bool) {
	if out == nil {
		return 0, false
	}
	payload, m, ok := c.x.Open(out)
	if !ok || payload != lanplus.IPMI || len(m) < 8 {
		c.t.Fatalf("the answer %x is not sealed: %x", out, m)
	}
	c.data = m[7 : len(m)-1]
	return completion(m[6]), true
}

var suite17, suite3 = cipherSuites[0], cipherSuites[1]

func TestIPMILogin(t *testing.T) {
	none := lanplus.Suite{}
	half := lanplus.Suite{Auth: types.AuthAlg_HMAC_SHA1, Integrity: types.IntegrityAlg_HMAC_SHA1_96} // suite 2: not encrypted
	for _, tc := range []struct {
		name           string
		user, password string
		role           byte
		su             lanplus.Suite
		status         byte
	}{
		{"suite 17", "root", "s3cret", privAdmin, suite17, 0},
		{"suite 3", "root", "s3cret", privAdmin, suite3, 0},
		{"a lower role", "root", "s3cret", privUser, suite17, 0},
		{"reader", "view", "v1ew", privUser, suite17, 0},
		{"cipher suite 0", "root", "", privAdmin, none, rmcpNoSuite},
		{"not encrypted", "root", "s3cret", privAdmin, half, rmcpNoSuite},
		{"wrong password", "root", "guess", privAdmin, suite17, rmcpIntegrity},
		{"no password", "root", "", privAdmin, suite3, rmcpIntegrity},
		{"no such user", "mallory", "s3cret", privAdmin, suite17, rmcpName},
		{"anonymous", "", "", privAdmin, suite17, rmcpName},
		{"too high a role", "view", "v1ew", privAdmin, suite17, rmcpNoRole},
		{"role 0", "root", "s3cret", 0, suite17, rmcpRole},
		{"OEM role", "root", "s3cret", 5, suite17, rmcpRole},
		{"long name", strings.Repeat("r", 17), "s3cret", privAdmin, suite17, rmcpNameLen},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i, _ := newIPMI(t, Config{})
			c := newConsole(t, i, tc.user, tc.password, tc.role)
			if ok := c.login(tc.su); ok != (tc.status == 0) || c.last != tc.status {
				t.Fatalf("login() = %v with status %02x; want status %02x", ok, c.last, tc.status)
			}
			if tc.status != 0 && tc.status != rmcpNoSuite && len(i.sessions) != 0 {
				t.Errorf("a refused login holds %d slots", len(i.sessions))
			}
			if tc.status == 0 {
				if cc, ok := c.command(0x00, 0x01); !ok || cc != ccOK {
					t.Errorf("Get Chassis Status = %02x, answered %v; want 0", byte(cc), ok)
				}
			}
		})
	}
}

// TestIPMISession: replay, change, too low a privilege, and other people's sessions.
func TestIPMISession(t *testing.T) {
	i, now := newIPMI(t, Config{MaxSessions: 2})
	c := newConsole(t, i, "root", "s3cret", privAdmin)
	if !c.login(suite17) {
		t.Fatal("no login")
	}
	if cc, _ := c.command(0x00, 0x02, 1); cc != ccPrivilege {
		t.Errorf("power on as user = %02x; want D4h: a session starts as user", byte(cc))
	}
	if cc, _ := c.command(0x06, 0x3b, privAdmin); cc != ccOK {
		t.Fatalf("Set Session Privilege Level = %02x", byte(cc))
	}
	on := c.seal(0x00, 0x02, 1)
	if cc, ok := c.answer(c.send(on)); !ok || cc != ccOK {
		t.Fatalf("power on = %02x, %v", byte(cc), ok)
	}
	if out := c.send(on); out != nil {
		t.Error("a packet that was sent again was obeyed again")
	}
	plain := lanplus.Packet(0, c.x.Peer, 99, ipmiMessage(0x00, 0x02, 0))
	if out := c.send(plain); out != nil {
		t.Error("a packet in clear was obeyed in a session")
	}
	for at := range on {
		if at < 4 { // the RMCP header is not signed
			continue
		}
		p := c.seal(0x00, 0x02, 0)
		p[at] ^= 1
		if out := c.send(p); out != nil {
			t.Errorf("a packet with byte %d changed was answered with %x", at, out)
		}
	}
	if on, err := i.powered(t.Context()); err != nil || !on {
		t.Errorf("the machine was switched off by a forged packet (%v)", err)
	}
	if cc, _ := c.command(0x06, 0x3b, 5); cc != ccField {
		t.Errorf("OEM privilege = %02x; want CCh", byte(cc))
	}
	v := newConsole(t, i, "view", "v1ew", privUser)
	if !v.login(suite3) {
		t.Fatal("no second login")
	}
	if cc, _ := v.command(0x06, 0x3b, privOperator); cc != 0x81 {
		t.Errorf("reader raises its privilege: %02x; want 81h", byte(cc))
	}
	if cc, _ := v.command(0x06, 0x3c, binary.LittleEndian.AppendUint32(nil, c.x.Peer)...); cc != ccPrivilege {
		t.Errorf("reader closes another's session: %02x; want D4h", byte(cc))
	}
	third := newConsole(t, i, "root", "s3cret", privAdmin)
	if third.login(suite17) || third.last != rmcpResources {
		t.Errorf("a session beyond the limit: status %02x; want 01h", third.last)
	}
	if cc, _ := v.command(0x06, 0x3c, binary.LittleEndian.AppendUint32(nil, v.x.Peer)...); cc != ccOK {
		t.Errorf("Close Session = %02x", byte(cc))
	}
	*now = now.Add(ipmiIdle + time.Second)
	if _, ok := c.command(0x00, 0x01); ok {
		t.Error("a session that was idle for more than 60 s is still there")
	}
}

func TestIPMILockout(t *testing.T) {
	i, now := newIPMI(t, Config{Lockout: 3, LockoutDuration: time.Minute})
	bad, good := newConsole(t, i, "root", "guess", privAdmin), newConsole(t, i, "root", "s3cret", privAdmin)
	for n := range 3 {
		if bad.login(suite17) || bad.last != rmcpIntegrity {
			t.Fatalf("login %d: status %02x", n, bad.last)
		}
	}
	if good.login(suite17) || good.last != rmcpName {
		t.Errorf("after 3 wrong passwords: status %02x; want 0Dh: the account is locked", good.last)
	}
	*now = now.Add(time.Minute)
	if !good.login(suite17) {
		t.Errorf("after the lock: status %02x", good.last)
	}
}

// A user who is disabled, or gone, neither logs in nor keeps a session.
func TestIPMIDisabled(t *testing.T) {
	i, _ := newIPMI(t, Config{})
	c := newConsole(t, i, "root", "s3cret", privAdmin)
	if !c.login(suite17) {
		t.Fatal("no login")
	}
	i.s.accounts[0].enabled = false
	if _, ok := c.command(0x00, 0x01); ok {
		t.Error("the session of a disabled user was answered")
	}
	if c.login(suite17) || c.last != rmcpName {
		t.Errorf("login of a disabled user: status %02x; want 0Dh", c.last)
	}
}

// A flood of half-open logins neither grows without bound nor keeps anybody out.
func TestIPMIHalfOpen(t *testing.T) {
	i, now := newIPMI(t, Config{})
	for range 10 * ipmiPending {
		i.packet(t.Context(), lanplus.Packet(0x10, 0, 0, openRequest(suite17)))
		*now = now.Add(time.Millisecond)
	}
	if n := len(i.sessions); n > ipmiPending {
		t.Errorf("%d half-open logins; want %d at most", n, ipmiPending)
	}
	if c := newConsole(t, i, "root", "s3cret", privAdmin); !c.login(suite17) {
		t.Errorf("no login during a flood: status %02x", c.last)
	}
}

func TestIPMIPreSession(t *testing.T) {
	i, _ := newIPMI(t, Config{})
	out := i.packet(t.Context(), []byte{6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 7, 0, 0})
	if len(out) != 28 || out[8] != 0x40 || out[9] != 7 || out[20] != 0x81 {
		t.Errorf("presence ping answered with %x", out)
	}
	for c, cmd := range commands {
		m := ipmiMessage(byte(c>>8), byte(c), 0x8e, 4, 0, 0, 0, 0, 0, 0)
		out := i.packet(t.Context(), lanplus.Packet(0, 0, 0, m))
		u, ok := lanplus.Unpack(out)
		if !ok || (cmd.priv != privNone) != (completion(u.Body[6]) == ccPrivilege) {
			t.Errorf("command %04x without a session: %x", c, out)
		}
		v15 := append([]byte{6, 0, 0xff, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(m))}, m...)
		if out := i.packet(t.Context(), v15); len(out) < 21 || (cmd.priv != privNone) != (completion(out[20]) == ccPrivilege) {
			t.Errorf("command %04x in the format of IPMI 1.5: %x", c, out)
		}
	}
}

// FuzzIPMIPacket: nothing that arrives makes the service panic, changes the
// machine, or is answered with much more than it holds.
func FuzzIPMIPacket(f *testing.F) {
	f.Add([]byte{6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 7, 0, 0})
	f.Add(lanplus.Packet(0x10, 0, 0, openRequest(suite17)))
	f.Add(lanplus.Packet(0x12, 0, 0, append(make([]byte, 24), 0x14, 0, 0, 4, 'r', 'o', 'o', 't')))
	f.Add(lanplus.Packet(0x14, 0, 0, make([]byte, 40)))
	f.Add(lanplus.Packet(0, 0, 0, ipmiMessage(0x06, 0x38, 0x8e, 4)))
	f.Add(lanplus.Packet(0xc0, 1, 1, make([]byte, 64)))
	f.Fuzz(func(t *testing.T, p []byte) {
		i, _ := newIPMI(t, Config{})
		i.sessions[1] = &ipmiSession{Keys: lanplus.Keys{Own: 1, Integrity: suite17.Integrity, K1: make([]byte, 32), K2: make([]byte, 32)}, active: true, who: i.s.accounts[0], user: "root", suite: suite17, used: i.s.now()}
		i.sessions[0] = &ipmiSession{used: i.s.now(), suite: suite3}
		if out := i.packet(t.Context(), p); len(out) > 3*len(p)+16 {
			t.Errorf("%d bytes were answered with %d", len(p), len(out))
		}
		if on, _ := i.powered(t.Context()); on {
			t.Errorf("%x switched the machine on", p)
		}
	})
}

// FuzzIPMICommand: no request in a session makes the service panic.
func FuzzIPMICommand(f *testing.F) {
	for c := range commands {
		f.Add(byte(c>>8), byte(c), []byte{0, 0, 0, 0, 0, 0xff})
	}
	i, _ := newIPMI(f, Config{})
	f.Fuzz(func(t *testing.T, netFn, cmd byte, data []byte) {
		x := &ipmiSession{Keys: lanplus.Keys{Own: 7}, active: true, who: i.s.accounts[0], user: "root", max: privAdmin, priv: privAdmin}
		if len(data) > 200 {
			return
		}
		if c, ok := commands[code(netFn, cmd)]; ok {
			if out := i.run(t.Context(), c, x, request{netFn: netFn, cmd: cmd, data: data}); len(out) < 8 {
				t.Errorf("command %02x %02x %x was answered with %x", netFn, cmd, data, out)
			}
		}
	})
}

// Accounts that Redfish makes and changes are those of IPMI.
func TestIPMIAccounts(t *testing.T) {
	s := newService(t, nil)
	i := &ipmi{s: s.Server, conn: fakeConn{}, life: t.Context(), sessions: map[uint32]*ipmiSession{}}
	if r := s.do("POST", accountsPath, admin, `{"UserName":"new","Password":"first","RoleId":"Operator"}`); r.StatusCode != 201 {
		t.Fatalf("POST = %d %s", r.StatusCode, r.text)
	}
	path := accountsPath + "/4"
	for _, tc := range []struct {
		patch, password string
		role            byte
		status          byte
	}{
		{"", "first", privOperator, 0},
		{"", "first", privAdmin, rmcpNoRole},
		{`{"Password":"second"}`, "first", privOperator, rmcpIntegrity},
		{"", "second", privOperator, 0},
		{`{"RoleId":"Administrator"}`, "second", privAdmin, 0},
		{`{"Password":"` + strings.Repeat("x", 21) + `"}`, strings.Repeat("x", 20), privOperator, rmcpName},
		{`{"Password":"third","Enabled":false}`, "third", privOperator, rmcpName},
		{`{"Enabled":true}`, "third", privOperator, 0},
	} {
		if tc.patch != "" {
			if r := s.do("PATCH", path, admin, tc.patch); r.StatusCode != 200 {
				t.Fatalf("PATCH %s = %d %s", tc.patch, r.StatusCode, r.text)
			}
		}
		c := newConsole(t, i, "new", tc.password, tc.role)
		if c.login(suite17); c.last != tc.status {
			t.Errorf("after %q: IPMI login with %q has status %02x; want %02x", tc.patch, tc.password, c.last, tc.status)
		}
	}
	if r := s.do("DELETE", path, admin, ""); r.StatusCode != 204 {
		t.Fatalf("DELETE = %d", r.StatusCode)
	}
	if c := newConsole(t, i, "new", "third", privOperator); c.login(suite17) || c.last != rmcpName {
		t.Errorf("login of a deleted account: status %02x; want 0Dh", c.last)
	}
	if n := len(i.sessions); n != 0 {
		t.Errorf("%d sessions of a deleted account are left", n)
	}
}

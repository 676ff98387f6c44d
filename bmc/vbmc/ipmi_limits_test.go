package vbmc

import (
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// A console of a session, for what no program of others sends.
func writeRig(t *testing.T) (*ipmi, *console, func(cc completion, netFn, cmd byte, data ...byte) []byte) {
	t.Helper()
	i, _ := newIPMI(t, Config{})
	c := newConsole(t, i, "root", "s3cret", privAdmin)
	if !c.login(suite17) {
		t.Fatal("no login")
	}
	if cc, _ := c.command(0x06, 0x3b, privAdmin); cc != ccOK {
		t.Fatalf("Set Session Privilege Level = %02x", byte(cc))
	}
	return i, c, func(cc completion, netFn, cmd byte, data ...byte) []byte {
		t.Helper()
		out := c.send(c.seal(netFn, cmd, data...))
		if got, ok := c.answer(out); !ok || got != cc {
			t.Errorf("command %02x %02x %x = %02x; want %02x", netFn, cmd, data, byte(got), byte(cc))
		}
		return c.data
	}
}

// Between "set in progress" and "set complete" nothing of an address is set, and
// one client at a time may begin.
func TestLANInProgress(t *testing.T) {
	i, _, do := writeRig(t)
	mem := i.s.chassis.(*Memory)
	do(ccOK, 0x0c, 0x01, 1, 0, 1)
	do(ccInProgress, 0x0c, 0x01, 1, 0, 1)
	do(ccOK, 0x0c, 0x01, 1, 3, 192, 0, 2, 9)
	do(ccOK, 0x0c, 0x01, 1, 6, 255, 255, 255, 0)
	if l, _ := mem.LAN(t.Context()); l.Address.IsValid() {
		t.Errorf("the address is %s before the set is complete", l.Address)
	}
	if got := do(ccOK, 0x0c, 0x02, 1, 3, 0, 0); string(got) != string([]byte{0x11, 192, 0, 2, 9}) {
		t.Errorf("the address that waits reads %x", got)
	}
	do(ccOK, 0x0c, 0x01, 1, 0, 0)
	if l, _ := mem.LAN(t.Context()); l.Address.String() != "192.0.2.9/24" {
		t.Errorf("the address is %s after the set is complete; want 192.0.2.9/24", l.Address)
	}
	// A BMC that is reset forgets what was begun.
	do(ccOK, 0x0c, 0x01, 1, 0, 1)
	do(ccOK, 0x0c, 0x01, 1, 3, 192, 0, 2, 10)
	do(ccOK, 0x06, 0x02)
	do(ccOK, 0x0c, 0x01, 1, 0, 0)
	if l, _ := mem.LAN(t.Context()); l.Address.String() != "192.0.2.9/24" {
		t.Errorf("the address is %s after a reset in between; want 192.0.2.9/24", l.Address)
	}
	for _, p := range []byte{1, 5, 17, 22, 23} {
		do(ccReadOnly, 0x0c, 0x01, 1, p, 2, 3, 4, 5, 6, 7)
	}
	do(ccParameter, 0x0c, 0x01, 1, 200, 1)
	do(ccField, 0x0c, 0x01, 7, 3, 192, 0, 2, 9)
	do(ccField, 0x0c, 0x01, 1, 2, 4, 4, 4, 4, 4) // an authentication type of IPMI 1.5
	do(ccLength, 0x0c, 0x01, 1, 3, 192, 0)
}

// The channel's and the cipher suites' limits bind logins.
func TestIPMILimits(t *testing.T) {
	for _, tc := range []struct {
		name           string
		netFn, cmd     byte
		data           []byte
		role           byte
		at3, at17      byte // status of a login
		offOverNetwork bool
	}{
		{"channel: operator", 0x06, 0x40, []byte{1, 0, 0x80 | privOperator}, privAdmin, rmcpNoRole, rmcpNoRole, false},
		{"channel: operator, as operator", 0x06, 0x40, []byte{1, 0, 0x80 | privOperator}, privOperator, 0, 0, false},
		{"suite 3 off", 0x0c, 0x01, []byte{1, 24, 0, 0x40, 0x40, 0, 0, 0, 0, 0, 0}, privAdmin, rmcpNoSuite, 0, false},
		{"suite 3 off, by its number", 0x0c, 0x01, []byte{1, 24, 0, 0x44, 0, 0, 0, 0, 0, 0, 0}, privAdmin, rmcpNoSuite, 0, false},
		{"suite 17 for users", 0x0c, 0x01, []byte{1, 24, 0, 0x24, 0x40, 0, 0, 0, 0, 0, 0}, privAdmin, 0, rmcpNoRole, false},
		{"no messaging", 0x06, 0x43, []byte{0x81, 1, privAdmin}, privAdmin, rmcpName, rmcpName, false},
		{"no access", 0x06, 0x43, []byte{0x91, 1, privNoAccess}, privAdmin, rmcpName, rmcpName, false},
		{"channel off", 0x06, 0x40, []byte{1, 0x80, 0}, privAdmin, 0, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i, c, do := writeRig(t)
			do(ccOK, tc.netFn, tc.cmd, tc.data...)
			if tc.offOverNetwork {
				if out := c.send(c.seal(0x06, 0x01)); out != nil {
					t.Error("a channel that is off answers")
				}
				// The machine itself switches it on again.
				if out := i.obey(t.Context(), systemSession(), request{netFn: 0x06, cmd: 0x40, data: []byte{1, 0x82, 0}}); completion(out[6]) != ccOK {
					t.Errorf("Set Channel Access by the machine itself = %02x", out[6])
				}
			}
			for su, want := range map[byte]byte{3: tc.at3, 17: tc.at17} {
				x := newConsole(t, i, "root", "s3cret", tc.role)
				if x.login(map[byte]lanplus.Suite{3: suite3, 17: suite17}[su]); x.last != want {
					t.Errorf("login with suite %d as %d: status %02x; want %02x", su, tc.role, x.last, want)
				}
			}
		})
	}
}

// An operator writes neither users nor addresses nor keys.
func TestIPMIWritePrivilege(t *testing.T) {
	i, _ := newIPMI(t, Config{Accounts: []Account{{User: "root", Password: "s3cret"}, {User: "oper", Password: "op3r", Role: Operator}}})
	c := newConsole(t, i, "oper", "op3r", privOperator)
	if !c.login(suite17) {
		t.Fatal("no login")
	}
	_, _ = c.command(0x06, 0x3b, privOperator)
	for _, cmd := range []uint16{0x0640, 0x0643, 0x0645, 0x0647, 0x064c, 0x0656, 0x0658, 0x0c01, 0x0c21, 0x0412, 0x000a} {
		if cc, _ := c.command(byte(cmd>>8), byte(cmd), make([]byte, 20)...); cc != ccPrivilege {
			t.Errorf("an operator's command %04x = %02x; want D4h", cmd, byte(cc))
		}
	}
}

// What an account may no longer do, its open session may not either.
func TestIPMIDemoted(t *testing.T) {
	i, c, do := writeRig(t)
	asMachine := func(data ...byte) {
		t.Helper()
		if out := i.obey(t.Context(), systemSession(), request{netFn: 0x06, cmd: 0x43, data: data}); completion(out[6]) != ccOK {
			t.Fatalf("Set User Access %x by the machine itself = %02x", data, out[6])
		}
	}
	key := append([]byte{1, 1, 1}, make([]byte, 20)...)
	do(ccOK, 0x06, 0x56, key...)
	asMachine(lanChannel, 1, privOperator)
	do(ccPrivilege, 0x06, 0x56, key...)
	do(completion(0x81), 0x06, 0x3b, privAdmin)
	do(ccOK, 0x00, 0x09, 5, 0, 0) // an operator's
	asMachine(lanChannel, 1, privNoAccess)
	if out := c.send(c.seal(0x00, 0x01)); out != nil {
		t.Error("the session of a user without access was answered")
	}
}

// What is set of IPMI's own holds for all interfaces of a BMC.
func TestIPMIShared(t *testing.T) {
	i, _, do := writeRig(t)
	other := &ipmi{s: i.s, conn: fakeConn{}, life: t.Context(), sessions: map[uint32]*ipmiSession{}}
	do(ccOK, 0x00, 0x08, 5, 0xe0, 0x04, 0x20, 0, 0) // PXE by UEFI for good, with a verbosity
	out := other.obey(t.Context(), systemSession(), request{netFn: 0x00, cmd: 0x09, data: []byte{5, 0, 0}})
	if got, want := out[7:len(out)-1], []byte{1, 5, 0xe0, 0x04, 0x20, 0, 0}; string(got) != string(want) {
		t.Errorf("boot flags by another interface = %x; want %x", got, want)
	}
	do(ccOK, 0x06, 0x45, append([]byte{7}, "shared\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)...)
	out = other.obey(t.Context(), systemSession(), request{netFn: 0x06, cmd: 0x46, data: []byte{7}})
	if !strings.HasPrefix(string(out[7:]), "shared\x00") {
		t.Errorf("user 7 by another interface = %q", out[7:])
	}
}

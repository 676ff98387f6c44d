package vbmc

import (
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// redfish asks the same Server by Redfish, as root.
func (r *ipmiRig) redfish(t testing.TB, method, path, user, password, body string) (int, string) {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	req.SetBasicAuth(user, password)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	r.srv.ServeHTTP(w, req)
	return w.Code, w.Body.String()
}

// What ipmitool writes is read back by ipmitool, and by Redfish.
func TestIPMIToolWrites(t *testing.T) {
	r := newIPMIRig(t, Config{Console: greeter{}})
	for _, tc := range []struct {
		args, want string
		path, see  string // what Redfish shows then
	}{
		{"user set name 5 cluster", "", accountsPath + "/5", `"UserName":"cluster"`},
		{"user set password 5 first-password-20b 20", "", "", ""},
		{"user enable 5", "", accountsPath + "/5", `"Enabled":true`},
		{"channel setaccess 1 5 link=on ipmi=on callin=on privilege=3", "Set User Access", accountsPath + "/5", `"RoleId":"Operator"`},
		{"channel getaccess 1 5", "Privilege Level      : OPERATOR", "", ""},
		{"user list 1", "cluster", "", ""},
		{"user test 5 20 first-password-20b", "Success", "", ""},
		{"user test 5 20 wrong", "!password incorrect", "", ""},
		{"user priv 5 4 1", "Set Privilege Level", accountsPath + "/5", `"RoleId":"Administrator"`},
		{"user disable 5", "", accountsPath + "/5", `"Enabled":false`},
		{"lan set 1 ipsrc dhcp", "", ethernetPath + "/1", `"DHCPEnabled":true`},
		{"lan set 1 ipsrc static", "", "", ""},
		{"lan set 1 ipaddr 192.0.2.77", "192.0.2.77", "", ""},
		{"lan set 1 netmask 255.255.255.128", "255.255.255.128", ethernetPath + "/1", `"SubnetMask":"255.255.255.128"`},
		{"lan set 1 defgw ipaddr 192.0.2.1", "192.0.2.1", ethernetPath + "/1", `"Gateway":"192.0.2.1"`},
		{"lan set 1 vlan id 20", "", ethernetPath + "/1", `"VLANId":20`},
		{"lan set 1 vlan id off", "", ethernetPath + "/1", `"VLANEnable":false`},
		{"lan set 1 snmp not-public", "not-public", "", ""},
		{"lan set 1 bad_pass_thresh 4 1 60 120", "", root + "/AccountService", `"AccountLockoutThreshold":4`},
		{"lan print 1", "IP Address              : 192.0.2.77", "", ""},
		{"lan print 1", "MAC Address             : 02:fb:", "", ""},
		{"chassis policy list", "always-off always-on previous", "", ""},
		{"chassis policy previous", "previous", systemPath, `"PowerRestorePolicy":"LastState"`},
		{"chassis policy always-on", "always-on", systemPath, `"PowerRestorePolicy":"AlwaysOn"`},
		{"chassis status", "Power Restore Policy : always-on", "", ""},
		{"chassis poh", "0 days, 0 hours", "", ""},
		{"chassis bootparam get 1", "Service Partition Selector", "", ""},
		{"chassis bootparam get 2", "Service Partition Scan", "", ""},
		{"chassis bootparam get 6", "Boot Initiator Info", "", ""},
		{"chassis bootparam get 7", "Selector", "", ""},
		{"chassis bootmbox set 0 0x57 0x01 0x00 0x2a", "", "", ""},
		{"chassis bootmbox get", "2a", "", ""},
		{"mc watchdog get", "Stopped", "", ""},
		{"mc watchdog reset", "!", "", ""},
		{"mc setsysinfo system_name node-a.example.org", "", systemPath, `"HostName":"node-a.example.org"`},
		{"mc getsysinfo system_name", "node-a.example.org", "", ""},
		{"mc setsysinfo os_name Debian GNU/Linux 12", "", "", ""},
		{"mc getenables", "System Event Logging                     : enabled", "", ""},
		{"event 1", "Upper Critical going high", systemPath + "/LogServices/SEL/Entries", "Event of sensor 30h"},
		{"event 3", "Correctable ECC", "", ""},
		{"sel list", "Upper Critical going high", "", ""},
		{"sel time set 11/22/30 10:00:00 UTC", "", managerPath, `"DateTime":"2030-11-2`},
		{"dcmi discover", "SEL automatic rollover is enabled", "", ""},
		{"dcmi set_asset_tag rack7-u12-a-long-asset-tag", "rack7-u12-a-long-asset-tag", chassisPath, `"AssetTag":"rack7-u12-a-long-asset-tag"`},
		{"dcmi asset_tag", "rack7-u12-a-long-asset-tag", "", ""},
		{"dcmi set_mc_id_string bmc-of-node-a", "bmc-of-node-a", "", ""},
		{"dcmi get_mc_id_string", "bmc-of-node-a", "", ""},
		{"dcmi sensors", "Inlet: 1 temperature sensor found", "", ""},
		{"dcmi get_temp_reading", "+23 C", "", ""},
		{"sensor thresh Fan1 lcr 700", "Lower Critical", sensorsPath + "/Fan1", `"Reading":700`},
		{"sol set retry-count 5 1", "", "", ""},
		{"sol info 1", "Retry Count                     : 5", "", ""},
		{"sol set force-encryption false 1", "!", "", ""},
		{"sol set enabled false 1", "", "", ""},
		{"sol activate", "!disabled", "", ""},
		{"pef status", "", "", ""},
		{"user set name 5 root", "!", "", ""},
		{"user set name 5 ", "", accountsPath + "/5", `"UserName":""`},
	} {
		args := strings.Fields(tc.args)
		if strings.HasSuffix(tc.args, " ") {
			args = append(args, "")
		}
		switch { // what has blanks in it
		case args[0] == "sel" && args[1] == "time":
			args = append(args[:3], strings.Join(args[3:], " "))
		case args[1] == "setsysinfo":
			args = append(args[:3], strings.Join(args[3:], " "))
		}
		out, err := r.ipmitool(t, "17", args...)
		want, fails := strings.CutPrefix(tc.want, "!")
		ok := (err != nil) == fails && strings.Contains(out, want)
		if tc.path != "" {
			code, body := r.redfish(t, http.MethodGet, tc.path+map[bool]string{true: "?$expand=."}[strings.HasSuffix(tc.path, "Entries")], "root", "s3cret", "")
			if ok = ok && strings.Contains(body, tc.see); code != http.StatusOK || !strings.Contains(body, tc.see) {
				t.Errorf("after ipmitool %s Redfish shows %d %s; want %s in it", tc.args, code, body, tc.see)
			}
		}
		matrix.Note("ipmitool", strings.TrimSpace(tc.args), suiteName("17"), ok)
		if (err != nil) != fails || !strings.Contains(out, want) {
			t.Errorf("ipmitool %s said %q, %v; want %q", tc.args, out, err, tc.want)
		}
	}
}

// An entry that is removed is gone, by IPMI and by Redfish; the others stay.
func TestIPMIToolDelete(t *testing.T) {
	r := newIPMIRig(t, Config{})
	for _, args := range [][]string{{"event", "1"}, {"event", "3"}} {
		if out, err := r.ipmitool(t, "17", args...); err != nil {
			t.Fatalf("ipmitool %v: %v, %s", args, err, out)
		}
	}
	out, err := r.ipmitool(t, "17", "sel", "list")
	if err != nil {
		t.Fatalf("sel list: %v, %s", err, out)
	}
	id, _, _ := strings.Cut(strings.TrimSpace(out), " ")
	out, err = r.ipmitool(t, "17", "sel", "delete", "0x"+id)
	after, err2 := r.ipmitool(t, "17", "sel", "list")
	_, body := r.redfish(t, http.MethodGet, systemPath+"/LogServices/SEL/Entries?$expand=.", "root", "s3cret", "")
	ok := err == nil && err2 == nil && !strings.Contains(after, "Upper Critical") && strings.Contains(after, "Correctable ECC") && !strings.Contains(body, "sensor 30h") && strings.Contains(body, "sensor 53h")
	matrix.Note("ipmitool", "sel delete", suiteName("17"), ok)
	if !ok {
		t.Errorf("sel delete %s said %q, %v; then sel list %q, %v, and Redfish %s", id, out, err, after, err2, body)
	}
}

// The account that MAAS makes by ipmi-config, and then uses: its own steps, in
// their order, with the workaround that it gives by default and without.
func TestMAAS(t *testing.T) {
	r, dir := newIPMIRig(t, Config{}), t.TempDir()
	conf := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	efi := conf("efi", "Section Chassis_Boot_Flags\n        Boot_Flags_Persistent                         No\n        BIOS_Boot_Type                                EFI\n        Boot_Device                                   PXE\nEndSection\n")
	auto := conf("auto", "Section Chassis_Boot_Flags\n        Boot_Flags_Persistent                         No\n        Boot_Device                                   PXE\nEndSection\n")
	run := func(suite, as, line, want string) {
		t.Helper()
		args := strings.Fields(line)
		user := []string{"-u", "root", "-p", "s3cret", "-l", "ADMIN"}
		if as != "root" {
			user = []string{"-u", as, "-p", "Made-by-MAAS1", "-l", "OPERATOR"}
		}
		all := slices.Concat(args[1:], []string{"--driver-type", "LAN_2_0", "-h", r.addr}, user, []string{"-I", suite})
		out, err := said(t, needs(t, args[0]), all...)
		ok := err == nil && strings.Contains(out, want)
		shown := strings.ReplaceAll(strings.TrimPrefix(line, args[0]+" "), dir+"/", "")
		matrix.Note("FreeIPMI "+args[0]+", as MAAS does", shown, suite, ok)
		if !ok {
			t.Errorf("suite %s, %s: %s said %q, %v; want %q", suite, as, line, out, err, want)
		}
	}
	for _, key := range []string{"User5:Username=maas", "User5:Password=Made-by-MAAS1", "User5:Enable_User=Yes", "User5:Lan_Privilege_Limit=Operator", "User5:Lan_Enable_IPMI_Msgs=Yes",
		"User5:Lan_Enable_Link_Auth=Yes", "User5:SOL_Payload_Access=Yes", "Lan_Channel:Volatile_Access_Mode=Always_Available", "Lan_Channel:Non_Volatile_Access_Mode=Always_Available",
		"Lan_Channel:Volatile_Enable_User_Level_Auth=Yes", "Lan_Channel:Non_Volatile_Enable_Per_Message_Auth=Yes", "Lan_Channel:Volatile_Enable_Pef_Alerting=Yes",
		"SOL_Conf:Force_SOL_Payload_Authentication=Yes", "SOL_Conf:Force_SOL_Payload_Encryption=Yes"} {
		run("17", "root", "bmc-config --commit --key-pair="+key, "")
	}
	run("17", "root", "bmc-config --checkout -S User5", "maas")
	for _, suite := range []string{"3", "17"} {
		for _, w := range []string{"", " -W opensesspriv"} {
			run(suite, "maas", "ipmi-chassis-config"+w+" --commit --filename "+efi, "")
			run(suite, "maas", "ipmipower"+w+" --cycle --on-if-off", "ok")
			run(suite, "maas", "ipmipower"+w+" --stat", "on")
			run(suite, "maas", "ipmi-chassis-config"+w+" --commit --filename "+auto, "")
			run(suite, "maas", "ipmipower"+w+" --soft", "ok")
			run(suite, "maas", "ipmipower"+w+" --off", "ok")
			run(suite, "maas", "ipmipower"+w+" --stat", "off")
		}
	}
	if b := r.mem.Booted(); len(b) != 4 || b[0].Target != BootPxe || b[0].Mode != "UEFI" {
		t.Errorf("MAAS' power cycles booted %+v; want PXE by UEFI, four times", b)
	}
}

// Whole sections, read, written back unchanged, and compared: nothing of what a
// BMC says of itself is refused when it is said to it.
func TestFreeIPMISections(t *testing.T) {
	for _, category := range []string{"core", "chassis", "pef", "sensors"} {
		t.Run(category, func(t *testing.T) {
			r, file := newIPMIRig(t, Config{Console: greeter{}}), filepath.Join(t.TempDir(), "conf")
			ok := true
			defer func() {
				matrix.Note("FreeIPMI ipmi-config", "--category="+category+": checkout of all sections, commit, diff", suiteName("17"), ok)
			}()
			for _, do := range []string{"--checkout", "--commit", "--diff"} {
				out, err := said(t, needs(t, "ipmi-config"), "--category="+category, do, "--filename="+file, "-D", "LAN_2_0", "-h", r.addr, "-u", "root", "-p", "s3cret", "-I", "17", "-l", "ADMIN", "--quiet-cache")
				// A checkout fails for what a BMC does not have: other cipher suites, IPMI 1.5, IPv6 routers.
				if err != nil && do != "--checkout" {
					ok = false
					t.Errorf("ipmi-config --category=%s %s said %q, %v; want that there is nothing to say", category, do, out, err)
				}
			}
		})
	}
}

// The key Kg is part of the proof of every login once it is set.
func TestIPMIKg(t *testing.T) {
	r := newIPMIRig(t, Config{})
	host := []string{"-D", "LAN_2_0", "-h", r.addr, "-u", "root", "-p", "s3cret", "-I", "17", "-l", "ADMIN"}
	free := func(args ...string) (string, error) {
		return said(t, needs(t, args[0]), append(args[1:], host...)...)
	}
	if out, err := free("bmc-config", "--commit", "--key-pair=Lan_Conf_Security_Keys:K_G=a-key-of-the-rack"); err != nil {
		t.Fatalf("setting K_g: %v, %s", err, out)
	}
	if out, _ := free("ipmipower", "--stat"); !strings.Contains(out, "k_g invalid") {
		t.Errorf("ipmipower without K_g said %q; want that K_g is invalid", out)
	}
	out, err := free("ipmipower", "--stat", "-k", "a-key-of-the-rack")
	ok := err == nil && strings.Contains(out, "off")
	matrix.Note("FreeIPMI ipmipower", "--stat with a key K_g", suiteName("17"), ok)
	if !ok {
		t.Errorf("ipmipower with K_g said %q, %v", out, err)
	}
	out, err = r.ipmitool(t, "3", "-k", "a-key-of-the-rack", "power", "status")
	if ok = err == nil && strings.Contains(out, "off"); !ok {
		t.Errorf("ipmitool with K_g said %q, %v", out, err)
	}
	matrix.Note("ipmitool", "power status with a key K_g", suiteName("3"), ok)
}

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

// The watchdog acts when its time is up, by the clock, whoever looks.
func TestWatchdog(t *testing.T) {
	for _, tc := range []struct {
		name       string
		use        byte
		actions    byte
		before     byte
		power      PowerState
		boots      int
		log, notIn string
		cause      byte
	}{
		{"hard reset", 4, 1, 0, On, 2, "The watchdog of SMS/OS ended: the machine was reset.", "NMI", causeWatchdog},
		{"power off", 3, 2, 0, Off, 1, "The watchdog of OS load ended: the machine was powered off.", "NMI", causeWatchdog},
		{"power cycle", 2, 3, 0, On, 2, "The watchdog of BIOS POST ended", "NMI", causeWatchdog},
		{"nothing", 5, 0, 0, On, 1, "The watchdog of OEM ended: nothing was done.", "Reset", 0},
		{"NMI first", 4, 0x21, 3, On, 2, "NMI by the watchdog.", "powered off", causeWatchdog},
		{"unlogged", 4 | watchdogNoLog, 1, 0, On, 2, "Reset ForceRestart by the watchdog.", "The watchdog of", causeWatchdog},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := NewMemory(testInfo())
				s, err := New(Config{Chassis: mem, Accounts: []Account{{User: "root", Password: "s3cret"}}})
				if err != nil {
					t.Fatal(err)
				}
				if err := mem.Reset(t.Context(), ResetOn); err != nil {
					t.Fatal(err)
				}
				i := &ipmi{s: s, life: t.Context(), sessions: map[uint32]*ipmiSession{}}
				do := func(cc completion, cmd byte, data ...byte) []byte {
					t.Helper()
					out := i.obey(t.Context(), systemSession(), request{netFn: 0x06, cmd: cmd, data: data})
					if completion(out[6]) != cc {
						t.Fatalf("command %02x = %02x; want %02x", cmd, out[6], byte(cc))
					}
					return out[7 : len(out)-1]
				}
				do(ccWatchdogInit, 0x22)
				do(ccOK, 0x24, tc.use, tc.actions, tc.before, 0xff, 100, 0) // 10 s
				time.Sleep(time.Minute)                                     // it is set, and not started
				do(ccOK, 0x22)
				time.Sleep(9 * time.Second)
				if got := do(ccOK, 0x25); got[0]&watchdogGoesOn == 0 || binary.LittleEndian.Uint16(got[6:]) != 10 {
					t.Errorf("Get Watchdog Timer after 9 of 10 s = %x; want that it runs and has 1 s left", got)
				}
				if tc.before == 0 {
					do(ccOK, 0x22) // the system lives
					time.Sleep(9 * time.Second)
				}
				if b := len(mem.Booted()); b != 1 {
					t.Errorf("%d boots while the watchdog was reset in time", b)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if p, _ := mem.Power(t.Context()); p != tc.power || len(mem.Booted()) != tc.boots {
					t.Errorf("after its end power is %s with %d boots; want %s with %d", p, len(mem.Booted()), tc.power, tc.boots)
				}
				text := ""
				for _, e := range s.events["system"] {
					text += e.text + "\n"
				}
				if !strings.Contains(text, tc.log) || strings.Contains(text, tc.notIn) {
					t.Errorf("the log is\n%swant %q in it, and no %q", text, tc.log, tc.notIn)
				}
				if got := do(ccOK, 0x25); got[0]&watchdogGoesOn != 0 || got[3] != 1<<(tc.use&7) {
					t.Errorf("Get Watchdog Timer after its end = %x; want that it stands, and the flag of its use", got)
				}
				if s.ipmi.boot.cause != tc.cause {
					t.Errorf("restart cause = %d; want %d", s.ipmi.boot.cause, tc.cause)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if len(mem.Booted()) != tc.boots {
					t.Error("it acted twice")
				}
			})
		})
	}
}

// A reset of the machine stops the watchdog, whoever asked for it.
func TestWatchdogStops(t *testing.T) {
	i, _, do := writeRig(t)
	if err := i.s.chassis.Reset(t.Context(), ResetOn); err != nil {
		t.Fatal(err)
	}
	for name, stop := range map[string]func(){
		"chassis control": func() { do(ccOK, 0x00, 0x02, 3) },
		"the machine":     func() { i.vmCommand([]byte{vmReset}) },
		"cold reset":      func() { do(ccOK, 0x06, 0x02) },
		"set":             func() { do(ccOK, 0x06, 0x24, 4, 1, 0, 0, 100, 0) },
	} {
		do(ccOK, 0x06, 0x24, 4, 1, 0, 0, 100, 0)
		do(ccOK, 0x06, 0x22)
		if stop(); !i.s.ipmi.watchdog.ends.IsZero() {
			t.Errorf("the watchdog runs on after %s", name)
		}
	}
	do(ccOK, 0x06, 0x24, 4, 1, 0, 0, 100, 0)
	do(ccOK, 0x06, 0x22)
	if do(ccOK, 0x06, 0x24, 4|watchdogGoesOn, 2, 0, 0, 200, 0); i.s.ipmi.watchdog.ends.IsZero() {
		t.Error("the watchdog stopped although it was not to")
	}
	for _, bad := range [][]byte{{0, 1, 0, 0, 1, 0}, {6, 1, 0, 0, 1, 0}, {4, 4, 0, 0, 1, 0}, {4, 0x21, 20, 0, 100, 0}} {
		do(ccField, 0x06, 0x24, bad...)
	}
}

// When its power comes back, the machine does what the policy says.
func TestRestorePolicy(t *testing.T) {
	for _, tc := range []struct {
		policy    byte
		before    PowerState
		want      PowerState
		cause     byte
		lastEvent byte // when it is back
	}{
		{restoreOff, On, Off, 0, eventACFailed},
		{restoreLast, On, On, causeLast, eventACFailed},
		{restoreLast, Off, Off, 0, eventACFailed},
		{restoreOn, Off, On, causeAlwaysOn, eventACFailed},
		{restoreOn, On, On, causeAlwaysOn, eventACFailed},
	} {
		t.Run(restorePolicies[tc.policy]+" "+string(tc.before), func(t *testing.T) {
			i, _, do := writeRig(t)
			if tc.before == On {
				if err := i.s.chassis.Reset(t.Context(), ResetOn); err != nil {
					t.Fatal(err)
				}
			}
			do(ccOK, 0x00, 0x06, tc.policy)
			do(ccOK, 0x00, 0x06, restoreKeep)
			for range 2 { // twice is once
				if err := i.s.LosePower(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if p, _ := i.s.chassis.Power(t.Context()); p != Off {
				t.Fatalf("power is %s without power", p)
			}
			for range 2 {
				if err := i.s.ReturnPower(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if p, _ := i.s.chassis.Power(t.Context()); p != tc.want {
				t.Errorf("power is %s when it is back; want %s", p, tc.want)
			}
			if got := do(ccOK, 0x00, 0x07); got[0] != tc.cause {
				t.Errorf("restart cause = %d; want %d", got[0], tc.cause)
			}
			if got := do(ccOK, 0x00, 0x01); got[0]>>5 != tc.policy || got[1] != tc.lastEvent {
				t.Errorf("Get Chassis Status = %x; want policy %d, last event %02x", got, tc.policy, tc.lastEvent)
			}
		})
	}
}

// Hours are counted while the machine is on.
func TestPowerOnHours(t *testing.T) {
	i, now := newIPMI(t, Config{})
	hours := func() uint32 {
		out, err := i.powerOnHours(t.Context(), nil, nil)
		if err != nil || out[0] != 60 {
			t.Fatalf("Get POH Counter = %x, %v; want hours", out, err)
		}
		return binary.LittleEndian.Uint32(out[1:])
	}
	for _, step := range []struct {
		reset ResetType
		after time.Duration
		want  uint32
	}{{ResetOn, 0, 0}, {"", 90 * time.Minute, 1}, {"", 30 * time.Minute, 2}, {ResetForceOff, 0, 2}, {"", 5 * time.Hour, 2}, {ResetOn, 0, 2}, {"", time.Hour, 3}} {
		*now = now.Add(step.after)
		if step.reset != "" {
			if err := i.s.chassis.Reset(t.Context(), step.reset); err != nil {
				t.Fatal(err)
			}
		}
		if got := hours(); got != step.want {
			t.Errorf("%+v: %d hours; want %d", step, got, step.want)
		}
	}
}

// Records of makers keep their bytes, with the BMC's time or without one.
func TestSELAdd(t *testing.T) {
	i, _, do := writeRig(t)
	add := func(cc completion, kind byte) []byte {
		return do(cc, 0x0a, 0x44, 0, 0, kind, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
	}
	at := binary.LittleEndian.AppendUint32(nil, uint32(i.s.clock().Unix()))
	for _, tc := range []struct {
		kind byte
		want []byte // behind the id
	}{
		{selSystem, slices.Concat([]byte{selSystem}, at, []byte{5, 6, 7, 8, 9, 10, 11, 12, 13})},
		{0xc5, slices.Concat([]byte{0xc5}, at, []byte{5, 6, 7, 8, 9, 10, 11, 12, 13})},
		{0xe1, []byte{0xe1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}},
	} {
		id := add(ccOK, tc.kind)
		got := do(ccOK, 0x0a, 0x43, 0, 0, id[0], id[1], 0, 0xff)
		if string(got[2:4]) != string(id) || string(got[4:]) != string(tc.want) {
			t.Errorf("record of type %02Xh reads %x; want id %x and %x", tc.kind, got, id, tc.want)
		}
	}
	add(ccField, 0x10)
	do(ccReservation, 0x0a, 0x46, 0x77, 0x77, 1, 0)
	i.s.SetTrouble(Trouble{LogFull: true}, "")
	add(ccSELFull, selSystem)
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

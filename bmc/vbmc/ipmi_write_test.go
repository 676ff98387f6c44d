package vbmc

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
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
		{"lan6 print 1 support", "IPv4 and IPv6: yes", "", ""},
		{"lan6 print 1 enables", "both", ethernetPath + "/1", `"IPv6Enabled":true`},
		{"lan6 print 1 status", "Static address max:  4", ethernetPath + "/1", `"MaxIPv6StaticAddresses":4`},
		{"lan6 print 1 dynamic_addr 0", "fe80::", ethernetPath + "/1", `"AddressOrigin":"LinkLocal"`},
		{"lan6 print 1 dynamic_addr 1", "!out of range", "", ""},
		{"lan6 set 1 static_addr 0 enable 2001:db8::77 64", "", ethernetPath + "/1", `{"Address":"2001:db8::77","AddressOrigin":"Static","AddressState":"Preferred","PrefixLength":64}`},
		{"lan6 print 1 static_addr 0", "2001:db8::77/64\n    Status:         active", "", ""},
		{"lan6 set 1 static_addr 3 disable 2001:db8::78 48", "", "", ""},
		{"lan6 print 1 static_addr 3", "2001:db8::78/48\n    Status:         disabled", "", ""},
		{"lan6 set 1 static_addr 0 enable ff02::1 64", "!Failed to set IPv6 Static Address", "", ""},
		{"lan6 set 1 static_rtr 1 2001:db8::1 02:00:00:00:00:01 2001:db8:: 64", "", ethernetPath + "/1", `"IPv6DefaultGateway":"2001:db8::1"`},
		{"lan6 print 1 static_rtr 1", "Address: 2001:db8::1\n    MAC:     02:00:00:00:00:01\n    Prefix:  2001:db8::/64", ethernetPath + "/1", `"IPv6StaticDefaultGateways":[{"Address":"2001:db8::1","PrefixLength":64}]`},
		{"lan6 set 1 rtr_cfg static", "", "", ""},
		{"lan6 set 1 static_hops 32", "", "", ""},
		{"lan6 print 1", "IPv6 Header Static Hop Limit: 32", "", ""},
		{"lan6 set 1 enables ipv4", "", ethernetPath + "/1", `"IPv6Addresses":[]`},
		{"lan6 print 1 static_addr 0", "disabled", ethernetPath + "/1", `"IPv6Enabled":false`},
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

// FreeIPMI's section for IPv6: what it writes is Redfish's.
func TestFreeIPMILan6(t *testing.T) {
	r := newIPMIRig(t, Config{})
	do := func(args ...string) (string, error) {
		return said(t, needs(t, "ipmi-config"), append(args, "--category=core", "-D", "LAN_2_0", "-h", r.addr, "-u", "root", "-p", "s3cret", "-I", "17", "-l", "ADMIN", "--quiet-cache")...)
	}
	ok := true
	defer func() {
		matrix.Note("FreeIPMI ipmi-config", "Lan6_Conf: checkout, static addresses, routers, enables", suiteName("17"), ok)
	}()
	for _, tc := range []struct{ pair, see string }{
		{"Lan6_Conf:IPv6_Static_Address_Enable=Yes", `"IPv6StaticAddresses":[]`},
		{"Lan6_Conf:IPv6_Static_Address=2001:db8::79", `"IPv6StaticAddresses":[{"Address":"2001:db8::79","PrefixLength":64}]`},
		{"Lan6_Conf:IPv6_Static_Address_Prefix_Length=56", `"IPv6StaticAddresses":[{"Address":"2001:db8::79","PrefixLength":56}]`},
		{"Lan6_Conf:IPv6_Static_Router_Address_1=2001:db8::9", `"IPv6DefaultGateway":"2001:db8::9"`},
		{"Lan6_Conf:IPv6_IPv4_Addressing_Enables=IPv6_Disabled", `"IPv6Enabled":false`},
	} {
		out, err := do("--commit", "--key-pair="+tc.pair)
		_, body := r.redfish(t, http.MethodGet, ethernetPath+"/1", "root", "s3cret", "")
		if err != nil || !strings.Contains(body, tc.see) {
			ok = false
			t.Errorf("ipmi-config %s said %q, %v; Redfish shows %s; want %s", tc.pair, out, err, body, tc.see)
		}
	}
	out, err := do("--checkout", "--section=Lan6_Conf", "--verbose")
	for _, want := range []string{"Supports_IPv6_Only", "2001:db8::79", "2001:db8::9"} {
		if !strings.Contains(out, want) {
			ok = false
			t.Errorf("ipmi-config --checkout said %q, %v; want %s", out, err, want)
		}
	}
}

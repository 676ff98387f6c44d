package bmc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"net/netip"
)

// fakeIPMI puts a program ipmitool of our own first in the PATH. It logs its
// arguments; what it says is decided by script, with the arguments in $*.
func fakeIPMI(t *testing.T, script string) (Target, func() []string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	body := "#!/bin/sh\necho \"$*\" >>" + log + "\n" + script
	if err := os.WriteFile(filepath.Join(dir, "ipmitool"), []byte(body), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	return Target{Name: "ipmi-01", Address: netip.MustParseAddrPort("127.0.0.1:623"), Protocol: IPMI, User: "admin", Password: "s3cret",
			Timeout: 5 * time.Second, PowerWait: 300 * time.Millisecond}, func() []string {
			b, _ := os.ReadFile(log)
			return strings.Split(strings.TrimSpace(string(b)), "\n")
		}
}

const goodIPMI = `
case "$*" in
*"power status") echo "Chassis Power is on";;
*"bootdev pxe"*) echo "Set Boot Device to pxe";;
*"bootdev disk"*) echo "Set Boot Device to disk";;
*"bootparam get 5") echo "Boot parameter version: 1"; echo " Boot parameter data: a004000000";;
*"mc info") echo "Device ID : 32"; echo "Firmware Revision         : 2.10";;
*"fru print 0") echo " Product Manufacturer  : Acme"; echo " Product Name          : GX"; echo " Product Serial        : SN9";;
*"identify force") echo "Chassis identify interval: indefinite";;
*) echo "Invalid command: $*"; exit 1;;
esac
`

func TestIPMI(t *testing.T) {
	tg, calls := fakeIPMI(t, goodIPMI)
	c, err := Open(t.Context(), tg)
	if err != nil {
		t.Fatal(err)
	}
	c.poll = 4 * time.Millisecond
	if n := len(calls()); n != 1 {
		t.Errorf("Open called ipmitool %d times; want once", n)
	}
	st, err := c.Status(t.Context())
	want := Status{Power: On, Boot: NextBoot{Device: BootPXE, UEFI: true}, Vendor: "Acme", Model: "GX", Serial: "SN9", Firmware: "2.10"}
	if err != nil || st != want {
		t.Errorf("Status() = %+v, %v; want %+v", st, err, want)
	}
	if err := c.SetPower(t.Context(), PowerOn); err != nil {
		t.Error(err)
	}
	if err := c.SetNextBoot(t.Context(), NextBoot{Device: BootPXE, UEFI: true}); err != nil {
		t.Error(err)
	}
	tg.Timeout = time.Second
	c.t.Timeout = time.Second
	wantErr(t, c.SetNextBoot(t.Context(), NextBoot{Device: BootDisk, UEFI: true}), nil, "changed nothing: the next boot still reads pxe once, UEFI")
	wantErr(t, c.SetNextBoot(t.Context(), NextBoot{Device: BootHTTP, UEFI: true}), ErrUnsupported, "no HTTP boot")
	if err := c.Identify(t.Context(), true); err != nil {
		t.Error(err)
	}
	_, err = c.Inventory(t.Context())
	wantErr(t, err, ErrUnsupported, "use redfish")
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, l := range calls() {
		if strings.Contains(l, "s3cret") {
			t.Errorf("the password is in the arguments: %s", l)
		}
	}
}

func TestIPMIOneLogin(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		is           error
		says         string
		calls        int
	}{
		{"wrong password", `echo "> RAKP 2 HMAC is invalid"; echo "Error: Unable to establish IPMI v2 / RMCP+ session"; exit 1`, ErrPassword, "ipmitool said", 1},
		{"no such user", `echo "RAKP 2 message indicates an error : unauthorized name"; exit 1`, ErrPassword, "unauthorized name", 1},
		{"silent", `echo "Error: Unable to establish IPMI v2 / RMCP+ session"; exit 1`, nil, "check that IPMI over LAN is enabled", 1},
		{"no suite at all", `echo "Error in open session response message : no matching cipher suite"; exit 1`, nil, "cipher suite", 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tg, calls := fakeIPMI(t, tc.script)
			_, err := Open(t.Context(), tg)
			wantErr(t, err, tc.is, "ipmi-01: logging in", tc.says)
			if n := len(calls()); n != tc.calls {
				t.Errorf("%d logins; want %d: %v", n, tc.calls, calls())
			}
		})
	}
	tg, calls := fakeIPMI(t, `case "$*" in *"-C 17"*) echo "no matching cipher suite"; exit 1;; *) echo "Chassis Power is off";; esac`)
	c, err := Open(t.Context(), tg)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := c.Power(t.Context()); err != nil || p != Off || len(calls()) != 3 {
		t.Errorf("Power() = %s, %v after %v; want off by cipher suite 3", p, err, calls())
	}
}

func TestIPMIWithoutProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Open(t.Context(), Target{Name: "ipmi-01", Address: netip.MustParseAddrPort("127.0.0.1:623"), Protocol: IPMI})
	wantErr(t, err, nil, "install the package ipmitool")
}

func TestParseBootFlags(t *testing.T) {
	for _, tc := range []struct {
		data string
		want NextBoot
	}{
		{"8004000000", NextBoot{Device: BootPXE}},
		{"e004000000", NextBoot{Device: BootPXE, Permanent: true, UEFI: true}},
		{"a008000000", NextBoot{Device: BootDisk, UEFI: true}},
		{"8014000000", NextBoot{Device: BootCD}},
		{"8018000000", NextBoot{Device: BootSetup}},
		{"0004000000", NextBoot{Device: BootNone}},
		{"c000000000", NextBoot{Device: BootNone}},
	} {
		got, err := parseBootFlags("Boot parameter version: 1\n Boot parameter data: " + tc.data + "\n")
		if err != nil || got != tc.want {
			t.Errorf("parseBootFlags(%s) = %+v, %v; want %+v", tc.data, got, err, tc.want)
		}
	}
	if _, err := parseBootFlags("nonsense"); err == nil {
		t.Error("parseBootFlags(nonsense) gave no error")
	}
}

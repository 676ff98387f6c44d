package vbmc

import (
	"cmp"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// ipmiRig is a virtual BMC on a UDP port of loopback.
type ipmiRig struct {
	mem  *Memory
	srv  *Server
	addr string
}

func newIPMIRig(t testing.TB, c Config) *ipmiRig {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveIPMI(t, c, conn)
}

func serveIPMI(t testing.TB, c Config, conn net.PacketConn) *ipmiRig {
	t.Helper()
	r := &ipmiRig{mem: NewMemory(testInfo())}
	c.Chassis = r.mem
	if c.Accounts == nil {
		c.Accounts = []Account{{User: "root", Password: "s3cret"}, {User: "oper", Password: "op3r", Role: Operator}, {User: "view", Password: "v1ew", Role: ReadOnly}}
	}
	var err error
	if r.srv, err = New(c); err != nil {
		t.Fatal(err)
	}
	r.addr = conn.LocalAddr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.srv.ServeIPMI(ctx, conn); err != nil {
			t.Errorf("ServeIPMI() = %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait(); conn.Close() })
	return r
}

// said runs a program; it must end in 20 s.
func said(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "IPMITOOL_PASSWORD=s3cret", "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Errorf("%s %s did not end in 20 s", name, strings.Join(args, " "))
	}
	return string(out), err
}

func (r *ipmiRig) ipmitool(t testing.TB, suite string, args ...string) (string, error) {
	t.Helper()
	host, port, _ := net.SplitHostPort(r.addr)
	all := []string{"-I", "lanplus", "-H", host, "-p", port, "-U", "root", "-E"}
	if suite != "" {
		all = append(all, "-C", suite)
	}
	return said(t, needs(t, "ipmitool"), append(all, args...)...)
}

// suiteName names a cipher suite in CONFORMANCE.md.
func suiteName(suite string) string {
	if suite == "" {
		return "its own choice"
	}
	return suite
}

func TestIPMITool(t *testing.T) {
	for _, suite := range []string{"3", "17", ""} {
		t.Run("suite "+suite, func(t *testing.T) {
			r := newIPMIRig(t, Config{})
			for _, tc := range []struct {
				args string
				want string // part of what it says; "!" before: it must fail with that
			}{
				{"power status", "Chassis Power is off"},
				{"power cycle", "!Command not supported in present state"},
				{"power on", "Up/On"},
				{"power status", "Chassis Power is on"},
				{"power reset", "Reset"},
				{"power cycle", "Cycle"},
				{"power soft", "Soft"},
				{"power status", "Chassis Power is off"},
				{"mc info", "IPMI Version              : 2.0"},
				{"mc guid", testInfo().UUID},
				{"mc selftest", "passed"},
				{"chassis status", "System Power         : off"},
				{"chassis bootparam get 0", "Set In Progress : set complete"},
				{"chassis bootparam get 3", "No flag set"},
				{"chassis bootparam get 4", "Boot Info Acknowledge"},
				{"chassis bootparam get 5", "Boot Flag Invalid"},
				{"chassis bootdev pxe options=efiboot", "Set Boot Device to pxe"},
				{"chassis bootparam get 5", "Force PXE"},
				{"chassis bootparam get 5", "BIOS EFI boot"},
				{"chassis bootparam get 5", "Options apply to only next boot"},
				{"chassis bootdev disk options=persistent", "Set Boot Device to disk"},
				{"chassis bootparam get 5", "Options apply to all future boots"},
				{"chassis bootdev none", "Set Boot Device to none"},
				{"chassis identify force", "indefinite"},
				{"chassis identify 0", "off"},
				{"chassis restart_cause", "chassis power control command"},
				{"fru print 0", "Product Serial        : " + testInfo().Serial},
				{"lan print 1", "IP Address              : 127.0.0.1"},
				{"lan print 1", "RMCP+ Cipher Suites     : 3,17"},
				{"channel info 1", "802.3 LAN"},
				{"user list 1", "oper"},
				{"session info active", "ADMINISTRATOR"},
				{"sel info", "Entries"},
				{"sel list", "Initiated by"},
				{"sel clear", "Clearing SEL"},
				{"sel list", "Log area reset/cleared"},
				{"sdr list", "23 degrees C"},
				{"sdr list", "no reading"},
				{"power on", "Up/On"},
				{"sensor list", "5400.000"},
				{"sensor get Fan1", "Lower Critical        : 600.000"},
				{"dcmi power reading", "Instantaneous power reading:                   494 Watts"},
				{"sdr type temperature", "46 degrees C"},
			} {
				out, err := r.ipmitool(t, suite, strings.Fields(tc.args)...)
				want, fails := strings.CutPrefix(tc.want, "!")
				ok := (err != nil) == fails && strings.Contains(out, want)
				matrix.Note("ipmitool", tc.args, suiteName(suite), ok)
				if !ok {
					t.Errorf("ipmitool %s said %q, %v; want %q", tc.args, out, err, tc.want)
				}
			}
			if n := r.srv.Sessions(); n != 0 {
				t.Errorf("%d Redfish sessions", n)
			}
		})
	}
}

// FreeIPMI's programs need no workaround (-W).
func TestFreeIPMI(t *testing.T) {
	needs(t, "ipmipower")
	needs(t, "ipmi-chassis")
	for _, suite := range []string{"3", "17"} {
		r, cache := newIPMIRig(t, Config{}), t.TempDir()
		for _, tc := range []struct {
			line string
			want string
		}{
			{"ipmipower --stat", "off"},
			{"ipmipower --cycle --on-if-off", "ok"},
			{"ipmipower --stat", "on"},
			{"ipmipower --off --wait-until-off", "ok"},
			{"ipmi-chassis --get-chassis-status", "System Power                        : off"},
			{"ipmi-chassis --chassis-identify=FORCE", ""},
			{"ipmi-chassis --get-chassis-status", "Indefinite on"},
			// The sequence of MAAS.
			{"ipmi-config --category=chassis --verbose --commit --key-pair=Chassis_Boot_Flags:Boot_Flags_Persistent=No --key-pair=Chassis_Boot_Flags:BIOS_Boot_Type=EFI --key-pair=Chassis_Boot_Flags:Boot_Device=PXE", ""},
			{"ipmi-chassis --get-boot-flags", "PXE"},
			{"ipmi-chassis --get-boot-flags", "Extensible"},
			{"ipmi-config --category=chassis --checkout", "Chassis_Boot_Flags"},
			{"ipmipower --on", "ok"},
			{"ipmi-sensors --output-sensor-thresholds", "12V"},
			{"ipmi-sensors", "5400.00"},
			{"ipmi-dcmi --get-system-power-statistics", "494 Watts"},
			{"ipmi-sel", "Initiated"},
			{"ipmi-sel --clear", ""},
			{"ipmi-fru", "FRU"},
			{"bmc-info", "IPMI Version          : 2.0"},
		} {
			args := strings.Fields(tc.line)
			switch args[0] {
			case "ipmi-sensors", "ipmi-sel", "ipmi-fru": // their cache goes with the test
				args = append(args, "--sdr-cache-directory="+cache, "--quiet-cache")
			}
			out, err := said(t, needs(t, args[0]), append([]string{"-D", "LAN_2_0", "-h", r.addr, "-u", "oper", "-p", "op3r", "-I", suite, "-l", "OPERATOR"}, args[1:]...)...)
			ok := err == nil && strings.Contains(out, tc.want)
			matrix.Note("FreeIPMI "+args[0], cmp.Or(strings.TrimSpace(strings.TrimPrefix(tc.line, args[0])), "by itself"), suiteName(suite), ok)
			if !ok {
				t.Errorf("suite %s: %s said %q, %v; want %q", suite, tc.line, out, err, tc.want)
			}
		}
	}
}

// TestIPMIConsole: the serial console as ipmitool and FreeIPMI use it.
func TestIPMIConsole(t *testing.T) {
	// ipmiconsole knows no port but 623.
	conn, err := net.ListenPacket("udp4", "127.0.6.23:623")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI has no port 623: %v", err)
		}
		t.Skipf("no port 623 on loopback: %v", err)
	}
	r := serveIPMI(t, Config{Console: greeter{}}, conn)
	if _, err := exec.LookPath("ipmiconsole"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI has no ipmiconsole: %v", err)
		}
		t.Skip("no ipmiconsole: apt-get install freeipmi-tools")
	}
	out, err := r.ipmitool(t, "17", "sol", "info")
	if err != nil || !strings.Contains(out, "115.2") || !strings.Contains(out, "Enabled                         : true") {
		t.Errorf("ipmitool sol info: %v\n%s", err, out)
	}
	host, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, client string
		args         []string
	}{
		{"ipmitool", "ipmitool", []string{"ipmitool", "-I", "lanplus", "-C", "17", "-H", host, "-p", port, "-U", "root", "-P", "s3cret", "sol", "activate"}},
		{"ipmiconsole", "FreeIPMI ipmiconsole", []string{"ipmiconsole", "-h", host, "-u", "root", "-p", "s3cret", "-I", "17", "-l", "ADMIN"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			matrix.Test(t, tc.client, "serial over LAN: output, input, end")
			// Both want a terminal: script(1) gives them one.
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, "script", "-qfec", strings.Join(tc.args, " "), "/dev/null")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			pipe, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			buf := make([]byte, 4096)
			typed, ended := false, false
			for {
				n, err := pipe.Read(buf)
				text.Write(buf[:n])
				if !typed && strings.Contains(text.String(), "login: ") {
					typed = true
					_, _ = io.WriteString(in, "operator\r")
				}
				if !ended && strings.Contains(text.String(), "OPERATOR") {
					ended = true
					// The escape of each, at the beginning of a line.
					_, _ = io.WriteString(in, map[string]string{"ipmitool": "\r~.", "ipmiconsole": "&."}[tc.name])
				}
				if err != nil {
					break
				}
			}
			_ = cmd.Wait() // what was seen counts
			if !ended {
				t.Errorf("%s saw %q; want a login, and what was typed in capitals", tc.name, text.String())
			}
			waitFor(t, "the console to be free", func() bool { r.srv.mu.Lock(); defer r.srv.mu.Unlock(); return r.srv.solOwner == nil })
		})
	}
}

// greeter is a serial port that greets and answers in capitals.
type greeter struct{}

func (greeter) Attach(ctx context.Context, rw io.ReadWriter) error {
	if _, err := io.WriteString(rw, "login: "); err != nil {
		return err
	}
	b := make([]byte, 256)
	for {
		n, err := rw.Read(b)
		if _, werr := rw.Write([]byte(strings.ToUpper(string(b[:n])))); err != nil || werr != nil {
			return err
		}
	}
}

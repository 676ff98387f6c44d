package bmc

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ipmiSim is what OpenIPMI's ipmi_sim simulates: a BMC with one temperature
// (46 of 80, 80 and 90 degrees) and one event, whose chassis is a file.
const (
	ipmiSimLAN = `name "sim"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 %d
    priv_limit admin
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "%s"
  user 1 false "" "" user 10 none
  user 2 true "root" "s3cret" admin 10 none md2 md5 straight
`
	ipmiSimCommands = `mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02
sel_enable 0x20 1000 0x0a
main_sdr_add 0x20 0x00 0x00 0x51 0x01 0x33 0x20 0x00 0x01 0x03 0x01 0x67 0x68 0x01 0x01 0x00 0x7a 0x00 0x00 0x38 0x38 0x00 0x01 0x00 0x00 0x01 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x00 0x5a 0x50 0x46 0x00 0x00 0x00 0x02 0x02 0x00 0x00 0x00 0xc8 0x43 0x50 0x55 0x20 0x54 0x65 0x6d 0x70
sensor_add 0x20 0 1 0x01 0x01
sensor_set_value 0x20 0 1 0x2e 0
mc_enable 0x20
sel_add 0x20 0x02 0x00 0x00 0x00 0x00 0x20 0x00 0x04 0x01 0x01 0x01 0x59 0x5a 0x50
`
	ipmiSimChassis = `#!/bin/sh
# Called with: get|set|check PARAMETER [VALUE]
f="$(dirname "$0")/power"
case "$1 $2" in
"get power") echo "power:$(cat "$f")" ;;
"set power") echo "$3" > "$f" ;;
"check "*) exit 0 ;;
*) exit 1 ;;
esac
`
)

// newIPMISim starts ipmi_sim (Debian: openipmi), and waits until it answers.
func newIPMISim(t testing.TB) Target {
	t.Helper()
	sim, err := exec.LookPath("ipmi_sim")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI has no ipmi_sim")
		}
		t.Skip("no ipmi_sim on this machine: apt-get install openipmi")
	}
	free, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = free.Close()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"lan": fmt.Sprintf(ipmiSimLAN, addr.Port(), filepath.Join(dir, "chassis")), "commands": ipmiSimCommands, "chassis": ipmiSimChassis, "power": "0\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, sim, "-n", "-c", filepath.Join(dir, "lan"), "-f", filepath.Join(dir, "commands"), "-s", filepath.Join(dir, "state"))
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("ipmi_sim said %q", said.String())
		}
	})
	target := Target{Name: "sim", Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addr.Port()), Protocol: IPMI, User: "root", Password: "s3cret",
		Timeout: 5 * time.Second, PowerWait: 5 * time.Second}
	for end := time.Now().Add(10 * time.Second); ; {
		c, err := Open(t.Context(), target)
		if err == nil {
			_ = c.Close(t.Context()) // it answers
			return target
		}
		if time.Now().After(end) {
			t.Fatalf("ipmi_sim does not answer: %v", err)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestIPMISim: our client with a BMC that we did not write. It speaks cipher
// suite 3 alone.
func TestIPMISim(t *testing.T) {
	matrix.Test(t, "fettle, IPMI, with ipmi_sim", "power, sensors, event log, wrong password")
	target := newIPMISim(t)
	c, err := Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		do   Action
		want Power
	}{{"", Off}, {PowerOn, On}, {PowerOff, Off}} {
		if tc.do != "" {
			if err := c.SetPower(t.Context(), tc.do); err != nil {
				t.Errorf("SetPower(%s) = %v", tc.do, err)
			}
		}
		if p, err := c.Power(t.Context()); err != nil || p != tc.want {
			t.Errorf("Power() after %q = %s, %v; want %s", tc.do, p, err, tc.want)
		}
	}
	rs, err := c.Sensors(t.Context())
	if err != nil || len(rs.Sensors) != 1 || rs.Sensors[0].Name != "CPU Temp" || rs.Sensors[0].Reading == nil || *rs.Sensors[0].Reading != 46 {
		t.Errorf("Sensors() = %+v, %v; want CPU Temp of 46", rs, err)
	}
	l, err := c.Log(t.Context())
	if err != nil || len(l) != 1 {
		t.Errorf("Log() = %+v, %v; want one event", l, err)
	}
	if err := c.ClearLog(t.Context()); err != nil {
		t.Errorf("ClearLog() = %v", err)
	}
	if l, err := c.Log(t.Context()); err != nil || len(l) > 1 {
		t.Errorf("Log() after ClearLog() = %+v, %v; want at most the clearing", l, err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	target.Password = "wrong"
	_, err = Open(t.Context(), target)
	wantErr(t, err, ErrPassword, "sim")
}

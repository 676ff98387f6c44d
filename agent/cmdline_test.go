package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParseCmdline(t *testing.T) {
	b, err := ParseCmdline("BOOT_IMAGE=/vmlinuz console=tty0 console=ttyS0,115200n8 fettle.server=https://10.0.0.1:8443/ fettle.token=abc-1 quiet \"fettle.mac=52:54:00:AA:00:01\" fettle.rescue\n")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := b.Server.String(), "https://10.0.0.1:8443"; got != want {
		t.Errorf("Server = %s; want %s", got, want)
	}
	if got, want := string(b.Token), "abc-1"; got != want {
		t.Errorf("Token = %s; want %s", got, want)
	}
	if got, want := b.MAC.String(), "52:54:00:aa:00:01"; got != want {
		t.Errorf("MAC = %s; want %s", got, want)
	}
	if !b.Rescue {
		t.Error("Rescue = false; want true")
	}
	if want := []string{"tty0", "ttyS0"}; !slices.Equal(b.Consoles, want) {
		t.Errorf("Consoles = %v; want %v", b.Consoles, want)
	}
	if s := fmt.Sprintf("%v %+v %#v %s", b, b, b, b.Token); strings.Contains(s, "abc-1") {
		t.Errorf("printing a Boot shows the token: %s", s)
	}
}

func TestParseCmdlineErrors(t *testing.T) {
	for _, c := range []struct{ name, line, want string }{
		{"no scheme", "fettle.server=10.0.0.1:8443", "fettle.server"},
		{"other scheme", "fettle.server=ftp://10.0.0.1", "fettle.server"},
		{"user info", "fettle.server=https://a:b@10.0.0.1", "fettle.server"},
		{"bad MAC", "fettle.mac=nonsense", "fettle.mac"},
		{"InfiniBand MAC", "fettle.mac=00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01", "fettle.mac"},
		{"token with a blank", `"fettle.token=a b"`, "fettle.token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := ParseCmdline(c.line); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ParseCmdline(%q) = %v; want an error that names %s", c.line, err, c.want)
			}
		})
	}
}

func FuzzParseCmdline(f *testing.F) {
	f.Add("console=ttyS0 fettle.server=https://10.0.0.1:8443 fettle.token=x fettle.mac=52:54:00:00:00:01")
	f.Add(`"fettle.mac= fettle.server="`)
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseCmdline(s)
		if err != nil {
			return
		}
		if b.Server != nil && b.Server.Host == "" {
			t.Errorf("ParseCmdline(%q).Server = %v; want a host", s, b.Server)
		}
		if b.MAC != nil && len(b.MAC) != 6 {
			t.Errorf("ParseCmdline(%q).MAC = %v; want 6 bytes", s, b.MAC)
		}
		for _, c := range b.Consoles {
			if strings.Contains(c, "/") {
				t.Errorf("ParseCmdline(%q).Consoles has %q; want a device name", s, c)
			}
		}
	})
}

func TestServerAddr(t *testing.T) {
	for line, want := range map[string]string{
		"fettle.server=https://10.90.0.1:8443":       "10.90.0.1",
		"fettle.server=https://[2001:db8::1]:8443":   "2001:db8::1",
		"fettle.server=https://[::ffff:10.0.0.1]:80": "10.0.0.1",
		"fettle.server=https://fettle.example.org":   "invalid IP",
		"quiet": "invalid IP",
	} {
		b, err := ParseCmdline(line)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.ServerAddr().String(); got != want {
			t.Errorf("ServerAddr of %q = %s; want %s", line, got, want)
		}
	}
}

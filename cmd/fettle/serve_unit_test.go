package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/site"
)

// TestServerCertificateIsRenewed: a server that runs for years always shows a
// certificate that is in force, and makes no more of them than it must.
func TestServerCertificateIsRenewed(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	ca, err := site.NewCA("test", now)
	if err != nil {
		t.Fatal(err)
	}
	conf, err := serverTLS(ca, nil, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	serials := map[string]bool{}
	for range 3 * 365 {
		c, err := conf.GetCertificate(nil)
		if err != nil {
			t.Fatalf("GetCertificate on %s: %v", now, err)
		}
		if now.Before(c.Leaf.NotBefore) || now.AddDate(0, 0, 30).After(c.Leaf.NotAfter) {
			t.Fatalf("on %s the certificate is valid from %s to %s; want it in force for 30 days more", now, c.Leaf.NotBefore, c.Leaf.NotAfter)
		}
		serials[c.Leaf.SerialNumber.String()] = true
		now = now.AddDate(0, 0, 1)
	}
	if n := len(serials); n < 24 || n > 26 {
		t.Errorf("%d certificates in three years; want one in 45 days", n)
	}
	now = now.AddDate(100, 0, 0)
	if _, err := conf.GetCertificate(nil); err == nil || !strings.Contains(err.Error(), "the CA is valid from") {
		t.Errorf("GetCertificate after the CA's end = %v; want an error that names the CA's days", err)
	}
}

// TestSiteTarget: what the site file and its secrets say of a BMC is what it is
// spoken to by, over the server's own network.
func TestSiteTarget(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	var out bytes.Buffer
	e := &env{stdin: strings.NewReader("admin:pw:with:colons\n"), stdout: &out, stderr: &out, getenv: func(name string) string {
		return map[string]string{"HOME": filepath.Dir(dir)}[name]
	}}
	for _, args := range [][]string{{"init", dir}, {"secret", "set", "good", "--site", dir}} {
		if status := run(t.Context(), e, append([]string{"fettle"}, args...)); status != exitOK {
			t.Fatalf("fettle %v = %d\n%s", args, status, &out)
		}
	}
	secrets, err := site.OpenSecrets(dir, filepath.Join(filepath.Dir(dir), ".config/fettle/identity.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := secrets.Set("bad", site.NewSecret("no colon")); err != nil {
		t.Fatal(err)
	}
	ca, err := site.LoadCA(dir, secrets)
	if err != nil {
		t.Fatal(err)
	}
	errNet := errors.New("no network in this test")
	var dialled []string
	dial := func(_ context.Context, network, addr string) (net.Conn, error) {
		dialled = append(dialled, network+" "+addr)
		return nil, errNet
	}
	at := netip.MustParseAddr("192.0.2.11")
	pin := strings.Repeat("ab", 32)
	for _, tc := range []struct {
		name string
		bmc  site.BMC
		want string // in the error
		addr string
	}{
		{"redfish", site.BMC{Address: at, Protocol: site.Redfish, Secret: "good", Fingerprint: pin}, "", "192.0.2.11:443"},
		{"ipmi", site.BMC{Address: at, Protocol: site.IPMI, Secret: "good"}, "", "192.0.2.11:623"},
		{"a port of its own", site.BMC{Address: at, Port: 8443, Protocol: site.Redfish, Secret: "good"}, "", "192.0.2.11:8443"},
		{"no address", site.BMC{Secret: "good"}, "machine m has no BMC address in r1.yaml:7", ""},
		{"no secret named", site.BMC{Address: at}, "names no secret in r1.yaml:7: add secret: NAME", ""},
		{"a secret that is not set", site.BMC{Address: at, Secret: "none"}, "fettle secret set none", ""},
		{"not USER:PASSWORD", site.BMC{Address: at, Secret: "bad"}, "secret bad must be USER:PASSWORD", ""},
	} {
		tg, err := siteTarget(site.Machine{Name: "m", BMC: tc.bmc, Pos: site.Pos{File: "r1.yaml", Line: 7}}, secrets, ca, dial)
		if tc.want != "" {
			if err == nil || !strings.Contains(err.Error(), tc.want) || exitStatus(err) != exitInput {
				t.Errorf("%s: siteTarget = %v (%d); want %q", tc.name, err, exitStatus(err), tc.want)
			}
			continue
		}
		if err != nil || tg.Address.String() != tc.addr || tg.User != "admin" || string(tg.Password) != "pw:with:colons" || tg.Fingerprint != tc.bmc.Fingerprint {
			t.Errorf("%s: siteTarget = %+v, %v; want %s with the secret's user and password", tc.name, tg, err, tc.addr)
			continue
		}
		// IPMI goes by UDP, over the same network.
		dialled = nil
		tg.Dial(t.Context(), "tcp", tc.addr)
		tg.DialUDP(t.Context(), tc.addr)
		if got := strings.Join(dialled, ", "); got != "tcp "+tc.addr+", udp "+tc.addr {
			t.Errorf("%s: dialled %s; want TCP and UDP to %s", tc.name, got, tc.addr)
		}
	}
}

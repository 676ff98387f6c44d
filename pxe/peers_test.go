//go:build linux

package pxe

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// peerRig is a server with real peers' wire: two namespaces, one veth pair.
func peerRig(t *testing.T) (*fixture, *netns, string) {
	t.Helper()
	server, client := vethPair(t)
	f := newFixture(t)
	f.now = time.Now
	loader := pattern(300_000)
	f.files = mapFiles{"loaders/undionly.kpxe": loader, "agent/vmlinuz": pattern(2 << 20)}
	server.serve(t, f.Server, "srv0")
	return f, client, loader
}

// TestPeersDHCP lets real clients get, renew and give back an address.
func TestPeersDHCP(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte(`#!/bin/sh
env | sed -n 's/^\(new_ip_address\|new_routers\|new_domain_name_servers\|new_host_name\|new_dhcp_lease_time\|ip\|router\|dns\|hostname\|lease\|reason\)=/&/p' | sort >> "$OUT" 2>/dev/null
echo "event $1" >> "$OUT"
a=${new_ip_address:-$ip}
if [ -n "$a" ]; then ip addr replace "$a/24" dev cli0; fi
exit 0
`), 0o755); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "dhclient.conf")
	if err := os.WriteFile(conf, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	t.Setenv("OUT", out)
	for _, tc := range []struct {
		tool    string
		args    []string
		release []string
		want    []string
	}{
		{"dhclient", []string{"-1", "-v", "-cf", conf, "-lf", dir + "/leases", "-pf", dir + "/pid", "-sf", script, "-e", "OUT=" + out, "cli0"},
			[]string{"-r", "-cf", conf, "-lf", dir + "/leases", "-pf", dir + "/pid", "-sf", script, "cli0"},
			[]string{"new_ip_address=192.0.2.10", "new_routers=192.0.2.254", "new_domain_name_servers=192.0.2.53", "new_host_name=node-1", "new_dhcp_lease_time=3600"}},
		{"udhcpc", []string{"-i", "cli0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-s", script}, nil,
			[]string{"ip=192.0.2.10", "router=192.0.2.254", "dns=192.0.2.53", "hostname=node-1", "lease=3600"}},
	} {
		t.Run(tc.tool, func(t *testing.T) {
			needTool(t, tc.tool)
			f, client, _ := peerRig(t)
			os.Remove(out)
			log := client.run(t, append([]string{tc.tool}, tc.args...)...)
			if tc.release != nil {
				log += client.run(t, append([]string{tc.tool}, tc.release...)...)
			}
			b, err := os.ReadFile(out)
			if err != nil {
				t.Fatalf("%v\n%s", err, log)
			}
			for _, w := range tc.want {
				if !strings.Contains(string(b), w+"\n") {
					t.Errorf("%s did not get %q:\n%s%s", tc.tool, w, b, log)
				}
			}
			if _, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.ack" }); !ok {
				t.Errorf("no ACK:\n%s", f.timeline.text())
			}
			if tc.release == nil {
				return // udhcpc 1.35 says that it releases, and sends nothing
			}
			if err := eventually(t.Context(), 10*time.Second, func() bool {
				_, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == "dhcp.release" })
				return ok
			}); err != nil {
				t.Errorf("no RELEASE arrived: %v\n%s%s", err, f.timeline.text(), log)
			}
		})
	}
}

// TestPeersTFTP fetches with tftp-hpa and atftp, atftp with a window too.
func TestPeersTFTP(t *testing.T) {
	f, client, loader := peerRig(t)
	client.run(t, "ip", "addr", "add", "192.0.2.10/24", "dev", "cli0")
	for i, tc := range []struct {
		name string
		args []string
	}{
		{"tftp-hpa", []string{"tftp", "-m", "binary", "192.0.2.1", "-c", "get", "undionly.kpxe", "OUT"}},
		{"atftp", []string{"atftp", "-g", "-r", "/undionly.kpxe", "-l", "OUT", "192.0.2.1"}},
		{"atftp with options", []string{"atftp", "--option", "blksize 1428", "--option", "tsize", "-g", "-r", "loaders/undionly.kpxe", "-l", "OUT", "192.0.2.1"}},
		{"atftp with a window", []string{"atftp", "--option", "blksize 1428", "--option", "windowsize 8", "-g", "-r", `\undionly.kpxe`, "-l", "OUT", "192.0.2.1"}},
		{"curl", []string{"curl", "-sS", "-o", "OUT", "tftp://192.0.2.1/undionly.kpxe"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			needTool(t, tc.args[0])
			out := filepath.Join(t.TempDir(), fmt.Sprintf("out%d", i))
			args := append([]string(nil), tc.args...)
			for i := range args {
				if args[i] == "OUT" {
					args[i] = out
				}
			}
			log := client.run(t, args...)
			b, err := os.ReadFile(out)
			if err != nil || sha256.Sum256(b) != sha256.Sum256([]byte(loader)) {
				t.Errorf("fetched %d bytes, %v; want %d\n%s%s", len(b), err, len(loader), log, f.timeline.text())
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if out, _ := client.command(ctx, "tftp", "-m", "binary", "192.0.2.1", "-c", "get", "nope", "/dev/null").CombinedOutput(); haveTool("tftp") && !strings.Contains(string(out), "no such file") {
		t.Errorf("tftp get nope says %q; want the server's \"no such file\"", out)
	}
}

// TestPeersHTTP fetches with curl.
func TestPeersHTTP(t *testing.T) {
	needTool(t, "curl")
	f, client, _ := peerRig(t)
	client.run(t, "ip", "addr", "add", "192.0.2.10/24", "dev", "cli0")
	url := f.order[0].BaseURL() + "/files/agent/vmlinuz"
	if got := client.run(t, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", url); got != "200 2097152" {
		t.Errorf("GET = %q; want 200 2097152", got)
	}
	if got := client.run(t, "curl", "-sS", "-o", "/dev/null", "-r", "100-199", "-w", "%{http_code} %{size_download}", url); got != "206 100" {
		t.Errorf("GET of a range = %q; want 206 100", got)
	}
	if got := client.run(t, "curl", "-sSI", url); !strings.Contains(got, "Content-Length: 2097152\r\n") {
		t.Errorf("HEAD = %q; want a Content-Length", got)
	}
	if got := client.run(t, "curl", "-sS", "--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", "http://192.0.2.1//boot//files/agent/vmlinuz"); got != "200" {
		t.Errorf("GET of double slashes = %q; want 200", got)
	}
}

//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeConf writes a peer's configuration.
func writeConf(b *benchRig, dir, name, text string) string {
	b.t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
	return path
}

func peerFettle() benchPeer {
	return benchPeer{"fettle", "", func(b *benchRig, dir string) [][]string {
		return [][]string{{b.bin, "serve", "--state", dir + "/state", "--socket", dir + "/s"}}
	}}
}

// peerKea logs as Debian's own kea-dhcp4.conf has it, to a file.
func peerKea() benchPeer { return peerKeaLogging("kea", "INFO") }

// peerQuietKea logs nothing of what it gives to whom.
func peerQuietKea() benchPeer { return peerKeaLogging("kea without its log", "ERROR") }

func peerKeaLogging(name, severity string) benchPeer {
	return benchPeer{name, "kea-dhcp4", func(b *benchRig, dir string) [][]string {
		conf := writeConf(b, dir, "kea.json", fmt.Sprintf(`{"Dhcp4": {
  "interfaces-config": {"interfaces": ["srv0"], "dhcp-socket-type": "udp"},
  "lease-database": {"type": "memfile", "persist": true, "name": "%[1]s/leases.csv", "lfc-interval": 0},
  "valid-lifetime": 43200,
  "subnet4": [{"id": 1, "subnet": "10.0.0.0/8", "relay": {"ip-addresses": [%[2]q]}, "pools": [{"pool": "10.0.0.1 - 10.3.255.254"}]}],
  "loggers": [{"name": "kea-dhcp4", "severity": %[3]q, "output_options": [{"output": "%[1]s/kea.log", "pattern": "%%-5p %%m\n"}]}]
}}`, dir, benchRelay, severity))
		return [][]string{{"env", "KEA_PIDFILE_DIR=" + dir, "KEA_LOCKFILE_DIR=none", "kea-dhcp4", "-c", conf}}
	}}
}

func peerDhcpd() benchPeer {
	return benchPeer{"dhcpd", "dhcpd", func(b *benchRig, dir string) [][]string {
		conf := writeConf(b, dir, "dhcpd.conf", `authoritative;
ping-check off;
default-lease-time 43200;
subnet 198.18.0.0 netmask 255.255.0.0 { }
subnet 10.0.0.0 netmask 255.0.0.0 { range 10.0.0.1 10.0.255.254; }
`)
		leases := writeConf(b, dir, "dhcpd.leases", "")
		return [][]string{{"dhcpd", "-4", "-f", "-q", "-cf", conf, "-lf", leases, "-pf", dir + "/pid", "srv0"}}
	}}
}

// peerDnsmasq answers DHCP, and TFTP from the folder of files.
func peerDnsmasq(more ...string) benchPeer {
	return benchPeer{"dnsmasq", "dnsmasq", func(b *benchRig, dir string) [][]string {
		return [][]string{append([]string{"dnsmasq", "-k", "--user=root", "--conf-file=/dev/null", "--port=0", "--no-ping", "--bind-interfaces", "--interface=srv0", "--quiet-dhcp", "--quiet-tftp", "--log-facility=-",
			"--dhcp-leasefile=" + dir + "/leases", "--pid-file=" + dir + "/pid", "--dhcp-range=10.0.0.1,10.3.255.254,255.0.0.0,12h", "--dhcp-range=198.18.128.1,198.18.255.254,255.255.0.0,1h", "--dhcp-lease-max=400000",
			"--enable-tftp", "--tftp-root=" + b.tftp, "--tftp-max=1000"}, more...)}
	}}
}

func peerTftpd() benchPeer {
	return benchPeer{"tftpd-hpa", "in.tftpd", func(b *benchRig, _ string) [][]string {
		return [][]string{{"in.tftpd", "-L", "-u", "root", "-a", benchServer + ":69", "-s", b.tftp}}
	}}
}

func peerAtftpd() benchPeer {
	return benchPeer{"atftpd", "atftpd", func(b *benchRig, dir string) [][]string {
		return [][]string{{"atftpd", "--daemon", "--no-fork", "--user", "root", "--group", "root", "--port", "69", "--bind-address", benchServer, "--maxthread", "1000", "--verbose=0", "--logfile", dir + "/log", b.tftp}}
	}}
}

// peerNginx serves the folder of files below /boot/files/.
func peerNginx() benchPeer {
	return benchPeer{"nginx", "nginx", func(b *benchRig, dir string) [][]string {
		conf := writeConf(b, dir, "nginx.conf", strings.NewReplacer("DIR", dir, "WWW", b.tftp, "SERVER", benchServer).Replace(`daemon off;
user root;
worker_processes 1;
pid DIR/nginx.pid;
error_log stderr error;
events { worker_connections 4096; multi_accept on; }
http {
  access_log DIR/access.log;
  client_body_temp_path DIR; proxy_temp_path DIR; fastcgi_temp_path DIR; uwsgi_temp_path DIR; scgi_temp_path DIR;
  sendfile on; tcp_nopush on; sendfile_max_chunk 2m;
  server {
    listen SERVER:80 backlog=4096;
    location /boot/files/ { alias WWW/; }
    location = /boot/script { default_type text/plain; return 200 "#!ipxe\nkernel http://SERVER/boot/files/vmlinuz\ninitrd http://SERVER/boot/files/initrd\nboot\n"; }
  }
}
`))
		return [][]string{{"nginx", "-e", dir + "/error.log", "-c", conf}}
	}}
}

// peerPair is dnsmasq and nginx, as one boot server.
func peerPair() benchPeer {
	d, n := peerDnsmasq("--dhcp-match=set:ipxe,175", "--dhcp-match=set:efi,option:client-arch,7", "--dhcp-boot=tag:!ipxe,tag:!efi,undionly.kpxe,,"+benchServer, "--dhcp-boot=tag:!ipxe,tag:efi,snponly.efi,,"+benchServer,
		"--dhcp-boot=tag:ipxe,http://"+benchServer+"/boot/script", "--dhcp-no-override"), peerNginx()
	return benchPeer{"dnsmasq+nginx", "dnsmasq,nginx", func(b *benchRig, dir string) [][]string {
		return append(d.start(b, dir), n.start(b, dir)...)
	}}
}

// needBench skips unless the benchmarks are asked for.
func needBench(t *testing.T) {
	t.Helper()
	if os.Getenv("FETTLE_BENCH") == "" {
		t.Skip("takes minutes and all processors: make bench-pxe")
	}
}

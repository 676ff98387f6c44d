//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// strangeCert is a certificate that a BMC made itself.
func strangeCert(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestEnrollRack is the technician with a new server: a machine that the site
// does not have boots by PXE into inspection, fettle discover lists it and its
// BMC, fettle enroll writes it down and takes its BMC over, and it can be
// planned. A BMC that asks for an address is discovered too.
func TestEnrollRack(t *testing.T) {
	r := newRackRig(t)
	_, err := exec.LookPath("dhclient")
	e2eNeed(t, err, "a program is missing")
	// The site has node-02 alone, and gives BMCs addresses.
	_, second, _ := strings.Cut(rackMachinesYAML, "  - name: node-02")
	r.write("site/machines/r1.yaml", "# Rack 1, from below.\nmachines:\n  - name: node-02"+second)
	r.write("site/site.yaml", strings.Replace(rackSiteYAML, "    prefix: 10.91.0.0/24\n", "    prefix: 10.91.0.0/24\n    server: 10.91.0.1\n    pools: [{from: 10.91.0.100, to: 10.91.0.109}]\n", 1))
	r.want(0, "", "site", "check")
	const uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	q := newQEMUChassis(t, r, uuid)
	q.args = func(bool) []string { // an old server: BIOS, and the network first
		return []string{"qemu-system-x86_64", "-name", r.ns.name, "-machine", "q35,graphics=off", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "2048",
			"-display", "none", "-monitor", "none", "-serial", "file:" + r.path("console"), "-uuid", uuid, "-smbios", "type=1,serial=RACK0001",
			"-drive", "if=none,id=d0,format=raw,cache=unsafe,file=" + r.path("disk.raw"), "-device", "virtio-blk-pci,drive=d0,serial=RACKDISK0001,bootindex=2",
			"-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n0,mac=02:00:00:90:00:11,bootindex=1", "-device", "virtio-rng-pci"}
	}
	r.serveBMC("10.91.0.11", strangeCert(t), q)
	if res := r.fettle(rackBuildWait, "", "image", "build", "all"); res.status != 0 {
		t.Fatalf("fettle image build all = %d\n%s%s", res.status, res.stdout, res.stderr)
	}
	sv := r.serve()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("serve:\n%s", sv.log)
			t.Logf("console:\n%s", tail(r.path("console"), 6000))
		}
	})
	if !strings.Contains(sv.log.String(), "network bmc on bmc0: DHCP for BMCs at 10.91.0.1") {
		t.Errorf("fettle serve says\n%s\nwant DHCP for BMCs", sv.log)
	}
	discovered := func(args ...string) (list []state.Discovery) {
		decode(t, r.want(0, "", append([]string{"discover", "--output", "json"}, args...)...).stdout, &list)
		return list
	}

	// The machine boots, by its own firmware's order.
	if err := q.SetBoot(t.Context(), vbmc.Boot{Target: vbmc.BootPxe, Enabled: "Once", Mode: "Legacy"}); err != nil {
		t.Fatal(err)
	}
	if err := q.Reset(t.Context(), vbmc.ResetOn); err != nil {
		t.Fatal(err)
	}

	// Meanwhile: a BMC asks for an address, and others are searched.
	cli := newRackNS(t)
	cli.run(t, "ip", "link", "add", "cli0", "address", "02:00:00:91:00:77", "type", "veth", "peer", "name", "veth1", "netns", r.ns.name)
	r.ns.run(t, "ip", "link", "set", "veth1", "master", "bmc0", "up")
	cli.run(t, "ip", "link", "set", "cli0", "up")
	r.write("dhclient.conf", `send vendor-class-identifier "iDRAC";`+"\n")
	log := cli.run(t, "dhclient", "-4", "-1", "-v", "-cf", r.path("dhclient.conf"), "-lf", r.path("leases"), "-pf", r.path("pid"), "-sf", "/bin/true", "cli0")
	cli.run(t, "dhclient", "-4", "-x", "-cf", r.path("dhclient.conf"), "-lf", r.path("leases"), "-pf", r.path("pid"), "-sf", "/bin/true", "cli0")
	if !strings.Contains(log, "bound to 10.91.0.100") {
		t.Errorf("dhclient as an iDRAC said\n%s\nwant an address of the BMCs' pool", log)
	}
	res := r.want(0, "", "discover", "bmc", "--prefix", "10.91.0.0/28", "--timeout", "4s") // a machine boots beside
	t.Logf("fettle discover bmc, in %s:\n%s", res.took.Round(time.Millisecond), res.stdout)
	if !strings.Contains(res.stdout, "10.91.0.11") {
		t.Errorf("fettle discover bmc found\n%s\nwant 10.91.0.11", res.stdout)
	}
	var dell, answered bool
	for _, d := range discovered() {
		dell = dell || d.Sort == state.SortBMC && d.Vendor == "Dell" && d.BMC.MAC.String() == "02:00:00:91:00:77" && d.BMC.Addr.String() == "10.91.0.100"
		answered = answered || d.Sort == state.SortBMC && d.BMC.Addr.String() == "10.91.0.11" && d.BMC.Redfish != "" && len(d.BMC.Fingerprint) == 64
	}
	if !dell || !answered {
		t.Errorf("fettle discover lists %+v; want the iDRAC that asked and the BMC that answered", discovered())
	}

	var found state.Discovery
	r.await(8*time.Minute, "the machine is inspected", func() (bool, error) {
		for _, d := range discovered() {
			if d.Sort == state.SortMachine && d.State == state.WasInspected {
				found = d
				return true, nil
			}
		}
		return false, nil
	})
	t.Logf("inspected %s after it was first seen:\n%s", found.Last.Sub(found.First).Round(time.Second), r.want(0, "", "discover").stdout)
	if found.Serial != "RACK0001" || found.CPUs != 2 || len(found.Disks) != 1 || found.Disks[0].Serial != "RACKDISK0001" || len(found.NICs) != 1 || !found.NICs[0].Boot || found.Firmware != "bios" {
		t.Errorf("discovered: %+v; want the machine as QEMU has it", found)
	}
	if why := r.want(0, "", "machine", "why", "02:00:00:90:00:11").stdout; !strings.Contains(why, "mac-020000900011") || !strings.Contains(why, "fettle enroll takes it into the site") {
		t.Errorf("fettle machine why MAC says\n%s\nwant how it was inspected", why)
	}

	r.write("old", rackBMCPassword+"\n")
	args := []string{"enroll", "--profile", "base", "--rack", "r1", "--unit", "3", "--bmc", "10.91.0.11", "--bmc-user", rackBMCUser, "--bmc-password-file", r.path("old"), "node-01", "02:00:00:90:00:11"}
	res = r.want(exitRefused, "", args...)
	if !strings.Contains(res.stdout, "+  - name: node-01\n") || !strings.Contains(res.stderr, "change the password of the BMC at 10.91.0.11: say --yes") {
		t.Errorf("fettle enroll without a yes = %s%s; want the diff, and what it would do", res.stdout, res.stderr)
	}
	res = r.want(0, "", append(args, "--yes")...)
	t.Logf("fettle enroll:\n%s%s", res.stdout, res.stderr)
	text, err := os.ReadFile(r.path("site/machines/r1.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Rack 1, from below.\n", "  - name: node-01\n    rack: r1\n    unit: 3\n    serial: RACK0001\n    firmware: bios\n    cpus: 2\n    memory: 2GiB\n    bmc: {address: 10.91.0.11, protocol: redfish, secret: bmc-node-01, fingerprint: ",
		`      - {mac: "02:00:00:90:00:11", network: prov, address: 10.90.0.13, boot: true}`, "      - {serial: RACKDISK0001, size: 8GiB}\n    profile: base\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the site's file lacks %q:\n%s", want, text)
		}
	}
	r.says(sv, "site rack read again (2 machines")
	if list := discovered(); len(list) != 1 {
		t.Errorf("discovered after enrolment: %+v; want the iDRAC alone", list)
	}
	plan := r.want(0, "", "plan", "node-01").stdout
	if !strings.Contains(plan, "disk RACKDISK0001 is wiped") {
		t.Errorf("fettle plan node-01 = %s; want it possible", plan)
	}
	// Its BMC is opened with the new password, by the pinned certificate.
	if res := r.want(0, "", "bmc", "power", "status", "--direct", "node-01"); !strings.Contains(res.stdout, "node-01  on") {
		t.Errorf("fettle bmc power status = %q; want node-01 on", res.stdout)
	}
	now := strings.TrimSpace(r.want(0, "", "secret", "get", "bmc-node-01").stdout)
	if now == rackBMCUser+":"+rackBMCPassword || !strings.HasPrefix(now, rackBMCUser+":") {
		t.Error("the BMC's secret is not a new password of its user")
	}
	out := r.ns.run(t, "curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-u", rackBMCUser+":"+rackBMCPassword, "https://10.91.0.11/redfish/v1/Systems")
	if out != "401" {
		t.Errorf("the BMC answers %s to the old password; want 401", out)
	}
	res = r.want(exitInput, "", "enroll", "--yes", "node-03", "RACK0001")
	if !strings.Contains(res.stderr, "RACK0001 is machine node-01 of the site already (machines/r1.yaml:3)") {
		t.Errorf("fettle enroll of what is enrolled says %s; want where it is", res.stderr)
	}

	// A server that never booted, by its BMC alone.
	r.ns.run(t, "ip", "addr", "add", "10.91.0.14/32", "dev", "bmc0")
	r.serveBMC("10.91.0.14", strangeCert(t), vbmc.NewMemory(vbmc.Info{Name: "new", Serial: "RACK0014", Manufacturer: "Acme", Model: "GX8", CPUs: 64, MemoryMiB: 512 << 10,
		NICs:   []vbmc.NIC{{ID: "NIC1", MAC: "02:00:00:90:00:14", Link: true}, {ID: "NIC2", MAC: "02:00:00:90:01:14"}},
		Drives: []vbmc.Drive{{ID: "Disk1", Serial: "RACKDISK0014", Bytes: 960197124096}}}))
	r.want(0, "", "discover", "bmc", "--prefix", "10.91.0.14")
	r.want(0, "", "enroll", "--yes", "--firmware", "uefi", "--profile", "base", "--bmc-user", rackBMCUser, "--bmc-password-file", r.path("old"), "node-03", "10.91.0.14")
	s, err := site.Load(r.path("site"))
	if err != nil {
		t.Fatal(err)
	}
	if m, _ := s.Machine("node-03"); m.Serial != "RACK0014" || m.Memory.String() != "512GiB" || len(m.NICs) != 2 || m.NICs[0].MAC.String() != "02:00:00:90:00:14" || !m.NICs[0].Boot ||
		len(m.Disks) != 1 || m.Disks[0].Size.String() != "960GB" || m.BMC.Secret != "bmc-node-03" || len(m.BMC.Fingerprint) != 64 {
		t.Errorf("machine node-03 = %+v; want what its BMC says", m)
	}
	sv.stop(t)
}

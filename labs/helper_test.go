package labs

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/site"
)

// skip skips a test that needs what this machine lacks; CI must not lack it.
func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot run in CI: %s", reason)
	}
	t.Skip(reason)
}

func mustMAC(t *testing.T, s string) site.MAC {
	t.Helper()
	m, err := site.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// testSite is two servers as a rack has them, one of each firmware.
func testSite(t *testing.T) *site.Site {
	t.Helper()
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	s := &site.Site{
		Name: "hall", Domain: "hall.example.org",
		Networks: []site.Network{
			{Name: "boot", Purpose: site.PurposeBoot, Prefix: prefix("192.0.2.0/24"), VLAN: 20, Server: addr("192.0.2.1"), Gateway: addr("192.0.2.1"),
				MTU: 1500, Lease: time.Hour, Domain: "hall.example.org"},
			{Name: "oob", Purpose: site.PurposeBMC, Prefix: prefix("198.51.100.0/24"), Server: addr("198.51.100.1"), MTU: 1500, Lease: time.Hour, Domain: "hall.example.org"},
			{Name: "storage", Purpose: site.PurposeData, Prefix: prefix("203.0.113.0/24"), VLAN: 30, MTU: 9000, Lease: time.Hour, Domain: "hall.example.org"},
		},
		Racks:    []site.Rack{{Name: "r1", Units: 42}},
		Images:   []site.Image{{Name: "bookworm", OS: "debian", Suite: "bookworm", Components: []string{"main"}, Arch: "amd64", Size: 3 << 30}},
		Profiles: []site.Profile{{Name: "train", Image: "bookworm", Layout: site.Layout{Disk: "first"}}},
		Secrets:  []site.SecretName{{Name: "bmc"}},
		Policy:   site.Policy{OnDifference: site.Stop, UnknownMachines: site.Inspect},
	}
	bmc := func(last string) site.BMC {
		return site.BMC{Address: addr("198.51.100." + last), Network: "oob", Protocol: site.Redfish, Secret: "bmc"}
	}
	s.Machines = []site.Machine{
		{
			Name: "gpu-01", Rack: "r1", Unit: 1, Serial: "SN-0001", UUID: "4c4c4544-0001-4a10-8035-b1c04f503732", Firmware: site.BIOS,
			CPUs: 224, Memory: 2 << 40, BMC: bmc("11"),
			NICs: []site.NIC{
				{MAC: mustMAC(t, "b8:3f:d2:00:01:01"), Network: "boot", Address: addr("192.0.2.11"), Boot: true},
				{MAC: mustMAC(t, "b8:3f:d2:00:01:02"), Network: "storage", Address: addr("203.0.113.11")},
				{MAC: mustMAC(t, "b8:3f:d2:00:01:03")},
			},
			Disks: []site.Disk{{Serial: "S6XXNE0T100001", Model: "SAMSUNG MZQL21T9", Size: 1920e9}, {Serial: "PHAB-NVME-0000-0000-A00002", Size: 100 << 20}},
			GPUs:  []site.GPU{{Model: "NVIDIA H100 SXM5 80GB", PCI: "10de:2330", Count: 8}, {Model: "ASPEED", PCI: "1a03:2000", Count: 1}}, Profile: "train",
		},
		{
			Name: "gpu-02", Rack: "r1", Unit: 9, Serial: "SN-0002", UUID: "4c4c4544-0002-4a10-8035-b1c04f503732", Firmware: site.UEFI,
			BMC:   bmc("12"),
			NICs:  []site.NIC{{MAC: mustMAC(t, "b8:3f:d2:00:02:01"), Network: "boot", Address: addr("192.0.2.12"), Boot: true}},
			Disks: []site.Disk{{Serial: "S6XXNE0T200001", SectorSize: 4096}}, GPUs: []site.GPU{{Model: "NVIDIA A2", PCI: "10de:25b6", Count: 1}}, Profile: "train",
		},
	}
	if err := s.Validate(); err != nil {
		t.Fatalf("the test's site: %v", err)
	}
	return s
}

package agent

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/agent/wire"
)

// tree makes files; a content that begins with "-> " is a symbolic link.
func tree(t *testing.T, files map[string]string) Roots {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			must(t, os.MkdirAll(filepath.Join(filepath.Dir(p), target), 0o755))
			must(t, os.Symlink(target, p))
			continue
		}
		must(t, os.WriteFile(p, []byte(content), 0o644))
	}
	return Roots{Sys: filepath.Join(dir, "sys"), Proc: filepath.Join(dir, "proc"), Dev: filepath.Join(dir, "dev"), PCINames: filepath.Join(dir, "pci.ids")}
}

// A server with two sockets, as the attributes of real ones look.
var server = map[string]string{
	"proc/sys/kernel/osrelease": "6.1.0-56-amd64\n",
	"proc/meminfo":              "MemTotal:        1000000 kB\nMemFree: 1 kB\n",
	"proc/cpuinfo": strings.Repeat("processor\t: 0\nmodel name\t: Xeon 9\nphysical id\t: 0\ncore id\t: 0\n\n", 2) +
		"processor\t: 2\nmodel name\t: Xeon 9\nphysical id\t: 0\ncore id\t: 1\n\n" +
		"processor\t: 3\nmodel name\t: Xeon 9\nphysical id\t: 1\ncore id\t: 0\n",
	"sys/class/dmi/id/sys_vendor":                                              "Dell Inc.\n",
	"sys/class/dmi/id/product_name":                                            "PowerEdge XE9680\n",
	"sys/class/dmi/id/product_serial":                                          "SN-1\n",
	"sys/class/dmi/id/product_uuid":                                            "4C4C4544-0000-1111-2222-333344445555\n",
	"sys/class/dmi/id/bios_vendor":                                             "Dell\n",
	"sys/class/dmi/id/bios_version":                                            "1.2.3\n",
	"sys/firmware/dmi/tables/DMI":                                              string(dmiTable()),
	"sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": "\x06\x00\x00\x00\x01",

	"sys/block/loop0/size":                   "100\n",
	"sys/block/sr0/size":                     "100\n",
	"sys/block/zram0/size":                   "100\n",
	"sys/block/md0/size":                     "100\n",
	"sys/block/nvme0n1/size":                 "2048\n",
	"sys/block/nvme0n1/device/serial":        "S5XX   \n",
	"sys/block/nvme0n1/device/model":         "SAMSUNG MZ   \n",
	"sys/block/nvme0c0n1/size":               "2048\n",
	"sys/block/nvme0c0n1/hidden":             "1\n",
	"sys/block/sda/size":                     "4096\n",
	"sys/block/sda/ro":                       "1\n",
	"sys/block/sda/device/vendor":            "ATA     \n",
	"sys/block/sda/device/model":             "INTEL SSD\n",
	"sys/block/sda/device/vpd_pg80":          "\x00\x80\x00\x0a  PHYG0001",
	"sys/block/sdb/size":                     "4096\n",
	"sys/block/sdb/removable":                "1\n",
	"sys/block/sdb/device/vendor":            "SEAGATE\n",
	"sys/block/sdb/device/model":             "ST1000\n",
	"sys/block/sdb/device/wwid":              "t10.ATA     QEMU HARDDISK             QM00001 \n",
	"sys/block/sdc/size":                     "0\n",
	"sys/block/vda/size":                     "2048\n",
	"sys/block/vda/serial":                   "DISK-1\n",
	"sys/block/sda/queue/logical_block_size": "512\n",
	"sys/block/vda/queue/logical_block_size": "4096\n",
	"sys/block/vda/device/vendor":            "0x1af4\n",

	"sys/devices/pci0000:00/0000:01:00.0/net/eth0/address": "52:54:00:AA:00:01\n",
	"sys/class/net/eth0": "-> ../../devices/pci0000:00/0000:01:00.0/net/eth0",
	"sys/devices/pci0000:00/0000:01:00.0/net/eth0/device":          "-> ../..",
	"sys/devices/pci0000:00/0000:01:00.0/net/eth0/carrier":         "1\n",
	"sys/devices/pci0000:00/0000:01:00.0/net/eth0/speed":           "100000\n",
	"sys/devices/pci0000:00/0000:01:00.0/driver":                   "-> ../../../bus/pci/drivers/mlx5_core",
	"sys/devices/pci0000:00/0000:00:02.0/virtio1/net/eth1/address": "52:54:00:aa:00:02\n",
	"sys/devices/pci0000:00/0000:00:02.0/virtio1/net/eth1/device":  "-> ../..",
	"sys/class/net/eth1":       "-> ../../devices/pci0000:00/0000:00:02.0/virtio1/net/eth1",
	"sys/class/net/lo/address": "00:00:00:00:00:00\n",

	"sys/bus/pci/devices/0000:01:00.0/vendor": "0x15b3\n",
	"sys/bus/pci/devices/0000:01:00.0/device": "0x1021\n",
	"sys/bus/pci/devices/0000:01:00.0/class":  "0x020000\n",
	"sys/bus/pci/devices/0000:03:00.0/vendor": "0x10DE\n",
	"sys/bus/pci/devices/0000:03:00.0/device": "0x2330\n",
	"sys/bus/pci/devices/0000:03:00.0/class":  "0x030200\n",
	"sys/bus/pci/devices/0000:04:00.0/vendor": "0x1da3\n",
	"sys/bus/pci/devices/0000:04:00.0/device": "0x1020\n",
	"sys/bus/pci/devices/0000:04:00.0/class":  "0x120000\n",

	"pci.ids": "# list\n10de  NVIDIA Corporation\n\t2330  GH100 [H100 SXM5 80GB]\n\t\t10de 16c1  sub\n1da3  Habana\n",
}

// dmiTable has modules of 32 GiB (extended field), 16 GiB (MiB), 512 KiB (KiB)
// and two slots without any.
func dmiTable() []byte {
	var table []byte
	add := func(kind byte, size uint16, extended uint32, strs string) {
		s := make([]byte, 40)
		s[0], s[1] = kind, byte(len(s))
		binary.LittleEndian.PutUint16(s[12:], size)
		binary.LittleEndian.PutUint32(s[28:], extended)
		table = append(append(table, s...), strs+"\x00\x00"...)
	}
	add(1, 500, 0, "Dell\x00SN-1")
	add(17, 0x7fff, 32<<10, "DIMM A\x00Bank")
	add(17, 16<<10, 0, "DIMM B")
	add(17, 0x8000|512, 0, "")
	add(17, 0, 0, "empty")
	add(17, 0xffff, 0, "unknown")
	add(127, 0, 0, "")
	return table
}

func TestInventory(t *testing.T) {
	r := tree(t, server)
	got, err := r.Inventory("v1")
	if err != nil {
		t.Fatal(err)
	}
	want := wire.Inventory{
		Agent: "v1", Kernel: "6.1.0-56-amd64",
		System:   wire.System{Manufacturer: "Dell Inc.", Product: "PowerEdge XE9680", Serial: "SN-1", UUID: "4c4c4544-0000-1111-2222-333344445555"},
		CPU:      wire.CPU{Arch: runtime.GOARCH, Model: "Xeon 9", Sockets: 2, Cores: 3, Threads: 4},
		Memory:   48<<30 + 512<<10,
		Firmware: wire.Firmware{Kind: "uefi", Vendor: "Dell", Version: "1.2.3", SecureBoot: true},
		Disks: []wire.Disk{
			{Name: "nvme0n1", Serial: "S5XX", Model: "SAMSUNG MZ", Bytes: 1 << 20, Transport: "nvme"},
			{Name: "sda", Serial: "PHYG0001", Model: "INTEL SSD", Bytes: 2 << 20, SectorSize: 512, Transport: "sata", ReadOnly: true},
			{Name: "sdb", Serial: "QM00001", Model: "SEAGATE ST1000", Bytes: 2 << 20, Transport: "scsi", Removable: true},
			{Name: "vda", Serial: "DISK-1", Bytes: 1 << 20, SectorSize: 4096, Transport: "virtio"},
		},
		NICs: []wire.NIC{{Name: "eth0", MAC: "52:54:00:aa:00:01", Link: true, Mbps: 100000, Driver: "mlx5_core", PCI: "0000:01:00.0"},
			{Name: "eth1", MAC: "52:54:00:aa:00:02", PCI: "0000:00:02.0"}},
		PCI: []wire.PCI{
			{Address: "0000:01:00.0", ID: "15b3:1021", Class: "020000"},
			{Address: "0000:03:00.0", ID: "10de:2330", Class: "030200"},
			{Address: "0000:04:00.0", ID: "1da3:1020", Class: "120000"},
		},
		GPUs: []wire.GPU{
			{PCI: "10de:2330", Address: "0000:03:00.0", Model: "NVIDIA Corporation GH100 [H100 SXM5 80GB]"},
			{PCI: "1da3:1020", Address: "0000:04:00.0"},
		},
	}
	gv, wv := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range gv.NumField() {
		if !reflect.DeepEqual(gv.Field(i).Interface(), wv.Field(i).Interface()) {
			t.Errorf("Inventory.%s = %+v; want %+v", gv.Type().Field(i).Name, gv.Field(i), wv.Field(i))
		}
	}
}

func TestInventoryOfABareMachine(t *testing.T) {
	r := tree(t, map[string]string{"proc/cpuinfo": "processor: 0\n", "proc/meminfo": "MemTotal: 1024 kB\n", "sys/firmware/dmi/tables/DMI": "\x11\xff\x00"})
	got, err := r.Inventory("v1")
	if err != nil {
		t.Fatal(err)
	}
	if got.Firmware.Kind != "bios" || got.Memory != 1<<20 || got.CPU.Cores != 1 || got.BMC != nil || len(got.Disks) != 0 {
		t.Errorf("Inventory() = %+v; want a BIOS machine with 1 MiB, one core, no BMC, no disks", got)
	}
	if _, err := tree(t, nil).Inventory("v1"); err == nil {
		t.Error("Inventory() without /proc = nil; want an error")
	}
}

func TestLAN(t *testing.T) {
	answers := func(a map[[2]byte][]byte) func([]byte) ([]byte, error) {
		return func(req []byte) ([]byte, error) {
			if res, ok := a[[2]byte{req[0], req[1]}]; ok {
				return res, nil
			}
			return nil, errors.New("timeout")
		}
	}
	mac := []byte{0, 0x11, 2, 3, 4, 5, 6, 0xaa}
	for _, c := range []struct {
		name string
		a    map[[2]byte][]byte
		want wire.BMC
	}{
		{"channel 1", map[[2]byte][]byte{{1, 5}: mac, {1, 3}: {0, 0x11, 10, 0, 0, 9}}, wire.BMC{Address: "10.0.0.9", MAC: "02:03:04:05:06:aa"}},
		{"channel 8, 1 has none", map[[2]byte][]byte{{1, 5}: {0xcc}, {8, 5}: mac, {8, 3}: {0, 0x11, 10, 0, 0, 9}}, wire.BMC{Address: "10.0.0.9", MAC: "02:03:04:05:06:aa"}},
		{"no address yet", map[[2]byte][]byte{{1, 5}: mac, {1, 3}: {0, 0x11, 0, 0, 0, 0}}, wire.BMC{MAC: "02:03:04:05:06:aa"}},
		{"short answers", map[[2]byte][]byte{{1, 5}: {0, 0x11, 2}}, wire.BMC{}},
		{"silent", nil, wire.BMC{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := lanOf(answers(c.a)); *got != c.want {
				t.Errorf("lanOf = %+v; want %+v", *got, c.want)
			}
		})
	}
}

func TestDeviceOf(t *testing.T) {
	for _, c := range []struct {
		name string
		id   []byte
		want wire.BMC
	}{
		{"a BMC of Dell's", []byte{0, 0x20, 0x81, 0x86, 0x10, 0x02, 0xdf, 0xa2, 0x02, 0x00, 0, 1, 0, 0, 0, 0}, wire.BMC{Firmware: "6.10", IPMI: "2.0", IANA: 674}},
		{"IPMI 1.5, no auxiliary revision", []byte{0, 0x20, 1, 2, 0x05, 0x51, 0xbf, 0x57, 1, 0, 0, 0}, wire.BMC{Firmware: "2.05", IPMI: "1.5", IANA: 343}},
		{"refused", []byte{0xc1}, wire.BMC{}},
		{"half an answer", []byte{0, 0x20, 1}, wire.BMC{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got wire.BMC
			if deviceOf(&got, c.id); got != c.want {
				t.Errorf("deviceOf(%x) = %+v; want %+v", c.id, got, c.want)
			}
		})
	}
}

func FuzzSMBIOSMemory(f *testing.F) {
	f.Add(dmiTable())
	f.Add([]byte{17, 4, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := smbiosMemory(b); n < 0 {
			t.Errorf("smbiosMemory = %d; want no negative sum", n)
		}
	})
}

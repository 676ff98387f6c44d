package bmc

import (
	"archive/tar"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// tree reads a crawled BMC: one index.json a resource.
func tree(t *testing.T, name string) map[string][]byte {
	t.Helper()
	file := filepath.Join("..", "..", "shared", "bmc-trees", name+".tar.zst")
	f, err := os.Open(file)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI has no %s: %v", file, err)
		}
		t.Skipf("no %s beside this checkout", file)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		p := strings.TrimPrefix(h.Name, "./")
		if p = strings.TrimPrefix(p, name); path.Base(p) != "index.json" {
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[path.Dir(p)] = b
	}
	if len(out) < 100 {
		t.Fatalf("%s holds %d resources; want more", file, len(out))
	}
	return out
}

// treeRig serves a crawled BMC with a session service of our own. It ignores
// queries, as the DMTF's mock-up server does.
func treeRig(t *testing.T, name string) (*rig, *int) {
	res := tree(t, name)
	open := 0
	r := &rig{}
	r.serve(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		p := strings.TrimRight(q.URL.Path, "/")
		if p == sessionsURI && q.Method == http.MethodPost {
			open++
			w.Header().Set("X-Auth-Token", "tok")
			w.Header().Set("Location", "https://bmc.example.org"+sessionsURI+"/7") // absolute, as some have it
			w.WriteHeader(http.StatusCreated)
			return
		}
		if p != "/redfish/v1" && q.Header.Get("X-Auth-Token") != "tok" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if p == sessionsURI+"/7" && q.Method == http.MethodDelete {
			open--
			w.WriteHeader(http.StatusNoContent)
			return
		}
		b, ok := res[p]
		if !ok {
			http.NotFound(w, q)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(b)
	}))
	return r, &open
}

func TestTrees(t *testing.T) {
	for _, tc := range []struct {
		name                           string
		status                         Status
		cpus, dimms, mib, nics, drives int
		gpus                           int
		gpu                            GPU
		drive                          Drive
		mac                            string
		arch                           string
	}{
		{
			name: "dell",
			status: Status{Power: On, Boot: NextBoot{Device: BootNone, UEFI: true}, Health: "OK", Vendor: "Dell Inc.", Model: "PowerEdge R750", Serial: "CNIVC0014M0388",
				SKU: "F54P1G3", UUID: "4c4c4544-0035-3410-8050-c6c04f314733", Firmware: "6.00.30.00", BIOS: "1.8.2"},
			cpus: 2, dimms: 16, mib: 512 * 1024, nics: 6, drives: 3, gpus: 1,
			gpu:   GPU{ID: "Video.Slot.2-1", Vendor: "NVIDIA Corporation", Model: "NVIDIA H100 PCIe", Serial: "1654422007043", PCI: "10de:2331", Health: "OK"},
			drive: Drive{ID: "Disk.Bay.2:Enclosure.Internal.0-1", Serial: "61P0A06CTCD8", Vendor: "KIOXIA Corporation", Model: "Dell Ent NVMe CM6 RI 1.92TB", Bytes: 1920383410176, Protocol: "PCIe", Firmware: "2.1.3", Health: "OK"},
			mac:   "70:b5:e8:f0:52:dc", arch: "amd64",
		},
		{
			name: "lenovo",
			status: Status{Power: On, Boot: NextBoot{Device: BootNone, UEFI: true}, Health: "OK", Vendor: "Lenovo", Model: "ThinkSystem SR670 V2", Serial: "J105958B",
				SKU: "7Z23CTO1WW", UUID: "6173ecec-6ef5-11ee-834a-0a8fc3a58a71", Firmware: "TGBT42S 2.83 2023-07-05", BIOS: "U8E122J"},
			cpus: 2, dimms: 16, mib: 1024 * 1024, nics: 4, drives: 4, gpus: 8,
			gpu:   GPU{ID: "GPU1", Vendor: "NVIDIA Corporation", Model: "NVIDIA L40", Serial: "1325322005680", PCI: "10de:26b5", Firmware: "95.02.39.00.01", Health: "OK"},
			drive: Drive{ID: "Drive.M.2_Bay_0", Serial: "233442ABA3AB", Vendor: "Micron", Model: "Micron_7450_MTFDKBA960TFR", Bytes: 960000000000, Protocol: "NVMe", Firmware: "E2MU200", Health: "OK"},
			mac:   "00:62:0b:4c:28:4e", arch: "amd64",
		},
		{
			name: "nvidia_gb200",
			status: Status{Power: On, Boot: NextBoot{Device: BootNone}, Health: "OK", Vendor: "NVIDIA", Model: "GB200 NVL", Serial: "1333024020524",
				UUID: "501f2928-84ea-8579-cf52-dc2dbd2e4656", Firmware: "GB200Nvl-24.12-8"},
			cpus: 2, dimms: 2, mib: 960 * 1024, nics: 0, drives: 9, gpus: 4,
			gpu:   GPU{ID: "GPU_0", Vendor: "NVIDIA", Model: "GB200 NVL", Health: "OK"},
			drive: Drive{ID: "200", Serial: "S6RMNG0X506940", Vendor: "Samsung", Model: "SAMSUNG MZTL23T8HCLS-00A07", Bytes: 3840755982336, Protocol: "NVMe", Firmware: "GDC6602Q"},
			arch:  "arm64",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, open := treeRig(t, tc.name)
			c := r.open(t)
			st, err := c.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if st != tc.status {
				t.Errorf("Status() = %+v;\nwant %+v", st, tc.status)
			}
			t.Logf("%d requests to open and read the status", r.count())
			inv, err := c.Inventory(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d requests in all; missing: %v", r.count(), inv.Missing)
			for _, n := range []struct {
				what      string
				got, want int
			}{{"CPUs", len(inv.CPUs), tc.cpus}, {"DIMMs", len(inv.Memory), tc.dimms}, {"MiB", inv.MemoryMiB, tc.mib}, {"NICs", len(inv.NICs), tc.nics},
				{"drives", len(inv.Drives), tc.drives}, {"GPUs", len(inv.GPUs), tc.gpus}} {
				if n.got != n.want {
					t.Errorf("%d %s; want %d", n.got, n.what, n.want)
				}
			}
			for _, c := range inv.CPUs {
				if c.Arch != tc.arch {
					t.Errorf("CPU %s is %q; want %s", c.ID, c.Arch, tc.arch)
				}
			}
			if len(inv.GPUs) > 0 && inv.GPUs[0] != tc.gpu {
				t.Errorf("first GPU = %+v;\nwant %+v", inv.GPUs[0], tc.gpu)
			}
			if len(inv.Drives) > 0 && inv.Drives[0] != tc.drive {
				t.Errorf("first drive = %+v;\nwant %+v", inv.Drives[0], tc.drive)
			}
			if tc.mac != "" && (len(inv.NICs) == 0 || inv.NICs[0].MAC != tc.mac) {
				t.Errorf("NICs = %+v; want the first to be %s", inv.NICs, tc.mac)
			}
			if len(inv.Firmware) == 0 {
				t.Error("no firmware versions")
			}
			if err := c.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if *open != 0 {
				t.Errorf("%d sessions left; want 0", *open)
			}
		})
	}
}

// A BMC whose boot override cannot last says so before it is asked.
func TestTreeRefusals(t *testing.T) {
	r, _ := treeRig(t, "lenovo")
	c := r.open(t)
	err := c.SetNextBoot(t.Context(), NextBoot{Device: BootDisk, Permanent: true, UEFI: true})
	wantErr(t, err, ErrUnsupported, "offers only Once, Disabled, not Continuous")
	err = c.SetNextBoot(t.Context(), NextBoot{Device: BootHTTP, UEFI: true})
	wantErr(t, err, ErrUnsupported, "not UefiHttp")
}

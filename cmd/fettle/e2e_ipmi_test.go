package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/images"
)

// guestScript is what the guest does with its own /dev/ipmi0: it looks, as an
// installed system does, and takes the BMC over in the way of MAAS.
const guestScript = `#!/bin/sh
export PATH=/rig:/usr/sbin:/usr/bin:/sbin:/bin LD_LIBRARY_PATH=/rig/lib
mkdir -p /proc /sys /dev /tmp /run
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
modprobe ipmi_si; modprobe ipmi_devintf
for i in $(seq 100); do [ -c /dev/ipmi0 ] && break; sleep 0.2; done
do_() { echo "== $*"; "$@"; echo "-- $?"; }
do_ ipmitool mc info
do_ ipmitool lan print 1
do_ ipmitool channel info
do_ ipmitool event 1
do_ ipmitool mc watchdog get
do_ ipmitool chassis status
do_ ipmi-config --category=core --commit --key-pair=User4:Username=maas
do_ ipmi-config --category=core --commit --key-pair=User4:Password=Guest-made-1
do_ ipmi-config --category=core --commit --key-pair=User4:Enable_User=Yes
do_ ipmi-config --category=core --commit --key-pair=User4:Lan_Privilege_Limit=Operator
do_ ipmi-config --category=core --commit --key-pair=User4:Lan_Enable_IPMI_Msgs=Yes
do_ ipmi-config --category=core --checkout -S Lan_Conf_Security_Keys
do_ ipmi-locate
do_ ipmitool chassis power off
sleep 60
`

// TestGuestIPMI boots the agent's kernel in a real VM whose KCS interface is a
// virtual BMC's, and uses that BMC from both sides at once.
func TestGuestIPMI(t *testing.T) {
	if testing.Short() {
		t.Skip("a real virtual machine takes a minute: not with -short")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	e2eNeed(t, err, "a program is missing")
	dir, err := os.MkdirTemp("/tmp", "fi") // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	kernel, initrd := guestBoot(t, dir)

	mem := vbmc.NewMemory(vbmc.Info{Name: "gpu-01", UUID: "4c4c4544-0001-4a10-8035-b1c04f503732", Serial: "SN-0001", Manufacturer: "fettle", Model: "rig"})
	if err := mem.SetLAN(t.Context(), vbmc.LAN{MAC: "02:fb:00:00:00:01", HostName: "gpu-01-bmc"}); err != nil {
		t.Fatal(err)
	}
	if err := mem.Reset(t.Context(), vbmc.ResetOn); err != nil {
		t.Fatal(err)
	}
	srv, err := vbmc.New(vbmc.Config{Chassis: mem, Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}})
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	kcs, err := net.Listen("unix", filepath.Join(dir, "kcs"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	life, end := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	wg.Go(func() {
		if err := srv.ServeIPMI(life, udp); err != nil {
			t.Errorf("ServeIPMI() = %v", err)
		}
	})
	wg.Go(func() {
		if err := srv.ServeSystemInterface(life, kcs); err != nil {
			t.Errorf("ServeSystemInterface() = %v", err)
		}
	})

	vm := exec.CommandContext(ctx, qemu, "-machine", "q35", "-accel", "tcg", "-cpu", "qemu64", "-m", "640", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1 rdinit=/rig/init", "-serial", "stdio",
		"-chardev", "socket,id=ipmi,path="+filepath.Join(dir, "kcs")+",reconnect=1", "-device", "ipmi-bmc-extern,id=bmc,chardev=ipmi", "-device", "isa-ipmi-kcs,id=kcs,bmc=bmc")
	vm.WaitDelay = 5 * time.Second
	out, err := vm.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said guestText
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { _, _ = io.Copy(&said, out) }) // ends with the VM
	defer vm.Wait()
	defer vm.Process.Kill()
	// The guest's last command is seen from outside.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if p, err := mem.Power(ctx); err != nil || p == vbmc.Off {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the guest did not power its machine off in time; it said:\n%s", said.String())
		case <-tick.C:
		}
	}
	text := said.String()
	t.Logf("the guest said:\n%s", text)
	for _, part := range strings.Split(text, "== ")[1:] {
		command, rest, _ := strings.Cut(part, "\n")
		if !strings.Contains(rest, "-- 0") && !strings.HasPrefix(command, "ipmitool chassis power off") {
			t.Errorf("in the guest %s failed", strings.TrimSpace(command))
		}
	}
	for _, want := range []string{"IPMI Version              : 2.0", "02:fb:00:00:00:01", "127.0.0.1", "KCS", "Lan_Conf_Security_Keys", "System Power         : on"} {
		if !strings.Contains(text, want) {
			t.Errorf("the guest said nothing of %q", want)
		}
	}
	// The other sides: the guest's event, and the account that it made.
	req := httptest.NewRequestWithContext(ctx, http.MethodGet, "/redfish/v1/Systems/1/LogServices/SEL/Entries?$expand=.", nil)
	req.SetBasicAuth("maas", "Guest-made-1")
	answer := httptest.NewRecorder()
	if srv.ServeHTTP(answer, req); answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), "sent by the machine itself over IPMI") {
		t.Errorf("Redfish, asked by the account that the guest made, shows %d %s; want the guest's event", answer.Code, answer.Body)
	}
	host, port, _ := net.SplitHostPort(udp.LocalAddr().String())
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"-U", "root", "-P", "s3cret", "sel", "list"}, "Temperature"},
		{[]string{"-U", "maas", "-P", "Guest-made-1", "-L", "OPERATOR", "power", "status"}, "Chassis Power is off"},
	} {
		cmd := exec.CommandContext(ctx, "ipmitool", append([]string{"-I", "lanplus", "-H", host, "-p", port, "-C", "17"}, tc.args...)...)
		cmd.Env = append(os.Environ(), "HOME="+dir)
		if b, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(b), tc.want) {
			t.Errorf("ipmitool %v over LAN said %q, %v; want %q", tc.args, b, err, tc.want)
		}
	}
}

// guestText is what the guest says, while it says it.
type guestText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (g *guestText) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Write(p)
}

func (g *guestText) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.String()
}

// guestBoot is the agent's kernel, and its ramdisk with the programs of this
// machine that the script needs, and their libraries, in a second archive.
func guestBoot(t *testing.T, dir string) (kernel, initrd string) {
	t.Helper()
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	at := os.Getenv("FETTLE_STORE")
	if at == "" {
		at = filepath.Join(repo, ".cache", "store")
	}
	store, err := images.OpenStore(at)
	e2eNeed(t, err, "the store of images")
	rel, ok, err := store.Latest(t.Context(), images.AgentName("amd64"))
	if err != nil {
		t.Fatal(err)
	}
	if !ok { // the first test that needs it builds it
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, e2eBinary(t, repo, dir), "image", "build", "agent", "--store", at).CombinedOutput()
		e2eNeed(t, err, fmt.Sprintf("building the agent's ramdisk: %s", out))
		if rel, ok, err = store.Latest(t.Context(), images.AgentName("amd64")); err != nil || !ok {
			t.Fatalf("the agent's release is not in %s after it was built: %v", at, err)
		}
	}
	copyOut := func(name string, w io.Writer) {
		r, err := store.Open(t.Context(), rel, name)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
	}
	kernel, initrd = filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd")
	for name, path := range map[string]string{"vmlinuz": kernel, "initrd": initrd} {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		copyOut(name, f)
		if name == "initrd" {
			if n, err := f.Seek(0, io.SeekCurrent); err != nil {
				t.Fatal(err)
			} else if _, err := f.Write(make([]byte, -n&511)); err != nil { // archives begin at words
				t.Fatal(err)
			}
			if _, err := f.Write(guestArchive(t, dir)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return kernel, initrd
}

var libraryPath = regexp.MustCompile(`(/\S+) \(0x`)

// guestArchive is a cpio archive with /rig.
func guestArchive(t *testing.T, dir string) []byte {
	t.Helper()
	root := filepath.Join(dir, "root")
	rig := filepath.Join(root, "rig")
	if err := os.MkdirAll(filepath.Join(rig, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	names := []string{"rig", "rig/lib", "rig/init"}
	put := func(from, to string) {
		if slices.Contains(names, to) {
			return
		}
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(root, to), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, to)
	}
	if err := os.WriteFile(filepath.Join(rig, "init"), []byte(guestScript), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ipmitool", "ipmi-config", "ipmi-locate"} {
		path, err := exec.LookPath(name)
		e2eNeed(t, err, "a program is missing")
		libs, err := exec.CommandContext(t.Context(), "ldd", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		put(path, "rig/"+name)
		for _, m := range libraryPath.FindAllStringSubmatch(string(libs), -1) {
			if strings.Contains(m[1], "ld-linux") { // by its full name, and the ramdisk has it
				continue
			}
			put(m[1], "rig/lib/"+filepath.Base(m[1]))
		}
	}
	cmd := exec.CommandContext(t.Context(), "cpio", "-o", "-H", "newc", "--quiet")
	cmd.Dir = root
	cmd.Stdin = strings.NewReader(strings.Join(names, "\n") + "\n")
	out, err := cmd.Output()
	e2eNeed(t, err, "cpio")
	return out
}

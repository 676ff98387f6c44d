//go:build cgo && libvirt_dlopen

package labs

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/site"
)

// realLibvirt is the daemon that this user's labs use; the test is skipped
// where none answers.
func realLibvirt(t *testing.T) string {
	t.Helper()
	uri := DefaultURI()
	hv, err := connect(uri)
	if err != nil {
		skip(t, err.Error())
	}
	hv.close()
	var r realization
	if err := r.findTools(t.Context(), &Plan{Machines: []MachinePlan{{Firmware: site.UEFI}}}); err != nil {
		skip(t, err.Error())
	}
	return uri
}

// labDir is short, since sockets are in it, and can be reached by other users.
func labDir(t *testing.T) string {
	t.Helper()
	parent, err := os.MkdirTemp("/tmp", "fl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(parent); err != nil {
			t.Errorf("after Down something is left in %s: %v", parent, err)
		}
	})
	if err := os.Chmod(parent, 0o711); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(parent, "lab")
}

// running opens the lab and runs it until stop is called.
func running(t *testing.T, p *Plan) (l *Lab, stop func()) {
	t.Helper()
	l, err := Open(t.Context(), Config{Plan: p, Progress: func(s Step) { t.Logf("%s: %s", s.Machine, s.Text) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v; want nil", err)
		}
		if err := l.Close(); err != nil {
			t.Errorf("Close = %v; want nil", err)
		}
	}
	t.Cleanup(stop)
	return l, stop
}

// discovers waits for a DHCPDISCOVER (RFC 2131 §3.1) of mac on the network and
// returns the UUID of its option 97 (RFC 4578 §2.3).
func discovers(t *testing.T, l *Lab, network string, mac site.MAC) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	pc, err := l.Host(network).ListenPacket(ctx, netip.AddrPortFrom(netip.IPv4Unspecified(), 67))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if err := pc.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2048)
	for {
		n, _, err := pc.ReadFrom(b)
		if err != nil {
			t.Fatalf("no DHCPDISCOVER of %s on network %s: %v", mac, network, err)
		}
		if n < 240 || !bytes.Equal(b[28:34], mac[:]) {
			continue
		}
		for o := b[240:n]; len(o) > 2 && o[0] != 255; o = o[2+int(o[1]):] {
			if o[0] == 97 && o[1] == 17 {
				return hex.EncodeToString(o[3:19])
			}
			if len(o) < 2+int(o[1]) {
				break
			}
		}
		return ""
	}
}

// within polls cond for at most three minutes.
func within(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not happen within three minutes", what)
		case <-tick.C:
		}
	}
}

func consoleSays(l *Lab, machine, text string) func() bool {
	return func() bool {
		b, err := os.ReadFile(ConsoleLog(l.Dir(), machine))
		return err == nil && bytes.Contains(b, []byte(text))
	}
}

// TestLibvirtLab takes a lab of both firmwares through its life: made, powered
// on by its BMCs, heard on the fabric and on consoles, its daemon restarted
// under the running guests, taken down.
func TestLibvirtLab(t *testing.T) {
	uri := realLibvirt(t)
	whole := t
	s := testSite(t)
	for i := range s.Machines {
		s.Machines[i].SecureBoot = s.Machines[i].Firmware == site.UEFI
	}
	p, err := NewPlan(s, Options{Name: "labtest", Dir: labDir(t), URI: uri, Memory: 512 << 20, CPUs: 1, DiskSize: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	l, stop := running(t, p)
	t.Cleanup(func() { // whatever happens
		stop()
		if err := Down(context.WithoutCancel(t.Context()), p.Options, nil); err != nil {
			t.Errorf("Down = %v; want nil", err)
		}
	})
	for range 2 { // idempotent
		if err := l.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range p.Machines {
		if got, err := l.Chassis(m.Name).Power(t.Context()); got != vbmc.Off || err != nil {
			t.Errorf("power of %s after Up = %v, %v; want Off", m.Name, got, err)
		}
	}
	if _, err := Open(t.Context(), Config{Plan: p}); !errors.Is(err, ErrRunning) {
		t.Errorf("Open of a lab that is open = %v; want ErrRunning", err)
	}
	if !t.Run("power on to the network", func(t *testing.T) {
		for _, m := range p.Machines {
			c := l.Chassis(m.Name)
			if err := c.SetBoot(t.Context(), vbmc.Boot{Target: vbmc.BootPxe, Enabled: once}); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := c.Reset(t.Context(), vbmc.ResetOn); err != nil {
				t.Fatal(err)
			}
			uuid := discovers(t, l, "boot", m.NICs[0].MAC)
			t.Logf("%s (%s): DHCPDISCOVER after %.1f s", m.Name, m.Firmware, time.Since(began).Seconds())
			// RFC 4578 §2.3 sends the UUID as SMBIOS has it: little-endian fields.
			if want := smbiosUUID(m.UUID); uuid != want {
				t.Errorf("option 97 of %s = %s; want the site's UUID as %s", m.Name, uuid, want)
			}
			if got, err := c.Boot(t.Context()); err != nil || got.Enabled != disabled || got.Target != vbmc.BootNone {
				t.Errorf("boot override of %s after power-on = %+v, %v; want it used up", m.Name, got, err)
			}
			if got, err := c.Power(t.Context()); got != vbmc.On || err != nil {
				t.Errorf("power of %s = %v, %v; want On", m.Name, got, err)
			}
		}
	}) {
		return
	}
	bios, uefi := p.Machines[0], p.Machines[1]
	t.Run("console", func(t *testing.T) {
		within(t, "iPXE on the BIOS machine's console", consoleSays(l, bios.Name, "iPXE"))
		conn, err := DialConsole(t.Context(), l.Dir(), uefi.Name)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := l.Chassis(uefi.Name).Reset(t.Context(), vbmc.ResetForceRestart); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(4 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		var said []byte
		b := make([]byte, 512)
		for !bytes.Contains(said, []byte("BdsDxe")) {
			n, err := conn.Read(b)
			if err != nil {
				t.Fatalf("the UEFI machine's console said %q and then %v; want BdsDxe", said, err)
			}
			said = append(said, b[:n]...)
		}
	})
	t.Run("the daemon is restarted", func(t *testing.T) {
		if err := l.Chassis(bios.Name).SetIdentify(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if err := l.Chassis(bios.Name).SetBoot(t.Context(), vbmc.Boot{Target: vbmc.BootPxe, Enabled: continuous}); err != nil {
			t.Fatal(err)
		}
		stop()
		l, stop = running(whole, p)
		if err := l.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := l.Chassis(bios.Name)
		if got, err := c.Power(t.Context()); got != vbmc.On || err != nil {
			t.Errorf("power of %s = %v, %v; want On: guests outlive the daemon", bios.Name, got, err)
		}
		if on, err := c.Identify(t.Context()); !on || err != nil {
			t.Errorf("identify = %v, %v; want true, as before", on, err)
		}
		if got, err := c.Boot(t.Context()); err != nil || got.Target != vbmc.BootPxe || got.Enabled != continuous {
			t.Errorf("boot override = %+v, %v; want Pxe Continuous, as before", got, err)
		}
		within(t, "the guest's QEMU connecting to the new daemon's console", l.Console(bios.Name).Connected)
		discovers(t, l, "boot", uefi.NICs[0].MAC) // the same guest, on the new switch
	})
	t.Run("listed", func(t *testing.T) {
		infos, err := List(t.Context(), uri)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range infos {
			if i.Dir == l.Dir() {
				if i.Name != p.Name || len(i.Machines) != 2 || !i.Machines[0].On || i.Daemon != os.Getpid() || !i.Folder {
					t.Errorf("List has %+v; want lab %s, two machines that are on, this process", i, p.Name)
				}
				return
			}
		}
		t.Errorf("List = %+v; want the lab in it", infos)
	})
	t.Run("another lab of the same name elsewhere", func(t *testing.T) {
		o := p.Options
		o.Dir += "2"
		q, err := NewPlan(s, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), Config{Plan: q}); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), l.Dir()) {
			t.Errorf("Open = %v; want ErrForeign that names %s", err, l.Dir())
		}
	})
	t.Run("another lab beside it", func(t *testing.T) {
		o := p.Options
		o.Dir, o.Name, o.Machines = labDir(t), "labtest-b", []string{"gpu-01"}
		q, err := NewPlan(s, o)
		if err != nil {
			t.Fatal(err)
		}
		other, _ := running(t, q)
		if err := other.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := other.Chassis("gpu-01").Reset(t.Context(), vbmc.ResetOn); err != nil {
			t.Errorf("the same machine in a second lab: %v; want both to run", err)
		}
		if err := other.Down(t.Context()); err != nil {
			t.Error(err)
		}
		if got, err := l.Chassis("gpu-01").Power(t.Context()); got != vbmc.On || err != nil {
			t.Errorf("power of the first lab's machine after the other's Down = %v, %v; want On", got, err)
		}
	})
	t.Run("down", func(t *testing.T) {
		if err := Down(t.Context(), p.Options, nil); !errors.Is(err, ErrRunning) {
			t.Errorf("Down while the daemon runs = %v; want ErrRunning", err)
		}
		dir := l.Dir()
		stop()
		// The folder's half is lost; the domains are found by their tags.
		if err := os.Remove(folder(dir).disk(bios.Name, 0)); err != nil {
			t.Fatal(err)
		}
		if err := Down(t.Context(), p.Options, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the lab's folder after Down: %v; want none", err)
		}
		hv, err := connect(uri)
		if err != nil {
			t.Fatal(err)
		}
		defer hv.close()
		domains, err := hv.domains()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range domains {
			if strings.HasPrefix(d.name, "fettle-labtest") {
				t.Errorf("domain %s is left after Down", d.name)
			}
		}
		if err := Down(t.Context(), p.Options, nil); err != nil {
			t.Errorf("Down of what is down = %v; want nil", err)
		}
	})
}

// smbiosUUID is the UUID with its first three fields little-endian (DSP0134
// §7.2.1), in hexadecimal digits.
func smbiosUUID(s string) string {
	b, _ := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	for _, f := range [][]byte{b[0:4], b[4:6], b[6:8]} {
		for i, j := 0, len(f)-1; i < j; i, j = i+1, j-1 {
			f[i], f[j] = f[j], f[i]
		}
	}
	return hex.EncodeToString(b)
}

// TestLibvirtPrivateFolder runs a lab where libvirt's own user cannot reach its
// folder: below /root, for one.
func TestLibvirtPrivateFolder(t *testing.T) {
	uri := realLibvirt(t)
	if os.Geteuid() != 0 {
		skip(t, "needs root: a session's QEMU is the user's own")
	}
	dir := labDir(t)
	if err := os.Chmod(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(testSite(t), Options{Name: "labtest-p", Dir: dir, URI: uri, Machines: []string{"gpu-02"}, Memory: 512 << 20, CPUs: 1, DiskSize: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	l, stop := running(t, p)
	t.Cleanup(func() {
		stop()
		if err := Down(context.WithoutCancel(t.Context()), p.Options, nil); err != nil {
			t.Errorf("Down = %v; want nil", err)
		}
	})
	if err := l.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Chassis("gpu-02").Reset(t.Context(), vbmc.ResetOn); err != nil {
		t.Fatal(err)
	}
	within(t, "the guest's QEMU reaching the console", l.Console("gpu-02").Connected)
	if err := l.Down(t.Context()); err != nil {
		t.Error(err)
	}
}

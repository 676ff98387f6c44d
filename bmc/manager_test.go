package bmc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

func TestMedia(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "virtual media")
	r := newRig(t)
	c := r.open(t)
	const image = "http://files.example.org/rescue.iso"
	if err := c.InsertMedia(t.Context(), image); err != nil {
		t.Fatalf("InsertMedia: %v", err)
	}
	if err := c.InsertMedia(t.Context(), image); err != nil {
		t.Errorf("InsertMedia of what is there: %v; want nil", err)
	}
	if err := c.InsertMedia(t.Context(), "http://files.example.org/other.iso"); err == nil || !strings.Contains(err.Error(), "eject it first") {
		t.Errorf("InsertMedia into a full drive: %v; want to be told to eject", err)
	}
	ms, err := c.Media(t.Context())
	if err != nil || len(ms) != 1 || ms[0].Image != image || !ms[0].Inserted {
		t.Errorf("Media = %+v, %v", ms, err)
	}
	if err := c.EjectMedia(t.Context()); err != nil {
		t.Errorf("EjectMedia: %v", err)
	}
	if err := c.EjectMedia(t.Context()); err != nil {
		t.Errorf("EjectMedia of an empty drive: %v; want nil", err)
	}
	if err := c.InsertMedia(t.Context(), "rescue.iso"); err == nil || !strings.Contains(err.Error(), "http://") {
		t.Errorf("InsertMedia of a file name: %v; want the form of a URI", err)
	}
	if err := c.InsertMedia(t.Context(), "http://unreachable/x.iso"); err == nil || !strings.Contains(err.Error(), "connection") {
		t.Errorf("InsertMedia of what is not there: %v; want the BMC's words", err)
	}
	if told, err := OpInsertMedia.Do(t.Context(), c, Image{URI: "http://u:hunter2@files.example.org/a.iso"}, Aid{}); err != nil || told != "http://u:xxxxx@files.example.org/a.iso" {
		t.Errorf("media-insert of a URI with a password = %q, %v; want it without the password", told, err)
	}
	if es, err := c.Log(t.Context()); err != nil || strings.Contains(fmt.Sprint(es), "hunter2") || !strings.Contains(fmt.Sprint(es), "@files.example.org/a.iso") {
		t.Errorf("Log = %v, %v; want the URI without its password", es, err)
	}
	if ms, err := c.Media(t.Context()); err != nil || len(ms) != 1 || ms[0].Image != "http://u:xxxxx@files.example.org/a.iso" {
		t.Errorf("Media = %+v, %v; want the URI without its password", ms, err)
	}
	if err := c.InsertMedia(t.Context(), image); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("InsertMedia into a full drive: %v; want an error without the password", err)
	}
	if err := c.EjectMedia(t.Context()); err != nil {
		t.Errorf("EjectMedia: %v", err)
	}
	r.mem.SetFault(vbmc.Fault{Lie: true})
	c.t.Timeout = time.Second
	if err := c.InsertMedia(t.Context(), image); !errors.Is(err, errNothing) {
		t.Errorf("InsertMedia to a liar: %v; want %v", err, errNothing)
	}
}

func TestSecureBoot(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "Secure Boot and its keys")
	r := newRig(t)
	c := r.open(t)
	if err := c.SetSecureBoot(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if s, err := c.SecureBoot(t.Context()); err != nil || !s.Enabled || s.Current || s.String() != "off, on from the next boot" {
		t.Errorf("SecureBoot = %+v %q, %v", s, s, err)
	}
	if err := c.SetPower(t.Context(), PowerOn); err != nil {
		t.Fatal(err)
	}
	if s, err := c.SecureBoot(t.Context()); err != nil || !s.Current {
		t.Errorf("SecureBoot after a boot = %+v, %v", s, err)
	}
	if err := c.ResetSecureBootKeys(t.Context(), NoKeys); err != nil {
		t.Fatal(err)
	}
	if s, err := c.SecureBoot(t.Context()); err != nil || s.Mode != "SetupMode" {
		t.Errorf("SecureBoot without keys = %+v, %v; want SetupMode", s, err)
	}
	r.mem.SetFault(vbmc.Fault{Lie: true})
	c.t.Timeout = time.Second
	if err := c.SetSecureBoot(t.Context(), false); !errors.Is(err, errNothing) {
		t.Errorf("SetSecureBoot of a liar: %v; want %v", err, errNothing)
	}
}

// TestManager: what both protocols can do with the BMC itself.
func TestManager(t *testing.T) {
	for _, p := range []Protocol{Redfish, IPMI} {
		t.Run(string(p), func(t *testing.T) {
			var c *Client
			var mem *vbmc.Memory
			if p == Redfish {
				r := newRig(t)
				c, mem = r.open(t), r.mem
			} else {
				r := newIPMIRig(t, vbmc.Config{})
				c, mem = r.open(t), r.mem
			}
			ctx := t.Context()
			// Power limit.
			if err := c.SetPowerLimit(ctx, 600); err != nil {
				t.Fatalf("SetPowerLimit: %v", err)
			}
			if l, err := c.PowerLimit(ctx); err != nil || l.Watts != 600 || l.Drawn == nil {
				t.Errorf("PowerLimit = %+v, %v; want 600 W", l, err)
			}
			if err := c.SetPowerLimit(ctx, 5); err == nil {
				t.Error("a power limit of 5 W was taken")
			}
			if err := c.SetPowerLimit(ctx, 0); err != nil {
				t.Errorf("SetPowerLimit(0): %v", err)
			}
			if l, err := mem.PowerLimit(ctx); err != nil || l.Watts != 0 {
				t.Errorf("the limit is %g, %v; want none", l.Watts, err)
			}
			// Clock.
			later := time.Now().Add(72 * time.Hour)
			if err := c.SetClock(ctx, func() time.Time { return later }); err != nil {
				t.Errorf("SetClock: %v", err)
			}
			if got, err := c.Clock(ctx); err != nil || got.Sub(later).Abs() > time.Minute {
				t.Errorf("Clock = %v, %v; want %v", got, err, later)
			}
			// NMI.
			if err := c.Interrupt(ctx); err == nil || !strings.Contains(err.Error(), "is off") {
				t.Errorf("Interrupt of a machine that is off: %v", err)
			}
			if err := c.SetPower(ctx, PowerOn); err != nil {
				t.Fatal(err)
			}
			if err := c.Interrupt(ctx); err != nil {
				t.Errorf("Interrupt: %v", err)
			}
			// The BMC's network.
			ns, err := c.Networks(ctx)
			if err != nil || len(ns) != 1 {
				t.Errorf("Networks = %+v, %v; want one", ns, err)
			}
			if err := c.ResetBMC(ctx); err != nil {
				t.Errorf("ResetBMC: %v", err)
			}
			if p == Redfish {
				if _, err := c.Clock(ctx); !errors.Is(err, ErrSession) {
					t.Errorf("Clock after a reset of the BMC: %v; want %v", err, ErrSession)
				}
				return
			}
			for name, err := range map[string]error{"media": second(c.Media(ctx)), "secure boot": second(c.SecureBoot(ctx)), "telemetry": second(c.Telemetry(ctx)),
				"network": c.SetNetwork(ctx, Network{DHCP: true})} {
				if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "redfish") {
					t.Errorf("%s over IPMI: %v; want unsupported, and redfish named", name, err)
				}
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

func TestSetNetwork(t *testing.T) {
	r := newRig(t)
	c := r.open(t)
	n := Network{ID: "1", Address: netip.MustParsePrefix("192.0.2.9/24"), Gateway: netip.MustParseAddr("192.0.2.1")}
	if err := c.SetNetwork(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if ns, err := c.Networks(t.Context()); err != nil || ns[0].Address != n.Address || ns[0].Gateway != n.Gateway || ns[0].DHCP {
		t.Errorf("Networks = %+v, %v; want %+v", ns, err, n)
	}
	if err := c.SetNetwork(t.Context(), Network{ID: "1", DHCP: true}); err != nil {
		t.Error(err)
	}
	if l, err := r.mem.LAN(t.Context()); err != nil || !l.DHCP {
		t.Errorf("the BMC's LAN = %+v, %v; want DHCP", l, err)
	}
	for name, n := range map[string]Network{"no address": {ID: "1"}, "no such interface": {ID: "eth9", DHCP: true}} {
		if err := c.SetNetwork(t.Context(), n); err == nil {
			t.Errorf("SetNetwork(%s) gave no error", name)
		}
	}
}

func TestTelemetry(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "metric reports")
	r := newRig(t)
	c := r.open(t)
	if err := c.SetPower(t.Context(), PowerOn); err != nil {
		t.Fatal(err)
	}
	vs, err := c.Telemetry(t.Context())
	if err != nil || len(vs) < 10 || vs[0].Property == "" || vs[0].Value == "" {
		t.Errorf("Telemetry = %+v, %v; want ten values and more", vs, err)
	}
	tree, _ := treeRig(t, "nvidia_gb200")
	if vs, err := tree.open(t).Telemetry(t.Context()); err != nil || len(vs) < 100 {
		t.Errorf("Telemetry of the GB200 tray = %d values, %v; want 100 and more", len(vs), err)
	}
}

func TestUpdateFirmware(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "firmware update")
	mem := vbmc.NewMemory(testInfo())
	srv, err := vbmc.New(vbmc.Config{Chassis: mem, Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}, UpdateTime: 50 * time.Millisecond,
		FetchImage: func(_ context.Context, uri string) (io.ReadCloser, error) {
			if !strings.HasSuffix(uri, "/bios") {
				return nil, errors.New("404")
			}
			return io.NopCloser(bytes.NewReader(vbmc.FirmwareImage("BIOS", "3.0"))), nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{mem: mem, bmc: srv}
	r.serve(t, srv)
	c := r.open(t)
	file := filepath.Join(t.TempDir(), "bios.bin")
	big := append(vbmc.FirmwareImage("BIOS", "2.0"), make([]byte, 3<<20)...)
	if err := os.WriteFile(file, big, 0o600); err != nil {
		t.Fatal(err)
	}
	var states []UpdateState
	u, err := c.UpdateFirmware(t.Context(), fileSource(file, []string{"BIOS"}), func(s UpdateState) { states = append(states, s) })
	if err != nil || strings.Join(u.Changed(), ";") != "BIOS 1.2 → 2.0" || u.Pending {
		t.Errorf("UpdateFirmware = %q, pending %v, %v", u.Changed(), u.Pending, err)
	}
	var sent int64
	for _, s := range states {
		sent = max(sent, s.Sent)
	}
	if last := states[len(states)-1]; sent != int64(len(big)) || last.Task != "Completed" {
		t.Errorf("progress: %d bytes, last %+v; want %d bytes, Completed", sent, last, len(big))
	}
	if u, err = c.UpdateFirmware(t.Context(), UpdateSource{URI: "http://files.example.org/bios"}, nil); err != nil || strings.Join(u.Changed(), ";") != "BIOS 2.0 → 3.0" {
		t.Errorf("UpdateFirmware by URI = %q, %v", u.Changed(), err)
	}
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("PK"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		src  UpdateSource
		want string
	}{
		{"no image", fileSource(junk, nil), "the image is not one"},
		{"for another part", fileSource(file, []string{"BMC"}), "the image is for BIOS"},
		{"no file", fileSource(junk+"x", nil), "no such file"},
		{"not to be fetched", UpdateSource{URI: "http://files.example.org/nope"}, "404"},
	} {
		if _, err := c.UpdateFirmware(t.Context(), tc.src, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("UpdateFirmware(%s): %v; want %q", tc.name, err, tc.want)
		}
	}
}

// fileSource is an image in a file of this machine.
func fileSource(name string, targets []string) UpdateSource {
	return UpdateSource{Name: name, Targets: targets, Open: func() (io.ReadSeekCloser, error) { return os.Open(name) }}
}

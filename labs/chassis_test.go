package labs

import (
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

var discard = slog.New(slog.DiscardHandler)

func TestChassisReset(t *testing.T) {
	for _, tt := range []struct {
		name  string
		power domainState
		reset vbmc.ResetType
		calls []string
	}{
		{"on when off", stateOff, vbmc.ResetOn, []string{"define", "start"}},
		{"on when on", stateOn, vbmc.ResetOn, nil},
		{"off", stateOn, vbmc.ResetForceOff, []string{"destroy"}},
		{"restart", stateOn, vbmc.ResetForceRestart, []string{"destroy", "define", "start"}},
		{"cycle when off", stateOff, vbmc.ResetPowerCycle, []string{"destroy", "define", "start"}},
		{"shut down", stateOn, vbmc.ResetGracefulShutdown, []string{"shutdown"}},
		{"shut down when off", stateOff, vbmc.ResetGracefulShutdown, nil},
		{"button when off", stateOff, vbmc.ResetPushPowerButton, []string{"define", "start"}},
		{"button when on", stateOn, vbmc.ResetPushPowerButton, []string{"shutdown"}},
		{"graceful restart when off", stateOff, vbmc.ResetGracefulRestart, []string{"define", "start"}},
		{"interrupt", stateOn, vbmc.ResetNmi, []string{"nmi"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, hv := chassisUnderTest(t, 0)
			hv.power = tt.power
			if err := m.Reset(t.Context(), tt.reset); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(hv.calls, tt.calls) {
				t.Errorf("Reset(%s) called %v; want %v", tt.reset, hv.calls, tt.calls)
			}
		})
	}
	t.Run("unknown", func(t *testing.T) {
		m, _ := chassisUnderTest(t, 0)
		if err := m.Reset(t.Context(), "Suspend"); !errors.Is(err, vbmc.ErrUnsupported) {
			t.Errorf("Reset(Suspend) = %v; want ErrUnsupported", err)
		}
	})
	t.Run("no domain", func(t *testing.T) {
		m, hv := chassisUnderTest(t, 0)
		hv.power = stateAbsent
		if err := m.Reset(t.Context(), vbmc.ResetOn); err == nil || !strings.Contains(err.Error(), "fettle lab up") {
			t.Errorf("Reset without a domain = %v; want an error that says what to do", err)
		}
	})
}

func TestChassisGracefulRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, hv := chassisUnderTest(t, 0)
		hv.power = stateOn
		if err := m.Reset(t.Context(), vbmc.ResetGracefulRestart); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		m.mu.Lock()
		hv.power = stateOff // the guest has obeyed
		m.mu.Unlock()
		m.lab.work.Wait()
		if want := []string{"shutdown", "define", "start"}; !reflect.DeepEqual(hv.calls, want) {
			t.Errorf("a graceful restart called %v; want %v", hv.calls, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		m, hv := chassisUnderTest(t, 0)
		hv.power = stateOn
		if err := m.Reset(t.Context(), vbmc.ResetGracefulRestart); err != nil {
			t.Fatal(err)
		}
		m.lab.work.Wait() // a guest that never obeys: given up in bounded time
		if want := []string{"shutdown"}; !reflect.DeepEqual(hv.calls, want) {
			t.Errorf("a graceful restart of a deaf guest called %v; want %v", hv.calls, want)
		}
	})
}

func TestChassisBoot(t *testing.T) {
	none := vbmc.Boot{Target: vbmc.BootNone, Enabled: disabled, Mode: "UEFI"}
	nicFirst := func(x string) bool {
		_, rest, _ := strings.Cut(x, "<interface")
		return strings.Contains(rest[:strings.Index(rest, "</interface>")], `<boot order="1">`)
	}
	for _, tt := range []struct {
		name    string
		set     vbmc.Boot
		network bool
		http    bool
		after   vbmc.Boot
	}{
		{"nothing set", none, false, false, none},
		{"network once", vbmc.Boot{Target: vbmc.BootPxe, Enabled: once}, true, false, none},
		{"network for good", vbmc.Boot{Target: vbmc.BootPxe, Enabled: continuous}, true, false, vbmc.Boot{Target: vbmc.BootPxe, Enabled: continuous, Mode: "UEFI"}},
		{"HTTP once", vbmc.Boot{Target: vbmc.BootUefiHTTP, Enabled: once, Mode: "UEFI"}, true, true, none},
		{"disk for good", vbmc.Boot{Target: vbmc.BootHdd, Enabled: continuous}, false, false, vbmc.Boot{Target: vbmc.BootHdd, Enabled: continuous, Mode: "UEFI"}},
		{"network, disabled", vbmc.Boot{Target: vbmc.BootPxe, Enabled: disabled}, false, false, none},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, hv := chassisUnderTest(t, 1)
			if err := m.SetBoot(t.Context(), tt.set); err != nil {
				t.Fatal(err)
			}
			// A BMC that restarts remembers.
			again, err := newMachine(m.lab, m.plan)
			if err != nil {
				t.Fatal(err)
			}
			if err := again.Reset(t.Context(), vbmc.ResetOn); err != nil {
				t.Fatal(err)
			}
			if got := nicFirst(hv.xml); got != tt.network {
				t.Errorf("the NIC is first: %v; want %v in\n%s", got, tt.network, hv.xml)
			}
			if got := strings.Contains(hv.xml, "IPv4PXESupport"); got != tt.http {
				t.Errorf("PXE is off: %v; want %v", got, tt.http)
			}
			if got, err := again.Boot(t.Context()); err != nil || got != tt.after {
				t.Errorf("override after power-on = %+v, %v; want %+v", got, err, tt.after)
			}
			if at, err := again.LastReset(t.Context()); err != nil || !at.Equal(testTime) {
				t.Errorf("LastReset = %v, %v; want %v", at, err, testTime)
			}
		})
	}
	t.Run("what it cannot do", func(t *testing.T) {
		bios, _ := chassisUnderTest(t, 0)
		for _, b := range []vbmc.Boot{{Target: vbmc.BootUefiHTTP, Enabled: once}, {Target: vbmc.BootBiosSetup, Enabled: once}} {
			if err := bios.SetBoot(t.Context(), b); !errors.Is(err, vbmc.ErrUnsupported) {
				t.Errorf("SetBoot(%s) of a BIOS machine = %v; want ErrUnsupported", b.Target, err)
			}
		}
	})
}

func TestChassisInfo(t *testing.T) {
	m, _ := chassisUnderTest(t, 0)
	got, err := m.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Serial != "SN-0001" || got.UUID != m.plan.UUID || got.MemoryMiB != 2048 || len(got.NICs) != 3 || got.NICs[2].Link ||
		len(got.Drives) != 2 || len(got.GPUs) != 8 || got.GPUs[0].Model != "NVIDIA H100 SXM5 80GB" {
		t.Errorf("Info = %+v; want the machine of the plan", got)
	}
}

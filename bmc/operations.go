package bmc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// reads makes an operation of a method that needs no arguments.
func reads[T any](name string, f func(*Client, context.Context) (T, error)) Operation[None, T] {
	return Operation[None, T]{name, Reads, "", func(ctx context.Context, c *Client, _ None, _ Aid) (T, error) { return f(c, ctx) }}
}

// The operations that only read.
var (
	OpPower      = reads("power", (*Client).Power)
	OpStatus     = reads("status", (*Client).Status)
	OpInventory  = reads("inventory", (*Client).Inventory)
	OpMedia      = reads("media", (*Client).Media)
	OpSecureBoot = reads("secure-boot", (*Client).SecureBoot)
	// OpSecureBootList reads the keys.
	OpSecureBootList = reads("secure-boot-list", (*Client).SecureBootKeys)
	OpLimit          = reads("limit", (*Client).PowerLimit)
	OpNetworks       = reads("network", (*Client).Networks)
	OpUsers          = reads("users", (*Client).Accounts)
	OpLog            = reads("sel", (*Client).Log)
	OpFirmware       = reads("firmware", (*Client).Firmware)
	OpSensors        = Operation[Filter, Readings]{"sensors", Reads, "", func(ctx context.Context, c *Client, f Filter, _ Aid) (Readings, error) {
		r, err := c.Sensors(ctx)
		if f.Problems {
			r.Sensors = problems(r.Sensors)
		}
		return r, err
	}}
	OpTelemetry = Operation[Filter, []MetricValue]{"telemetry", Reads, "", func(ctx context.Context, c *Client, f Filter, _ Aid) ([]MetricValue, error) {
		all, err := c.Telemetry(ctx)
		out := []MetricValue{}
		for _, v := range all {
			if f.in(v.ID + " " + v.Property) {
				out = append(out, v)
			}
		}
		return out, err
	}}
	OpClock = Operation[None, ClockState]{"clock", Reads, "", func(ctx context.Context, c *Client, _ None, aid Aid) (ClockState, error) {
		return c.clockState(ctx, aid)
	}}
	OpBIOS = Operation[Filter, BIOS]{"bios", Reads, "", func(ctx context.Context, c *Client, f Filter, _ Aid) (BIOS, error) {
		all, err := c.BIOS(ctx)
		all.Attributes = slices.DeleteFunc(all.Attributes, func(a Attribute) bool { return !f.in(a.Name) && !f.in(a.Title) })
		return all, err
	}}
	OpBIOSPlan = Operation[BIOSWant, BIOSPlan]{"bios-plan", Reads, "", func(ctx context.Context, c *Client, w BIOSWant, _ Aid) (BIOSPlan, error) {
		now, err := c.BIOS(ctx)
		if err != nil {
			return BIOSPlan{}, err
		}
		want := w.Set
		if want == nil {
			want = w.Machines[c.Name()]
		}
		p, err := PlanBIOS(now, want)
		if err != nil {
			return p, fmt.Errorf("%s: %w", c.Name(), err)
		}
		return p, nil
	}}
	OpRecord = Operation[RecordKey, Recording]{"record", Reads, "", func(ctx context.Context, c *Client, k RecordKey, aid Aid) (Recording, error) {
		var mu sync.Mutex
		var said time.Time
		return c.Record(ctx, aid.Out, k.Key, func(read, known int) {
			mu.Lock()
			defer mu.Unlock()
			if now := aid.now(); now.Sub(said) >= time.Second {
				said = now
				aid.say("%d of %d resources", read, known)
			}
		})
	}}
)

// OpScreenshot writes a picture of the screen.
var OpScreenshot = Operation[None, Screenshot]{"screenshot", Watches, "", func(ctx context.Context, c *Client, _ None, aid Aid) (Screenshot, error) {
	return c.Screenshot(ctx, aid.Out)
}}

// The operations that change something.
var (
	OpPowerOn    = power("power-on", PowerOn, "")
	OpPowerOff   = power("power-off", PowerOff, "power off")
	OpShutdown   = power("power-soft", Shutdown, "shut down")
	OpPowerCycle = power("power-cycle", PowerCycle, "power off and on again")
	OpReset      = power("power-reset", Reset, "restart")
	OpInterrupt  = Operation[None, bool]{"nmi", Changes, "send a non-maskable interrupt, which may crash the system, to", func(ctx context.Context, c *Client, _ None, _ Aid) (bool, error) {
		return true, c.Interrupt(ctx)
	}}
	OpBoot = Operation[NextBoot, NextBoot]{"boot", Changes, "", func(ctx context.Context, c *Client, n NextBoot, _ Aid) (NextBoot, error) {
		return n, c.SetNextBoot(ctx, n)
	}}
	OpIdentify = Operation[Switch, bool]{"identify", Changes, "", func(ctx context.Context, c *Client, s Switch, _ Aid) (bool, error) {
		return s.On, c.Identify(ctx, s.On)
	}}
	// OpClearLog shows the log, then empties it.
	OpClearLog = Operation[None, []LogEntry]{"sel-clear", Changes, "empty the event log of", func(ctx context.Context, c *Client, _ None, _ Aid) ([]LogEntry, error) {
		es, err := c.Log(ctx)
		if err == nil {
			err = c.ClearLog(ctx)
		}
		return es, err
	}}
	OpInsertMedia = Operation[Image, string]{"media-insert", Changes, "", func(ctx context.Context, c *Client, i Image, _ Aid) (string, error) {
		return redacted(i.URI), c.InsertMedia(ctx, i.URI)
	}}
	OpEjectMedia = Operation[None, string]{"media-eject", Changes, "", func(ctx context.Context, c *Client, _ None, _ Aid) (string, error) {
		return "-", c.EjectMedia(ctx)
	}}
	OpSecureBootOn  = secureBoot("secure-boot-on", true, "")
	OpSecureBootOff = secureBoot("secure-boot-off", false, "switch Secure Boot off on")
	OpSecureBootAdd = Operation[KeyOrder, string]{"secure-boot-add", Changes, "add to the Secure Boot keys of", func(ctx context.Context, c *Client, o KeyOrder, _ Aid) (string, error) {
		return o.Database, c.AddSecureBootKey(ctx, o)
	}}
	OpSecureBootDelete = Operation[KeyName, string]{"secure-boot-delete", Changes, "delete a Secure Boot key of", func(ctx context.Context, c *Client, n KeyName, _ Aid) (string, error) {
		return n.Database, c.DeleteSecureBootKey(ctx, n)
	}}
	OpSecureBootKeys = Operation[Keys, SecureBoot]{"secure-boot-keys", Changes, "reset the Secure Boot keys of", func(ctx context.Context, c *Client, k Keys, _ Aid) (SecureBoot, error) {
		if err := c.ResetSecureBootKeys(ctx, k.To); err != nil {
			return SecureBoot{}, err
		}
		return c.SecureBoot(ctx)
	}}
	OpSetLimit = Operation[PowerCap, PowerLimit]{"limit-set", Changes, "", func(ctx context.Context, c *Client, w PowerCap, _ Aid) (PowerLimit, error) {
		if err := c.SetPowerLimit(ctx, w.Watts); err != nil {
			return PowerLimit{}, err
		}
		return c.PowerLimit(ctx)
	}}
	OpSetClock = Operation[None, ClockState]{"clock-set", Changes, "", func(ctx context.Context, c *Client, _ None, aid Aid) (ClockState, error) {
		if err := c.SetClock(ctx, aid.now); err != nil {
			return ClockState{}, err
		}
		return c.clockState(ctx, aid)
	}}
	OpBIOSApply = Operation[BIOSOrder, string]{"bios-apply", Changes, "change BIOS settings of", func(ctx context.Context, c *Client, o BIOSOrder, aid Aid) (string, error) {
		p, ok := o.Plans[c.Name()]
		if !ok {
			return "", c.t.fail("setting the BIOS", errors.New("there is no plan for it: plan first"))
		}
		if err := c.SetBIOS(ctx, p); err != nil {
			return "", err
		}
		if !o.Restart {
			return "changes at the next boot", nil
		}
		aid.say("restarts")
		if err := c.boot(ctx); err != nil {
			return "", err
		}
		aid.say("restarted; waits for its settings")
		return "changed and verified", c.VerifyBIOS(ctx, p.Want, o.Wait)
	}}
	OpUpdateFirmware = Operation[FirmwareOrder, Update]{"firmware-update", Changes, "install firmware on", func(ctx context.Context, c *Client, o FirmwareOrder, aid Aid) (Update, error) {
		src := UpdateSource{Name: o.Name, URI: o.URI, Targets: o.Targets}
		switch {
		case (o.File == "") == (o.URI == ""):
			return Update{}, c.t.fail("updating firmware", errors.New("give a file or a URI"))
		case o.File != "" && aid.Open == nil:
			return Update{}, c.t.fail("updating firmware", fmt.Errorf("the file %s is not there", o.File))
		case o.File != "":
			src.URI, src.Open = "", aid.Open
		}
		said := ""
		return c.UpdateFirmware(ctx, src, func(s UpdateState) {
			text := s.Task
			switch {
			case s.Task == "" && s.Size > 0:
				text = fmt.Sprintf("sent %d%% of %.1f MB", s.Sent*100/s.Size/10*10, float64(s.Size)/1e6)
			case s.Task != "":
				text = fmt.Sprintf("%s %d%%", s.Task, s.Percent)
			}
			if text != "" && text != said {
				said = text
				aid.say("%s", text)
			}
		})
	}}
	OpSetNetwork = Operation[Network, string]{"network-set", Owns, "change the BMC's address on", func(ctx context.Context, c *Client, n Network, _ Aid) (string, error) {
		to := "DHCP"
		if !n.DHCP {
			to = n.Address.String()
		}
		return to, c.SetNetwork(ctx, n)
	}}
	OpResetBMC = Operation[None, bool]{"reset", Changes, "restart the BMC of", func(ctx context.Context, c *Client, _ None, _ Aid) (bool, error) {
		return true, c.ResetBMC(ctx)
	}}
)

// Tasks are all operations.
func Tasks() []Task {
	return []Task{
		OpPower.Task(), OpPowerOn.Task(), OpPowerOff.Task(), OpShutdown.Task(), OpPowerCycle.Task(), OpReset.Task(), OpInterrupt.Task(),
		OpBoot.Task(), OpIdentify.Task(), OpStatus.Task(), OpInventory.Task(), OpSensors.Task(), OpTelemetry.Task(), OpLog.Task(), OpClearLog.Task(),
		OpMedia.Task(), OpInsertMedia.Task(), OpEjectMedia.Task(), OpSecureBoot.Task(), OpSecureBootOn.Task(), OpSecureBootOff.Task(), OpSecureBootKeys.Task(),
		OpSecureBootList.Task(), OpSecureBootAdd.Task(), OpSecureBootDelete.Task(),
		OpLimit.Task(), OpSetLimit.Task(), OpNetworks.Task(), OpSetNetwork.Task(), OpClock.Task(), OpSetClock.Task(), OpResetBMC.Task(),
		OpFirmware.Task(), OpUpdateFirmware.Task(), OpUsers.Task(), OpBIOS.Task(), OpBIOSPlan.Task(), OpBIOSApply.Task(), OpRecord.Task(), OpScreenshot.Task(),
	}
}

// Arguments of operations.
type (
	// Filter narrows what is shown.
	Filter struct {
		Name     string `json:"name,omitempty"`     // part of a name, in any case
		Problems bool   `json:"problems,omitempty"` // only what is not OK
	}
	// Switch is on or off.
	Switch struct {
		On bool `json:"on"`
	}
	// Image is what a virtual drive is to hold.
	Image struct {
		URI string `json:"uri"`
	}
	// Keys says which Secure Boot keys are to be there.
	Keys struct {
		To KeyReset `json:"to"`
	}
	// PowerCap is a power limit; 0 W = none.
	PowerCap struct {
		Watts float64 `json:"watts"`
	}
	// RecordKey is what values are replaced under.
	RecordKey struct {
		Key []byte `json:"key"`
	}
	// BIOSWant are wanted settings: of every machine, or by machine.
	BIOSWant struct {
		Set      map[string]any            `json:"set,omitempty"`
		Machines map[string]map[string]any `json:"machines,omitempty"`
	}
	// BIOSOrder are plans by machine.
	BIOSOrder struct {
		Plans   map[string]BIOSPlan `json:"plans"`
		Restart bool                `json:"restart,omitempty"`
		Wait    time.Duration       `json:"wait,omitempty"` // for the settings after the restart, in nanoseconds
	}
	// FirmwareOrder names a firmware image: a file, or a URI for the BMC.
	FirmwareOrder struct {
		File    string   `json:"file,omitempty"`
		Name    string   `json:"name,omitempty"` // the file's, for the BMC
		URI     string   `json:"uri,omitempty"`
		Targets []string `json:"targets,omitempty"`
	}
)

// ClockState is a BMC's clock beside ours.
type ClockState struct {
	Time time.Time `json:"time"`
	Off  float64   `json:"off_seconds"` // ahead of ours
}

func (c *Client) clockState(ctx context.Context, aid Aid) (ClockState, error) {
	t, err := c.Clock(ctx)
	return ClockState{t, float64(int(t.Sub(aid.now()).Seconds()))}, err
}

func (f Filter) in(s string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(f.Name))
}

// problems are the sensors that are not OK.
func problems(all []Sensor) []Sensor {
	out := []Sensor{} // an empty list, not null, in JSON
	for _, s := range all {
		if s.Health != "OK" && s.Health != "" {
			out = append(out, s)
		}
	}
	return out
}

func power(name string, a Action, asks string) Operation[None, Power] {
	return Operation[None, Power]{name, Changes, asks, func(ctx context.Context, c *Client, _ None, _ Aid) (Power, error) {
		if err := c.SetPower(ctx, a); err != nil {
			return PowerUnknown, err
		}
		return c.Power(ctx)
	}}
}

func secureBoot(name string, on bool, asks string) Operation[None, SecureBoot] {
	return Operation[None, SecureBoot]{name, Changes, asks, func(ctx context.Context, c *Client, _ None, _ Aid) (SecureBoot, error) {
		if err := c.SetSecureBoot(ctx, on); err != nil {
			return SecureBoot{}, err
		}
		return c.SecureBoot(ctx)
	}}
}

// boot restarts a machine, or starts one that is off.
func (c *Client) boot(ctx context.Context) error {
	now, err := c.Power(ctx)
	if err != nil {
		return err
	}
	switch now {
	case On:
		return c.SetPower(ctx, Reset)
	case Off:
		return c.SetPower(ctx, PowerOn)
	}
	return c.t.fail("restarting", errors.New("its power state is not known: restart it by hand"))
}

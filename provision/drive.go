package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// ErrBusy means that another run of the machine is under way.
var ErrBusy = errors.New("a run is under way")

// drive takes one run forward until it ends or ctx does. What the machine
// itself says (addresses asked for, agent's reports, phone-home) changes the
// run from other goroutines; drive does what the BMC must do and watches for
// silence. It starts when nobody drives the machine's run before any more, and
// what it does at a BMC ends with the run: two runs never pull at one machine.
func (p *Provisioner) drive(ctx context.Context, r *run) {
	defer close(r.idle)
	if r.before != nil {
		select {
		case <-r.before:
		case <-ctx.Done():
			return
		}
	}
	work, stop := context.WithCancel(ctx)
	defer stop()
	r.mu.Lock()
	r.stop = stop
	r.mu.Unlock()
	for ctx.Err() == nil {
		d := r.doc()
		if d.Ended() {
			return
		}
		var err error
		switch {
		case d.Phase == state.PoweringOn:
			err = p.bootNetwork(work, r, d)
		case d.Phase == state.Restarting:
			err = p.bootDisk(work, r, d)
		case d.Phase == state.Inspected && d.Action == ActionInspect:
			err = p.putBack(work, r, d)
		default:
			err = p.watch(work, r, d)
		}
		if err == nil || work.Err() != nil {
			continue
		}
		if ferr := p.fail(ctx, r, "fettle", err.Error()); ferr != nil && ctx.Err() == nil {
			// The state does not answer: the run goes on when it does.
			p.log.Error("run cannot be recorded as failed", "machine", d.Machine, "cause", err, "err", ferr)
			sleep(ctx, stateRetry)
		}
	}
}

// stateRetry is how long a run waits for a state that cannot be written.
const stateRetry = 5 * time.Second

// sleep waits, at most until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// withBMC logs in, calls do, and logs out whatever happens. Waiting for somebody
// who has the BMC is no part of the time that do has.
func (p *Provisioner) withBMC(ctx context.Context, m site.Machine, do func(context.Context, BMC) error) error {
	c, err := p.c.OpenBMC(ctx, m)
	if err != nil {
		return fmt.Errorf("BMC of %s: %w", m.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	err = do(ctx, c)
	end, cancel2 := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel2()
	if cerr := c.Close(end); cerr != nil {
		p.log.Warn("BMC session may be left open", "machine", m.Name, "err", cerr)
	}
	if err != nil {
		return fmt.Errorf("BMC of %s: %w", m.Name, err)
	}
	return nil
}

// retryBMC tries do a few times: BMCs drop requests. A refused password or a
// missing function is final.
func (p *Provisioner) retryBMC(ctx context.Context, m site.Machine, do func(context.Context, BMC) error) error {
	var err error
	for i := range 3 {
		if i > 0 {
			sleep(ctx, time.Duration(i)*2*time.Second)
		}
		err = p.withBMC(ctx, m, do)
		var held *HeldError
		if err == nil || errors.Is(err, bmc.ErrPassword) || errors.Is(err, bmc.ErrUnsupported) || errors.As(err, &held) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (p *Provisioner) machine(name string) (site.Machine, error) {
	m, ok := p.c.Site().Machine(name)
	if !ok {
		return site.Machine{}, fmt.Errorf("machine %s is no longer in the site file: put it back, or abort its run", name)
	}
	return m, nil
}

// bootNetwork sets the next boot to the network and powers the machine on, or
// off and on.
func (p *Provisioner) bootNetwork(ctx context.Context, r *run, d Run) error {
	m, err := p.machine(d.Machine)
	if err != nil {
		return err
	}
	next := bmc.NextBoot{Device: bmc.BootPXE, UEFI: m.Firmware == site.UEFI}
	err = p.retryBMC(ctx, m, func(ctx context.Context, c BMC) error {
		if err := c.SetNextBoot(ctx, next); err != nil {
			return err
		}
		return powerUp(ctx, c)
	})
	if err != nil {
		return err
	}
	return p.update(ctx, r, "fettle", func(d *Run) (string, bool) {
		if d.Phase != state.PoweringOn {
			return "", false
		}
		d.Phase, d.Heard = state.Firmware, p.now()
		return "powered on by its BMC, next boot is the network", true
	})
}

// powerUp starts a machine from the beginning: on when it is off, else off and
// on.
func powerUp(ctx context.Context, c BMC) error {
	now, err := c.Power(ctx)
	if err != nil {
		return err
	}
	if now == bmc.Off {
		return c.SetPower(ctx, bmc.PowerOn)
	}
	return c.SetPower(ctx, bmc.PowerCycle)
}

// bootDisk sets the next boot to the disk and restarts the machine. The boot
// order is made permanent where the BMC can: but whatever the firmware does,
// Boot answers a ready machine with its disk.
func (p *Provisioner) bootDisk(ctx context.Context, r *run, d Run) error {
	m, err := p.machine(d.Machine)
	if err != nil {
		return err
	}
	err = p.retryBMC(ctx, m, func(ctx context.Context, c BMC) error { return p.restartIntoDisk(ctx, m, c) })
	if err != nil {
		return err
	}
	return p.update(ctx, r, "fettle", func(d *Run) (string, bool) {
		if d.Phase != state.Restarting { // the machine was quicker than its BMC's answer
			return "", false
		}
		d.Phase, d.Heard = state.FirstBoot, p.now()
		return "restarted by its BMC into its disk", true
	})
}

func (p *Provisioner) restartIntoDisk(ctx context.Context, m site.Machine, c BMC) error {
	next := bmc.NextBoot{Device: bmc.BootDisk, Permanent: true, UEFI: m.Firmware == site.UEFI}
	err := c.SetNextBoot(ctx, next)
	if errors.Is(err, bmc.ErrUnsupported) {
		next.Permanent = false
		err = c.SetNextBoot(ctx, next)
	}
	if err != nil {
		return err
	}
	return powerUp(ctx, c)
}

// watch waits for a change of the run, and looks at the power and the clock
// meanwhile.
func (p *Provisioner) watch(ctx context.Context, r *run, d Run) error {
	changed := r.wait()
	if now := r.doc(); now.Phase != d.Phase || now.Attempts != d.Attempts {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-changed:
		return nil
	case <-time.After(p.limits.PowerPoll):
	}
	d = r.doc()
	m, err := p.machine(d.Machine)
	if err != nil {
		return err
	}
	if p.now().Sub(d.Heard) >= p.limits.PowerPoll && p.isOff(ctx, m) {
		return p.again(ctx, r, d.Phase, "it lost power")
	}
	phase := d.Phase
	d = r.doc() // a BMC takes its time
	since := d.Heard
	switch phase {
	case state.Firmware, state.Netboot, state.FirstBoot:
		// A machine that starts over and over is never silent.
		since = d.Since
	}
	if limit, what := p.limit(phase); p.now().Sub(since) > limit {
		return p.again(ctx, r, phase, what)
	}
	return nil
}

// isOff looks at a machine's power. One look that fails decides nothing;
// silence does.
func (p *Provisioner) isOff(ctx context.Context, m site.Machine) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute) // somebody may have the BMC for long
	defer cancel()
	power := bmc.PowerUnknown
	err := p.withBMC(ctx, m, func(ctx context.Context, c BMC) error {
		var err error
		power, err = c.Power(ctx)
		return err
	})
	if err != nil {
		p.log.Warn("cannot see the power of a machine in a run", "machine", m.Name, "err", err)
	}
	return err == nil && power == bmc.Off
}

// limit is how long a phase may be silent, and how the silence is put.
func (p *Provisioner) limit(ph state.Phase) (time.Duration, string) {
	switch ph {
	case state.Firmware:
		return p.limits.Firmware, fmt.Sprintf("it asked for no address within %s of power-on: check its cable, its network boot setting and the MAC address in the site file", p.limits.Firmware)
	case state.Netboot:
		return p.limits.Netboot, fmt.Sprintf("it asked the network but its agent did not report within %s: see its console", p.limits.Netboot)
	case state.FirstBoot:
		return p.limits.FirstBoot, fmt.Sprintf("its installed system did not report within %s of restart: see its console", p.limits.FirstBoot)
	default:
		return p.limits.Agent, fmt.Sprintf("its agent has been silent for %s", p.limits.Agent)
	}
}

// again starts the part of a run over that phase belongs to, or fails the run
// when it has been started too often.
func (p *Provisioner) again(ctx context.Context, r *run, phase state.Phase, why string) error {
	return p.update(ctx, r, "fettle", func(d *Run) (string, bool) {
		if d.Phase != phase {
			return "", false
		}
		if d.Attempts >= p.limits.Attempts {
			d.Phase = state.Failed
			d.Reason = fmt.Sprintf("%s, and this was start %d of %d", why, d.Attempts, p.limits.Attempts)
			return d.Reason, true
		}
		d.Phase = state.PoweringOn
		if phase == state.FirstBoot {
			d.Phase = state.Restarting
		}
		d.Attempts++
		d.Agents, d.Heard = 0, p.now()
		return why + ": starting it again", true
	})
}

// putBack ends an inspection: a machine with an installed system is restarted
// into it and is as ready as it was before; any other is switched off. A failed
// run leaves its machine as it is, for people to look at.
func (p *Provisioner) putBack(ctx context.Context, r *run, d Run) error {
	m, err := p.machine(d.Machine)
	if err == nil {
		err = p.retryBMC(ctx, m, func(ctx context.Context, c BMC) error {
			if d.Installed {
				return p.restartIntoDisk(ctx, m, c)
			}
			return c.SetPower(ctx, bmc.PowerOff)
		})
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return p.update(ctx, r, "fettle", func(d *Run) (string, bool) {
		d.PutBack = true
		switch {
		case err != nil:
			return "inspected, but its BMC did not put it back: " + err.Error(), true
		case d.Installed:
			d.Phase = state.Ready
			return "inspected; restarted into its installed system", true
		}
		return "inspected; switched off", true
	})
}

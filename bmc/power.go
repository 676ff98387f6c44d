package bmc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// SetPower does a, and waits until the BMC reports it. Setting the state that
// is there already does nothing.
func (c *Client) SetPower(ctx context.Context, a Action) error {
	doing := "power " + string(a)
	limit := c.t.PowerWait
	if limit <= 0 {
		limit = defaultPowerWait
		if a == Shutdown {
			limit = shutdownWait
		}
	}
	now, err := c.Power(ctx)
	if err != nil {
		return err
	}
	switch a {
	case PowerOn:
		if now == On {
			return nil
		}
		return c.follow(ctx, doing, "on", On, limit)
	case PowerOff, Shutdown:
		if now == Off {
			return nil
		}
		return c.follow(ctx, doing, string(a), Off, limit)
	case PowerCycle:
		if now == Off {
			return c.follow(ctx, doing, "on", On, limit)
		}
		return c.cycle(ctx, doing, limit)
	case Reset:
		if now == Off {
			return c.t.fail(doing, errors.New("the machine is off: power it on instead"))
		}
		return c.restart(ctx, doing, a, limit)
	}
	return c.t.fail(doing, fmt.Errorf("there is no power action %q", a))
}

// set sends one action by way of bmclib.
func (c *Client) set(ctx context.Context, doing, state string) error {
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	_, err = c.lib.SetPowerState(ctx, state)
	return c.t.own(ctx, doing, err)
}

// follow sends an action and waits for the state that it leads to.
func (c *Client) follow(ctx context.Context, doing, state string, want Power, limit time.Duration) error {
	if err := c.set(ctx, doing, state); err != nil {
		return err
	}
	last := PowerUnknown
	err := c.wait(ctx, doing, limit, func(ctx context.Context) (bool, error) {
		var err error
		last, err = c.Power(ctx)
		return last == want, err
	})
	if errors.Is(err, errNothing) {
		hint := "the BMC may be broken, or the machine needs longer"
		if state == string(Shutdown) {
			hint = "its operating system may ignore the request; power off is the hard way"
		}
		return c.t.fail(doing, fmt.Errorf("%w: after %s the power still reads %s: %s", errNothing, limit, last, hint))
	}
	return err
}

// cycle switches off, then on. Where the BMC tells the time of the last reset,
// its own PowerCycle is used and seen by that; elsewhere each half is seen for
// itself. Once off, the machine is switched on again even when ctx ends.
func (c *Client) cycle(ctx context.Context, doing string, limit time.Duration) error {
	_, ok, err := c.lastReset(ctx, doing, PowerCycle)
	if err != nil {
		return err
	}
	if ok {
		return c.restart(ctx, doing, PowerCycle, limit)
	}
	if err := c.follow(ctx, doing, "off", Off, limit); err != nil {
		return err
	}
	return c.follow(context.WithoutCancel(ctx), doing, "on", On, limit)
}

// restart sends cycle or reset, and waits until the machine is on and was
// reset since, where the BMC tells.
func (c *Client) restart(ctx context.Context, doing string, a Action, limit time.Duration) error {
	before, seen, err := c.lastReset(ctx, doing, a)
	if err != nil {
		return err
	}
	if err := c.set(ctx, doing, string(a)); err != nil {
		return err
	}
	err = c.wait(ctx, doing, limit, func(ctx context.Context) (bool, error) {
		if seen {
			now, _, err := c.lastReset(ctx, doing, a)
			if err != nil || now == before {
				return false, err
			}
		}
		p, err := c.Power(ctx)
		return p == On, err
	})
	if errors.Is(err, errNothing) {
		return c.t.fail(doing, fmt.Errorf("%w: after %s it reports no reset since %s", errNothing, limit, before))
	}
	return err
}

func (c *Client) lastReset(ctx context.Context, doing string, a Action) (string, bool, error) {
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return "", false, err
	}
	defer cancel()
	when, ok, err := c.drv.lastReset(ctx, a)
	return when, ok, c.t.own(ctx, doing, err)
}

// wait looks until done; when limit has passed it fails with errNothing.
func (c *Client) wait(ctx context.Context, doing string, limit time.Duration, done func(context.Context) (bool, error)) error {
	end := time.NewTimer(limit)
	defer end.Stop()
	pause := c.poll / 4
	for {
		ok, err := done(ctx)
		// A BMC that is busy with the machine may answer 5xx for a while.
		if ok || err != nil && statusOf(err) < http.StatusInternalServerError {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return c.t.fail(doing, fmt.Errorf("given up while waiting for the BMC to report it: %w", ctx.Err()))
		case <-end.C:
			t.Stop()
			if err != nil {
				return err
			}
			return errNothing
		case <-t.C:
		}
		pause = min(2*pause, 4*c.poll)
	}
}

// PowerStateGet reads the power state, for bmclib.
func (d *redfishDriver) PowerStateGet(ctx context.Context) (string, error) {
	s, err := d.power(ctx)
	return s, d.t.own(ctx, "reading the power state", err)
}

// lean is what power needs of ComputerSystem, read from the same collection: a
// status of a thousand BMCs reads nothing else.
type lean struct {
	ID         string `json:"@odata.id"`
	SystemType text
	PowerState text
	Boot       *struct {
		Target  text            `json:"BootSourceOverrideTarget"`
		Allowed json.RawMessage `json:"BootSourceOverrideTarget@Redfish.AllowableValues"`
	}
	Bios    *struct{}
	Actions struct {
		Reset *struct {
			Target string `json:"target"`
		} `json:"#ComputerSystem.Reset"`
	}
}

func (l lean) full() computerSystem {
	s := computerSystem{ID: l.ID, SystemType: l.SystemType}
	if l.Bios != nil {
		s.Bios.id = l.ID + "/Bios"
	}
	if l.Boot != nil {
		s.Boot = &bootOverride{Target: l.Boot.Target}
		if len(l.Boot.Allowed) > 2 {
			s.Boot.TargetAllowed = texts{"some"}
		}
	}
	if l.Actions.Reset != nil {
		s.Actions.Reset = &resetAction{Target: l.Actions.Reset.Target}
	}
	return s
}

// power is the power state in the fewest requests: one once the machine is
// found, and one for services that expand; two for those with one system that
// do not. The service root is read only where this does not do.
func (d *redfishDriver) power(ctx context.Context) (string, error) {
	d.mu.Lock()
	at := d.sysPath
	d.mu.Unlock()
	var one lean
	if at != "" {
		_, err := d.get(ctx, at, &one)
		if err == nil && one.PowerState == "" {
			return d.powerOf(ctx)
		}
		return string(one.PowerState), err
	}
	var coll struct {
		Members []lean
		Next    string `json:"Members@odata.nextLink"`
	}
	if d.t.System != "" {
		s, err := d.powerOf(ctx)
		return s, err
	}
	if err := d.collection(ctx, systemsPath, true, &coll); err == nil && coll.Next == "" {
		if len(coll.Members) == 1 && coll.Members[0].PowerState == "" && localPath(coll.Members[0].ID) != "" {
			if _, err := d.get(ctx, localPath(coll.Members[0].ID), &one); err != nil {
				return "", err
			}
			one.ID = coll.Members[0].ID
			coll.Members[0] = one
		}
		best := lean{}
		var all []computerSystem
		for _, l := range coll.Members {
			all = append(all, l.full())
		}
		if s, err := d.host(all); err == nil {
			i := slices.IndexFunc(coll.Members, func(l lean) bool { return l.ID == s.ID })
			best = coll.Members[i]
		}
		if best.PowerState != "" {
			d.mu.Lock()
			d.sysPath = localPath(best.ID)
			d.mu.Unlock()
			return string(best.PowerState), nil
		}
	} else if err != nil && (ctx.Err() != nil || statusOf(err) == http.StatusUnauthorized) {
		return "", err
	}
	return d.powerOf(ctx)
}

// powerOf is power by the longer way: the machine is found by all that tells a
// host from other systems, and a system that keeps silent has its chassis'
// power.
func (d *redfishDriver) powerOf(ctx context.Context) (string, error) {
	if err := d.ready(ctx); err != nil {
		return "", err
	}
	s, _, err := d.system(ctx)
	if err == nil && s.PowerState == "" {
		var ch chassis
		err = d.optional(ctx, s.Links.Chassis.first(), &ch)
		return string(ch.PowerState), err
	}
	return string(s.PowerState), err
}

// PowerSet sends a reset of the type that bmclib's name means, for bmclib. The
// first type that the BMC allows is taken.
func (d *redfishDriver) PowerSet(ctx context.Context, state string) (bool, error) {
	doing := "power " + state
	types := map[string][]string{
		"on":    {"On", "ForceOn", "PushPowerButton"},
		"off":   {"ForceOff"},
		"soft":  {"GracefulShutdown", "PushPowerButton"},
		"cycle": {"PowerCycle", "ForceRestart"},
		"reset": {"ForceRestart", "PowerCycle"},
		"nmi":   {"Nmi"},
	}[state]
	s, _, err := d.system(ctx)
	if err != nil {
		return false, d.t.own(ctx, doing, err)
	}
	r := s.Actions.Reset
	if r == nil || localPath(r.Target) == "" {
		return false, d.t.fail(doing, fmt.Errorf("%w: the system %s has no reset action", ErrUnsupported, s.ID))
	}
	allowed, err := d.resetTypes(ctx, r)
	if err != nil {
		return false, d.t.own(ctx, doing, err)
	}
	for _, t := range types {
		if len(allowed) > 0 && !slices.Contains(allowed, t) {
			continue
		}
		if _, err := d.post(ctx, localPath(r.Target), map[string]string{"ResetType": t}); err != nil {
			return false, d.t.own(ctx, doing, err)
		}
		return true, nil
	}
	return false, d.t.fail(doing, fmt.Errorf("%w: it offers only %s", ErrUnsupported, strings.Join(allowed, ", ")))
}

// resetTypes are the types that the BMC allows: named in the action or in its
// ActionInfo (DSP0266 §7.7.1); none when it does not say.
func (d *redfishDriver) resetTypes(ctx context.Context, r *resetAction) ([]string, error) {
	p := localPath(r.Info)
	if len(r.Allowed) > 0 || p == "" {
		return r.Allowed, nil
	}
	var info struct {
		Parameters []struct {
			Name    text
			Allowed texts `json:"AllowableValues"`
		}
	}
	if _, err := d.get(ctx, p, &info); err != nil {
		if s := statusOf(err); s == http.StatusNotFound || s == http.StatusMethodNotAllowed {
			return nil, nil
		}
		return nil, err
	}
	for _, p := range info.Parameters {
		if p.Name == "ResetType" {
			return p.Allowed, nil
		}
	}
	return nil, nil
}

func (d *redfishDriver) lastReset(ctx context.Context, a Action) (string, bool, error) {
	s, _, err := d.system(ctx)
	if err != nil || s.LastResetTime == "" {
		return "", false, err
	}
	if p := s.Links.ManagedBy.first(); a == Reset && p != "" {
		d.mu.Lock()
		model := d.managerModel
		d.mu.Unlock()
		if model == nil {
			var m manager
			if _, err := d.get(ctx, p, &m); err != nil {
				return "", false, err
			}
			v := string(m.Model)
			model = &v
			d.mu.Lock()
			d.managerModel = model
			d.mu.Unlock()
		}
		if !resetTimeFollowsRestart(*model) {
			return "", false, nil
		}
	}
	return string(s.LastResetTime), true, nil
}

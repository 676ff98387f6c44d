package provision

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// rotateTime bounds one machine's change of its password once it was begun.
// Nobody who leaves breaks it off: until it has ended, the secret's value may be
// the old password and the BMC's the new one.
const rotateTime = 5 * time.Minute

// rotateParallel is how many change at once where nobody says: the secrets file
// is written whole three times for each.
const rotateParallel = 16

// rotate gives BMCs new passwords; see Rotations. A dry answer says of each
// machine whose secret others use too which one it will get.
func (b *BMCs) rotate(ctx context.Context, actor string, s *site.Site, ms []site.Machine, req state.BMCRequest, step func(state.BMCStep)) error {
	if b.c.Passwords == nil {
		return errors.New("this server changes no passwords")
	}
	var order RotateOrder
	if len(req.Args) > 0 {
		if err := bmc.Unmarshal(req.Args, &order); err != nil {
			return fmt.Errorf("the arguments of %s cannot be read: %w", OpRotate.Name, err)
		}
	}
	var names []string
	for _, m := range ms {
		names = append(names, m.Name)
	}
	names, err := order.Order(names)
	if err != nil {
		return err
	}
	shared := b.c.Passwords.Shared(names)
	if req.Dry {
		own := map[string]string{}
		for _, n := range shared {
			own[n] = "gets a secret of its own"
		}
		for _, n := range names {
			step(state.BMCStep{Machine: n, Site: s.Name, Text: own[n], Done: true})
		}
		return nil
	}
	if !req.Yes {
		return fmt.Errorf("%w: this would %s %s", state.ErrNeedsYes, OpRotate.Asks, strings.Join(req.Machines, " "))
	}
	o := &operation{b: b, task: bmc.Task{Name: OpRotate.Name, Effect: OpRotate.Effect}, actor: actor, req: req, tell: step}
	if err := o.begin(ctx, ms); err != nil {
		return err
	}
	machine := map[string]site.Machine{}
	for _, m := range ms {
		machine[m.Name] = m
	}
	wait := o.wait()
	o.telling(ctx, len(ms), func(ends chan<- state.BMCStep) {
		if len(shared) > 0 {
			if err := b.c.Passwords.Own(shared); err != nil {
				for _, n := range names {
					ends <- state.BMCStep{Machine: n, Done: true, Error: fmt.Sprintf("%s: not begun: %v", n, err)}
				}
				return
			}
		}
		Rotations{
			Passwords: b.c.Passwords, Parallel: min(cmp.Or(max(req.Parallel, 0), rotateParallel), maxParallel),
			Target: func(name string) (bmc.Target, error) { return b.c.Target(b.machineNow(machine[name])) },
			Take: func(ctx context.Context, name string) (func(), error) {
				return b.c.Turns.Take(ctx, Alone, name, actor, OpRotate.Name, wait, func(h state.BMCHold) {
					o.step(state.BMCStep{Machine: name, Text: "waits for " + heldBy(name, h, b.c.Now())})
				})
			},
			Within: func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(context.WithoutCancel(ctx), rotateTime)
			},
			Step: func(name string, st RotateStep) error {
				o.step(state.BMCStep{Machine: name, Text: string(st)})
				return nil
			},
			Done: func(name string, err error) {
				s := state.BMCStep{Machine: name, Done: true}
				if err != nil {
					s.Error = err.Error()
				} else {
					s.Value, _ = json.Marshal(Rotated{Secret: b.c.Passwords.Secret(name), State: "changed", File: b.c.Passwords.File()}) // strings
				}
				ends <- s
			},
		}.Run(ctx, names)
	})
	return nil
}

// machineNow is a machine as the site in force has it: its secret may be
// another one since it was selected.
func (b *BMCs) machineNow(m site.Machine) site.Machine {
	if now, ok := b.c.Site().Machine(m.Name); ok {
		return now
	}
	return m
}

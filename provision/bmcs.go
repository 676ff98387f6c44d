package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// BMCsConfig is what BMCs are made of. Logger and Now may be left out.
type BMCsConfig struct {
	Site func() *site.Site
	// Append writes events durably; *state.Store has it.
	Append func(ctx context.Context, events ...state.Event) (int64, error)
	// Target is how a machine's BMC is reached.
	Target func(m site.Machine) (bmc.Target, error)
	Turns  *Turns
	// Passwords are where those of BMCs are kept; nil: none is changed here.
	Passwords Passwords
	// Dir keeps firmware images while they are installed, and the logs of
	// consoles.
	Dir    string
	Logger *slog.Logger
	Now    func() time.Time
}

// BMCs do what people ask of machines' BMCs through the server: one at a time
// at each (nodes that share one are done after each other), in turn with the server's own runs, and never without an event.
type BMCs struct {
	c      BMCsConfig
	tasks  map[string]bmc.Task
	images firmwareFiles
}

// NewBMCs checks c.
func NewBMCs(c BMCsConfig) (*BMCs, error) {
	if c.Site == nil || c.Append == nil || c.Target == nil || c.Turns == nil || c.Dir == "" {
		return nil, errors.New("provision: BMCs need a site, a state, targets, turns and a folder")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	b := &BMCs{c: c, tasks: map[string]bmc.Task{}, images: firmwareFiles{dir: c.Dir, now: c.Now, log: c.Logger, here: map[string]*firmwareFile{}}}
	for _, t := range bmc.Tasks() {
		b.tasks[t.Name] = t
	}
	return b, nil
}

// Operations lists what Operate does.
func (b *BMCs) Operations() []state.BMCOperation {
	var out []state.BMCOperation
	for _, t := range bmc.Tasks() {
		out = append(out, state.BMCOperation{Name: t.Name, Effect: string(t.Effect), Asks: t.Asks})
	}
	if b.c.Passwords != nil {
		out = append(out, state.BMCOperation{Name: OpRotate.Name, Effect: string(OpRotate.Effect), Asks: OpRotate.Asks})
	}
	return out
}

// Held lists who has which BMC.
func (b *BMCs) Held() []state.BMCHold { return b.c.Turns.Held() }

// Bounds of a request, whatever is asked for.
const (
	maxParallel = 256
	turnWait    = time.Minute
)

// Operate does an operation at the BMCs of the machines that req names, and
// tells step how it goes, one step at a time: of each machine the last one says
// Done. An error means that nothing was begun. Where something changes, an
// event of each machine is durable before its BMC hears of it, and another with
// what came of it before step does.
func (b *BMCs) Operate(ctx context.Context, actor, name string, req state.BMCRequest, step func(state.BMCStep)) error {
	task, ok := b.tasks[name]
	if !ok && name != OpRotate.Name {
		return fmt.Errorf("there is no operation %q", name)
	}
	s := b.c.Site()
	ms, err := s.Select(req.Machines...)
	if err != nil {
		return err
	}
	if len(ms) == 0 {
		return fmt.Errorf("no machine matches %s", strings.Join(req.Machines, " "))
	}
	if name == OpRotate.Name {
		return b.rotate(ctx, actor, s, ms, req, step)
	}
	if req.Dry {
		for _, m := range ms {
			step(state.BMCStep{Machine: m.Name, Site: s.Name, Done: true})
		}
		return nil
	}
	if task.Asks != "" && !req.Yes {
		return fmt.Errorf("%w: this would %s %s", state.ErrNeedsYes, task.Asks, strings.Join(req.Machines, " "))
	}
	if name == bmc.OpBIOSPlan.Name {
		if req.Args, err = wantOfProfiles(s, ms, req.Args); err != nil {
			return err
		}
	}
	if err := task.Check(req.Args); err != nil {
		return err
	}
	open, done, err := b.images.of(task, req.Args)
	if err != nil {
		return err
	}
	defer done()
	o := &operation{b: b, task: task, actor: actor, req: req, tell: step, open: open}
	if err := o.begin(ctx, ms); err != nil {
		return err
	}
	o.telling(ctx, len(ms), func(ends chan<- state.BMCStep) { o.run(ctx, ms, ends) })
	return nil
}

// operation is one request under way.
type operation struct {
	b     *BMCs
	task  bmc.Task
	actor string
	req   state.BMCRequest
	open  func() (io.ReadSeekCloser, error)

	mu     sync.Mutex // of tell
	tell   func(state.BMCStep)
	values sync.Map // by machine: json.RawMessage
}

func (o *operation) step(s state.BMCStep) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tell(s)
}

// begin writes the events that say what is about to happen.
func (o *operation) begin(ctx context.Context, ms []site.Machine) error {
	if o.task.Effect == bmc.Reads {
		return nil
	}
	var events []state.Event
	for _, m := range ms {
		events = append(events, o.event(m.Name, "asks the BMC: "+o.task.Name, state.BMCData{Args: o.argsOf(m.Name)}))
	}
	return o.b.append(ctx, events)
}

func (o *operation) event(machine, text string, d state.BMCData) state.Event {
	d.Operation = o.task.Name
	data, err := json.Marshal(d)
	if err != nil { // only Args could, and they were read
		data = nil
	}
	return state.Event{Time: o.b.c.Now(), Machine: machine, Actor: o.actor, Kind: state.KindBMC, Text: text, Data: data}
}

// userinfo is what a URI may hold before its host: up to the last @, as
// net/url reads it.
var userinfo = regexp.MustCompile(`//[^/?#\s"]*@`)

// discreet is a text without the passwords of its URIs.
func discreet(s string) string { return userinfo.ReplaceAllString(s, "//[secret]@") }

// discreetly makes the texts of a JSON value discreet.
func discreetly(v any) any {
	switch v := v.(type) {
	case string:
		return discreet(v)
	case []any:
		for i := range v {
			v[i] = discreetly(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = discreetly(v[k])
		}
	}
	return v
}

// argsOf are the arguments as events keep them: of one machine, without
// passwords in URIs, and not huge. Of an order for the BIOS it is what will be
// written, and whether the machine is restarted.
func (o *operation) argsOf(machine string) json.RawMessage {
	args := o.req.Args
	if o.task.Name == bmc.OpBIOSApply.Name {
		var order bmc.BIOSOrder
		if bmc.Unmarshal(args, &order) == nil {
			set := map[string]any{}
			for _, ch := range order.Plans[machine].Changes {
				set[ch.Name] = ch.To
			}
			args, _ = json.Marshal(map[string]any{"set": set, "restart": order.Restart}) // of JSON values
		}
	}
	var v any
	if len(args) > 16<<10 || bmc.Unmarshal(args, &v) != nil {
		return nil
	}
	out, err := json.Marshal(discreetly(v))
	if err != nil {
		return nil
	}
	return out
}

// append writes events, as many as there are.
func (b *BMCs) append(ctx context.Context, events []state.Event) error {
	for chunk := range slices.Chunk(events, state.MaxAppend) {
		if _, err := b.c.Append(ctx, chunk...); err != nil {
			return err
		}
	}
	return nil
}

// telling tells of each of n machines once its event is durable. do sends to
// ends what came of each.
func (o *operation) telling(ctx context.Context, n int, do func(ends chan<- state.BMCStep)) {
	ends := make(chan state.BMCStep, n) // never blocks
	told := make(chan error, 1)
	go func() { told <- o.end(ctx, ends) }()
	do(ends)
	close(ends)
	if err := <-told; err != nil {
		o.b.c.Logger.Error("what BMCs did is not in the events", "operation", o.task.Name, "err", err)
	}
}

// wait is how long a turn at a BMC is waited for.
func (o *operation) wait() time.Duration {
	if o.req.Wait > 0 {
		return time.Duration(o.req.Wait) * time.Millisecond
	}
	return turnWait
}

// turnOf is the turn that an operation takes. What ends sessions or replaces
// what is being read bears no reading beside it.
func turnOf(t bmc.Task) Turn {
	switch {
	case t.Effect == bmc.Reads || t.Effect == bmc.Watches:
		return ToRead
	case t.Effect == bmc.Owns, t.Name == bmc.OpUpdateFirmware.Name, t.Name == bmc.OpResetBMC.Name:
		return Alone
	}
	return ToChange
}

// run does it.
func (o *operation) run(ctx context.Context, ms []site.Machine, ends chan<- state.BMCStep) {
	var targets []bmc.Target
	for _, m := range ms {
		t, err := o.b.c.Target(m)
		if err != nil {
			ends <- state.BMCStep{Machine: m.Name, Done: true, Error: err.Error()}
			continue
		}
		targets = append(targets, t)
	}
	wait := o.wait()
	bmc.Each(ctx, targets, bmc.EachOptions{
		Parallel: min(o.req.Parallel, maxParallel), Again: o.task.Effect == bmc.Reads,
		Begin: func(ctx context.Context, t bmc.Target) (func(), error) {
			return o.b.c.Turns.Take(ctx, turnOf(o.task), t.Name, o.actor, o.task.Name, wait, func(h state.BMCHold) {
				o.step(state.BMCStep{Machine: t.Name, Text: "waits for " + heldBy(t.Name, h, o.b.c.Now())})
			})
		},
		Done: func(name string, err error) {
			s := state.BMCStep{Machine: name, Done: true}
			if v, ok := o.values.Load(name); ok && err == nil {
				s.Value, _ = v.(json.RawMessage)
			}
			if err != nil {
				s.Error = err.Error()
			}
			ends <- s
		},
	}, func(ctx context.Context, c *bmc.Client) (struct{}, error) {
		v, err := o.task.Do(ctx, c, o.req.Args, bmc.Aid{
			Say:  func(text string) { o.step(state.BMCStep{Machine: c.Name(), Text: text}) },
			Out:  stepWriter{o, c.Name()},
			Open: o.open, Now: o.b.c.Now,
		})
		if err != nil {
			return struct{}{}, err
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return struct{}{}, fmt.Errorf("%s: encoding what came of %s: %w", c.Name(), o.task.Name, err)
		}
		o.values.Store(c.Name(), json.RawMessage(raw))
		return struct{}{}, nil
	})
}

// end writes what came of machines, as many at once as have ended, and tells.
func (o *operation) end(ctx context.Context, ends <-chan state.BMCStep) error {
	ctx = context.WithoutCancel(ctx) // what was done is to be known, also when nobody waits for it
	var failed error
	for s := range ends {
		batch := []state.BMCStep{s}
	more:
		for len(batch) < state.MaxAppend {
			select {
			case s, ok := <-ends:
				if !ok {
					break more
				}
				batch = append(batch, s)
			default:
				break more
			}
		}
		if o.task.Effect != bmc.Reads {
			var events []state.Event
			for _, s := range batch {
				text, failed := "the BMC did "+o.task.Name, discreet(s.Error) // BMCs repeat what they were asked
				if failed != "" {
					text = "the BMC did not do " + o.task.Name + ": " + failed
				}
				events = append(events, o.event(s.Machine, text, state.BMCData{Ended: true, Error: failed}))
			}
			bound, cancel := context.WithTimeout(ctx, 30*time.Second)
			failed = errors.Join(failed, o.b.append(bound, events))
			cancel()
		}
		for _, s := range batch {
			o.step(s)
		}
	}
	return failed
}

// stepWriter sends what an operation writes.
type stepWriter struct {
	o       *operation
	machine string
}

func (w stepWriter) Write(p []byte) (int, error) {
	for chunk := range slices.Chunk(p, 64<<10) {
		w.o.step(state.BMCStep{Machine: w.machine, Data: slices.Clone(chunk)})
	}
	return len(p), nil
}

// ProfileBIOS are the firmware settings that machines' profiles name, by
// machine.
func ProfileBIOS(s *site.Site, ms []site.Machine) (map[string]map[string]any, error) {
	all, err := bmc.Meanings()
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]any{}
	for _, m := range ms {
		p, ok := s.Profile(m.Profile)
		if !ok || len(p.BIOS) == 0 {
			return nil, fmt.Errorf("machine %s: its profile says no firmware settings: add bios: to it in the site file, or say what is wanted with --set NAME=VALUE; fettle bmc bios show lists the names", m.Name)
		}
		want := map[string]any{}
		for k, v := range p.BIOS {
			// A meaning is on or off; YAML may have made a boolean of it.
			if on, ok := v.(bool); ok && slices.ContainsFunc(all, func(m bmc.Meaning) bool { return m.Name == k }) {
				v = map[bool]string{true: "on", false: "off"}[on]
			}
			want[k] = v
		}
		out[m.Name] = want
	}
	return out, nil
}

// wantOfProfiles completes the arguments of a plan that does not say what is
// wanted.
func wantOfProfiles(s *site.Site, ms []site.Machine, raw json.RawMessage) (json.RawMessage, error) {
	var w bmc.BIOSWant
	if len(raw) > 0 {
		if err := bmc.Unmarshal(raw, &w); err != nil {
			return nil, fmt.Errorf("the arguments of %s cannot be read: %w", bmc.OpBIOSPlan.Name, err)
		}
	}
	if w.Set != nil {
		return raw, nil
	}
	var err error
	if w.Machines, err = ProfileBIOS(s, ms); err != nil {
		return nil, err
	}
	return json.Marshal(w)
}

package provision

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

const (
	taskHold    = 25 * time.Second // how long a request for a task is held
	maxBody     = 1 << 20          // bytes of an inventory: big machines list thousands of PCI functions
	maxAgents   = 10               // inventories after one power-on
	progressGap = time.Second      // between two progress events of one run
)

// Handler is the agent's endpoint (agent/wire/PROTOCOL.md). A request is
// served only with the token of a run, and only from an address of that run's
// machine. The agent of a run that ended hears that there is nothing to do.
func (p *Provisioner) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathInventory, p.with(p.postInventory, func(Run) int { return http.StatusNoContent }))
	mux.HandleFunc("GET "+wire.PathTask, p.with(p.getTask, nil))
	mux.HandleFunc("POST "+wire.PathReport, p.with(p.postReport, func(Run) int { return http.StatusGone }))
	mux.HandleFunc("POST "+wire.PathPhoneHome, p.with(p.postPhoneHome, func(d Run) int {
		if d.Phase == state.Ready { // it has not heard our answer
			return http.StatusNoContent
		}
		return http.StatusGone
	}))
	mux.HandleFunc("POST "+wire.PathHealth, p.postHealth)
	return mux
}

// with finds the run of a request's token. When it has ended, ended says how
// the request is answered; nil: as ever.
func (p *Provisioner) with(h func(w http.ResponseWriter, req *http.Request, r *run) error, ended func(Run) int) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if err := p.wait(req.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		p.mu.Lock()
		r := p.tokens[token]
		p.mu.Unlock()
		if !ok || r == nil {
			http.Error(w, "this token belongs to no run that is under way: it ended, or a newer one was started", http.StatusUnauthorized)
			return
		}
		d := r.doc()
		if err := p.entitled(req, d); err != nil {
			p.log.Warn("request refused", "machine", d.Machine, "from", req.RemoteAddr, "err", err)
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		if d.Ended() && ended != nil {
			status := ended(d)
			if status == http.StatusNoContent {
				w.WriteHeader(status)
				return
			}
			http.Error(w, "this run has ended: "+cmp.Or(d.Reason, "it is done"), status)
			return
		}
		r.heard(p.now())
		req.Body = http.MaxBytesReader(w, req.Body, maxBody)
		err := h(w, req, r)
		var refused *refusal
		switch {
		case err == nil:
		case errors.As(err, &refused):
			http.Error(w, err.Error(), refused.status)
		case req.Context().Err() != nil:
		default:
			p.log.Error("agent's request failed", "machine", d.Machine, "path", req.URL.Path, "err", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
}

// entitled checks that a request comes from an address of the run's machine.
func (p *Provisioner) entitled(req *http.Request, d Run) error {
	from, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return fmt.Errorf("client address %q: %w", req.RemoteAddr, err)
	}
	if name := p.addrMachine(req.Context(), from.Addr().Unmap()); name != d.Machine {
		return fmt.Errorf("this token is not for %s: it belongs to another machine", from.Addr())
	}
	return nil
}

// refusal is an error that the client hears with a status of its own.
type refusal struct {
	status int
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Errorf(format, args...)}
}

func readJSON[T any](req *http.Request) (T, error) {
	var v T
	if err := json.NewDecoder(req.Body).Decode(&v); err != nil {
		return v, refuse(http.StatusBadRequest, "%s: body is not the JSON of a %T: %w", req.URL.Path, v, err)
	}
	return v, nil
}

// postInventory takes what the agent found, compares it with the site, and
// decides how the run goes on.
func (p *Provisioner) postInventory(w http.ResponseWriter, req *http.Request, r *run) error {
	ctx := context.WithoutCancel(req.Context())
	inv, err := readJSON[wire.Inventory](req)
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		// The agent would send it again for ever.
		return errors.Join(err, p.fail(ctx, r, "agent", fmt.Sprintf("its agent sends an inventory of more than %s: report this as a bug, with the machine's lspci", site.Bytes(maxBody))))
	}
	if err != nil {
		return err
	}
	if d := r.doc(); d.Phase == state.PoweringOn {
		return refuse(http.StatusServiceUnavailable, "%s is about to be restarted by its BMC", d.Machine)
	}
	err = p.update(ctx, r, "agent", func(d *Run) (string, bool) {
		switch {
		case d.Phase == state.PoweringOn, d.Phase == state.Restarting, d.Phase == state.FirstBoot,
			d.Phase == state.Inspected && d.Action == ActionInspect:
			return "", false // a late agent: its work is done
		}
		if d.Agents++; d.Agents > maxAgents {
			d.Phase = state.Failed
			d.Reason = fmt.Sprintf("its agent started %d times after one power-on and never finished: it crashes, or the machine restarts by itself; see its console", d.Agents)
			return d.Reason, true
		}
		d.Phase = state.Agent
		return "the agent is running", true
	})
	if err != nil {
		return err
	}
	if d := r.doc(); d.Phase == state.Agent {
		text := fmt.Sprintf("agent reports %d CPUs, %s of memory; disks %d, NICs %d, GPUs %d", inv.CPU.Threads, site.Bytes(inv.Memory), len(inv.Disks), len(inv.NICs), len(inv.GPUs))
		if err := p.event(ctx, d, state.KindInventory, "agent", text, inv); err != nil {
			return err
		}
		if err := p.judge(ctx, r, inv); err != nil {
			return err
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// judge compares an inventory with the site and moves the run on.
func (p *Provisioner) judge(ctx context.Context, r *run, inv wire.Inventory) error {
	s := p.c.Site()
	m, known := s.Machine(r.doc().Machine)
	text := "it is what the site file says"
	if known {
		diffs := Compare(m, inv)
		policy := m.OnDifference
		if policy == "" {
			policy = s.Policy.OnDifference
		}
		var lines []string
		for _, diff := range diffs {
			lines = append(lines, diff.String())
		}
		if len(diffs) > 0 {
			text = "it differs from the site file: " + strings.Join(lines, "; ")
			foreign := slices.ContainsFunc(diffs, func(d Difference) bool { return d.Field == fieldArch })
			switch {
			case r.doc().Action != ActionDeploy:
			case foreign:
				return p.fail(ctx, r, "fettle", text+". Nothing was written. Correct the machine's arch in the site file, and give it a profile whose image is made for it")
			case policy != site.Warn:
				return p.fail(ctx, r, "fettle", text+". Nothing was written. Mend the machine or the site file, or set on-difference: warn")
			}
		}
	} else {
		text = "unknown to the site; inspected: fettle enroll takes it into the site"
	}
	return p.update(ctx, r, "fettle", func(d *Run) (string, bool) {
		if d.Phase != state.Agent {
			return "", false
		}
		d.Phase = state.Inspected
		d.PutBack = d.Stranger // without a BMC, nothing more is done to it
		return text, true
	})
}

// getTask tells the agent what to do next; it holds the request while there is
// nothing to do.
func (p *Provisioner) getTask(w http.ResponseWriter, req *http.Request, r *run) error {
	deadline := time.NewTimer(taskHold)
	defer deadline.Stop()
	for {
		changed := r.wait()
		d := r.doc()
		switch d.Phase {
		case state.Firmware, state.Netboot, state.Discovered:
			// An agent that lived on through what the run took for a restart.
			return refuse(http.StatusConflict, "%s: send the inventory first", d.Machine)
		}
		t := task(d)
		if t.Kind == wire.TaskWait {
			select {
			case <-changed:
				continue
			case <-req.Context().Done():
				return req.Context().Err()
			case <-deadline.C:
			}
		}
		w.Header().Set("Content-Type", "application/json")
		return json.NewEncoder(w).Encode(t)
	}
}

// task is what a run's agent does now.
func task(d Run) wire.Task {
	t := wire.Task{ID: d.taskID(), Kind: wire.TaskWait}
	switch d.Phase {
	case state.Inspected, state.Deploying, state.Verifying, state.Seeding:
		if d.Action == ActionDeploy {
			t.Kind, t.Deploy = wire.TaskDeploy, d.Deploy
			if d.Deploy.MirrorSerial != "" {
				t.Kind = wire.TaskMirror
			}
		} else {
			t.Kind = afterInspection(d)
		}
	case state.Restarting, state.FirstBoot, state.Ready, state.Failed:
		t.ID, t.Kind = d.taskID()+"-end", wire.TaskHalt
	}
	return t
}

// afterInspection is what the agent does when its machine was inspected. A
// machine of the site is the BMC's matter.
func afterInspection(d Run) wire.TaskKind {
	switch {
	case d.Stranger && d.After == site.AfterPowerOff:
		return wire.TaskPowerOff
	case d.Stranger && d.After == site.AfterRestart:
		return wire.TaskReboot
	}
	return wire.TaskHalt
}

// stepPhase maps the agent's steps to phases.
var stepPhase = map[wire.Step]state.Phase{
	wire.StepPartition: state.Deploying,
	wire.StepWrite:     state.Deploying,
	wire.StepVerify:    state.Verifying,
	wire.StepSeed:      state.Seeding,
}

// working tells whether a run's agent has a task to report on.
func working(ph state.Phase) bool {
	switch ph {
	case state.Inspected, state.Deploying, state.Verifying, state.Seeding:
		return true
	}
	return false
}

// postReport takes the agent's word on how its task goes.
func (p *Provisioner) postReport(w http.ResponseWriter, req *http.Request, r *run) error {
	rep, err := readJSON[wire.Report](req)
	if err != nil {
		return err
	}
	ctx := context.WithoutCancel(req.Context())
	switch d := r.doc(); {
	case d.Phase == state.Restarting, d.Phase == state.FirstBoot:
		// Its last report comes again: it has not heard our answer.
		w.WriteHeader(http.StatusNoContent)
		return nil
	case rep.Task != d.taskID(), !working(d.Phase):
		return refuse(http.StatusGone, "task %q of %s is not the one under way: the machine was started again", rep.Task, d.Machine)
	}
	switch rep.Step {
	case wire.StepFailed:
		err = p.update(ctx, r, "agent", func(d *Run) (string, bool) {
			if !working(d.Phase) || rep.Task != d.taskID() {
				return "", false
			}
			d.Phase, d.Reason = state.Failed, cmp.Or(rep.Error, "the agent failed without saying why: see its console")
			return d.Reason, true
		})
	case wire.StepDone:
		err = p.update(ctx, r, "agent", func(d *Run) (string, bool) {
			if !working(d.Phase) || rep.Task != d.taskID() {
				return "", false
			}
			d.Phase = state.Restarting
			return "image and host configuration are on the disk", true
		})
	default:
		phase, ok := stepPhase[rep.Step]
		if !ok {
			return refuse(http.StatusBadRequest, "report of unknown step %q", rep.Step)
		}
		err = p.progress(ctx, r, phase, rep)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// progress moves a run's phase and tells of bytes, about once a second.
func (p *Provisioner) progress(ctx context.Context, r *run, phase state.Phase, rep wire.Report) error {
	err := p.update(ctx, r, "agent", func(d *Run) (string, bool) {
		if !working(d.Phase) || d.Phase == phase || rep.Task != d.taskID() {
			return "", false
		}
		d.Phase = phase
		return rep.Text, true
	})
	if err != nil || rep.Total == 0 {
		return err
	}
	now := p.now()
	r.mu.Lock()
	d, gap := r.d, now.Sub(r.lastLog)
	delta := rep.Done - r.lastN
	if d.Phase != phase || (gap < progressGap && rep.Done < rep.Total) {
		r.mu.Unlock()
		return nil
	}
	r.lastLog, r.lastN = now, rep.Done
	r.mu.Unlock()
	data := state.ProgressData{Phase: phase, Done: rep.Done, Total: rep.Total}
	if gap > 0 && gap < time.Minute && delta > 0 {
		data.Rate = int64(float64(delta) / gap.Seconds())
	}
	return p.event(ctx, d, state.KindProgress, "agent", rep.Text, data)
}

// postPhoneHome ends a deployment: the installed system is up.
func (p *Provisioner) postPhoneHome(w http.ResponseWriter, req *http.Request, r *run) error {
	home, err := readJSON[wire.PhoneHome](req)
	if err != nil {
		return err
	}
	ctx := context.WithoutCancel(req.Context())
	d := r.doc()
	if d.Phase != state.FirstBoot && d.Phase != state.Restarting {
		return refuse(http.StatusBadRequest, "phone-home of %s in phase %s: its system was not expected to be up", d.Machine, d.Phase)
	}
	if home.Hostname != d.Machine {
		reason := fmt.Sprintf("the installed system calls itself %q: its seed was not applied; see its console", home.Hostname)
		if err := p.fail(ctx, r, "machine", reason); err != nil {
			return err
		}
		return refuse(http.StatusConflict, "%s", reason)
	}
	err = p.update(ctx, r, "machine", func(d *Run) (string, bool) {
		d.Phase, d.SSHKeys = state.Ready, home.SSHKeys
		return "its installed system reports that it is up", true
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

const (
	taskHold    = 25 * time.Second // how long a request for a task is held
	maxBody     = 8 << 20          // bytes of an inventory: big machines list thousands of PCI functions
	progressGap = time.Second      // between two progress events of one run
)

// Handler is the agent's endpoint (agent/wire/PROTOCOL.md). A request is
// served only with the token of a run that is under way, and only from an
// address of that run's machine.
func (p *Provisioner) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathInventory, p.with(p.postInventory))
	mux.HandleFunc("GET "+wire.PathTask, p.with(p.getTask))
	mux.HandleFunc("POST "+wire.PathReport, p.with(p.postReport))
	mux.HandleFunc("POST "+wire.PathPhoneHome, p.with(p.postPhoneHome))
	return mux
}

// with finds the run of a request's token.
func (p *Provisioner) with(h func(w http.ResponseWriter, req *http.Request, r *run) error) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		p.mu.Lock()
		r := p.tokens[token]
		p.mu.Unlock()
		if !ok || r == nil {
			http.Error(w, "this token belongs to no run that is under way: it ended, or a newer one was started", http.StatusUnauthorized)
			return
		}
		if err := p.entitled(req, r.doc()); err != nil {
			p.log.Warn("request refused", "machine", r.doc().Machine, "from", req.RemoteAddr, "err", err)
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		r.heard(p.now())
		req.Body = http.MaxBytesReader(w, req.Body, maxBody)
		err := h(w, req, r)
		var tooBig *http.MaxBytesError
		var bad *badRequest
		switch {
		case err == nil:
		case errors.As(err, &bad), errors.As(err, &tooBig):
			http.Error(w, err.Error(), http.StatusBadRequest)
		case req.Context().Err() != nil:
		default:
			p.log.Error("agent's request failed", "machine", r.doc().Machine, "path", req.URL.Path, "err", err)
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

type badRequest struct{ err error }

func (b *badRequest) Error() string { return b.err.Error() }
func (b *badRequest) Unwrap() error { return b.err }

func readJSON[T any](req *http.Request) (T, error) {
	var v T
	if err := json.NewDecoder(req.Body).Decode(&v); err != nil {
		return v, &badRequest{fmt.Errorf("%s: body is not the JSON of a %T: %w", req.URL.Path, v, err)}
	}
	return v, nil
}

// postInventory takes what the agent found, compares it with the site, and
// decides how the run goes on.
func (p *Provisioner) postInventory(w http.ResponseWriter, req *http.Request, r *run) error {
	inv, err := readJSON[wire.Inventory](req)
	if err != nil {
		return err
	}
	ctx := context.WithoutCancel(req.Context())
	d := r.doc()
	text := fmt.Sprintf("agent reports %d CPUs, %s of memory, %d disks, %d NICs, %d GPUs", inv.CPU.Threads, site.Bytes(inv.Memory), len(inv.Disks), len(inv.NICs), len(inv.GPUs))
	if err := p.event(ctx, d, state.KindInventory, "agent", text, inv); err != nil {
		return err
	}
	err = p.update(ctx, r, "agent", func(d *Run) (string, bool) {
		switch d.Phase {
		case state.Restarting, state.FirstBoot:
			return "", false // a late agent: its work is done
		}
		d.Phase = state.Agent
		return "the agent is running", true
	})
	if err != nil {
		return err
	}
	if r.doc().Phase == state.Agent {
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
			if policy != site.Warn && r.doc().Action == ActionDeploy {
				return p.fail(ctx, r, "fettle", text+". Nothing was written. Mend the machine or the site file, or set on-difference: warn")
			}
		}
	} else {
		text = "unknown to the site; inspected"
	}
	return p.update(ctx, r, "fettle", func(d *Run) (string, bool) {
		if d.Phase != state.Agent {
			return "", false
		}
		d.Phase = state.Inspected
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
		t := task(r.doc())
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
	t := wire.Task{ID: d.ID, Kind: wire.TaskWait}
	switch d.Phase {
	case state.Inspected, state.Deploying, state.Verifying, state.Seeding:
		if d.Action == ActionDeploy {
			t.Kind, t.Deploy = wire.TaskDeploy, d.Deploy
		} else {
			t.Kind = wire.TaskHalt
		}
	case state.Restarting, state.FirstBoot, state.Ready, state.Failed:
		t.ID, t.Kind = d.ID+"-end", wire.TaskHalt
	}
	return t
}

// stepPhase maps the agent's steps to phases.
var stepPhase = map[wire.Step]state.Phase{
	wire.StepPartition: state.Deploying,
	wire.StepWrite:     state.Deploying,
	wire.StepVerify:    state.Verifying,
	wire.StepSeed:      state.Seeding,
}

// postReport takes the agent's word on how its task goes.
func (p *Provisioner) postReport(w http.ResponseWriter, req *http.Request, r *run) error {
	rep, err := readJSON[wire.Report](req)
	if err != nil {
		return err
	}
	ctx := context.WithoutCancel(req.Context())
	if d := r.doc(); rep.Task != d.ID {
		return &badRequest{fmt.Errorf("report of task %q, but the run under way is %q", rep.Task, d.ID)}
	}
	switch rep.Step {
	case wire.StepFailed:
		err = p.fail(ctx, r, "agent", rep.Error)
	case wire.StepDone:
		err = p.update(ctx, r, "agent", func(d *Run) (string, bool) {
			switch d.Phase {
			case state.Inspected, state.Deploying, state.Verifying, state.Seeding:
				d.Phase = state.Restarting
				return "image and host configuration are on the disk", true
			}
			return "", false
		})
	default:
		phase, ok := stepPhase[rep.Step]
		if !ok {
			return &badRequest{fmt.Errorf("report of unknown step %q", rep.Step)}
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
		switch d.Phase {
		case state.Inspected, state.Deploying, state.Verifying, state.Seeding:
		default:
			return "", false
		}
		if d.Phase == phase {
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
		return &badRequest{fmt.Errorf("phone-home of %s in phase %s: its system was not expected to be up", d.Machine, d.Phase)}
	}
	if home.Hostname != d.Machine {
		return p.failWith(ctx, r, w, fmt.Sprintf("the installed system calls itself %q: its seed was not applied; see its console", home.Hostname))
	}
	err = p.update(ctx, r, "machine", func(d *Run) (string, bool) {
		if d.Ended() {
			return "", false
		}
		d.Phase, d.SSHKeys = state.Ready, home.SSHKeys
		return "its installed system reports that it is up", true
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (p *Provisioner) failWith(ctx context.Context, r *run, w http.ResponseWriter, reason string) error {
	if err := p.fail(ctx, r, "machine", reason); err != nil {
		return err
	}
	http.Error(w, reason, http.StatusConflict)
	return nil
}

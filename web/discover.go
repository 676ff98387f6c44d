package web

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// Discoverer knows what was seen and is not in the site. Its methods may be
// called concurrently.
type Discoverer interface {
	// Discovered lists it; with all, also what the site has meanwhile.
	Discovered(ctx context.Context, all bool) ([]state.Discovery, error)
	// Forget forgets what was seen under a name, so that it is inspected anew.
	Forget(ctx context.Context, actor, name string) error
	// Scan looks for BMCs and tells step of each address, one at a time.
	Scan(ctx context.Context, actor string, sc state.Scan, step func(state.ScanStep)) error
}

// Reloaded is a site that was read again.
type Reloaded struct {
	Revision site.Revision `json:"revision"`
	Machines int           `json:"machines"`
}

// discoverer is the one of the server, or a problem.
func (s *Server) discoverer() (Discoverer, error) {
	if s.c.Discoverer == nil {
		return nil, problem(http.StatusNotImplemented, "ask a fettle serve", "this server discovers nothing")
	}
	return s.c.Discoverer, nil
}

func (s *Server) getDiscovered(w http.ResponseWriter, r *http.Request) error {
	d, err := s.discoverer()
	if err != nil {
		return err
	}
	all := false
	if v := r.URL.Query().Get("all"); v != "" {
		if all, err = strconv.ParseBool(v); err != nil {
			return problem(http.StatusBadRequest, "", "all=%s cannot be read: write 1 or 0", v)
		}
	}
	list, err := d.Discovered(r.Context(), all)
	if err != nil {
		return err
	}
	return answer(w, append([]state.Discovery{}, list...))
}

func (s *Server) deleteDiscovered(w http.ResponseWriter, r *http.Request) error {
	d, err := s.discoverer()
	if err != nil {
		return err
	}
	if err := d.Forget(r.Context(), identity(r).Actor(), s.nameOf(r.PathValue("name"))); err != nil {
		return refused(err, nil)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// scanLine is a line of a scan's answer: a step, or how it ended.
type scanLine struct {
	*state.ScanStep
	End   bool   `json:"end,omitempty"`
	Error string `json:"error,omitempty"`
}

// scanGap is the time between two steps that found nothing: more are not sent.
const scanGap = 200 * time.Millisecond

// postScan answers with a line of JSON for each step. The search ends with the
// request.
func (s *Server) postScan(w http.ResponseWriter, r *http.Request) error {
	d, err := s.discoverer()
	if err != nil {
		return err
	}
	var req state.Scan
	if err := s.read(r, &req); err != nil {
		return err
	}
	out, ctx, stop := s.lines(w, r)
	defer stop()
	var last time.Time
	err = d.Scan(ctx, identity(r).Actor(), req, func(st state.ScanStep) {
		if now := s.c.Now(); st.Found != nil || st.Done == st.Total || now.Sub(last) >= scanGap {
			last = now
			out.send(scanLine{ScanStep: &st})
		}
	})
	if err != nil && !out.begun {
		return refused(err, nil)
	}
	end := scanLine{End: true}
	if err != nil {
		end.Error = err.Error()
	}
	out.send(end)
	return nil
}

// postReload has the server read its site folder again.
func (s *Server) postReload(w http.ResponseWriter, r *http.Request) error {
	if s.c.Reload == nil {
		return problem(http.StatusNotImplemented, "start it again", "this server cannot read its site again while it runs")
	}
	before := s.c.Site()
	next, err := s.c.Reload(r.Context())
	if err != nil {
		return refused(err, nil)
	}
	statuses, err := s.c.Store.Overview(r.Context())
	if err != nil {
		return err
	}
	former, was := formerNames(next), map[string]string{}
	for _, st := range statuses {
		if name, ok := former[st.Machine]; ok && st.Phase != state.Unknown {
			was[name] = st.Machine
		}
	}
	events := []state.Event{{Actor: identity(r).Actor(), Kind: "site.read", Text: "had the site read again: revision " + string(next.Revision())}}
	for _, m := range next.Machines {
		if _, had := before.Machine(m.Name); !had {
			text := "is in the site from now on"
			if old := was[m.Name]; old != "" {
				text += "; what was before is on the timeline of " + old
			}
			events = append(events, state.Event{Machine: m.Name, Actor: identity(r).Actor(), Kind: "site.added", Text: text})
		}
	}
	for chunk := events; len(chunk) > 0; {
		n := min(len(chunk), state.MaxAppend)
		if _, err := s.c.Store.Append(r.Context(), chunk[:n]...); err != nil {
			return err
		}
		chunk = chunk[n:]
	}
	return answer(w, Reloaded{Revision: next.Revision(), Machines: len(next.Machines)})
}

// nameOf is the machine that a name or a MAC address means: that of the site
// that has such a port or BMC, else the timeline of who was seen with it.
func (s *Server) nameOf(name string) string {
	mac, err := site.ParseMAC(name)
	if err != nil {
		return name
	}
	st := s.c.Site()
	if m, _, ok := st.MachineByMAC(mac); ok {
		return m.Name
	}
	if m, ok := st.MachineByBMC(mac); ok {
		return m.Name
	}
	return state.NameOf(mac)
}

// pageDiscovered lists what was seen.
func (s *Server) pageDiscovered(w http.ResponseWriter, r *http.Request) error {
	after, err := s.c.Store.LastSeq(r.Context())
	if err != nil {
		return err
	}
	d, err := s.discoverer()
	if err != nil {
		return err
	}
	list, err := d.Discovered(r.Context(), false)
	if err != nil {
		return err
	}
	var body struct{ Machines, BMCs []state.Discovery }
	for _, x := range list {
		if x.Sort == state.SortBMC {
			body.BMCs = append(body.BMCs, x)
		} else {
			body.Machines = append(body.Machines, x)
		}
	}
	return s.render(w, r, http.StatusOK, "discovered", page{Title: "Discovered", Nav: "discovered", Live: &live{After: after}, Body: body})
}

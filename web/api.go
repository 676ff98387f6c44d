package web

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"slices"

	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// maxBody bounds a request: ten thousand machines by name.
const maxBody = 1 << 20

//go:embed openapi.json
var openAPI []byte

// Machine is a machine as the API tells it: what should be and what is.
type Machine struct {
	Name     string        `json:"name"`
	Known    bool          `json:"known"` // the site file has it
	Profile  string        `json:"profile,omitempty"`
	Rack     string        `json:"rack,omitempty"`
	Unit     int           `json:"unit,omitempty"`
	Serial   string        `json:"serial,omitempty"`
	Firmware site.Firmware `json:"firmware,omitempty"`
	Owner    string        `json:"owner,omitempty"`
	Purpose  string        `json:"purpose,omitempty"`
	Address  string        `json:"address,omitempty"` // of the port that it boots from
	BMC      string        `json:"bmc,omitempty"`
	Status   state.Status  `json:"status"` // in lists without the inventory
}

// SiteView is the site as the API tells it.
type SiteView struct {
	Name     string          `json:"name"`
	Domain   string          `json:"domain"`
	Revision site.Revision   `json:"revision"`
	Machines int             `json:"machines"`
	Site     json.RawMessage `json:"site"` // in its canonical form
}

// Health says whether fettle works. Nobody needs a token to ask.
type Health struct {
	OK      bool  `json:"ok"`
	LastSeq int64 `json:"last_seq"`
}

// Runs are the runs that a request started.
type Runs struct {
	Runs []string `json:"runs"`
}

// Why is how a machine came to be as it is, in sentences.
type Why struct {
	Machine   string   `json:"machine"`
	Sentences []string `json:"sentences"`
}

func (s *Server) getHealth(w http.ResponseWriter, r *http.Request) error {
	last, err := s.c.Store.LastSeq(r.Context())
	if err != nil {
		s.log.Error("state does not answer", "error", err)
		return problem(http.StatusServiceUnavailable, "see fettle's log", "fettle's state does not answer")
	}
	return answer(w, Health{OK: true, LastSeq: last})
}

func (s *Server) getOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(openAPI)
	return ignoreGone(err)
}

func (s *Server) getMachines(w http.ResponseWriter, r *http.Request) error {
	ms, err := s.machines(r)
	if err != nil {
		return err
	}
	if sel := r.URL.Query()["select"]; len(sel) > 0 {
		if err := s.check(sel); err != nil {
			return err
		}
		in, err := s.c.Site().Select(sel...)
		if err != nil { // the site was replaced meanwhile
			return problem(http.StatusNotFound, "", "%v", err)
		}
		picked := map[string]bool{}
		for _, m := range in {
			picked[m.Name] = true
		}
		ms = slices.DeleteFunc(ms, func(m Machine) bool { return !picked[m.Name] })
	}
	return answer(w, ms)
}

// machines are those of the site by name, then those that were only inspected.
// What was merely seen is in the list of what was discovered, as are BMCs.
func (s *Server) machines(r *http.Request) ([]Machine, error) {
	statuses, err := s.c.Store.Overview(r.Context())
	if err != nil {
		return nil, err
	}
	seen := map[string]state.Status{}
	for _, st := range statuses {
		seen[st.Machine] = st
	}
	out := []Machine{}
	for _, m := range s.c.Site().Machines {
		st, ok := seen[m.Name]
		if !ok {
			st = state.Status{Machine: m.Name, Phase: state.Unknown}
		}
		out = append(out, view(m, st))
		delete(seen, m.Name)
	}
	taken := formerNames(s.c.Site())
	for name, st := range seen {
		if _, in := taken[name]; in || st.Phase == state.Unknown {
			continue
		}
		out = append(out, Machine{Name: name, Status: st})
	}
	slices.SortFunc(out, func(a, b Machine) int {
		if a.Known != b.Known {
			if a.Known {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return out, nil
}

// formerNames are the names that machines of a site had before it had them.
func formerNames(s *site.Site) map[string]string {
	out := map[string]string{}
	for _, m := range s.Machines {
		for _, n := range m.NICs {
			out[state.NameOf(n.MAC)] = m.Name
		}
		if !m.BMC.MAC.IsZero() {
			out[state.NameOf(m.BMC.MAC)] = m.Name
		}
	}
	return out
}

func view(m site.Machine, st state.Status) Machine {
	v := Machine{
		Name: m.Name, Known: true, Profile: m.Profile, Rack: m.Rack, Unit: m.Unit, Serial: m.Serial,
		Firmware: m.Firmware, Owner: m.Owner, Purpose: m.Purpose, Status: st,
	}
	for _, n := range m.NICs {
		if n.Boot && n.Address.IsValid() {
			v.Address = n.Address.String()
		}
	}
	if m.BMC.Address.IsValid() {
		v.BMC = m.BMC.Address.String()
	}
	return v
}

func (s *Server) getMachine(w http.ResponseWriter, r *http.Request) error {
	m, err := s.machine(r, s.nameOf(r.PathValue("name")))
	if err != nil {
		return err
	}
	return answer(w, m)
}

// machine is one machine of the site, or one that was seen.
func (s *Server) machine(r *http.Request, name string) (Machine, error) {
	st, err := s.c.Store.Status(r.Context(), name)
	if err != nil {
		return Machine{}, err
	}
	if m, ok := s.c.Site().Machine(name); ok {
		return view(m, st), nil
	}
	if st.LastSeq == 0 {
		return Machine{}, problem(http.StatusNotFound, "see fettle machine ls",
			"no machine %q is in the site, and none was seen", name)
	}
	return Machine{Name: name, Status: st}, nil
}

func (s *Server) getWhy(w http.ResponseWriter, r *http.Request) error {
	why, err := s.why(r, s.nameOf(r.PathValue("name")))
	if err != nil {
		return err
	}
	return answer(w, why)
}

func (s *Server) why(r *http.Request, name string) (Why, error) {
	if _, err := s.machine(r, name); err != nil {
		return Why{}, err
	}
	sentences, err := s.c.Operator.Why(r.Context(), name)
	if err != nil {
		return Why{}, err
	}
	return Why{Machine: name, Sentences: append([]string{}, sentences...)}, nil
}

func (s *Server) getSite(w http.ResponseWriter, _ *http.Request) error {
	st := s.c.Site()
	return answer(w, SiteView{
		Name: st.Name, Domain: st.Domain, Revision: st.Revision(), Machines: len(st.Machines), Site: st.Canonical(),
	})
}

func (s *Server) getLeases(w http.ResponseWriter, r *http.Request) error {
	leases, err := s.c.Store.Leases(r.Context())
	if err != nil {
		return err
	}
	return answer(w, append([]state.Lease{}, leases...))
}

// deleteLease frees an address, one in quarantine for instance.
func (s *Server) deleteLease(w http.ResponseWriter, r *http.Request) error {
	network := r.PathValue("network")
	addr, err := netip.ParseAddr(r.PathValue("addr"))
	if err != nil {
		return problem(http.StatusBadRequest, "", "%q is not an address", r.PathValue("addr"))
	}
	l, ok, err := s.c.Store.LeaseByAddr(r.Context(), network, addr)
	if err != nil {
		return err
	}
	if !ok {
		return problem(http.StatusNotFound, "see GET /api/v1/leases", "%s on %s is not leased", addr, network)
	}
	if err := s.c.Store.DropLease(r.Context(), network, addr); err != nil {
		return err
	}
	_, err = s.c.Store.Append(r.Context(), state.Event{
		Actor: identity(r).Actor(), Kind: "lease.drop",
		Text: "freed the address " + addr.String() + " on " + network + ", which " + l.MAC.String() + " had",
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type machinesRequest struct {
	Machines []string `json:"machines"`
}

type deployRequest struct {
	Plan     string   `json:"plan"` // the digest that was approved
	Machines []string `json:"machines"`
}

func (s *Server) postPlan(w http.ResponseWriter, r *http.Request) error {
	var req machinesRequest
	if err := s.read(r, &req); err != nil {
		return err
	}
	if err := s.check(req.Machines); err != nil {
		return err
	}
	plan, err := s.c.Operator.Plan(r.Context(), req.Machines)
	if err != nil {
		return refused(err, nil)
	}
	return answer(w, plan)
}

func (s *Server) postDeploy(w http.ResponseWriter, r *http.Request) error {
	var req deployRequest
	if err := s.read(r, &req); err != nil {
		return err
	}
	if err := s.check(req.Machines); err != nil {
		return err
	}
	if req.Plan == "" {
		return problem(http.StatusBadRequest, "POST /api/v1/plan first, and send its digest", "the request names no plan")
	}
	runs, err := s.c.Operator.Deploy(r.Context(), identity(r).Actor(), req.Plan, req.Machines)
	return started(w, runs, err)
}

func (s *Server) postInspect(w http.ResponseWriter, r *http.Request) error {
	var req machinesRequest
	if err := s.read(r, &req); err != nil {
		return err
	}
	if err := s.check(req.Machines); err != nil {
		return err
	}
	runs, err := s.c.Operator.Inspect(r.Context(), identity(r).Actor(), req.Machines)
	return started(w, runs, err)
}

// postAbort ends the machine's run; 204 when it did.
func (s *Server) postAbort(w http.ResponseWriter, r *http.Request) error {
	name := s.nameOf(r.PathValue("name"))
	if _, err := s.machine(r, name); err != nil {
		return err
	}
	if err := s.c.Operator.Abort(r.Context(), identity(r).Actor(), name); err != nil {
		return refused(err, nil)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func started(w http.ResponseWriter, runs []string, err error) error {
	if err != nil {
		return refused(err, runs)
	}
	return answer(w, Runs{Runs: append([]string{}, runs...)})
}

// check refuses names that the site does not have, before anything is done.
func (s *Server) check(machines []string) error {
	if len(machines) == 0 {
		return problem(http.StatusBadRequest, "name at least one", "the request names no machine")
	}
	if _, err := s.c.Site().Select(machines...); err != nil {
		return problem(http.StatusNotFound, "", "%v", err)
	}
	return nil
}

// refused tells what an Operator said: its sentence is for people.
func refused(err error, runs []string) error {
	p := *problemOf(err)
	if p.Status == http.StatusInternalServerError {
		p = *problem(http.StatusUnprocessableEntity, "", "%v", err)
	}
	p.Runs = runs
	return &p
}

// read takes a JSON request, strictly.
func (s *Server) read(r *http.Request, into any) error {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return problem(http.StatusUnsupportedMediaType, "send it with Content-Type: application/json", "the request is not JSON")
	}
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the JSON object")
		}
	}
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLarge) {
		return problem(http.StatusBadRequest, "see /api/v1/openapi.json", "the request cannot be read: %v", err)
	}
	return err
}

func answer(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(append(b, '\n'))
	return ignoreGone(err)
}

// ignoreGone drops the error of writing to a client that has left: there is
// nobody to tell.
func ignoreGone(error) error { return nil }

func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) error {
	s.metrics.handler.ServeHTTP(w, r)
	return nil
}

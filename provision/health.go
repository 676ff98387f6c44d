package provision

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// Watched is what is remembered of an installed system that tells of its disks.
type Watched struct {
	Token string   `json:"token"` // what it shows; good until the machine is deployed again
	Disks []string `json:"disks"` // serial numbers that its arrays were made of, by their places
}

// maxHealth bounds a report: a machine with a hundred disks says 20 KB.
const maxHealth = 256 << 10

// postHealth takes what an installed system says of its disks: at each start
// and whenever mdadm's monitor sees a change. It is not part of a run.
func (p *Provisioner) postHealth(w http.ResponseWriter, req *http.Request) {
	err := p.takeHealth(w, req)
	var refused *refusal
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.As(err, &refused):
		http.Error(w, err.Error(), refused.status)
	case req.Context().Err() != nil:
	default:
		p.log.Error("what a machine says of its disks is not recorded", "from", req.RemoteAddr, "err", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (p *Provisioner) takeHealth(w http.ResponseWriter, req *http.Request) error {
	if err := p.wait(req.Context()); err != nil {
		return refuse(http.StatusServiceUnavailable, "%w", err)
	}
	from, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return fmt.Errorf("client address %q: %w", req.RemoteAddr, err)
	}
	machine := p.addrMachine(req.Context(), from.Addr().Unmap())
	r, ok := p.latest(machine)
	if !ok {
		return refuse(http.StatusForbidden, "%s is not the address of a machine that was deployed", from.Addr())
	}
	token, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	d := r.doc()
	if d.Watched == nil || subtle.ConstantTimeCompare([]byte(token), []byte(d.Watched.Token)) != 1 {
		return refuse(http.StatusUnauthorized, "this token is not the one of the system that %s was given last", machine)
	}
	rep, err := parseDisks(http.MaxBytesReader(w, req.Body, maxHealth))
	if err != nil {
		return refuse(http.StatusBadRequest, "%w", err)
	}
	return p.recordHealth(context.WithoutCancel(req.Context()), d, rep)
}

// recordHealth puts on the timeline what is new in a report.
func (p *Provisioner) recordHealth(ctx context.Context, d Run, rep diskReport) error {
	p.healing.Lock()
	defer p.healing.Unlock()
	st, err := p.c.Store.Status(ctx, d.Machine)
	if err != nil {
		return fmt.Errorf("reading the status of %s: %w", d.Machine, err)
	}
	m, _ := p.c.Site().Machine(d.Machine)
	was := st.Health
	now := state.HealthData{Arrays: rep.arrays}
	remember(now.Arrays, was, d.Watched.Disks)
	what, todo := diagnose(now.Arrays, rep.disks, m)
	if todo != "" {
		now.Problem, now.Since = what+": "+todo, p.now().UTC().Truncate(time.Second)
		if was != nil && was.Problem != "" {
			now.Since = was.Since
		}
	}
	if was != nil && reflect.DeepEqual(now.Arrays, was.Arrays) && now.Problem == was.Problem {
		return nil
	}
	if was != nil && was.Problem != "" && todo == "" {
		what += " again"
	}
	return p.event(ctx, d, state.KindHealth, "machine", what, now)
}

// remember fills in which disks are missing: the ones that were there last.
func remember(arrays []state.Array, was *state.HealthData, made []string) {
	for _, a := range arrays {
		for i := range a.Members {
			m := &a.Members[i]
			if m.Serial != "" || m.State != state.MemberMissing && m.State != state.MemberFailed {
				continue
			}
			if was != nil {
				for _, b := range was.Arrays {
					if b.Name == a.Name && i < len(b.Members) {
						m.Serial = b.Members[i].Serial
					}
				}
			}
			if m.Serial == "" && i < len(made) && len(a.Members) == len(made) {
				m.Serial = made[i]
			}
		}
	}
}

// diagnose says how arrays are, and what to do; todo is "" when all is well.
func diagnose(arrays []state.Array, disks map[string]reportedDisk, m site.Machine) (what, todo string) {
	if len(arrays) == 0 {
		return "its system runs on no array of disks", ""
	}
	var names, sentences []string
	said := map[string][]string{} // names of arrays by how they are
	var order []string
	var lost []state.Member
	rebuilt := ""
	for _, a := range arrays {
		names = append(names, a.Name)
		if !a.Degraded() {
			continue
		}
		var parts []string
		for _, x := range a.Members {
			disk := "disk " + cmp.Or(x.Serial, x.Device, "of unknown serial number")
			switch x.State {
			case state.MemberWorking:
				continue
			case state.MemberRebuilding:
				how := "is being filled"
				if a.Sync != "" {
					how += fmt.Sprintf(" (%d %%)", a.Percent)
				}
				parts = append(parts, disk+" "+how)
				rebuilt = disk
				continue
			case state.MemberFailed:
				parts = append(parts, disk+" has failed")
			case state.MemberMissing:
				parts = append(parts, disk+" is missing")
			}
			lost = append(lost, x)
		}
		key := fmt.Sprintf("on %d of %d disks, as %s", a.Working(), len(a.Members), strings.Join(parts, " and "))
		if said[key] == nil {
			order = append(order, key)
		}
		said[key] = append(said[key], a.Name)
	}
	if len(order) == 0 {
		if len(names) == 1 {
			return names[0] + " has all its disks", ""
		}
		return words(names) + " have all their disks", ""
	}
	for _, key := range order {
		run := " run "
		if len(said[key]) == 1 {
			run = " runs "
		}
		sentences = append(sentences, words(said[key])+run+key)
	}
	what = strings.Join(sentences, "; ")
	if len(lost) == 0 {
		return what, "leave the disks in until " + rebuilt + " is filled"
	}
	return what, remedy(lost[0], disks, m)
}

// remedy says what to do about a member that is lost. A disk is proposed only
// where nobody can mean another one to be kept: fettle-mirror-disk refuses what
// is not empty besides.
func remedy(lost state.Member, disks map[string]reportedDisk, m site.Machine) string {
	const run = "run on the machine: sudo fettle-mirror-disk /dev/"
	for _, name := range slices.Sorted(maps.Keys(disks)) {
		d := disks[name]
		switch {
		case d.used || d.serial == "":
		case d.serial == lost.Serial:
			return "that disk is there as " + d.name + ", empty or out of date: if it is sound, " + run + d.name
		case len(m.Disks) > 0 && !slices.ContainsFunc(m.Disks, func(x site.Disk) bool { return x.Serial == d.serial }):
			return fmt.Sprintf("disk %s (%s) is new: if it is to take the place, write its serial number into the site file instead of the lost one's, and %s%s", d.serial, d.name, run, d.name)
		}
	}
	return "replace the disk, write the new one's serial number into the machine's disks in the site file, and " + run + "NAME; or deploy the machine anew"
}

// lostDisk tells whether a machine said that it lacks a disk.
func lostDisk(h *state.HealthData, serial string) bool {
	if h == nil {
		return false
	}
	return slices.ContainsFunc(h.Arrays, func(a state.Array) bool {
		return slices.ContainsFunc(a.Members, func(m state.Member) bool {
			return m.Serial == serial && (m.State == state.MemberMissing || m.State == state.MemberFailed)
		})
	})
}

// words lists names: "a, b and c".
func words(names []string) string {
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}

// healthStory is the sentence on a machine's disks that its summary ends with.
func healthStory(st state.Status) string {
	if st.Health == nil || st.Health.Problem == "" {
		return ""
	}
	return fmt.Sprintf(" Since %s %s.", st.Health.Since.Local().Format(time.DateTime), st.Health.Problem)
}

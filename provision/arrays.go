package provision

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/fettle-dev/fettle/state"
)

// maxPlaces bounds the places of an array: md has room for 384 (version 1
// metadata, mdp_superblock_1.dev_roles in 4 KiB and less).
const maxPlaces = 384

// diskReport is what an installed system says of its disks: the body of
// wire.PathHealth (agent/wire/PROTOCOL.md), which are files of md's directories
// in sysfs (Documentation/admin-guide/md.rst of the kernel), a value a line.
type diskReport struct {
	arrays []state.Array
	disks  map[string]reportedDisk // by name: "vda"
}

type reportedDisk struct {
	name, serial string
	used         bool // an array has a part of it
}

// mdArray is an array as it is read, before its members are in their places.
type mdArray struct {
	values  map[string]string
	members map[string]map[string]string
}

// parseDisks reads a report. What it does not know it leaves out: md of another
// kernel says more, or less.
func parseDisks(r io.Reader) (diskReport, error) {
	rep := diskReport{disks: map[string]reportedDisk{}}
	arrays := map[string]*mdArray{}
	of := func(dev string) *mdArray {
		if arrays[dev] == nil {
			arrays[dev] = &mdArray{values: map[string]string{}, members: map[string]map[string]string{}}
		}
		return arrays[dev]
	}
	whole := false
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) == 0:
		case whole:
			return diskReport{}, fmt.Errorf("line %d: something follows the end", n)
		case f[0] == "array" && len(f) > 3:
			of(f[1]).values[f[2]] = strings.Join(f[3:], " ")
		case f[0] == "member" && len(f) > 4:
			a := of(f[1])
			if a.members[f[2]] == nil {
				a.members[f[2]] = map[string]string{}
			}
			a.members[f[2]][f[3]] = f[4]
		case f[0] == "disk" && len(f) > 1:
			rep.disks[f[1]] = reportedDisk{name: f[1], serial: strings.Join(f[2:], " ")}
		case f[0] == "end":
			whole = true
		}
	}
	if err := lines.Err(); err != nil {
		return diskReport{}, fmt.Errorf("reading what a machine says of its disks: %w", err)
	}
	if !whole {
		return diskReport{}, errors.New("what the machine says of its disks has no end")
	}
	for _, dev := range slices.Sorted(maps.Keys(arrays)) {
		a, err := rep.place(dev, arrays[dev])
		if err != nil {
			return diskReport{}, err
		}
		if a != nil {
			rep.arrays = append(rep.arrays, *a)
		}
	}
	slices.SortStableFunc(rep.arrays, func(a, b state.Array) int { return cmp.Compare(a.Name, b.Name) })
	return rep, nil
}

// place makes an array of what was read; nil for one that has nothing to lose
// a disk from, or is not running.
func (rep *diskReport) place(dev string, m *mdArray) (*state.Array, error) {
	switch m.values["level"] {
	case "raid1", "raid4", "raid5", "raid6", "raid10":
	default:
		return nil, nil
	}
	switch m.values["array_state"] {
	case "", "clear", "inactive":
		return nil, nil
	}
	// "2 (3)" while an array is given more disks.
	first, _, _ := strings.Cut(m.values["raid_disks"], " ")
	places, err := strconv.Atoi(first)
	if err != nil || places < 1 || places > maxPlaces {
		return nil, fmt.Errorf("array %s has %q disks", dev, m.values["raid_disks"])
	}
	a := &state.Array{Name: arrayName(dev, m.values["name"]), Device: dev, Level: m.values["level"], Members: make([]state.Member, places)}
	for i := range a.Members {
		a.Members[i].State = state.MemberMissing
	}
	var lost []state.Member
	for _, part := range slices.Sorted(maps.Keys(m.members)) {
		v := m.members[part]
		if d, ok := rep.disks[v["disk"]]; ok {
			d.used = true
			rep.disks[d.name] = d
		}
		flags := strings.Split(v["state"], ",")
		one := state.Member{Serial: rep.disks[v["disk"]].serial, Device: part, State: state.MemberRebuilding}
		switch {
		case slices.Contains(flags, "replacement"):
			continue // the place is another's yet
		case slices.Contains(flags, "faulty"):
			one.State = state.MemberFailed
		case slices.Contains(flags, "in_sync"):
			one.State = state.MemberWorking
		}
		slot, err := strconv.Atoi(v["slot"])
		switch {
		case err == nil && slot >= 0 && slot < places && a.Members[slot].State == state.MemberMissing:
			a.Members[slot] = one
		case one.State == state.MemberFailed: // md has taken its place away: slot is "none"
			lost = append(lost, one)
		}
	}
	for i := range a.Members {
		if len(lost) > 0 && a.Members[i].State == state.MemberMissing {
			a.Members[i], lost = lost[0], lost[1:]
		}
	}
	switch action := m.values["sync_action"]; action {
	case "recover", "resync", "reshape":
		a.Sync, a.Percent = action, percentOf(m.values["sync_completed"])
	}
	return a, nil
}

// arrayName is an array's name for people: "root" of "any:root".
func arrayName(dev, name string) string {
	if _, after, ok := strings.Cut(name, ":"); ok {
		name = after
	}
	return cmp.Or(name, dev)
}

// percentOf reads sync_completed: "123 / 456" sectors, "none", "delayed".
func percentOf(s string) int {
	a, b, _ := strings.Cut(s, " / ")
	done, err := strconv.ParseUint(a, 10, 62)
	total, terr := strconv.ParseUint(b, 10, 62)
	if err != nil || terr != nil || total == 0 {
		return 0
	}
	return int(min(99, float64(done)/float64(total)*100)) // 100 is when md is done
}

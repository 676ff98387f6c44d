package provision

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/state"
)

// twoDisks is what a machine says whose mirror is whole, as one of the
// end-to-end lab's did.
const twoDisks = `array md126 level raid1
array md126 array_state clean
array md126 raid_disks 2
array md126 sync_action idle
array md126 sync_completed none
array md126 name any:swap
member md126 vda4 state in_sync
member md126 vda4 slot 0
member md126 vda4 disk vda
member md126 vdb4 state in_sync
member md126 vdb4 slot 1
member md126 vdb4 disk vdb
array md127 level raid1
array md127 array_state active
array md127 raid_disks 2
array md127 sync_action idle
array md127 sync_completed none
array md127 name any:root
member md127 vda3 state in_sync
member md127 vda3 slot 0
member md127 vda3 disk vda
member md127 vdb3 state in_sync
member md127 vdb3 slot 1
member md127 vdb3 disk vdb
disk vda SN-A
disk vdb SN-B
end
`

// without leaves out the lines that hold one of some words.
func without(text string, words ...string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		keep := true
		for _, w := range words {
			keep = keep && !strings.Contains(line, w)
		}
		if keep {
			out.WriteString(line)
		}
	}
	return out.String()
}

func swapped(text string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(text) }

func TestParseDisks(t *testing.T) {
	working := func(serial, device string) state.Member {
		return state.Member{Serial: serial, Device: device, State: state.MemberWorking}
	}
	mirror := func(name, device, sync string, percent int, members ...state.Member) state.Array {
		return state.Array{Name: name, Device: device, Level: "raid1", Members: members, Sync: sync, Percent: percent}
	}
	gone := state.Member{State: state.MemberMissing}
	whole := []state.Array{mirror("root", "md127", "", 0, working("SN-A", "vda3"), working("SN-B", "vdb3")),
		mirror("swap", "md126", "", 0, working("SN-A", "vda4"), working("SN-B", "vdb4"))}
	for _, tt := range []struct {
		name, text string
		want       []state.Array
		free       string // disks that no array uses
		err        string
	}{
		{"whole", twoDisks, whole, "", ""},
		{"lines of another version", "weather fine\n\narray md9 level\nmember md9\n" + swapped(twoDisks, "end\n", "array md127 colour red\nend\n"), whole, "", ""},
		{"names with blanks and without", swapped(twoDisks, "any:root", "my root", "array md126 name any:swap\n", ""),
			[]state.Array{mirror("md126", "md126", "", 0, whole[1].Members...), mirror("my root", "md127", "", 0, whole[0].Members...)}, "", ""},
		{"the first disk is gone", without(twoDisks, " vda"),
			[]state.Array{mirror("root", "md127", "", 0, gone, working("SN-B", "vdb3")), mirror("swap", "md126", "", 0, gone, working("SN-B", "vdb4"))}, "", ""},
		{"it came back empty", without(twoDisks, " vda3", " vda4"),
			[]state.Array{mirror("root", "md127", "", 0, gone, working("SN-B", "vdb3")), mirror("swap", "md126", "", 0, gone, working("SN-B", "vdb4"))}, "vda", ""},
		{"failed, and still there", swapped(twoDisks, "vda3 state in_sync", "vda3 state faulty,blocked", "vda3 slot 0", "vda3 slot none"),
			[]state.Array{mirror("root", "md127", "", 0, state.Member{Serial: "SN-A", Device: "vda3", State: state.MemberFailed}, working("SN-B", "vdb3")), whole[1]}, "", ""},
		{"failed beside a new member", swapped(twoDisks, "vda3 state in_sync", "vda3 state faulty", "vda3 slot 0", "vda3 slot none", "end\n",
			"member md127 vdc3 state spare\nmember md127 vdc3 slot 0\nmember md127 vdc3 disk vdc\ndisk vdc SN-C\nend\n"),
			[]state.Array{mirror("root", "md127", "", 0, state.Member{Serial: "SN-C", Device: "vdc3", State: state.MemberRebuilding}, working("SN-B", "vdb3")), whole[1]}, "", ""},
		{"filled", swapped(twoDisks, "vda3 state in_sync", "vda3 state spare", "md127 sync_action idle", "md127 sync_action recover", "md127 sync_completed none", "md127 sync_completed 6291456 / 12580864"),
			[]state.Array{mirror("root", "md127", "recover", 50, state.Member{Serial: "SN-A", Device: "vda3", State: state.MemberRebuilding}, working("SN-B", "vdb3")), whole[1]}, "", ""},
		{"waits to be filled", swapped(twoDisks, "vda4 state in_sync", "vda4 state spare", "md126 sync_action idle", "md126 sync_action recover", "md126 sync_completed none", "md126 sync_completed delayed"),
			[]state.Array{whole[0], mirror("swap", "md126", "recover", 0, state.Member{Serial: "SN-A", Device: "vda4", State: state.MemberRebuilding}, working("SN-B", "vdb4"))}, "", ""},
		{"members made alike", swapped(twoDisks, "md127 sync_action idle", "md127 sync_action resync", "md127 sync_completed none", "md127 sync_completed 5 / 5"),
			[]state.Array{mirror("root", "md127", "resync", 99, whole[0].Members...), whole[1]}, "", ""},
		{"the monthly check is no matter", swapped(twoDisks, "md127 sync_action idle", "md127 sync_action check", "md127 sync_completed none", "md127 sync_completed 3 / 5"), whole, "", ""},
		{"a spare that is not needed", swapped(twoDisks, "end\n", "member md127 vdc1 state spare\nmember md127 vdc1 slot none\nmember md127 vdc1 disk vdc\ndisk vdc SN-C\nend\n"), whole, "", ""},
		{"a disk that takes the place of a sound one", swapped(twoDisks, "end\n", "member md127 vdc1 state in_sync,replacement\nmember md127 vdc1 slot 0\nmember md127 vdc1 disk vdc\ndisk vdc SN-C\nend\n"), whole, "", ""},
		{"stripes and stopped arrays", "array md0 level raid0\narray md0 array_state clean\narray md0 raid_disks 4\narray md1 level raid1\narray md1 array_state inactive\narray md1 raid_disks 0\ndisk sda\nend\n", nil, "sda", ""},
		{"more places", swapped(without(twoDisks, "md126"), "md127 raid_disks 2", "md127 raid_disks 3 (2)"),
			[]state.Array{mirror("root", "md127", "", 0, working("SN-A", "vda3"), working("SN-B", "vdb3"), gone)}, "", ""},
		{"no serial number", swapped(without(twoDisks, "md126"), "disk vda SN-A", "disk vda"),
			[]state.Array{mirror("root", "md127", "", 0, working("", "vda3"), working("SN-B", "vdb3"))}, "", ""},
		{"nothing", "end\n", nil, "", ""},
		{"cut off", strings.TrimSuffix(twoDisks, "end\n"), nil, "", "no end"},
		{"goes on", twoDisks + "disk vdc X\n", nil, "", "line 28: something follows the end"},
		{"places of no number", swapped(twoDisks, "md127 raid_disks 2", "md127 raid_disks two"), nil, "", `array md127 has "two" disks`},
		{"too many places", swapped(twoDisks, "md127 raid_disks 2", "md127 raid_disks 4000000000"), nil, "", `has "4000000000" disks`},
		{"a line without end", strings.Repeat("x", 70000) + "\nend\n", nil, "", "token too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseDisks(strings.NewReader(tt.text))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("parseDisks() = %v; want an error with %q", err, tt.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got.arrays, tt.want) {
				t.Errorf("parseDisks() = %+v, %v; want %+v", got.arrays, err, tt.want)
			}
			free := ""
			for name, d := range got.disks {
				if !d.used {
					free += name
				}
			}
			if strings.Trim(strings.Replace(free, "vdc", "", 1), " ") != tt.free {
				t.Errorf("disks of no array are %q; want %q", free, tt.free)
			}
		})
	}
}

func FuzzParseDisks(f *testing.F) {
	f.Add(twoDisks)
	f.Add(without(twoDisks, " vda"))
	f.Add("array md0 level raid5\narray md0 array_state clean\narray md0 raid_disks 3 (2)\nmember md0 sda state faulty\nmember md0 sda slot none\narray md0 sync_action recover\narray md0 sync_completed 1 / 2\nend\n")
	f.Fuzz(func(t *testing.T, text string) {
		rep, err := parseDisks(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, a := range rep.arrays {
			if len(a.Members) < 1 || len(a.Members) > maxPlaces || a.Percent < 0 || a.Percent > 99 || a.Name == "" || a.Device == "" {
				t.Errorf("parseDisks(%q) has the array %+v", text, a)
			}
			for _, m := range a.Members {
				if m.State == "" || (m.State == state.MemberMissing) != (m.Device == "") {
					t.Errorf("parseDisks(%q) has the member %+v", text, m)
				}
			}
		}
		remember(rep.arrays, &state.HealthData{Arrays: rep.arrays}, []string{"A", "B"})
		what, todo := diagnose(rep.arrays, rep.disks, testSite().Machines[0])
		if what == "" {
			t.Errorf("diagnose(%q) says nothing", text)
		}
		b, err := json.Marshal(state.HealthData{Arrays: rep.arrays, Problem: todo})
		var back state.HealthData
		if err != nil || json.Unmarshal(b, &back) != nil {
			t.Errorf("what %q says is not JSON: %v", text, err)
		}
	})
}

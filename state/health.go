package state

import "time"

// HealthData is the data of KindHealth: what a machine's installed system says
// of the disks that it runs on.
type HealthData struct {
	Arrays []Array `json:"arrays"` // by name
	// Problem says in a sentence what is wrong and what to do; "" = nothing is.
	Problem string    `json:"problem,omitempty"`
	Since   time.Time `json:"since,omitzero"` // of the problem
}

// Array is an array of disks (Linux md).
type Array struct {
	Name    string   `json:"name"`   // "root"
	Device  string   `json:"device"` // "md127"
	Level   string   `json:"level"`  // "raid1"
	Members []Member `json:"members"`
	// Sync is what is being done to it: "recover" (a new member is filled),
	// "resync" (members are made alike); "" = nothing.
	Sync    string `json:"sync,omitempty"`
	Percent int    `json:"percent,omitempty"` // of Sync
}

// Member is one of the places that an array has for disks.
type Member struct {
	Serial string      `json:"serial"`           // of the disk that is there, or last was; "" = unknown
	Device string      `json:"device,omitempty"` // "vda3"; "" = nothing is there
	State  MemberState `json:"state"`
}

// MemberState is how a member of an array is.
type MemberState string

// States of members.
const (
	MemberWorking    MemberState = "working"
	MemberRebuilding MemberState = "rebuilding" // it is being filled from the others
	MemberFailed     MemberState = "failed"     // md has given it up
	MemberMissing    MemberState = "missing"
)

// Working is how many members an array can be read from.
func (a Array) Working() int {
	n := 0
	for _, m := range a.Members {
		if m.State == MemberWorking {
			n++
		}
	}
	return n
}

// Degraded tells whether an array would survive the loss of fewer disks than
// it was made for.
func (a Array) Degraded() bool { return a.Working() < len(a.Members) }

// Package state says what is and what was: append-only [Event]s (they are the
// audit log too), a machine's [Status] as a fold over them, address [Lease]s
// and [Lock]s. It is kept in etcd, embedded by default. A write is durable
// before it is acknowledged. The package knows nothing of how anything is done.
package state

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/fettle-dev/fettle/site"
)

// Kind names what an event is about, dotted, coarse to fine.
type Kind string

// Kinds of events that the fold of Status understands. Other kinds may be
// appended freely; they are kept and shown but change no status.
const (
	KindPhase     Kind = "machine.phase"     // Data: PhaseData
	KindProgress  Kind = "machine.progress"  // Data: ProgressData; kept thin by the writer
	KindInventory Kind = "machine.inventory" // Data: wire.Inventory as JSON
	KindPower     Kind = "machine.power"     // Data: PowerData
	KindRun       Kind = "run.start"         // Data: RunData
	KindRunEnd    Kind = "run.end"           // Data: RunEndData
	KindHealth    Kind = "machine.health"    // Data: HealthData
)

// Phase is where a machine is in its lifecycle.
type Phase string

// The phases, in the order of a good run.
const (
	Unknown    Phase = "unknown"    // never seen
	Discovered Phase = "discovered" // asked the network for an address, or its BMC answered
	PoweringOn Phase = "powering-on"
	Firmware   Phase = "firmware"  // powered, nothing heard yet
	Netboot    Phase = "netboot"   // asked for an address or a loader
	Agent      Phase = "agent"     // the in-RAM agent reported
	Inspected  Phase = "inspected" // inventory compared with the site
	Deploying  Phase = "deploying" // image being written
	Verifying  Phase = "verifying" // image being read back
	Seeding    Phase = "seeding"   // host configuration being written
	Restarting Phase = "restarting"
	FirstBoot  Phase = "first-boot" // installed OS starting
	Ready      Phase = "ready"
	Failed     Phase = "failed"
)

// Event is one thing that happened. Events are immutable.
type Event struct {
	Seq     int64           `json:"seq"` // etcd revision order; set by Append
	Time    time.Time       `json:"time"`
	Machine string          `json:"machine,omitempty"` // "" = of the site
	Run     string          `json:"run,omitempty"`
	Actor   string          `json:"actor"` // "fettle", "agent", "user:alice", ...
	Kind    Kind            `json:"kind"`
	Text    string          `json:"text"` // one sentence for people
	Data    json.RawMessage `json:"data,omitempty"`
}

// PhaseData is the data of KindPhase.
type PhaseData struct {
	Phase  Phase  `json:"phase"`
	Reason string `json:"reason,omitempty"` // why failed
}

// ProgressData is the data of KindProgress.
type ProgressData struct {
	Phase Phase `json:"phase"`
	Done  int64 `json:"done"` // bytes
	Total int64 `json:"total"`
	Rate  int64 `json:"rate"` // bytes per second
}

// PowerData is the data of KindPower.
type PowerData struct {
	Power string `json:"power"` // "on", "off"
}

// RunData is the data of KindRun.
type RunData struct {
	Action   string        `json:"action"` // "deploy", "inspect", "wipe"
	Revision site.Revision `json:"revision"`
	Image    string        `json:"image,omitempty"`
	Digest   string        `json:"digest,omitempty"`
}

// RunEndData is the data of KindRunEnd.
type RunEndData struct {
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
}

// Status is what is known of a machine now: a fold over its events.
type Status struct {
	Machine   string            `json:"machine"`
	Phase     Phase             `json:"phase"`
	Since     time.Time         `json:"since"` // of the phase
	Reason    string            `json:"reason,omitempty"`
	Power     string            `json:"power,omitempty"`
	Run       string            `json:"run,omitempty"`
	Action    string            `json:"action,omitempty"`
	RunStart  time.Time         `json:"run_start,omitzero"`
	RunEnd    time.Time         `json:"run_end,omitzero"`
	Image     string            `json:"image,omitempty"` // of the last completed deploy, or the one under way
	Digest    string            `json:"digest,omitempty"`
	Progress  *ProgressData     `json:"progress,omitempty"`
	Seconds   map[Phase]float64 `json:"seconds,omitempty"` // spent in each phase of the latest run
	Health    *HealthData       `json:"health,omitempty"`  // as its installed system last said; nil = it never did
	Inventory json.RawMessage   `json:"inventory,omitempty"`
	LastSeq   int64             `json:"last_seq"`
}

// Lease is one address given to one MAC on one network.
type Lease struct {
	Network  string     `json:"network"`
	Addr     netip.Addr `json:"addr"`
	MAC      site.MAC   `json:"mac"`
	Hostname string     `json:"hostname,omitempty"`
	Granted  time.Time  `json:"granted"`
	Expires  time.Time  `json:"expires"`
	Declined bool       `json:"declined,omitempty"` // quarantined: somebody else has the address
}

// Query selects events.
type Query struct {
	Machine string // "" = all
	After   int64  // events with Seq > After
	Limit   int    // 0 = all; otherwise the newest Limit
	Kinds   []Kind // nil = all
}

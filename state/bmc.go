package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// KindBMC is an operation at machines' BMCs that a person asked for: one event
// a machine before it begins and one with what came of it.
const KindBMC Kind = "bmc.operation" // Data: BMCData

// BMCData is the data of KindBMC.
type BMCData struct {
	Operation string          `json:"operation"`
	Args      json.RawMessage `json:"args,omitempty"`
	Ended     bool            `json:"ended,omitempty"` // false: it begins
	Error     string          `json:"error,omitempty"`
}

// BMCOperation is one thing that a server does to BMCs.
type BMCOperation struct {
	Name   string `json:"name"`
	Effect string `json:"effect"`         // "reads", "watches" (a screen), "changes", "owns" (may lock others out)
	Asks   string `json:"asks,omitempty"` // what a person must agree to first
}

// BMCRequest asks for an operation at the BMCs of machines.
type BMCRequest struct {
	Machines []string        `json:"machines"` // names or expressions as site.Select takes them
	Args     json.RawMessage `json:"args,omitempty"`
	// Yes says that a person agreed to what the operation asks.
	Yes bool `json:"yes,omitempty"`
	// Dry names the machines and does nothing.
	Dry      bool `json:"dry,omitempty"`
	Parallel int  `json:"parallel,omitempty"` // BMCs at once, at most; 0 = 128
	// Wait is how long to wait for a BMC that somebody else has, in
	// milliseconds; 0 = a minute.
	Wait int64 `json:"wait_ms,omitempty"`
}

// BMCStep is a step of an operation: how far one machine is, or what came of it.
type BMCStep struct {
	Machine string          `json:"machine"`
	Site    string          `json:"site,omitempty"` // of a dry answer
	Text    string          `json:"text,omitempty"` // how far it is, for people
	Data    []byte          `json:"data,omitempty"` // the next bytes of what it writes
	Done    bool            `json:"done,omitempty"` // the machine's last step
	Value   json.RawMessage `json:"value,omitempty"`
	Error   string          `json:"error,omitempty"`
}

// BMCHold says who has a machine's BMC.
type BMCHold struct {
	Machine string    `json:"machine"`
	Holder  string    `json:"holder"` // "user:alice", "fettle"
	Doing   string    `json:"doing"`
	Since   time.Time `json:"since"`
}

// Says is "user:alice for 12s (firmware-update)".
func (h BMCHold) Says(now time.Time) string {
	return fmt.Sprintf("%s for %s (%s)", h.Holder, max(0, now.Sub(h.Since)).Round(time.Second), h.Doing)
}

// ErrNeedsYes means that somebody must agree to an operation first.
var ErrNeedsYes = errors.New("nobody has agreed to it")

// Package load is clients of a boot server, in numbers. A [Storm] is machines
// that boot at once, from their firmware's first DHCP packet to the last byte
// of a ramdisk; [Exchanges], [Burst] and [Fetches] do one stage of that again
// and again. It knows nothing of the server but the wire, so that other servers
// can be measured with it, and it sends only to addresses that its caller
// names.
package load

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Spread is how long something took, over many.
type Spread struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50_s"`
	P90   float64 `json:"p90_s"`
	P99   float64 `json:"p99_s"`
	Max   float64 `json:"max_s"`
}

// spread sorts d.
func spread(d []time.Duration) Spread {
	if len(d) == 0 {
		return Spread{}
	}
	slices.Sort(d)
	at := func(p int) float64 { return d[min(len(d)*p/100, len(d)-1)].Seconds() }
	return Spread{Count: len(d), P50: at(50), P90: at(90), P99: at(99), Max: d[len(d)-1].Seconds()}
}

// Reason is why some clients failed.
type Reason struct {
	Text  string `json:"text"`
	Count int    `json:"count"`
}

// reasons sorts by number, the most frequent first.
func reasons(m map[string]int) []Reason {
	var out []Reason
	for text, n := range m {
		out = append(out, Reason{text, n})
	}
	slices.SortFunc(out, func(a, b Reason) int { return cmp.Or(b.Count-a.Count, cmp.Compare(a.Text, b.Text)) })
	return out
}

var errSilent = errors.New("no answer")

// stageError is an error of a stage, without what differs between clients: so
// errors can be counted.
func stageError(stage string, err error) error { return fmt.Errorf("%s: %w", stage, err) }

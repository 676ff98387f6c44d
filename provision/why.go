package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/state"
)

// Why reads a machine's latest run back as sentences, oldest first; the last
// one sums up.
func (p *Provisioner) Why(ctx context.Context, machine string) ([]string, error) {
	st, err := p.c.Store.Status(ctx, machine)
	if err != nil {
		return nil, fmt.Errorf("reading the status of %s: %w", machine, err)
	}
	events, err := p.c.Store.Events(ctx, state.Query{Machine: machine})
	if err != nil {
		return nil, fmt.Errorf("reading the events of %s: %w", machine, err)
	}
	if len(events) == 0 {
		if _, known := p.c.Site().Machine(machine); !known {
			return nil, fmt.Errorf("no machine %q in the site file, and none has been heard of under that name; fettle discover lists those that were", machine)
		}
		return []string{machine + " has never been heard of: no DHCP packet came from its MAC addresses, and it was never deployed. fettle machine deploy " + machine + " starts it."}, nil
	}
	// Only the latest run is told; before it, all that there is.
	from := 0
	for i, e := range events {
		if e.Kind == state.KindRun {
			from = i
		}
	}
	last := summary(machine, st, p.now()) + healthStory(st)
	if stuck := bootStory(machine, st, events[from:], p.now()); stuck != "" {
		last += " " + stuck
	}
	return append(sentences(events[from:]), last), nil
}

// bootStory says what stops a machine that is on its way to the agent; "" for
// others. The events are those of its latest run.
func bootStory(machine string, st state.Status, events []state.Event, now time.Time) string {
	switch st.Phase {
	case state.Firmware, state.Netboot, state.Failed, state.Unknown, state.Discovered: // the last two: nobody started it, or knows it
	default:
		return ""
	}
	var boot []pxe.Exchange
	power := false
	for _, e := range events {
		family, _, _ := strings.Cut(string(e.Kind), ".")
		switch {
		case e.Kind == state.KindInventory:
			return "" // it got there
		case e.Kind == state.KindPower:
			power = true
		case family == "dhcp", family == "tftp", family == "http", family == "boot", family == "script":
			if power {
				boot, power = nil, false // what was before is another try
			}
			boot = append(boot, exchangeOf(e))
		}
	}
	if len(boot) == 0 {
		return "" // the summary says so
	}
	why := pxe.Why(boot, now)
	if why == "" {
		return ""
	}
	return machine + " " + strings.TrimSuffix(why, ".") + "."
}

// exchangeOf is the exchange that an event tells of.
func exchangeOf(ev state.Event) pxe.Exchange {
	var d exchangeData
	if err := json.Unmarshal(ev.Data, &d); err != nil {
		d = exchangeData{} // an event of an older version
	}
	e := pxe.Exchange{Time: ev.Time, Network: d.Network, Kind: string(ev.Kind), Name: d.Name, Client: d.Client, Bytes: d.Bytes, Text: ev.Text}
	if d.Error != "" {
		e.Err = errors.New(d.Error)
	}
	return e
}

// sentences tells events; the same text many times over is told once, with its
// count.
func sentences(events []state.Event) []string {
	var out []string
	for i := 0; i < len(events); {
		e := events[i]
		n := 1
		for i+n < len(events) && events[i+n].Kind == e.Kind && events[i+n].Text == e.Text {
			n++
		}
		i += n
		if e.Text == "" || e.Kind == state.KindProgress {
			continue
		}
		line := fmt.Sprintf("%s  %-8s %s", e.Time.Local().Format("15:04:05"), e.Actor, strings.TrimPrefix(e.Text, e.Actor+" "))
		if n > 1 {
			line += fmt.Sprintf(" (%d times)", n)
		}
		out = append(out, line)
	}
	return out
}

// summary says in one sentence where a machine is, and what to do.
func summary(machine string, st state.Status, now time.Time) string {
	since := now.Sub(st.Since).Round(time.Second)
	switch st.Phase {
	case state.Ready:
		return fmt.Sprintf("%s is ready with image %s, since %s.", machine, st.Image, since)
	case state.Failed:
		return fmt.Sprintf("%s failed %s ago: %s. Try again with fettle machine deploy %s.", machine, since, st.Reason, machine)
	case state.Firmware:
		return fmt.Sprintf("%s has power for %s, and no DHCP packet has come from its MAC addresses yet.", machine, since)
	case state.Netboot:
		return fmt.Sprintf("%s is loading the agent since %s.", machine, since)
	case state.FirstBoot:
		return fmt.Sprintf("%s is starting its installed system since %s.", machine, since)
	case state.Unknown:
		return machine + " was heard of, and nothing was ever done to it."
	case state.Discovered:
		return fmt.Sprintf("%s is not in the site; it was given the agent %s ago, to be inspected.", machine, since)
	case state.Inspected:
		if strings.HasPrefix(machine, "mac-") {
			return fmt.Sprintf("%s is not in the site and was inspected %s ago: fettle discover shows what it is, fettle enroll takes it in.", machine, since)
		}
		return fmt.Sprintf("%s is inspected, since %s.", machine, since)
	default:
		return fmt.Sprintf("%s is in phase %s since %s.", machine, st.Phase, since)
	}
}

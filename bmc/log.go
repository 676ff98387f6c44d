package bmc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// LogEntry is one event of the system event log.
type LogEntry struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"` // zero when the BMC did not know it
	Severity string    `json:"severity"`
	Sensor   string    `json:"sensor"` // its name or kind; "" when unsaid
	Message  string    `json:"message"`
}

// Log reads the system event log, oldest first.
func (c *Client) Log(ctx context.Context) ([]LogEntry, error) {
	const doing = "reading the event log"
	ctx, cancel, err := c.beginLong(ctx, doing)
	if err != nil {
		return nil, err
	}
	defer cancel()
	es, err := c.drv.eventLog(ctx)
	if err != nil {
		return nil, c.t.own(ctx, doing, err)
	}
	slices.SortStableFunc(es, func(a, b LogEntry) int { return a.Time.Compare(b.Time) })
	return es, nil
}

// ClearLog empties the system event log, and reads it back: what was in it
// must be gone. A BMC may add an entry that says so.
func (c *Client) ClearLog(ctx context.Context) error {
	const doing = "clearing the event log"
	octx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	before, err := c.drv.eventLog(octx)
	if err == nil {
		err = c.drv.clearLog(octx)
	}
	if err != nil {
		return c.t.own(octx, doing, err)
	}
	left := 0
	err = c.wait(octx, doing, min(readBackWait, c.t.Timeout/2), func(ctx context.Context) (bool, error) {
		now, err := c.drv.eventLog(ctx)
		if err != nil {
			return false, c.t.own(ctx, doing, err)
		}
		left = 0
		for _, e := range now {
			if slices.Contains(before, e) {
				left++
			}
		}
		return left == 0, nil
	})
	if errors.Is(err, errNothing) {
		return c.t.fail(doing, fmt.Errorf("%w: %d of its %d entries are still there", errNothing, left, len(before)))
	}
	return err
}

// logService is what we use of LogService (DSP0268).
type logService struct {
	ID           text `json:"Id"`
	LogEntryType text
	Entries      ref
	Actions      struct {
		Clear struct {
			Target string `json:"target"`
		} `json:"#LogService.ClearLog"`
	}
}

// eventLogs are ids of system event logs, best first: SEL; HPE's; Supermicro's;
// Lenovo's, whose SEL may hide its entries; OpenBMC's.
var eventLogs = []string{"sel", "iml", "log1", "platformlog", "systemeventlog", "systemlog", "eventlog", "log", "logs"}

// otherLogs are parts of the names of logs that tell of people, of the BMC's own
// life or of crashes, and not of what happened to the machine.
var otherLogs = []string{"audit", "security", "dump", "journal", "lifecycle", "lclog", "faultlist", "postcode", "crash", "iel", "operat", "maintenance", "debug", "telemetry", "sl"}

// isOtherLog tells that a log of that id is no event log.
func isOtherLog(id string) bool {
	id = strings.ToLower(id)
	return slices.ContainsFunc(otherLogs, func(o string) bool { return id == o || len(o) > 3 && strings.Contains(id, o) })
}

// rank is how much a log looks like the system event log; less is better, and
// from noEventLog on it is none.
func (l logService) rank() int {
	id := strings.ToLower(string(l.ID))
	if i := slices.Index(eventLogs, id); i >= 0 {
		return i
	}
	switch {
	case l.LogEntryType == "SEL":
		return len(eventLogs)
	case isOtherLog(id):
		return noEventLog
	case strings.Contains(id, "sel") || strings.Contains(id, "event"):
		return len(eventLogs) + 1
	}
	return len(eventLogs) + 2
}

const noEventLog = 100

// systemLog finds the log among those of the system, of its manager and of its
// chassis, in this order where several look the same.
func (d *redfishDriver) systemLog(ctx context.Context) (logService, error) {
	s, _, err := d.system(ctx)
	if err != nil {
		return logService{}, err
	}
	best, found := logService{}, false
	r := &reader{redfishDriver: d, ctx: ctx}
	look := func(from ref) {
		for _, l := range list[logService](r, from) {
			if l.Entries.path() != "" && l.rank() < noEventLog && (!found || l.rank() < best.rank()) {
				best, found = l, true
			}
		}
	}
	look(s.LogServices)
	for _, p := range s.Links.ManagedBy {
		var m manager
		r.one(p, &m)
		look(m.LogServices)
	}
	if len(s.Links.ManagedBy) == 0 {
		p, err := d.managerOf(ctx, s)
		if err != nil && !errors.Is(err, ErrUnsupported) {
			return best, err
		}
		var m manager
		r.one(ref{id: p}, &m)
		look(m.LogServices)
	}
	for _, p := range s.Links.Chassis {
		if found && best.rank() < len(eventLogs) {
			break
		}
		var c struct{ LogServices ref }
		r.one(p, &c)
		look(c.LogServices)
	}
	if r.err != nil {
		return best, r.err
	}
	if !found {
		why := ""
		if len(r.missing) > 0 {
			why = " (" + strings.Join(r.missing, "; ") + ")"
		}
		return best, fmt.Errorf("%w: it shows no system event log%s", ErrUnsupported, why)
	}
	return best, nil
}

// logEntry is what we use of LogEntry (DSP0268).
type logEntry struct {
	ID                           text `json:"Id"`
	Created, EventTimestamp      text
	Severity, Message, MessageID text
	SensorType, EntryCode        text
	Name, Description            text
	MessageArgs                  texts
	SensorNumber                 number
}

func (d *redfishDriver) eventLog(ctx context.Context) ([]LogEntry, error) {
	l, err := d.systemLog(ctx)
	if err != nil {
		return nil, err
	}
	raw, missing, err := d.members(ctx, l.Entries.path())
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		d.log.Warn("the BMC lists log entries that it does not show", "entries", missing)
	}
	out := make([]LogEntry, 0, len(raw))
	for _, r := range raw {
		var e logEntry
		if unmarshal(r, &e) != nil {
			continue // one entry that is no object does not hide the others
		}
		out = append(out, e.entry())
	}
	return out, nil
}

func (e logEntry) entry() LogEntry {
	when := e.Created
	if when == "" {
		when = e.EventTimestamp
	}
	t, _ := parseTime(string(when))
	out := LogEntry{ID: string(e.ID), Time: t.UTC(), Severity: e.Severity.known(), Sensor: e.SensorType.known(), Message: string(e.Message)}
	if code := e.EntryCode.known(); code != "" && (out.Message == "" || e.Message == e.MessageID) {
		out.Message = strings.TrimSpace(out.Message + " " + code) // OpenBMC: the message is its own id
		if e.SensorNumber > 0 {
			out.Message += fmt.Sprintf(", sensor %d", int(e.SensorNumber))
		}
	}
	if strings.Contains(strings.ToLower(string(e.EntryCode)), "deassert") && out.Message != "" && !strings.Contains(strings.ToLower(out.Message), "deassert") {
		out.Message += " (deasserted)" // Supermicro: the message is that of the assertion
	}
	if out.Message == "" {
		out.Message = strings.Join(slices.DeleteFunc(append([]string{e.MessageID.known()}, e.MessageArgs...), func(s string) bool { return s == "" }), " ")
	}
	for _, t := range []text{e.Description, e.Name} {
		if out.Message == "" {
			out.Message = t.known()
		}
	}
	return out
}

// times are how BMCs write them: with a zone as DSP0266 §9.5.7 wants, and
// without one or without the T.
var times = []string{time.RFC3339, "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05", "2006/01/02 15:04:05",
	"01/02/2006 15:04:05", "Mon Jan 2 15:04:05 2006", "Mon 02 Jan 2006 15:04:05", "2006-01-02T15:04Z07:00"}

// parseTime reads a time; one without a zone is taken as UTC. Times that the BMC
// made up because its clock was not set (year 0, 1970) are none.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range times {
		if t, err := time.Parse(layout, s); err == nil {
			if t.Year() <= 1970 {
				return time.Time{}, false
			}
			return t, true
		}
	}
	return time.Time{}, false
}

func (d *redfishDriver) clearLog(ctx context.Context) error {
	l, err := d.systemLog(ctx)
	if err != nil {
		return err
	}
	p := localPath(l.Actions.Clear.Target)
	if p == "" {
		return fmt.Errorf("%w: its log %s has no action to clear it", ErrUnsupported, l.ID)
	}
	_, err = d.post(ctx, p, map[string]string{})
	return err
}

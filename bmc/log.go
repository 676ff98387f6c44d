package bmc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
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
	ctx, cancel, err := c.begin(ctx, doing)
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
var eventLogs = []string{"sel", "iml", "log1", "platformlog", "eventlog", "log"}

// eventLogRank is how much a log looks like the system event log; less is better.
func (l logService) rank() int {
	if i := slices.Index(eventLogs, strings.ToLower(string(l.ID))); i >= 0 {
		return i
	}
	if l.LogEntryType == "SEL" {
		return len(eventLogs)
	}
	return len(eventLogs) + 1
}

// systemLog finds the log among those of the system and of its manager.
func (d *redfishDriver) systemLog(ctx context.Context) (logService, error) {
	s, _, err := d.system(ctx)
	if err != nil {
		return logService{}, err
	}
	from := []ref{s.LogServices}
	if p := s.Links.ManagedBy.first(); p != "" {
		var m manager
		if _, err := d.get(ctx, p, &m); err != nil {
			return logService{}, err
		}
		from = append(from, m.LogServices)
	}
	best, found := logService{}, false
	var missing []string
	for _, f := range from {
		if f.path() == "" {
			continue
		}
		raw, miss, err := d.members(ctx, f.path())
		if err != nil {
			return logService{}, err
		}
		missing = append(missing, miss...)
		all, err := decode[logService](raw)
		if err != nil {
			return logService{}, err
		}
		for _, l := range all {
			if l.Entries.path() != "" && l.rank() <= len(eventLogs) && (!found || l.rank() < best.rank()) {
				best, found = l, true
			}
		}
	}
	if !found {
		why := ""
		if len(missing) > 0 {
			why = " (" + strings.Join(missing, "; ") + ")"
		}
		return best, fmt.Errorf("%w: it shows no system event log%s", ErrUnsupported, why)
	}
	return best, nil
}

// logEntry is what we use of LogEntry (DSP0268).
type logEntry struct {
	ID                               text `json:"Id"`
	Created, EventTimestamp          text
	Severity, Message, MessageID     text
	SensorType, EntryCode, OemSensor text
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
		if json.Unmarshal(r, &e) != nil {
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
	t, err := time.Parse(time.RFC3339, string(when))
	if err != nil {
		t = time.Time{}
	}
	out := LogEntry{ID: string(e.ID), Time: t.UTC(), Severity: e.Severity.known(), Sensor: e.SensorType.known(), Message: string(e.Message)}
	if code := e.EntryCode.known(); code != "" && (out.Message == "" || e.Message == e.MessageID) {
		out.Message = strings.TrimSpace(out.Message + " " + code) // OpenBMC: the message is its own id
	}
	return out
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
	_, err = d.do(ctx, http.MethodPost, p, map[string]string{}, nil)
	return err
}

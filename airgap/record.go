package airgap

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// Record is the connected side's picture of one destination: what was sent
// there, and what is known of it. FORMAT.md.
type Record struct {
	Version int    `json:"sent"`
	To      string `json:"to"`
	Site    string `json:"site"`
	Sent    []Sent `json:"bundles"`
}

// Sent is one bundle that was made for a destination.
type Sent struct {
	Bundle   blob.Digest `json:"bundle"`
	Serial   int64       `json:"serial"`
	Snapshot string      `json:"snapshot"`
	SHA256   blob.Digest `json:"sha256"`
	Base     string      `json:"base,omitempty"`
	At       time.Time   `json:"at"`
	State    SentState   `json:"state"`
	Told     *time.Time  `json:"told,omitempty"` // when the state was learnt
}

// SentState is what the connected side knows of a bundle.
type SentState string

// States of bundles.
const (
	StateSent    SentState = "sent"    // nothing is known
	StateArrived SentState = "arrived" // a receipt says so
	StateLost    SentState = "lost"    // a receipt of later says that the other side has another one
)

const sentDir = "sent"

func (s *Store) recordPath(to string) string { return filepath.Join(s.dir, sentDir, to+".json") }

// basePath is where a snapshot that was sent is kept as a base, when it is
// collected here. Its blobs may go: a delta needs their digests only.
func (s *Store) basePath(d blob.Digest) string {
	return filepath.Join(s.dir, sentDir, "bases", d.Hex()+".json")
}

// Record is what is known of a destination; of one that is new, nothing.
func (s *Store) Record(to string) (Record, error) {
	if err := CheckName("destination", to); err != nil {
		return Record{}, err
	}
	data, err := os.ReadFile(s.recordPath(to))
	if errors.Is(err, fs.ErrNotExist) {
		return Record{Version: 1, To: to}, nil
	}
	if err != nil {
		return Record{}, err
	}
	var r Record
	if err := unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("reading the record %s: %w", s.recordPath(to), err)
	}
	if r.Version != 1 || r.To != to {
		return Record{}, fmt.Errorf("%s is of version %d and destination %s", s.recordPath(to), r.Version, r.To)
	}
	for _, b := range r.Sent {
		if err := errors.Join(CheckName("snapshot", b.Snapshot), b.SHA256.Validate(), b.Bundle.Validate()); err != nil {
			return Record{}, fmt.Errorf("%s: %w", s.recordPath(to), err)
		}
	}
	return r, nil
}

// Records are the records of all destinations.
func (s *Store) Records() ([]Record, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, sentDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []Record
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || CheckName("destination", name) != nil {
			continue
		}
		r, err := s.Record(name)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// Holds is the snapshot that the destination is believed to hold: the newest
// that was sent and is not known to be lost. ok is false when there is none.
func (r Record) Holds() (Sent, bool) {
	for _, b := range slices.Backward(r.Sent) {
		if b.State != StateLost {
			return b, true
		}
	}
	return Sent{}, false
}

// RecordSent notes that a bundle was made for a destination. The same bundle
// made again is noted once.
func (s *Store) RecordSent(to string, b Bundle, at time.Time) error {
	return s.change(to, func(r *Record) error {
		if r.Site != "" && r.Site != b.Site {
			return fmt.Errorf("destination %s gets bundles of site %s, and this one is of %s: name another destination with --to", to, r.Site, b.Site)
		}
		r.Site = b.Site
		e := Sent{Bundle: b.ID, Serial: b.Serial, Snapshot: b.Snapshot.Name, SHA256: b.Snapshot.SHA256, At: at.UTC().Truncate(time.Second), State: StateSent}
		if b.Base != nil {
			e.Base = b.Base.Name
		}
		data, err := os.ReadFile(s.snapshotPath(b.Snapshot.Name))
		if err != nil {
			return err
		}
		if err := writeFile(s.basePath(b.Snapshot.SHA256), data); err != nil {
			return err
		}
		if n := len(r.Sent); n > 0 && r.Sent[n-1].Bundle == e.Bundle && r.Sent[n-1].State != StateLost {
			return nil
		}
		r.Sent = append(r.Sent, e)
		return nil
	})
}

// Learn takes a receipt into the record of a destination: what it names is
// there, what was sent before and is not it is passed, and what was sent with
// a greater serial is lost.
func (s *Store) Learn(to, site, snapshot string, serial int64, d blob.Digest, at time.Time) error {
	return s.change(to, func(r *Record) error {
		r.Site = cmp.Or(r.Site, site)
		at := at.UTC().Truncate(time.Second)
		found := false
		for i := range r.Sent {
			b := &r.Sent[i]
			switch {
			case b.SHA256 == d:
				b.State, b.Told, found = StateArrived, &at, true
			case b.Serial > serial && b.State != StateLost:
				b.State, b.Told = StateLost, &at
			}
		}
		if !found {
			// It came there by another way, or the record is younger.
			r.Sent = append(r.Sent, Sent{Bundle: d, Serial: serial, Snapshot: snapshot, SHA256: d, At: at, State: StateArrived, Told: &at})
		}
		// What the other side holds counts, whatever was sent before and after.
		slices.SortStableFunc(r.Sent, func(a, b Sent) int { return cmp.Compare(order(a, d), order(b, d)) })
		return nil
	})
}

// order puts what was learnt last to the end.
func order(b Sent, last blob.Digest) int {
	if b.SHA256 == last {
		return 1
	}
	return 0
}

func (s *Store) change(to string, do func(*Record) error) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.Record(to)
	if err != nil {
		return err
	}
	if err := do(&r); err != nil {
		return err
	}
	data, err := marshal(r)
	if err != nil {
		return err
	}
	return writeFile(s.recordPath(to), append(data, '\n'))
}

// known is a snapshot that this side has, or has sent: by name and, unless d
// is "", by digest.
func (s *Store) known(name string, d blob.Digest) (Snapshot, blob.Digest, error) {
	snap, got, err := s.Snapshot(name)
	if err == nil && (d == "" || d == got) {
		return snap, got, nil
	}
	if err != nil && !errors.Is(err, ErrNoSnapshot) {
		return Snapshot{}, "", err
	}
	var found Snapshot
	var digest blob.Digest
	berr := s.bases(func(b Snapshot, bd blob.Digest) {
		if b.Name == name && (d == "" || d == bd) {
			found, digest = b, bd
		}
	})
	if berr != nil {
		return Snapshot{}, "", berr
	}
	if digest == "" {
		return Snapshot{}, "", cmp.Or(err, fmt.Errorf("%w: %s %s", ErrNoSnapshot, name, d))
	}
	return found, digest, nil
}

// bases calls yield for every snapshot that was sent.
func (s *Store) bases(yield func(Snapshot, blob.Digest)) error {
	paths, err := filepath.Glob(filepath.Join(s.dir, sentDir, "bases", "*.json"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		d := blob.FromBytes(data)
		if path != s.basePath(d) {
			return fmt.Errorf("%s is damaged: remove it, and send a full bundle", path)
		}
		snap, err := parseSnapshot(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		yield(snap, d)
	}
	return nil
}

// BaseOfCode is the snapshot that a typed code speaks of.
func (s *Store) BaseOfCode(site, text string) (Snapshot, blob.Digest, error) {
	var all []Snapshot
	var digests []blob.Digest
	add := func(snap Snapshot, d blob.Digest) { all, digests = append(all, snap), append(digests, d) }
	snaps, err := s.Snapshots()
	if err != nil {
		return Snapshot{}, "", err
	}
	for _, snap := range snaps {
		_, d, err := s.Snapshot(snap.Name)
		if err != nil {
			return Snapshot{}, "", err
		}
		add(snap, d)
	}
	if err := s.bases(add); err != nil {
		return Snapshot{}, "", err
	}
	find := func(c Code) int {
		for i := range all {
			if c.of(site, all[i].Serial, digests[i]) {
				return i
			}
		}
		return -1
	}
	c, err := ParseCode(text)
	if err != nil {
		for _, near := range Near(text) {
			if i := find(near); i >= 0 {
				return Snapshot{}, "", fmt.Errorf("%w; was it %s (snapshot %s)?", err, near, all[i].Name)
			}
		}
		return Snapshot{}, "", err
	}
	i := find(c)
	if i < 0 {
		if c.site != siteBits(site) {
			return Snapshot{}, "", fmt.Errorf("%w: the code %s is of another site than %s", ErrNoSnapshot, c, site)
		}
		return Snapshot{}, "", fmt.Errorf("%w: the other side holds serial %d, which this side neither has nor has sent; make a full bundle without --since", ErrNoSnapshot, c.Serial)
	}
	return all[i], digests[i], nil
}

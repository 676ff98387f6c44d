package state

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// maxBatchEvents is how many events fit one transaction: a progress event
// makes five operations (the event, its index entry, the deletion of both of
// the one before, the status), the counter one more, and an etcd cluster takes
// 128 by default.
const maxBatchEvents = 25

// maxBatchBytes keeps a transaction under an etcd cluster's default request
// limit of 1.5 MiB, statuses included, in all but odd cases.
const maxBatchBytes = 512 << 10

// MaxAppend is how many events one Append takes.
const MaxAppend = maxBatchEvents

type appendRequest struct {
	events []Event
	bytes  int
	reply  chan appendReply // buffered
}

type appendReply struct {
	last int64
	err  error
}

// Append writes events, all or none, in order, and returns the Seq of the
// last. It returns after etcd has written them to disk. Each event gets the
// next Seq; one without a Time gets the current one, one without an Actor is
// fettle's own. Concurrent Appends share transactions, so many callers cost
// few disk syncs.
//
// History keeps one [KindProgress] event per machine, the latest: appending
// one removes the one before.
//
// When ctx ends first, the events may or may not have been written.
func (s *Store) Append(ctx context.Context, events ...Event) (int64, error) {
	if len(events) == 0 {
		return 0, nil
	}
	if len(events) > MaxAppend {
		return 0, fmt.Errorf("appending %d events: at most %d go into one transaction", len(events), MaxAppend)
	}
	r := &appendRequest{events: slices.Clone(events), reply: make(chan appendReply, 1)}
	for i := range r.events {
		e := &r.events[i]
		if e.Time.IsZero() {
			e.Time = s.now()
		}
		e.Time = e.Time.UTC().Round(0)
		if e.Actor == "" {
			e.Actor = "fettle"
		}
		if err := e.check(); err != nil {
			return 0, fmt.Errorf("appending: %w", err)
		}
		r.bytes += len(e.Data) + len(e.Text) + 256
	}
	select {
	case s.queue <- r:
	case <-ctx.Done():
		return 0, fmt.Errorf("appending an event: %w", ctx.Err())
	case <-s.ctx.Done():
		return 0, fmt.Errorf("appending an event: %w", context.Cause(s.ctx))
	}
	select {
	case a := <-r.reply:
		return a.last, a.err
	case <-ctx.Done():
		return 0, fmt.Errorf("appending an event: %w", ctx.Err())
	case <-s.ctx.Done():
		select {
		case a := <-r.reply: // it was in time
			return a.last, a.err
		default:
			return 0, fmt.Errorf("appending an event: %w", context.Cause(s.ctx))
		}
	}
}

// appendLoop is the one writer of events of this Store. It ends with s.ctx.
func (s *Store) appendLoop() {
	w := &writer{store: s}
	var held *appendRequest // taken, but the batch was full
	for {
		batch := []*appendRequest{}
		n, size := 0, 0
		if held == nil {
			select {
			case held = <-s.queue:
			case <-s.ctx.Done():
				return
			}
		}
		for held != nil {
			if n > 0 && (n+len(held.events) > maxBatchEvents || size+held.bytes > maxBatchBytes) {
				break
			}
			batch = append(batch, held)
			n += len(held.events)
			size += held.bytes
			held = nil
			select {
			case held = <-s.queue:
			default:
			}
		}
		w.write(batch)
	}
}

// record is a status as stored: without its inventory, which is large and
// seldom changes, and with the place of the latest progress event.
type record struct {
	Status      Status `json:"status"`
	ProgressSeq int64  `json:"progress_seq,omitempty"`
}

// writer keeps what it last wrote, so that an append needs one round trip.
type writer struct {
	store    *Store
	seq      int64
	revision int64 // ModRevision of keySeq; 0 = never written
	loaded   bool
	records  map[string]record
}

// write appends a batch, and answers each of its requests.
func (w *writer) write(batch []*appendRequest) {
	ctx, cancel := w.store.bound(w.store.ctx)
	defer cancel()
	err := w.store.space()
	if err != nil {
		err = fmt.Errorf("appending events: %w", err)
	} else if err = w.commit(ctx, batch); err != nil {
		w.loaded = false // unknown whether it was written
	}
	for _, r := range batch {
		a := appendReply{err: err}
		if err == nil {
			a.last = r.events[len(r.events)-1].Seq
		}
		r.reply <- a
	}
}

// commit retries while other Stores of the cluster get in between; ctx bounds
// it.
func (w *writer) commit(ctx context.Context, batch []*appendRequest) error {
	for {
		if err := w.load(ctx, batch); err != nil {
			return err
		}
		tx, err := w.build(batch)
		if err != nil {
			return err
		}
		unchanged := clientv3.Compare(clientv3.ModRevision(keySeq), "=", w.revision)
		resp, err := w.store.txn(ctx, []clientv3.Cmp{unchanged}, tx.ops...)
		if err != nil {
			return w.store.wrap(ctx, "appending events", err)
		}
		if resp.Succeeded {
			w.seq, w.revision = tx.seq, resp.Header.Revision
			maps.Copy(w.records, tx.records)
			return nil
		}
		w.loaded = false
	}
}

// load reads the counter, when it is not known, and the status of machines
// not seen before. Every append moves the counter, so comparing it in the
// transaction guards the statuses too.
func (w *writer) load(ctx context.Context, batch []*appendRequest) error {
	s := w.store
	var ops []clientv3.Op
	if !w.loaded {
		w.records = map[string]record{}
	}
	// What this process wrote it reads; what another one wrote meanwhile makes
	// the transaction fail.
	ops = append(ops, clientv3.OpGet(keySeq, s.reads()...))
	var names []string
	for _, r := range batch {
		for _, e := range r.events {
			if _, ok := w.records[e.Machine]; !ok && e.Machine != "" && !slices.Contains(names, e.Machine) {
				names = append(names, e.Machine)
				ops = append(ops, clientv3.OpGet(statusKey(e.Machine), s.reads()...))
			}
		}
	}
	if w.loaded && len(names) == 0 {
		return nil
	}
	resp, err := s.txn(ctx, nil, ops...)
	if err != nil {
		return s.wrap(ctx, "reading the status of machines", err)
	}
	revision, seq := int64(0), int64(0)
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) == 1 {
		revision = kvs[0].ModRevision
		if seq, err = strconv.ParseInt(string(kvs[0].Value), 10, 64); err != nil {
			return fmt.Errorf("%s holds no number of events at %s: %w", s.where, keySeq, err)
		}
	}
	if w.loaded && revision != w.revision { // somebody else wrote: what we remember is old
		w.loaded = false
		return w.load(ctx, batch)
	}
	w.seq, w.revision, w.loaded = seq, revision, true
	for i, name := range names {
		rec := record{Status: Status{Machine: name, Phase: Unknown}}
		if kvs := resp.Responses[i+1].GetResponseRange().Kvs; len(kvs) == 1 {
			if err := json.Unmarshal(kvs[0].Value, &rec); err != nil {
				return fmt.Errorf("%s holds an unreadable status of %s: %w", s.where, name, err)
			}
		}
		w.records[name] = rec
	}
	return nil
}

// transaction is what one batch writes.
type transaction struct {
	ops     []clientv3.Op
	seq     int64
	records map[string]record
}

// build numbers the events of batch and folds them.
func (w *writer) build(batch []*appendRequest) (transaction, error) {
	tx := transaction{seq: w.seq, records: map[string]record{}}
	newest := map[string]int64{} // Seq of the newest progress event in this batch
	for _, r := range batch {
		for i := range r.events {
			tx.seq++
			r.events[i].Seq = tx.seq
			if e := r.events[i]; e.Kind == KindProgress && e.Machine != "" {
				newest[e.Machine] = e.Seq
			}
		}
	}
	inventory := map[string]json.RawMessage{}
	for _, r := range batch {
		for _, e := range r.events {
			stale := e.Kind == KindProgress && e.Machine != "" && e.Seq != newest[e.Machine]
			if !stale {
				v, err := json.Marshal(e)
				if err != nil {
					return tx, fmt.Errorf("appending %s of %q: %w", e.Kind, e.Machine, err)
				}
				tx.ops = append(tx.ops, clientv3.OpPut(eventKey(e.Seq), string(v)))
			}
			if e.Machine == "" {
				continue
			}
			if !stale {
				tx.ops = append(tx.ops, clientv3.OpPut(machineEventKey(e.Machine, e.Seq), ""))
			}
			rec, ok := tx.records[e.Machine]
			if !ok {
				rec = w.records[e.Machine]
			}
			rec.Status = Fold(rec.Status, e)
			if e.Kind == KindInventory {
				inventory[e.Machine] = e.Data
			}
			rec.Status.Inventory = nil
			tx.records[e.Machine] = rec
		}
	}
	for name, seq := range newest {
		rec := tx.records[name]
		if old := rec.ProgressSeq; old != 0 {
			tx.ops = append(tx.ops, clientv3.OpDelete(eventKey(old)), clientv3.OpDelete(machineEventKey(name, old)))
		}
		rec.ProgressSeq = seq
		tx.records[name] = rec
	}
	for name, rec := range tx.records {
		v, err := json.Marshal(rec)
		if err != nil {
			return tx, fmt.Errorf("appending: the status of %s: %w", name, err)
		}
		tx.ops = append(tx.ops, clientv3.OpPut(statusKey(name), string(v)))
	}
	for name, inv := range inventory {
		tx.ops = append(tx.ops, clientv3.OpPut(inventoryKey(name), string(inv)))
	}
	tx.ops = append(tx.ops, clientv3.OpPut(keySeq, strconv.FormatInt(tx.seq, 10)))
	return tx, nil
}

func eventKey(seq int64) string { return fmt.Sprintf("%s%016d", prefixEvents, seq) }

func machineEventKey(machine string, seq int64) string {
	return fmt.Sprintf("%s%016d", machinePrefix(machine), seq)
}

func machinePrefix(machine string) string { return prefixByMachine + url.PathEscape(machine) + "/" }
func statusKey(machine string) string     { return prefixStatus + url.PathEscape(machine) }
func inventoryKey(machine string) string  { return prefixInventory + url.PathEscape(machine) }

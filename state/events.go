package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// pageEvents is how many keys one read takes; the gets of one transaction are
// limited like its puts.
const pageEvents = 100

// matches reports whether q selects e, Limit aside.
func (q Query) matches(e Event) bool {
	return e.Seq > q.After &&
		(q.Machine == "" || e.Machine == q.Machine) &&
		(q.Kinds == nil || slices.Contains(q.Kinds, e.Kind))
}

// Events returns the events that q selects, oldest first.
func (s *Store) Events(ctx context.Context, q Query) ([]Event, error) {
	events, _, err := s.snapshot(ctx, q)
	return events, err
}

// snapshot returns the events that q selects and the etcd revision at which
// these were all.
func (s *Store) snapshot(ctx context.Context, q Query) ([]Event, int64, error) {
	var out []Event
	var revision int64
	var from, to string // the range of keys left to read: [from, to)
	read := s.readEvents
	if q.Machine == "" {
		from, to = eventKey(q.After+1), clientv3.GetPrefixRangeEnd(prefixEvents)
	} else {
		read = s.readMachineEvents
		from, to = machineEventKey(q.Machine, q.After+1), clientv3.GetPrefixRangeEnd(machinePrefix(q.Machine))
	}
	order := clientv3.SortAscend
	if q.Limit > 0 {
		order = clientv3.SortDescend
	}
	for {
		p, err := s.page(ctx, read, from, to, order, revision)
		if err != nil {
			return nil, 0, err
		}
		revision = p.revision
		for _, e := range p.events {
			if q.matches(e) {
				out = append(out, e)
			}
			if q.Limit > 0 && len(out) == q.Limit {
				p.more = false
				break
			}
		}
		if !p.more {
			break
		}
		if order == clientv3.SortAscend {
			from = p.last + "\x00"
		} else {
			to = p.last
		}
	}
	if q.Limit > 0 {
		slices.Reverse(out)
	}
	return out, revision, nil
}

// page is one read of events.
type page struct {
	events   []Event
	last     string // key
	more     bool
	revision int64
}

func (s *Store) page(ctx context.Context, read func(context.Context, []*mvccpb.KeyValue, int64) ([]Event, error),
	from, to string, order clientv3.SortOrder, revision int64,
) (page, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	opts := []clientv3.OpOption{clientv3.WithRange(to), clientv3.WithLimit(pageEvents),
		clientv3.WithSort(clientv3.SortByKey, order), clientv3.WithRev(revision)}
	if strings.HasPrefix(from, prefixByMachine) {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	resp, err := s.get(ctx, from, opts...)
	if err != nil {
		return page{}, s.wrap(ctx, "reading events", err)
	}
	p := page{more: resp.More, revision: revision}
	if revision == 0 {
		p.revision = resp.Header.Revision
	}
	if len(resp.Kvs) == 0 {
		return p, nil
	}
	p.last = string(resp.Kvs[len(resp.Kvs)-1].Key)
	p.events, err = read(ctx, resp.Kvs, p.revision)
	return p, s.wrap(ctx, "reading events", err)
}

func (s *Store) readEvents(_ context.Context, kvs []*mvccpb.KeyValue, _ int64) ([]Event, error) {
	out := make([]Event, 0, len(kvs))
	for _, kv := range kvs {
		e, err := parseEvent(kv)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// readMachineEvents reads the events that entries of the index by machine
// point to, as they were at revision.
func (s *Store) readMachineEvents(ctx context.Context, kvs []*mvccpb.KeyValue, revision int64) ([]Event, error) {
	ops := make([]clientv3.Op, 0, len(kvs))
	for _, kv := range kvs {
		key := string(kv.Key)
		seq, err := strconv.ParseInt(key[strings.LastIndexByte(key, '/')+1:], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s has a strange key %s: %w", s.where, key, err)
		}
		ops = append(ops, clientv3.OpGet(eventKey(seq), s.reads(clientv3.WithRev(revision))...))
	}
	resp, err := s.txn(ctx, nil, ops...)
	if err != nil {
		return nil, err
	}
	out := make([]Event, 0, len(kvs))
	for _, r := range resp.Responses {
		events, err := s.readEvents(ctx, r.GetResponseRange().Kvs, revision)
		if err != nil {
			return nil, err
		}
		out = append(out, events...)
	}
	return out, nil
}

func parseEvent(kv *mvccpb.KeyValue) (Event, error) {
	var e Event
	if err := json.Unmarshal(kv.Value, &e); err != nil {
		return Event{}, fmt.Errorf("event %s is unreadable: %w", kv.Key, err)
	}
	return e, nil
}

// Watch yields the events that q selects, first those of the past (the newest
// q.Limit of them), then each new one as it is written, in order, with none
// left out and none twice. It ends without an error when ctx does, and with
// one when the store is closed or a cluster stops answering. While an embedded
// etcd that failed is being opened again it waits, and then goes on.
//
// A progress event that is replaced before a slow watcher reads it may be
// left out.
func (s *Store) Watch(ctx context.Context, q Query) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			next, err := s.watchOnce(ctx, q, yield)
			if err == nil || ctx.Err() != nil {
				return
			}
			// The revision to go on from was compacted away while the watcher
			// slept: read the past again, from the last event it has seen.
			if compacted(err) {
				q = next
				continue
			}
			if errors.Is(err, ErrUnavailable) && s.Ready(ctx) == nil {
				q = next
				continue
			}
			if ctx.Err() != nil {
				return
			}
			yield(Event{}, err)
			return
		}
	}
}

// watchOnce is one read of the past and one watch. It returns the query that
// goes on from where it ended; no error means that the caller wants no more.
func (s *Store) watchOnce(ctx context.Context, q Query, yield func(Event, error) bool) (Query, error) {
	past, revision, err := s.snapshot(ctx, q)
	if err != nil {
		return q, err
	}
	q.Limit = 0
	for _, e := range past {
		if !yield(e, nil) {
			return q, nil
		}
		q.After = e.Seq
	}
	return s.follow(ctx, q, revision+1, yield)
}

// follow yields the events that are written from revision on.
func (s *Store) follow(ctx context.Context, q Query, revision int64, yield func(Event, error) bool) (Query, error) {
	watchCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := s.session.Load()
	defer context.AfterFunc(x.ctx, cancel)()
	// WithRequireLeader: a member cut off from its cluster says so.
	changes := x.cli.Watch(clientv3.WithRequireLeader(watchCtx), prefixEvents, clientv3.WithPrefix(),
		clientv3.WithRev(revision), clientv3.WithFilterDelete())
	for resp := range changes {
		if err := resp.Err(); err != nil {
			if x.ctx.Err() != nil {
				err = context.Cause(x.ctx)
			}
			return q, s.wrap(ctx, "watching events", err)
		}
		if n := len(resp.Events); n > 0 {
			if err := s.settle(ctx, resp.Events[n-1].Kv.ModRevision); err != nil {
				return q, s.wrap(ctx, "watching events", err)
			}
		}
		for _, c := range resp.Events {
			e, err := parseEvent(c.Kv)
			if err != nil {
				return q, err
			}
			if !q.matches(e) {
				continue
			}
			if !yield(e, nil) {
				return q, nil
			}
			q.After = e.Seq
		}
	}
	if x.ctx.Err() != nil {
		return q, fmt.Errorf("watching events: %w", context.Cause(x.ctx))
	}
	return q, errors.New("watching events: etcd ended the watch; watch again")
}

// settle returns when reads see a revision that a watch told of: etcd tells
// watchers of a write a moment before its own reads do
// (mvcc.watchableStoreTxnWrite.End). Without it, the status that is read on an
// event could be the one before it.
func (s *Store) settle(ctx context.Context, revision int64) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	r, err := s.get(ctx, keySeq, clientv3.WithCountOnly())
	if err != nil || r.Header.Revision >= revision {
		return err
	}
	_, err = do(ctx, s, func(ctx context.Context, cli *clientv3.Client) (*clientv3.GetResponse, error) {
		return cli.Get(ctx, keySeq, clientv3.WithCountOnly()) // linearizable: waits for what is committed
	})
	return err
}

// compacted reports that the revision asked for is no longer kept.
func compacted(err error) bool { return errors.Is(err, rpctypes.ErrCompacted) }

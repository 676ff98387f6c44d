package state

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Status returns what is known of a machine; its Phase is Unknown when there
// are no events of it.
func (s *Store) Status(ctx context.Context, machine string) (Status, error) {
	all, err := s.statuses(ctx, "reading the status of "+machine, []clientv3.Op{
		clientv3.OpGet(statusKey(machine), s.reads()...),
		clientv3.OpGet(inventoryKey(machine), s.reads()...),
	})
	if err != nil {
		return Status{}, err
	}
	if len(all) == 0 {
		return Status{Machine: machine, Phase: Unknown}, nil
	}
	return all[0], nil
}

// Statuses returns the status of every machine that has events, sorted by
// name.
func (s *Store) Statuses(ctx context.Context) ([]Status, error) {
	return s.statuses(ctx, "reading the status of all machines", []clientv3.Op{
		clientv3.OpGet(prefixStatus, s.reads(clientv3.WithPrefix())...),
		clientv3.OpGet(prefixInventory, s.reads(clientv3.WithPrefix())...),
	})
}

// statuses joins the answers of gets, the first of statuses and perhaps a
// second of inventories.
func (s *Store) statuses(ctx context.Context, doing string, gets []clientv3.Op) ([]Status, error) {
	bounded, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.txn(bounded, nil, gets...)
	if err != nil {
		return nil, s.wrap(bounded, doing, err)
	}
	inventory := map[string]*mvccpb.KeyValue{}
	for _, r := range resp.Responses[1:] {
		for _, kv := range r.GetResponseRange().Kvs {
			inventory[strings.TrimPrefix(string(kv.Key), prefixInventory)] = kv
		}
	}
	var out []Status
	for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
		var rec record
		if err := json.Unmarshal(kv.Value, &rec); err != nil {
			return nil, fmt.Errorf("%s: %s is unreadable: %w", doing, kv.Key, err)
		}
		if inv, ok := inventory[strings.TrimPrefix(string(kv.Key), prefixStatus)]; ok {
			rec.Status.Inventory = inv.Value
		}
		out = append(out, rec.Status)
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Compare(a.Machine, b.Machine) })
	return out, nil
}

// Overview is [Store.Statuses] without inventories, which are large: for
// lists that are read often.
func (s *Store) Overview(ctx context.Context) ([]Status, error) {
	return s.statuses(ctx, "reading the status of all machines", []clientv3.Op{
		clientv3.OpGet(prefixStatus, s.reads(clientv3.WithPrefix())...),
	})
}

// LastSeq is the Seq of the newest event, 0 when there is none.
func (s *Store) LastSeq(ctx context.Context) (int64, error) {
	bounded, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.get(bounded, keySeq)
	if err != nil {
		return 0, s.wrap(bounded, "reading the number of events", err)
	}
	kv := one(resp.Kvs)
	if kv == nil {
		return 0, nil
	}
	n, err := strconv.ParseInt(string(kv.Value), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s holds no number of events at %s: %w", s.where, keySeq, err)
	}
	return n, nil
}

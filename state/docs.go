package state

import (
	"context"
	"errors"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Put writes a small document: a run, a next-boot decision. Keys are the
// caller's, like "runs/gpu-01". It returns after the document is on disk.
func (s *Store) Put(ctx context.Context, key string, value []byte) error {
	if key == "" {
		return errors.New("writing a document: it has no key")
	}
	bounded, cancel := s.bound(ctx)
	defer cancel()
	_, err := s.txn(bounded, nil, clientv3.OpPut(prefixDocs+key, string(value)))
	return s.wrap(bounded, "writing the document "+key, err)
}

// PutAll writes small documents and removes others, all or none; a cluster takes
// 128 at once by default.
func (s *Store) PutAll(ctx context.Context, docs map[string][]byte, gone ...string) error {
	ops := make([]clientv3.Op, 0, len(docs)+len(gone))
	for key, value := range docs {
		if key == "" {
			return errors.New("writing a document: it has no key")
		}
		ops = append(ops, clientv3.OpPut(prefixDocs+key, string(value)))
	}
	for _, key := range gone {
		ops = append(ops, clientv3.OpDelete(prefixDocs+key))
	}
	if len(ops) == 0 {
		return nil
	}
	bounded, cancel := s.bound(ctx)
	defer cancel()
	_, err := s.txn(bounded, nil, ops...)
	return s.wrap(bounded, fmt.Sprintf("writing %d documents and removing %d", len(docs), len(gone)), err)
}

// Get reads a document; ok is false when there is none.
func (s *Store) Get(ctx context.Context, key string) (value []byte, ok bool, err error) {
	bounded, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.get(bounded, prefixDocs+key)
	if err != nil {
		return nil, false, s.wrap(bounded, "reading the document "+key, err)
	}
	kv := one(resp.Kvs)
	if kv == nil {
		return nil, false, nil
	}
	return kv.Value, true, nil
}

// List reads every document whose key begins with prefix, by key.
func (s *Store) List(ctx context.Context, prefix string) (map[string][]byte, error) {
	bounded, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.get(bounded, prefixDocs+prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, s.wrap(bounded, "listing the documents "+prefix, err)
	}
	out := make(map[string][]byte, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		out[strings.TrimPrefix(string(kv.Key), prefixDocs)] = kv.Value
	}
	return out, nil
}

// Delete removes a document. Removing what is not there is no error.
func (s *Store) Delete(ctx context.Context, key string) error {
	bounded, cancel := s.bound(ctx)
	defer cancel()
	_, err := s.txn(bounded, nil, clientv3.OpDelete(prefixDocs+key))
	return s.wrap(bounded, "removing the document "+key, err)
}

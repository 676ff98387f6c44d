package airgap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// Syncer resolves mirrors and brings them into a store.
type Syncer struct {
	Store   *Store
	Fetch   *Fetcher
	Formats []Format
	Key     *Key // nil when there is none
	Now     func() time.Time
}

func (s *Syncer) env() Env {
	return Env{Fetch: s.Fetch, Blobs: s.Store.Blobs(), Key: s.Key, Now: s.Now}
}

func (s *Syncer) format(name string) (Format, error) {
	var have []string
	for _, f := range s.Formats {
		if f.Name() == name {
			return f, nil
		}
		have = append(have, f.Name())
	}
	return nil, fmt.Errorf("format %q is not one that this fettle mirrors: it has %s", name, strings.Join(have, ", "))
}

// Resolve asks every upstream and returns the lock. prev is an earlier lock.
func (s *Syncer) Resolve(ctx context.Context, mirrors []Mirror, prev Lock) (Lock, error) {
	out := Lock{Version: LockVersion}
	var errs []error
	for len(mirrors) > 0 {
		group := mirrors[:1]
		rest := mirrors[1:]
		f, err := s.format(group[0].Format)
		_, joint := f.(Joint)
		if joint {
			same := func(m Mirror) bool { return m.Format == group[0].Format }
			group = slices.DeleteFunc(slices.Clone(mirrors), func(m Mirror) bool { return !same(m) })
			rest = slices.DeleteFunc(slices.Clone(mirrors), same)
		}
		mirrors = rest
		if err == nil {
			var got []LockedMirror
			got, err = s.resolve(ctx, f, group, prev)
			out.Mirrors = append(out.Mirrors, got...)
		}
		if ctx.Err() != nil {
			return Lock{}, ctx.Err()
		}
		if err != nil && !joint { // a joint format names the mirror itself
			err = fmt.Errorf("mirror %s: %w", group[0].Name, err)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return Lock{}, err
	}
	slices.SortFunc(out.Mirrors, func(a, b LockedMirror) int { return cmp.Compare(a.Name, b.Name) })
	// Who syncs the lock, perhaps another process, takes what is there for durable.
	return out, errors.Join(out.Check(), s.Store.Blobs().Flush())
}

// resolve resolves one mirror, or those of a [Joint] format together.
func (s *Syncer) resolve(ctx context.Context, f Format, ms []Mirror, prev Lock) (got []LockedMirror, err error) {
	old := make([]*LockedMirror, len(ms))
	for i, m := range ms {
		if lm, ok := prev.Mirror(m.Name); ok && lm.Format == m.Format {
			old[i] = &lm
		}
	}
	if j, ok := f.(Joint); ok {
		got, err = j.ResolveAll(ctx, s.env(), ms, old)
	} else {
		got = make([]LockedMirror, 1)
		got[0], err = f.Resolve(ctx, s.env(), ms[0], old[0])
	}
	if err != nil {
		return nil, err
	}
	for i, m := range ms {
		got[i].Name, got[i].Format, got[i].Spec = m.Name, m.Format, m
		got[i].Sort()
	}
	return got, nil
}

// Sync fetches what a lock names and keeps it as a new snapshot, which is
// served from then on. When the newest snapshot has the same lock and trees,
// that one is returned and made is false. A name of "" is the time.
func (s *Syncer) Sync(ctx context.Context, lock Lock, name string) (snap Snapshot, made bool, err error) {
	if err := lock.Check(); err != nil {
		return Snapshot{}, false, err
	}
	unlock, err := s.Store.lock()
	if err != nil {
		return Snapshot{}, false, err
	}
	defer unlock()
	var items []Item
	for _, m := range lock.Mirrors {
		items = append(items, m.Items...)
	}
	there, err := s.Fetch.all(ctx, items)
	if err != nil {
		return Snapshot{}, false, err
	}
	last, ok, err := s.Store.Latest()
	if err != nil {
		return Snapshot{}, false, err
	}
	// The inputs of a lock are everything that its trees are made of.
	if same := name == "" || name == last.Name; ok && same && reflect.DeepEqual(last.Lock, lock) && s.Store.complete(last, there) == nil {
		return last, false, s.Store.serve(last.Name)
	}
	now := s.Now().UTC().Truncate(time.Second)
	snap = Snapshot{Version: snapshotVersion, Name: cmp.Or(name, now.Format("20060102T150405Z")), Created: now, Lock: lock}
	for _, m := range lock.Mirrors {
		files, err := s.publish(ctx, m)
		if err != nil {
			return Snapshot{}, false, fmt.Errorf("mirror %s: %w", m.Name, err)
		}
		snap.Trees = append(snap.Trees, Tree{m.Name, m.Format, files})
	}
	if same := name == "" || name == last.Name; ok && same && reflect.DeepEqual(last.Trees, snap.Trees) && len(Diff(last.Lock, lock)) == 0 {
		return last, false, s.Store.serve(last.Name)
	}
	if err := s.Store.Blobs().Flush(); err != nil { // what was made
		return Snapshot{}, false, err
	}
	snap.Serial = last.Serial + 1
	if _, err := os.Lstat(s.Store.snapshotPath(snap.Name)); err == nil && name == "" {
		snap.Name = fmt.Sprintf("%s-%d", snap.Name, snap.Serial) // two in one second
	}
	if err := snap.check(); err != nil {
		return Snapshot{}, false, err
	}
	data, err := marshal(snap)
	if err != nil {
		return Snapshot{}, false, err
	}
	if err := s.Store.add(snap, data); err != nil {
		return Snapshot{}, false, err
	}
	return snap, true, s.Store.serve(snap.Name)
}

func (s *Syncer) publish(ctx context.Context, m LockedMirror) ([]File, error) {
	f, err := s.format(m.Format)
	if err != nil {
		return nil, err
	}
	files, err := f.Publish(ctx, s.env(), m)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return files, nil
}

// TreeFile is the file of the tree that an item becomes as it is.
func TreeFile(s *blob.Store, it Item) (File, error) {
	n, err := s.Size(it.SHA256)
	return File{it.Path, n, it.SHA256}, err
}

package airgap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/blob"
)

// Licensed is what a [Format] implements too whose items say under which
// licences they are.
type Licensed interface {
	// Licences reads them from the item's bytes, as they are written there.
	// None means that they cannot be told. The same bytes give the same answer.
	// It may be called concurrently.
	Licences(ctx context.Context, it Item, r io.Reader) ([]string, error)
}

// OpenBlob opens bytes by their digest; those that are not there are
// [fs.ErrNotExist].
type OpenBlob func(context.Context, blob.Digest) (io.ReadCloser, error)

// LicensedAcross is a [Licensed] whose items name other blobs that say it. What
// it answers is not kept, since it depends on which of them are there.
type LicensedAcross interface {
	Licensed
	LicencesAcross(ctx context.Context, it Item, r io.Reader, open OpenBlob) ([]string, error)
}

// licencesVersion changes when the same bytes give other licences.
const licencesVersion = "1"

func (s *Store) licencePath(d blob.Digest) string {
	return filepath.Join(s.dir, "licences-"+licencesVersion, d.Hex()[:2], d.Hex()+".json")
}

// Licences reads the licences of all items of a lock that are in the store.
// What was read once is kept: reading means to unpack each package.
func (s *Store) Licences(ctx context.Context, l Lock, formats []Format, progress func(done, total int64)) (func(Item) []string, error) {
	known := map[blob.Digest][]string{}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	var done, total int64
	type job struct {
		f  Licensed
		it Item
	}
	var jobs []job
	for _, m := range l.Mirrors {
		var f Licensed
		for _, x := range formats {
			if lf, ok := x.(Licensed); ok && x.Name() == m.Format {
				f = lf
			}
		}
		if f == nil {
			continue
		}
		for _, it := range m.Items {
			if it.Kind != KindPackage && it.Kind != KindFile {
				continue
			}
			data, err := os.ReadFile(s.licencePath(it.SHA256))
			var ls []string
			if err == nil && json.Unmarshal(data, &ls) == nil {
				known[it.SHA256] = ls
				continue
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			jobs = append(jobs, job{f, it})
			total += max(0, it.Size)
		}
	}
	for _, j := range jobs {
		g.Go(func() error {
			ls, err := s.licencesOf(ctx, j.f, j.it)
			if err != nil {
				return fmt.Errorf("reading the licences of %s: %w", j.it.Path, err)
			}
			mu.Lock()
			defer mu.Unlock()
			known[j.it.SHA256] = ls
			if done += max(0, j.it.Size); progress != nil {
				progress(done, total)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return func(it Item) []string { return known[it.SHA256] }, nil
}

func (s *Store) licencesOf(ctx context.Context, f Licensed, it Item) ([]string, error) {
	r, err := s.blobs.Open(ctx, it.SHA256)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if f, ok := f.(LicensedAcross); ok {
		return f.LicencesAcross(ctx, it, r, func(ctx context.Context, d blob.Digest) (io.ReadCloser, error) {
			r, err := s.blobs.Open(ctx, d)
			if err != nil {
				return nil, err // and no reader that is nil within its interface
			}
			return r, nil
		})
	}
	ls, err := f.Licences(ctx, it, r)
	if err != nil {
		return nil, err
	}
	data, err := marshal(append([]string{}, ls...))
	if err != nil {
		return nil, err
	}
	return ls, writeFile(s.licencePath(it.SHA256), data)
}

package airgap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/fettle-dev/fettle/blob"
)

// maxOwnFile is the most that one file of DIR/own may have. More is an error:
// what it names must not be collected.
const maxOwnFile = 256 << 20

// OwnDir is the folder of what a site keeps beside its snapshots, such as the
// images that it pushed: DIR/own. Every digest that stands in a file there, in
// whatever form, is needed: [Store.Collect] keeps its blob.
func (s *Store) OwnDir() string { return filepath.Join(s.dir, "own") }

// Hold keeps [Store.Collect] from beginning, or waits until one that runs is
// done, until release is called. Who stores a blob of its own names it in a
// file of OwnDir first and calls release when both are done. Several may hold
// at once.
func (s *Store) Hold() (release func(), err error) { return s.holdOwn(syscall.LOCK_SH) }

func (s *Store) holdOwn(how int) (release func(), err error) {
	if err := os.MkdirAll(s.OwnDir(), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(s.OwnDir(), ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", f.Name(), err), f.Close())
	}
	return func() { f.Close() }, nil
}

var digestText = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// ownDigests calls yield for every digest that a file of OwnDir names.
func (s *Store) ownDigests(ctx context.Context, yield func(blob.Digest)) error {
	return filepath.WalkDir(s.OwnDir(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !e.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // replaced meanwhile: its successor has its own name, or was read
		}
		if err != nil {
			return err
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, maxOwnFile+1))
		if err != nil {
			return err
		}
		if len(data) > maxOwnFile {
			return fmt.Errorf("%s has more than %d bytes: what it needs is not known, and nothing is collected", path, maxOwnFile)
		}
		for _, m := range digestText.FindAll(data, -1) {
			yield(blob.Digest(m))
		}
		return nil
	})
}

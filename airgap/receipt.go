package airgap

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// Receipt says what the other side holds after an import: FORMAT.md.
type Receipt struct {
	Version  int         `json:"receipt"`
	Site     string      `json:"site"`
	Bundle   blob.Digest `json:"bundle"`
	Serial   int64       `json:"serial"`
	Snapshot string      `json:"snapshot"`
	SHA256   blob.Digest `json:"sha256"`
	Imported time.Time   `json:"imported"`
	Check    string      `json:"check"`
}

func (r Receipt) checksum() string {
	return blob.FromBytes(fmt.Appendf(nil, "%s\n%d\n%s\n", r.Site, r.Serial, r.SHA256)).Hex()[:8]
}

// ParseReceipt reads a receipt.
func ParseReceipt(data []byte) (Receipt, error) {
	var r Receipt
	err := unmarshal(data, &r)
	if err == nil && r.Version != 1 {
		err = fmt.Errorf("it is of version %d; this fettle reads version 1", r.Version)
	}
	if err == nil {
		err = errors.Join(CheckName("site", r.Site), CheckName("snapshot", r.Snapshot), r.SHA256.Validate())
	}
	if err == nil && r.Check != r.checksum() {
		err = errors.New("its check does not fit: it was mistyped or changed")
	}
	if err != nil {
		return Receipt{}, fmt.Errorf("reading the receipt: %w", err)
	}
	return r, nil
}

// Base is the name of the snapshot that a receipt speaks of, if this side
// still has exactly that one, or has sent it.
func (s *Store) Base(r Receipt) (string, error) {
	all, err := s.Snapshots()
	if err != nil {
		return "", err
	}
	for _, snap := range all {
		_, d, err := s.Snapshot(snap.Name)
		if err != nil {
			return "", err
		}
		if d == r.SHA256 {
			return snap.Name, nil
		}
	}
	if _, _, err := s.known(r.Snapshot, r.SHA256); err == nil {
		return r.Snapshot, nil
	} else if !errors.Is(err, ErrNoSnapshot) {
		return "", err
	}
	return "", fmt.Errorf("%w: the other side holds %s (serial %d, %s), which this side does not have any more; make a full bundle without --since", ErrNoSnapshot, r.Snapshot, r.Serial, r.SHA256.Short())
}

// receiptOf is what a receipt of a snapshot that is here would say.
func (s *Store) receiptOf(site string, snap Snapshot) (Receipt, error) {
	_, d, err := s.Snapshot(snap.Name)
	return Receipt{Version: 1, Site: site, Serial: snap.Serial, Snapshot: snap.Name, SHA256: d}, err
}

// Receipts are the receipts of all imports into the store, by serial.
func (s *Store) Receipts() ([]Receipt, error) {
	dir := filepath.Join(s.dir, "receipts")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var out []Receipt
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		r, err := ParseReceipt(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Receipt) int { return cmp.Compare(a.Serial, b.Serial) })
	return out, nil
}

func (s *Store) writeReceipt(r Receipt) (Receipt, error) {
	r.Check = r.checksum()
	data, err := marshal(r)
	if err != nil {
		return Receipt{}, err
	}
	path := filepath.Join(s.dir, "receipts", r.Snapshot+".json")
	// The receipt of an import that is repeated stays as it was.
	if old, err := os.ReadFile(path); err == nil {
		if was, err := ParseReceipt(old); err == nil && was.SHA256 == r.SHA256 && was.Bundle == r.Bundle {
			return was, nil
		}
	}
	return r, writeFile(path, append(data, '\n'))
}

// MarshalReceipt is a receipt as a file.
func MarshalReceipt(r Receipt) ([]byte, error) {
	data, err := marshal(r)
	return append(data, '\n'), err
}

package papers

import (
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// provenance is where every byte of a snapshot came from and what vouches for
// it: airgap/FORMAT.md, Documents.
type provenance struct {
	Version  int                `json:"provenance"`
	Site     string             `json:"site"`
	Snapshot airgap.SnapshotRef `json:"snapshot"`
	Serial   int64              `json:"serial"`
	Created  time.Time          `json:"created"`
	Base     *airgap.BaseRef    `json:"base,omitempty"`
	Mirrors  []mirrorProvenance `json:"mirrors"`
}

type mirrorProvenance struct {
	Name   string           `json:"name"`
	Format string           `json:"format"`
	Trust  []airgap.Trust   `json:"trust"`
	Items  []itemProvenance `json:"items"`
	Made   []airgap.File    `json:"made"` // by fettle from verified items, such as a filtered index
}

type itemProvenance struct {
	Path     string      `json:"path"`
	From     string      `json:"from"`
	Size     int64       `json:"size"`
	SHA256   blob.Digest `json:"sha256"`
	Sum      string      `json:"sum,omitempty"`
	Kind     airgap.Kind `json:"kind"`
	Why      string      `json:"why,omitempty"`
	InBundle bool        `json:"inBundle"`
}

// Provenance says of each file of a snapshot which address it came from and
// which signature or digest vouched for it, as of when.
func Provenance(c airgap.Carried) ([]byte, error) {
	fresh := map[blob.Digest]bool{}
	for _, f := range c.New {
		fresh[f.SHA256] = true
	}
	out := provenance{Version: 1, Site: c.Bundle.Site, Snapshot: c.Bundle.Snapshot, Serial: c.Snapshot.Serial, Created: c.Snapshot.Created.UTC(), Base: c.Bundle.Base, Mirrors: []mirrorProvenance{}}
	for _, m := range c.Snapshot.Lock.Mirrors {
		p := mirrorProvenance{Name: m.Name, Format: m.Format, Trust: m.Trust, Items: []itemProvenance{}, Made: []airgap.File{}}
		sizes := treeSizes(c.Snapshot, m.Name)
		item := map[blob.Digest]bool{}
		for _, it := range m.Items {
			item[it.SHA256] = true
			size := it.Size
			if size < 0 {
				size = sizes[it.SHA256]
			}
			p.Items = append(p.Items, itemProvenance{it.Path, it.URL, size, it.SHA256, it.Sum, it.Kind, it.Why, fresh[it.SHA256]})
		}
		for _, t := range c.Snapshot.Trees {
			if t.Mirror != m.Name {
				continue
			}
			for _, f := range t.Files {
				if !item[f.SHA256] {
					p.Made = append(p.Made, f)
				}
			}
		}
		out.Mirrors = append(out.Mirrors, p)
	}
	return indent(out)
}

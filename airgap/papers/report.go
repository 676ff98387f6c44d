package papers

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// Report is what a security officer wants to know before a bundle enters.
type Report struct {
	Site     string    `json:"site"`
	Snapshot string    `json:"snapshot"`
	Serial   int64     `json:"serial"`
	Created  time.Time `json:"created"`
	Base     string    `json:"base,omitempty"` // "": the bundle is full

	Fingerprint blob.Digest `json:"fingerprint"` // of the signed index
	Words       string      `json:"words"`
	KeyID       string      `json:"keyId"`
	KeyWords    string      `json:"keyWords"`

	Volumes    int               `json:"volumes"`
	Stored     int64             `json:"storedBytes"`
	Bytes      int64             `json:"bytes"`
	Files      int               `json:"files"` // of mirrors
	Parity     int               `json:"parity"`
	Recipients []string          `json:"recipients,omitempty"`
	Programs   []airgap.Program  `json:"programs,omitempty"`
	Mirrors    []MirrorReport    `json:"mirrors"`
	Changes    []string          `json:"changes"`
	Licences   []LicenceReport   `json:"licences"`
	Entering   []EnteringThing   `json:"entering"`
	Carried    []airgap.Document `json:"documents,omitempty"`
	Notes      []string          `json:"notes,omitempty"`
}

// MirrorReport is one upstream.
type MirrorReport struct {
	Name     string         `json:"name"`
	Format   string         `json:"format"`
	Hosts    []string       `json:"hosts"`
	Trust    []airgap.Trust `json:"trust"`
	Things   int            `json:"things"`   // in the snapshot
	Entering int            `json:"entering"` // in this bundle
	Bytes    int64          `json:"bytes"`    // of those
}

// LicenceReport counts things under a licence; "" is not known.
type LicenceReport struct {
	Licence string `json:"licence"`
	Things  int    `json:"things"`
}

// EnteringThing is one thing whose bytes the bundle holds.
type EnteringThing struct {
	Mirror   string   `json:"mirror"`
	Name     string   `json:"name"`
	Version  string   `json:"version,omitempty"`
	Bytes    int64    `json:"bytes"`
	SHA256   string   `json:"sha256"`
	PURL     string   `json:"purl"`
	Licences []string `json:"licences,omitempty"`
}

// NewReport reads a bundle's documents and its snapshot. It says what the
// signed papers say; whether the volumes are whole, Verify says.
func NewReport(ctx context.Context, b *airgap.OpenedBundle) (Report, error) {
	snap, err := b.List(ctx)
	if err != nil {
		return Report{}, err
	}
	docs, err := b.ReadDocuments(ctx)
	if err != nil {
		return Report{}, err
	}
	key := b.Key()
	r := Report{
		Site: b.Site, Snapshot: snap.Name, Serial: snap.Serial, Created: snap.Created.UTC(), Fingerprint: b.Fingerprint(), Words: Words(b.Fingerprint()),
		KeyID: key.ID(), KeyWords: Words(key.Fingerprint()), Volumes: len(b.Volumes), Bytes: b.Bytes, Files: b.Files(),
		Recipients: b.Recipients, Programs: b.Programs, Carried: b.Documents, Changes: []string{}, Licences: []LicenceReport{}, Entering: []EnteringThing{},
	}
	if b.Base != nil {
		r.Base = b.Base.Name
	}
	if b.Parity != nil {
		r.Parity = len(b.Parity.Files)
	}
	for _, v := range b.Volumes {
		r.Stored += v.Stored
	}
	for _, m := range snap.Lock.Mirrors {
		r.Mirrors = append(r.Mirrors, MirrorReport{Name: m.Name, Format: m.Format, Hosts: hosts(m), Trust: m.Trust})
		for _, t := range m.Trust {
			if t.SignedBy == "" {
				r.Notes = append(r.Notes, fmt.Sprintf("%s, %s: no signature vouches for it; it is trusted because of %s.", m.Name, t.What, t.Source))
			}
		}
	}
	if err := r.components(docs[CycloneDXFile]); err != nil {
		return Report{}, err
	}
	if text, ok := docs[ChangesFile]; ok {
		_, body, _ := strings.Cut(string(text), "\n\n")
		for l := range strings.Lines(body) {
			r.Changes = append(r.Changes, strings.TrimSuffix(l, "\n"))
		}
	} else {
		r.Notes = append(r.Notes, "The bundle has no list of changes.")
	}
	return r, nil
}

func hosts(m airgap.LockedMirror) []string {
	set := map[string]bool{}
	for _, it := range m.Items {
		if u, err := url.Parse(it.URL); err == nil {
			set[u.Host] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// components takes what the list of components says.
func (r *Report) components(data []byte) error {
	if data == nil {
		r.Notes = append(r.Notes, "The bundle has no list of components: it was made without papers.")
		return nil
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(data), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		return fmt.Errorf("%s: %w", CycloneDXFile, err)
	}
	if bom.Components == nil {
		return errors.New(CycloneDXFile + " has no components")
	}
	count := map[string]int{}
	for _, c := range *bom.Components {
		e := EnteringThing{Name: c.Name, Version: c.Version, PURL: c.PackageURL}
		fresh := false
		if c.Properties != nil {
			for _, p := range *c.Properties {
				switch p.Name {
				case "fettle:mirror":
					e.Mirror = p.Value
				case "fettle:bytes":
					e.Bytes, _ = strconv.ParseInt(p.Value, 10, 64)
				case "fettle:inThisBundle":
					fresh = p.Value == "true"
				}
			}
		}
		if c.Hashes != nil && len(*c.Hashes) > 0 {
			e.SHA256 = (*c.Hashes)[0].Value
		}
		if c.Licenses != nil {
			for _, l := range *c.Licenses {
				if l.Expression != "" {
					e.Licences = append(e.Licences, l.Expression)
				}
				if l.License != nil {
					e.Licences = append(e.Licences, cmp.Or(l.License.ID, l.License.Name))
				}
			}
		}
		i := slices.IndexFunc(r.Mirrors, func(m MirrorReport) bool { return m.Name == e.Mirror })
		if i < 0 {
			return fmt.Errorf("%s names a mirror %q that the snapshot does not have", CycloneDXFile, e.Mirror)
		}
		m := &r.Mirrors[i]
		m.Things++
		if !fresh {
			continue
		}
		m.Entering, m.Bytes = m.Entering+1, m.Bytes+e.Bytes
		r.Entering = append(r.Entering, e)
		for _, l := range e.Licences {
			count[l]++
		}
		if len(e.Licences) == 0 {
			count[""]++
		}
	}
	for l, n := range count {
		r.Licences = append(r.Licences, LicenceReport{l, n})
	}
	slices.SortFunc(r.Licences, func(a, b LicenceReport) int {
		return cmp.Or(cmp.Compare(b.Things, a.Things), cmp.Compare(a.Licence, b.Licence))
	})
	return nil
}

// JSON is the report for programs.
func (r Report) JSON() ([]byte, error) { return indent(r) }

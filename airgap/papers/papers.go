// Package papers writes what people and auditors read of a bundle: lists of
// what is in it (SPDX and CycloneDX), where every byte came from, what changed,
// and one printable page.
//
// A [Component] is one thing of a snapshot, such as a package, whatever its
// format. [Documents] are the papers that travel in a bundle; the same snapshot
// and base give the same bytes. A [Report] is made of a bundle, on either side.
package papers

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// Names of the documents in a bundle.
const (
	SPDXFile       = "sbom.spdx.json"
	CycloneDXFile  = "sbom.cdx.json"
	ProvenanceFile = "provenance.json"
	ChangesFile    = "changes.txt"
)

// Licences tells the licences of an item, as its metadata writes them. None
// means that they are not known.
type Licences func(airgap.Item) []string

// Component is one thing of a snapshot.
type Component struct {
	Mirror, Format      string
	Name, Version, Arch string
	PURL                string
	SHA256              blob.Digest
	Size                int64
	URL                 string
	Kind                airgap.Kind
	Why                 string
	Licences            []string
	New                 bool // the bundle holds its bytes
}

// Components are the things of a snapshot, by mirror and name. Of several
// files of one thing, such as a Go module's, the main one stands for all.
func Components(c airgap.Carried, licences Licences) []Component {
	fresh := map[blob.Digest]int64{}
	for _, f := range c.New {
		fresh[f.SHA256] = f.Size
	}
	var out []Component
	for _, m := range c.Snapshot.Lock.Mirrors {
		sizes := treeSizes(c.Snapshot, m.Name)
		at := map[string]int{}
		for _, it := range m.Items {
			if it.Kind == airgap.KindEvidence || it.Kind == airgap.KindPart || it.Kind == airgap.KindIndex && it.Version == "" {
				continue
			}
			x := Component{Mirror: m.Name, Format: m.Format, Name: cmp.Or(it.Name, it.Path), Version: it.Version, Arch: it.Arch, SHA256: it.SHA256,
				Size: it.Size, URL: it.URL, Kind: it.Kind, Why: it.Why, PURL: purl(m, it)}
			if x.Size < 0 {
				x.Size = sizes[it.SHA256]
			}
			_, x.New = fresh[it.SHA256]
			if licences != nil {
				x.Licences = licences(it)
			}
			i, seen := at[x.PURL]
			if !seen {
				at[x.PURL] = len(out)
				out = append(out, x)
			} else if old := out[i]; rank(x.Kind) < rank(old.Kind) {
				x.New = x.New || old.New
				out[i] = x
			} else {
				out[i].New = x.New || old.New
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Component) int {
		return cmp.Or(cmp.Compare(a.Mirror, b.Mirror), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.PURL, b.PURL), cmp.Compare(a.SHA256, b.SHA256))
	})
	return out
}

func rank(k airgap.Kind) int {
	return slices.Index([]airgap.Kind{airgap.KindPackage, airgap.KindFile, airgap.KindIndex}, k)
}

func treeSizes(s airgap.Snapshot, mirror string) map[blob.Digest]int64 {
	out := map[blob.Digest]int64{}
	for _, t := range s.Trees {
		if t.Mirror == mirror {
			for _, f := range t.Files {
				out[f.SHA256] = f.Size
			}
		}
	}
	return out
}

// Documents writes the papers of a bundle. tool names the program that makes
// the bundle, with its version.
func Documents(c airgap.Carried, licences Licences, tool string) ([]airgap.Document, error) {
	all := Components(c, licences)
	var out []airgap.Document
	for _, w := range []struct {
		name string
		do   func() ([]byte, error)
	}{
		{SPDXFile, func() ([]byte, error) { return SPDX(c, all, tool) }},
		{CycloneDXFile, func() ([]byte, error) { return CycloneDX(c, all, tool) }},
		{ProvenanceFile, func() ([]byte, error) { return Provenance(c) }},
		{ChangesFile, func() ([]byte, error) { return changesText(c), nil }},
	} {
		data, err := w.do()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		out = append(out, airgap.NewDocument(w.name, data))
	}
	return out, nil
}

// changesText is the list of changes that a person reads.
func changesText(c airgap.Carried) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Site %s, snapshot %s (serial %d) of %s\n", c.Bundle.Site, c.Snapshot.Name, c.Snapshot.Serial, c.Snapshot.Created.UTC().Format("2006-01-02 15:04:05 UTC"))
	var base airgap.Lock
	if c.Base == nil {
		b.WriteString("The bundle is full: everything in it is listed as new.\n\n")
	} else {
		fmt.Fprintf(&b, "What changed since snapshot %s (serial %d) of %s\n\n", c.Base.Name, c.Base.Serial, c.Base.Created.UTC().Format("2006-01-02 15:04:05 UTC"))
		base = c.Base.Lock
	}
	lines := Changes(base, c.Snapshot.Lock)
	for _, l := range lines {
		b.WriteString(l + "\n")
	}
	if len(lines) == 0 {
		b.WriteString("Nothing changed.\n")
	}
	return b.Bytes()
}

// Changes is what airgap.Diff says, and for mirrors that are new each of their
// things.
func Changes(base, now airgap.Lock) []string {
	out := airgap.Diff(base, now)
	for _, m := range now.Mirrors {
		if _, ok := base.Mirror(m.Name); ok {
			continue
		}
		empty := m
		empty.Items = nil
		with := airgap.Lock{Version: airgap.LockVersion, Mirrors: []airgap.LockedMirror{m}}
		without := airgap.Lock{Version: airgap.LockVersion, Mirrors: []airgap.LockedMirror{empty}}
		out = append(out, airgap.Diff(without, with)...)
	}
	// Those that want a person's eye come first.
	slices.SortStableFunc(out, func(a, b string) int { return cmp.Compare(urgent(a), urgent(b)) })
	return out
}

func urgent(line string) int {
	if strings.Contains(line, "ATTENTION:") {
		return 0
	}
	return 1
}

// indent is JSON for people, without escaping for HTML.
func indent(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	err := enc.Encode(v)
	return b.Bytes(), err
}

package airgap

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/fettle-dev/fettle/blob"
)

// LockVersion is the version of the lock's form.
const LockVersion = 1

// Lock is what a site's mirrors are, exactly: FORMAT.md.
type Lock struct {
	Version int            `json:"lock"`
	Mirrors []LockedMirror `json:"mirrors"`
}

// LockedMirror is a resolved mirror.
type LockedMirror struct {
	Name   string      `json:"name"`
	Format string      `json:"format"`
	Spec   Mirror      `json:"spec"`
	Inputs blob.Digest `json:"inputs"`
	Trust  []Trust     `json:"trust"`
	Items  []Item      `json:"items"`
}

// Mirror is the mirror called name.
func (l Lock) Mirror(name string) (LockedMirror, bool) {
	for _, m := range l.Mirrors {
		if m.Name == name {
			return m, true
		}
	}
	return LockedMirror{}, false
}

// Size is the number of distinct files of a lock and their bytes; files of
// unknown size count as 0.
func (l Lock) Size() (files int, bytes int64) {
	seen := map[blob.Digest]bool{}
	for _, m := range l.Mirrors {
		for _, it := range m.Items {
			if !seen[it.SHA256] {
				seen[it.SHA256] = true
				files++
				bytes += max(0, it.Size)
			}
		}
	}
	return files, bytes
}

// Estimate is what is still to be fetched of a lock.
type Estimate struct {
	Files, Unknown int // Unknown of them do not have a known size
	Bytes          int64
}

// Estimate counts the distinct files of a lock that are not there yet.
func (l Lock) Estimate(has func(blob.Digest) bool) Estimate {
	var e Estimate
	seen := map[blob.Digest]bool{}
	for _, m := range l.Mirrors {
		for _, it := range m.Items {
			if seen[it.SHA256] || has(it.SHA256) {
				continue
			}
			seen[it.SHA256] = true
			e.Files++
			if it.Size < 0 {
				e.Unknown++
			}
			e.Bytes += max(0, it.Size)
		}
	}
	return e
}

// Sort brings a mirror's items and trust into the lock's order.
func (m *LockedMirror) Sort() {
	slices.SortFunc(m.Items, func(a, b Item) int { return cmp.Compare(a.Path, b.Path) })
	slices.SortFunc(m.Trust, func(a, b Trust) int {
		return cmp.Or(cmp.Compare(a.What, b.What), cmp.Compare(a.Source, b.Source))
	})
}

// Check tells whether a lock keeps the rules of FORMAT.md.
func (l Lock) Check() error {
	if l.Version != LockVersion {
		return fmt.Errorf("a lock of version %d; this fettle reads version %d", l.Version, LockVersion)
	}
	for i, m := range l.Mirrors {
		if err := CheckName("mirror", m.Name); err != nil {
			return err
		}
		if err := CheckName("format", m.Format); err != nil {
			return err
		}
		if i > 0 && l.Mirrors[i-1].Name >= m.Name {
			return fmt.Errorf("mirror %s of the lock stands twice or is not in order; resolve again", m.Name)
		}
		if err := m.check(); err != nil {
			return fmt.Errorf("mirror %s: %w", m.Name, err)
		}
	}
	return nil
}

func (m LockedMirror) check() error {
	if m.Spec.Name != m.Name || m.Spec.Format != m.Format {
		return fmt.Errorf("its spec is of mirror %q, format %q", m.Spec.Name, m.Spec.Format)
	}
	if err := m.Inputs.Validate(); err != nil {
		return err
	}
	for i, it := range m.Items {
		if err := CheckPath(it.Path); err != nil {
			return err
		}
		if i > 0 && m.Items[i-1].Path >= it.Path {
			return fmt.Errorf("%s stands twice or is not in order", it.Path)
		}
		if err := it.SHA256.Validate(); err != nil {
			return fmt.Errorf("%s: %w", it.Path, err)
		}
		if it.Size < -1 {
			return fmt.Errorf("%s has %d bytes", it.Path, it.Size)
		}
		if it.Text != "" && (blob.FromBytes([]byte(it.Text)) != it.SHA256 || int64(len(it.Text)) != it.Size) {
			return fmt.Errorf("%s: its text has another digest or size than it says", it.Path)
		}
		switch it.Kind {
		case KindIndex, KindPackage, KindFile, KindPart, KindEvidence, KindBuilt:
		default:
			return fmt.Errorf("%s is of unknown kind %q", it.Path, it.Kind)
		}
		if it.Kind == KindBuilt {
			if u, err := url.Parse(it.URL); err != nil || u.Scheme != BuiltScheme || u.Host != "" || len(it.Also) > 0 {
				return fmt.Errorf("%s: %q is no %s: name", it.Path, it.URL, BuiltScheme)
			}
			continue
		}
		for _, raw := range append([]string{it.URL}, it.Also...) {
			if err := CheckURL(raw); err != nil {
				return fmt.Errorf("%s: %w", it.Path, err)
			}
		}
	}
	return nil
}

// CheckURL refuses what cannot stand in a lock as the address of a file.
func CheckURL(raw string) error {
	if plainURL(raw) {
		return nil
	}
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("%q is no http or https address", raw)
	}
	if u.User != nil {
		return fmt.Errorf("the address of %s has a password in it, which would end up in git and on the other side", u.Host)
	}
	return nil
}

// plainURL tells whether raw is one of the many addresses that need no parser:
// a name or IPv4 address, perhaps a port, and a path of letters, digits and
// marks that stand for themselves (RFC 3986 §2.3).
func plainURL(raw string) bool {
	rest, ok := strings.CutPrefix(raw, "http://")
	if !ok {
		if rest, ok = strings.CutPrefix(raw, "https://"); !ok {
			return false
		}
	}
	host, rest, _ := strings.Cut(rest, "/")
	host, port, has := strings.Cut(host, ":")
	if host == "" || has && (port == "" || strings.Trim(port, "0123456789") != "") {
		return false
	}
	plain := func(s, marks string) bool {
		for i := range len(s) {
			if c := s[i]; c|0x20-'a' > 'z'-'a' && c-'0' > 9 && strings.IndexByte(marks, c) < 0 {
				return false
			}
		}
		return true
	}
	return plain(host, ".-") && plain(rest, "/.-_~+")
}

// MarshalLock writes a lock: one item a line.
func MarshalLock(l Lock) ([]byte, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\"lock\":%d,\"mirrors\":[", l.Version)
	for i, m := range l.Mirrors {
		items := m.Items
		m.Items = nil
		if m.Trust == nil {
			m.Trust = []Trust{}
		}
		head, err := marshal(m)
		if err != nil {
			return nil, err
		}
		head = bytes.TrimSuffix(head, []byte("null}"))
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "\n%s[", head)
		for j, it := range items {
			line, err := marshal(it)
			if err != nil {
				return nil, err
			}
			if j > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "\n%s", line)
		}
		b.WriteString("\n]}")
	}
	b.WriteString("\n]}\n")
	return b.Bytes(), nil
}

// ParseLock reads a lock.
func ParseLock(data []byte) (Lock, error) {
	var l Lock
	if err := unmarshal(data, &l); err != nil {
		return Lock{}, fmt.Errorf("reading the lock: %w", err)
	}
	if err := l.Check(); err != nil {
		return Lock{}, fmt.Errorf("reading the lock: %w", err)
	}
	return l, nil
}

// marshal is JSON without escaping for HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// unmarshal is strict: no unknown key, none twice or in other case, nothing
// behind the value. Locks and snapshots are large; see AIRGAP.md for the
// library.
func unmarshal(data []byte, v any) error {
	return jsonv2.Unmarshal(data, v, jsonv2.RejectUnknownMembers(true))
}

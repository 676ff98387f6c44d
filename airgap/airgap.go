// Package airgap carries upstream files over a gap: lock, fetch, bundle,
// import, serve. It knows nothing of machines.
//
// A [Mirror] says what is wanted of one upstream. A [Format] resolves it to
// [Item]s, each a URL with size and digest; together they are a [Lock]. A
// [Fetcher] brings items into a blob store. A [Snapshot] is a lock and the
// trees of [File]s that clients see; it never changes. A [Bundle] carries a
// snapshot over the gap in volumes; a [Receipt] says what arrived. FORMAT.md
// has the formats.
package airgap

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// Mirror is what the site wants of one upstream.
type Mirror struct {
	Name       string     `json:"name"`
	Format     string     `json:"format"`
	URLs       []string   `json:"urls,omitempty"`       // apt: archives; none: the machine's own configuration
	Suites     []string   `json:"suites,omitempty"`     // apt
	Components []string   `json:"components,omitempty"` // apt; none: what the source says
	Archs      []string   `json:"archs,omitempty"`
	Packages   []string   `json:"packages,omitempty"`   // none: whole
	Recommends bool       `json:"recommends,omitempty"` // apt: in the closure too
	Resign     bool       `json:"resign,omitempty"`     // apt: sign a whole mirror with the site's key
	Keyrings   []string   `json:"keyrings,omitempty"`   // apt, rpm, files: files of OpenPGP keys
	Files      []WantFile `json:"files,omitempty"`      // files

	Images []string `json:"images,omitempty"` // oci: REGISTRY/REPOSITORY:TAG, @DIGEST, or both
	Moving []string `json:"moving,omitempty"` // oci: tags that may mean another image than they did
	Secret string   `json:"secret,omitempty"` // oci: name of the secret with USER:PASSWORD for upstream

	Lockfiles []string       `json:"lockfiles,omitempty"` // npm, go, pypi: files that say what is wanted
	Python    []string       `json:"python,omitempty"`    // pypi: versions, e.g. 3.11
	Omit      []string       `json:"omit,omitempty"`      // npm: dev, optional
	Signed    string         `json:"signed,omitempty"`    // rpm: what upstream signs: index (or ""), packages
	Metalink  string         `json:"metalink,omitempty"`  // rpm: where addresses and the index's digest are, instead of URLs
	Checksums []WantChecked  `json:"checksums,omitempty"` // files: by signed lists of digests
	Models    []WantSnapshot `json:"models,omitempty"`    // files: snapshots of model repositories

	// Needs are packages that somebody needs, beyond Packages: with them, too,
	// a mirror is not whole.
	Needs []Need `json:"needs,omitempty"`
	// Bootstrap (apt) adds what debootstrap installs first, out of each suite
	// alone, since debootstrap looks into one suite only.
	Bootstrap bool `json:"bootstrap,omitempty"`
	Sources   bool `json:"sources,omitempty"`   // apt: source packages of what is taken
	Installer bool `json:"installer,omitempty"` // apt: udebs and netboot files of the Debian installer
	// Udebs (apt) are patterns of those that are wanted; none: all.
	Udebs []string `json:"udebs,omitempty"`
}

// WantChecked is files that the site wants by a list of digests that is signed.
type WantChecked struct {
	URL       string   `json:"url"`                 // of the list; the files are beside it
	Signature string   `json:"signature,omitempty"` // its detached signature; none: the list is itself signed
	Files     []string `json:"files,omitempty"`     // patterns; none: all
	Path      string   `json:"path,omitempty"`      // folder in the served tree
}

// WantSnapshot is one commit of a model repository.
type WantSnapshot struct {
	Repo     string   `json:"repo"`            // OWNER/NAME
	Revision string   `json:"revision"`        // commit
	Files    []string `json:"files,omitempty"` // patterns; none: all
}

// Need is a package and what needs it.
type Need struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Whole tells whether all of upstream is wanted.
func (m Mirror) Whole() bool { return len(m.Packages) == 0 && len(m.Needs) == 0 }

// WantFile is one file that the site wants by URL and digest.
type WantFile struct {
	URL    string      `json:"url"`
	SHA256 blob.Digest `json:"sha256"`
	Path   string      `json:"path,omitempty"` // in the served tree; default: the URL's last element
	Also   []string    `json:"also,omitempty"` // other addresses of the same bytes
}

// Kind says what an item is for.
type Kind string

// Kinds of items.
const (
	KindIndex    Kind = "index"    // upstream's metadata, as clients use it
	KindPackage  Kind = "package"  // what an index names
	KindFile     Kind = "file"     // a file of its own
	KindPart     Kind = "part"     // what a package is made of, such as a layer; upstream may send it from another host
	KindBuilt    Kind = "built"    // made by fettle here; no upstream has it
	KindEvidence Kind = "evidence" // upstream's metadata that vouches for items, not used by clients
)

// BuiltScheme is the scheme of the URL of an item of [KindBuilt]: a name, not
// an address.
const BuiltScheme = "fettle"

// Item is one upstream file, or one of [KindBuilt].
type Item struct {
	Path    string      `json:"path"`
	URL     string      `json:"url"`
	Size    int64       `json:"size"` // -1: not known before it is fetched
	SHA256  blob.Digest `json:"sha256"`
	Kind    Kind        `json:"kind"`
	Name    string      `json:"name,omitempty"`
	Version string      `json:"version,omitempty"`
	Arch    string      `json:"arch,omitempty"`
	Why     string      `json:"why,omitempty"`  // what brought it in
	Sum     string      `json:"sum,omitempty"`  // the digest that upstream vouches for, where that is not SHA256
	Also    []string    `json:"also,omitempty"` // other addresses of the same bytes
	Text    string      `json:"text,omitempty"` // the whole file, when it is a few lines that change at URL
}

// Trust is one reason to believe the digests of a mirror's items.
type Trust struct {
	What     string `json:"what"`               // e.g. "suite bookworm"
	Date     string `json:"date,omitempty"`     // of the signed index, RFC 3339
	SignedBy string `json:"signedBy,omitempty"` // fingerprint of the OpenPGP key
	Until    string `json:"until,omitempty"`    // the signed index is valid until then, RFC 3339
	Source   string `json:"source"`             // keyring, or "the site file"
}

// File is one path of a served tree.
type File struct {
	Path   string      `json:"path"`
	Size   int64       `json:"size"`
	SHA256 blob.Digest `json:"sha256"`
}

// Env is what a format works with.
type Env struct {
	Fetch *Fetcher
	Blobs *blob.Store
	Key   *Key             // the site's key; nil when there is none
	Now   func() time.Time // for Valid-Until
}

// Format is one kind of upstream. Its methods may be called concurrently for
// different mirrors.
type Format interface {
	// Name is the word that the site file uses.
	Name() string
	// Resolve asks upstream what m holds now. Indexes are verified and put
	// into the blob store on the way. prev is the result of an earlier call,
	// or nil: it is returned again when nothing changed upstream, and an
	// upstream older than it is refused.
	Resolve(ctx context.Context, env Env, m Mirror, prev *LockedMirror) (LockedMirror, error)
	// Publish makes the tree that clients see of a mirror whose items are all
	// in the blob store. The same input gives the same tree.
	Publish(ctx context.Context, env Env, lm LockedMirror) ([]File, error)
}

// Joint is a [Format] whose mirrors belong together: what one must hold may
// depend on what others have.
type Joint interface {
	Format
	// ResolveAll is Resolve of several mirrors. prev is as long as ms; its
	// entries may be nil.
	ResolveAll(ctx context.Context, env Env, ms []Mirror, prev []*LockedMirror) ([]LockedMirror, error)
}

// CheckPath refuses paths that are not plain relative ones: FORMAT.md.
func CheckPath(p string) error {
	if p == "" || len(p) > 1024 || path.Clean(p) != p || path.IsAbs(p) || p == "." || p == ".." ||
		strings.HasPrefix(p, "../") || strings.ContainsAny(p, "\\\x00\n\r") {
		return fmt.Errorf("path %q leaves its folder or is not plain: it must be relative, without empty, . or .. elements", p)
	}
	return nil
}

// CheckName refuses names that cannot name a file.
func CheckName(what, name string) error {
	if name == "" || len(name) > 128 || name[0] == '.' || name[0] == '-' {
		return fmt.Errorf("%s %q: use letters, digits and . _ - +, beginning with a letter or a digit", what, name)
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-+", rune(c)) {
			return fmt.Errorf("%s %q: use letters, digits and . _ - +, beginning with a letter or a digit", what, name)
		}
	}
	return nil
}

package images

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// Stage is a part of a build.
type Stage string

// Stages, in the order in which they come; none of the builds has all.
const (
	StageCached    Stage = "cached"    // nothing to do: there is a release with these inputs
	StageIndex     Stage = "index"     // package lists are brought up to date
	StageResolve   Stage = "resolve"   // apt says which packages
	StageDownload  Stage = "download"  // packages are fetched and verified
	StageUnpack    Stage = "unpack"    // packages are read
	StageBootstrap Stage = "bootstrap" // mmdebstrap installs
	StageDisk      Stage = "disk"      // partitions, file systems, boot loaders
	StageCompress  Stage = "compress"
	StageConvert   Stage = "convert" // an imported image becomes raw
	StageVerify    Stage = "verify"
	StageDone      Stage = "done"
)

// Progress is how far a build is. Done and Total are bytes when Total is not 0.
type Progress struct {
	Name  string `json:"name"` // of the release
	Stage Stage  `json:"stage"`
	Text  string `json:"text,omitempty"`
	Done  int64  `json:"done,omitempty"`
	Total int64  `json:"total,omitempty"`
}

// Builder builds releases. Only Store and Cache must be set. A Builder may be
// used by several goroutines; its builds run one after another where they need
// the same package lists.
type Builder struct {
	Store    *Store
	Cache    string           // folder for package lists, packages and work in progress
	Log      io.Writer        // output of the tools that are run; nil discards
	Progress func(Progress)   // nil: nobody looks
	Apt      AptConfig        // where packages come from; the zero value is the machine's own configuration
	Host     Host             // distribution and release of the agent, the loaders and os: host; the zero value is the machine's own
	AgentELF []byte           // the agent's program; nil = the one that was built into this binary
	Refresh  bool             // bring package lists up to date however young they are, and build again
	MaxAge   time.Duration    // of package lists before they are brought up to date; 0 = a day
	Now      func() time.Time // nil = time.Now
}

func (b *Builder) now() time.Time {
	if b.Now != nil {
		return b.Now()
	}
	return time.Now()
}

func (b *Builder) log() io.Writer {
	if b.Log != nil {
		return b.Log
	}
	return io.Discard
}

func (b *Builder) progress(p Progress) {
	if b.Progress != nil {
		b.Progress(p)
	}
}

// inputs is the digest of all that a release is made from.
func inputs(v any) (blob.Digest, error) {
	data, err := json.Marshal(v) // struct fields in order, map keys sorted
	if err != nil {
		return "", fmt.Errorf("naming the inputs of a build: %w", err)
	}
	return blob.FromBytes(data), nil
}

// cached looks for a release that was made from these inputs.
func (b *Builder) cached(ctx context.Context, name string, in blob.Digest) (Release, bool, error) {
	r, ok, err := b.Store.Find(ctx, name, in)
	if err != nil || !ok {
		return Release{}, false, err
	}
	if err := b.Store.choose(r, b.now()); err != nil {
		return Release{}, false, err
	}
	b.progress(Progress{Name: name, Stage: StageCached, Text: "made from the same inputs before"})
	return r, true, nil
}

// workDir makes a folder for one build, and a function that removes it.
func (b *Builder) workDir(name string) (string, func() error, error) {
	base := filepath.Join(b.Cache, "work")
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", nil, fmt.Errorf("building %s: %w", name, err)
	}
	dir, err := os.MkdirTemp(base, name+"-")
	if err != nil {
		return "", nil, fmt.Errorf("building %s: %w", name, err)
	}
	return dir, func() error { return removeTree(dir) }, nil
}

// putBytes stores a file of a release.
func (b *Builder) putBytes(ctx context.Context, name string, data []byte) (File, error) {
	d, n, err := b.Store.blobs.Put(ctx, bytes.NewReader(data), "")
	return File{Name: name, Digest: d, Size: n}, err
}

// sortedKeys is the keys of m in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/fettle-dev/fettle/blob"
)

// repoVersion is the version of the form of repoFile.
const (
	repoVersion = 1
	repoFile    = "_repo.json" // no part of a repository's name begins so
	maxRepoFile = 128 << 20
)

// content is where the blob store has something that a repository has.
type content struct {
	Size   int64       `json:"size"`
	SHA256 blob.Digest `json:"sha256"`
}

// listed is a manifest of a repository, with what lists of referrers say.
type listed struct {
	content
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Subject      Digest            `json:"subject,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"` // only with a subject
}

// repo is one repository. It does not change: who changes it makes another.
type repo struct {
	Version   int                `json:"repo"`
	Name      string             `json:"name"`
	Tags      map[string]Digest  `json:"tags"`
	Manifests map[Digest]listed  `json:"manifests"`
	Blobs     map[Digest]content `json:"blobs"`
}

func newRepo(name string) *repo {
	return &repo{Version: repoVersion, Name: name, Tags: map[string]Digest{}, Manifests: map[Digest]listed{}, Blobs: map[Digest]content{}}
}

func (r *repo) clone() *repo {
	c := *r
	c.Tags, c.Manifests, c.Blobs = maps.Clone(r.Tags), maps.Clone(r.Manifests), maps.Clone(r.Blobs)
	return &c
}

// manifest finds a manifest by tag or digest.
func (r *repo) manifest(ref string) (Digest, listed, bool) {
	d := Digest(ref)
	if !strings.Contains(ref, ":") {
		d = r.Tags[ref]
	}
	m, ok := r.Manifests[d]
	return d, m, ok
}

// blob finds a blob. Manifests can be read as blobs too.
func (r *repo) blob(d Digest) (content, bool) {
	if c, ok := r.Blobs[d]; ok {
		return c, true
	}
	m, ok := r.Manifests[d]
	return m.content, ok
}

// add takes in a manifest whose bytes are at c.
func (r *repo) add(d Digest, m manifest, c content) {
	l := listed{content: c, MediaType: m.MediaType, ArtifactType: m.artifact()}
	if m.Subject != nil {
		l.Subject, l.Annotations = m.Subject.Digest, m.Annotations
	}
	r.Manifests[d] = l
}

// referrers are the manifests whose subject is d, in order of digests.
func (r *repo) referrers(d Digest, artifactType string) []descriptor {
	out := []descriptor{}
	for _, k := range slices.Sorted(maps.Keys(r.Manifests)) {
		m := r.Manifests[k]
		if m.Subject == d && (artifactType == "" || m.ArtifactType == artifactType) {
			out = append(out, descriptor{MediaType: m.MediaType, ArtifactType: m.ArtifactType, Digest: k, Size: m.Size, Annotations: m.Annotations})
		}
	}
	return out
}

// sortedTags are the tags in the order of distribution-spec 1.1: without
// regard to case.
func (r *repo) sortedTags() []string { return slices.SortedFunc(maps.Keys(r.Tags), compareNames) }

func compareNames(a, b string) int {
	if c := strings.Compare(strings.ToLower(a), strings.ToLower(b)); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

func (r *repo) empty() bool { return len(r.Tags)+len(r.Manifests)+len(r.Blobs) == 0 }

func (r *repo) check() error {
	if r.Version != repoVersion {
		return fmt.Errorf("it is of version %d; this fettle reads version %d", r.Version, repoVersion)
	}
	for t, d := range r.Tags {
		if _, ok := r.Manifests[d]; !ok || checkTag(t) != nil {
			return fmt.Errorf("its tag %q is of no manifest that it has", t)
		}
	}
	at := func(d Digest, c content) error {
		if _, err := ParseDigest(string(d)); err != nil {
			return err
		}
		return c.SHA256.Validate()
	}
	for d, m := range r.Manifests {
		if err := at(d, m.content); err != nil {
			return err
		}
	}
	for d, c := range r.Blobs {
		if err := at(d, c); err != nil {
			return err
		}
	}
	return nil
}

// repos are the repositories that the site pushed: a file for each, below a
// folder of airgap.Store.OwnDir. It may be used concurrently, by one process.
type repos struct {
	dir string

	mu    sync.Mutex
	cache map[string]cachedRepo
}

type cachedRepo struct {
	stamp string // of the file that was read
	repo  *repo
}

const cachedRepos = 256 // the most that stay in memory

func (s *repos) path(name string) string {
	return filepath.Join(s.dir, filepath.FromSlash(name), repoFile)
}

// load reads a repository; nil when there is none. name is a valid one.
func (s *repos) load(name string) (*repo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fi, err := os.Stat(s.path(name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		delete(s.cache, name)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	stamp := fmt.Sprint(fi.ModTime().UnixNano(), " ", fi.Size())
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		stamp += fmt.Sprint(" ", st.Ino)
	}
	if c := s.cache[name]; c.stamp == stamp {
		return c.repo, nil
	}
	r, err := s.read(name)
	if err != nil || r == nil {
		return nil, err
	}
	if len(s.cache) >= cachedRepos || s.cache == nil {
		s.cache = map[string]cachedRepo{}
	}
	s.cache[name] = cachedRepo{stamp, r}
	return r, nil
}

func (s *repos) read(name string) (*repo, error) {
	f, err := os.Open(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRepoFile+1))
	if err != nil {
		return nil, err
	}
	r := newRepo("")
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err = dec.Decode(r)
	if err == nil {
		err = r.check()
	}
	if err == nil && r.Name != name {
		err = fmt.Errorf("it says that it is repository %q", r.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	return r, nil
}

// save replaces a repository's file, durably; an empty one's is removed.
func (s *repos) save(r *repo) error {
	path := s.path(r.Name)
	dir := filepath.Dir(path)
	if r.empty() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for ; dir != s.dir && len(dir) > len(s.dir); dir = filepath.Dir(dir) {
			if os.Remove(dir) != nil {
				break // others are in it
			}
		}
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(data) > maxRepoFile {
		return fmt.Errorf("repository %s has too many tags and blobs: %d bytes of names", r.Name, len(data))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	// Folders that are new must last too.
	for ; ; dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil || len(dir) <= len(s.dir) {
			return err
		}
	}
}

// names are all repositories that there are.
func (s *repos) names() ([]string, error) {
	var out []string
	err := filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if e.Name() != repoFile || !e.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(s.dir, filepath.Dir(path))
		if name := filepath.ToSlash(rel); err == nil && checkRepo(name) == nil {
			out = append(out, name)
		}
		return err
	})
	return out, err
}

// sweep removes what writers that were killed left.
func (s *repos) sweep() error {
	return filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if strings.HasPrefix(e.Name(), ".tmp-") {
			return os.Remove(path)
		}
		return nil
	})
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

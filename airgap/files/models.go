package files

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// maxSnapshot bounds what a hub says of one commit.
const maxSnapshot = 64 << 20

// sibling is a file of a commit, as a hub's API lists it: large files are in
// LFS, which names them by sha256; others are named by git's blob id.
type sibling struct {
	Name string `json:"rfilename"`
	Size *int64 `json:"size,omitempty"`
	Blob string `json:"blobId,omitempty"`
	LFS  *lfs   `json:"lfs,omitempty"`
}

type lfs struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// snapshot is a hub's answer about a commit.
type snapshot struct {
	ID       string    `json:"id"`
	Commit   string    `json:"sha"`
	Siblings []sibling `json:"siblings"`
}

var (
	gitID = regexp.MustCompile(`^[0-9a-f]{40}$`)
	hex64 = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// apiPath and filePath are where a hub has a commit and a file of it.
func apiPath(repo, revision string) string {
	if rest, ok := strings.CutPrefix(repo, "datasets/"); ok {
		return "api/datasets/" + rest + "/revision/" + revision
	}
	return "api/models/" + repo + "/revision/" + revision
}

func filePath(repo, revision, name string) string { return repo + "/resolve/" + revision + "/" + name }

// models resolves snapshots of model repositories.
func (r *resolver) models(ctx context.Context) error {
	if len(r.m.Models) == 0 {
		return nil
	}
	if len(r.m.URLs) != 1 {
		return errors.New("models need one url: the hub that they come from")
	}
	hub := strings.TrimSuffix(r.m.URLs[0], "/")
	if err := airgap.CheckURL(hub); err != nil {
		return err
	}
	for _, w := range r.m.Models {
		if !gitID.MatchString(w.Revision) {
			return fmt.Errorf("%s: revision %q is no commit, and branches move: write its 40 hex digits", w.Repo, w.Revision)
		}
		if err := r.model(ctx, hub, w); err != nil {
			return fmt.Errorf("%s at %s: %w", w.Repo, w.Revision, err)
		}
	}
	return nil
}

func (r *resolver) model(ctx context.Context, hub string, w airgap.WantSnapshot) error {
	data, err := r.env.Fetch.Index(ctx, hub+"/"+apiPath(w.Repo, w.Revision)+"?blobs=true", maxSnapshot)
	if err != nil {
		return err
	}
	snap, err := parseSnapshot(data)
	if err != nil {
		return err
	}
	if snap.Commit != w.Revision {
		return fmt.Errorf("the hub answers with commit %q", snap.Commit)
	}
	r.out.Trust = append(r.out.Trust, airgap.Trust{What: "model " + w.Repo, Source: "what " + hub + " says of commit " + w.Revision})
	matched := map[string]bool{}
	var learn []airgap.Unknown
	for _, s := range snap.Siblings {
		pattern, ok := match(w.Files, s.Name)
		if !ok {
			continue
		}
		matched[pattern] = true
		p := filePath(w.Repo, w.Revision, s.Name)
		it := airgap.Item{Path: p, URL: hub + "/" + (&url.URL{Path: p}).EscapedPath(), Size: -1, Kind: airgap.KindFile, Why: "model " + w.Repo}
		r.all = fmt.Appendf(r.all, "%s %s\n", it.URL, s.Blob)
		if s.LFS != nil {
			it.Size, it.SHA256 = s.LFS.Size, blob.Digest("sha256:"+s.LFS.SHA256)
			if err := r.add(it); err != nil {
				return err
			}
			continue
		}
		it.Sum = "git:" + s.Blob
		if s.Size != nil {
			it.Size = *s.Size
		}
		if old, ok := r.prev[p]; ok && old.Sum == it.Sum && old.SHA256.Validate() == nil {
			it.SHA256, it.Size = old.SHA256, old.Size
			if err := r.add(it); err != nil {
				return err
			}
			continue
		}
		learn = append(learn, airgap.Unknown{Item: it, Check: checkBlobID(s.Blob)})
	}
	if err := unmatched(w.Files, matched); err != nil {
		return err
	}
	got, err := r.env.Fetch.Learn(ctx, learn)
	if err != nil {
		return err
	}
	for _, it := range got {
		if err := r.add(it); err != nil {
			return err
		}
	}
	return nil
}

// parseSnapshot reads a hub's answer. What git's id of an LFS file is follows
// from its sha256 and size, so the two must agree.
func parseSnapshot(data []byte) (snapshot, error) {
	var s snapshot
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("the hub's answer: %w", err)
	}
	if len(s.Siblings) == 0 {
		return s, errors.New("the hub names no files of it")
	}
	seen := map[string]bool{}
	for _, f := range s.Siblings {
		if err := airgap.CheckPath(f.Name); err != nil {
			return s, err
		}
		if seen[f.Name] {
			return s, fmt.Errorf("the hub names %s twice", f.Name)
		}
		seen[f.Name] = true
		switch {
		case !gitID.MatchString(f.Blob):
			return s, fmt.Errorf("%s: %q is no id of a git blob", f.Name, f.Blob)
		case f.Size != nil && *f.Size < 0:
			return s, fmt.Errorf("%s has %d bytes", f.Name, *f.Size)
		case f.LFS == nil:
			continue
		case !hex64.MatchString(f.LFS.SHA256) || f.LFS.Size < 0:
			return s, fmt.Errorf("%s: its LFS digest %q or size %d is wrong", f.Name, f.LFS.SHA256, f.LFS.Size)
		}
		if got := blobID(pointer(*f.LFS)); got != f.Blob {
			return s, fmt.Errorf("%s: its LFS digest is not the one that the commit points to (%s, not %s)", f.Name, got, f.Blob)
		}
	}
	return s, nil
}

// pointer is the file that git has in place of one in LFS:
// https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
func pointer(l lfs) []byte {
	return fmt.Appendf(nil, "version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", l.SHA256, l.Size)
}

func blobID(data []byte) string {
	sum := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(data)), data...))
	return hex.EncodeToString(sum[:])
}

func checkBlobID(want string) func(io.ReaderAt, int64) error {
	return func(f io.ReaderAt, size int64) error {
		h := sha1.New()
		fmt.Fprintf(h, "blob %d\x00", size)
		if _, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
			return err
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != want {
			return fmt.Errorf("its git id is %s, and the hub says %s", got, want)
		}
		return nil
	}
}

// publishModels makes what a hub's API says of the commits that are here, and
// a list of digests for sha256sum --check.
func publishModels(ctx context.Context, env airgap.Env, lm airgap.LockedMirror, files []airgap.File) ([]airgap.File, error) {
	var out []airgap.File
	put := func(p string, data []byte) error {
		d, err := airgap.PutBytes(ctx, env.Blobs, data)
		out = append(out, airgap.File{Path: p, Size: int64(len(data)), SHA256: d})
		return err
	}
	for _, w := range lm.Spec.Models {
		snap := snapshot{ID: strings.TrimPrefix(w.Repo, "datasets/"), Commit: w.Revision}
		var list bytes.Buffer
		for _, f := range slices.SortedFunc(slices.Values(files), func(a, b airgap.File) int { return cmp.Compare(a.Path, b.Path) }) {
			if name, ok := strings.CutPrefix(f.Path, filePath(w.Repo, w.Revision, "")); ok {
				size := f.Size
				snap.Siblings = append(snap.Siblings, sibling{Name: name, Size: &size})
				fmt.Fprintf(&list, "%s  %s\n", f.SHA256.Hex(), name)
			}
		}
		data, err := json.Marshal(snap)
		if err != nil {
			return nil, err
		}
		if err := put(apiPath(w.Repo, w.Revision), data); err != nil {
			return nil, err
		}
		if err := put(w.Repo+"/"+w.Revision+".sha256sums", list.Bytes()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Serve implements airgap.Serving: files, and a hub's answers for clients that
// name this mirror as theirs (HF_ENDPOINT). The branch main is the one commit
// that is here.
func (Format) Serve(w http.ResponseWriter, r *http.Request, t airgap.ServedTree, p string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	commits := map[string]string{} // by repository; "" when there are several
	for _, f := range t.Files {
		if repo, rest, ok := strings.Cut(f.Path, "/resolve/"); ok {
			commit, _, _ := strings.Cut(rest, "/")
			if old, ok := commits[repo]; ok && old != commit {
				commit = ""
			}
			commits[repo] = commit
		}
	}
	for _, repo := range slices.Sorted(maps.Keys(commits)) {
		commit := commits[repo]
		switch api := strings.TrimSuffix(apiPath(repo, ""), "/revision/"); {
		case p == api || p == api+"/revision/main":
			p = apiPath(repo, commit)
		case strings.HasPrefix(p, repo+"/resolve/main/") && commit != "":
			p = filePath(repo, commit, strings.TrimPrefix(p, repo+"/resolve/main/"))
		}
	}
	f, ok := t.File(p)
	if !ok {
		t.NotFound(w)
		return
	}
	ctype := ""
	if _, rest, ok := strings.Cut(p, "/resolve/"); ok {
		commit, _, _ := strings.Cut(rest, "/")
		w.Header().Set("X-Repo-Commit", commit)
		w.Header().Set("X-Linked-Size", fmt.Sprint(f.Size))
	} else if strings.HasPrefix(p, "api/") {
		ctype = "application/json"
	}
	t.Send(w, r, f, ctype)
}

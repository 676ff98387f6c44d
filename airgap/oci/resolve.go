package oci

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

const (
	maxImages   = 10_000
	maxAttached = 1000 // to one image
	atOnce      = 8    // images that are resolved at a time; the fetcher bounds requests
)

// Resolve implements airgap.Format.
func (f *Format) Resolve(ctx context.Context, env airgap.Env, m airgap.Mirror, prev *airgap.LockedMirror) (airgap.LockedMirror, error) {
	fail := func(err error) (airgap.LockedMirror, error) { return airgap.LockedMirror{}, err }
	if len(m.Images) == 0 {
		return fail(errors.New("it names no images"))
	}
	ps, err := parsePlatforms(m.Archs)
	if err != nil {
		return fail(err)
	}
	plain, err := plainHosts(m)
	if err != nil {
		return fail(err)
	}
	for _, p := range m.Moving {
		if _, err := path.Match(p, "x"); err != nil {
			return fail(fmt.Errorf("moving: %q is no pattern", p))
		}
	}
	keys, err := readKeys(f.Dir, m.Keyrings)
	if err != nil {
		return fail(err)
	}
	rs := &resolver{env: env, mirror: m, platforms: ps, plain: plain, keys: keys, repos: map[string]*repoTags{}}
	refs, err := rs.refs(ctx)
	if err != nil {
		return fail(err)
	}
	images := make([]image, len(refs))
	var g errgroup.Group
	g.SetLimit(atOnce)
	errs := make([]error, len(refs))
	for i, r := range refs {
		g.Go(func() error {
			if images[i], errs[i] = rs.image(ctx, r, prev); errs[i] != nil {
				errs[i] = fmt.Errorf("image %s: %w", r, errs[i])
			}
			return nil
		})
	}
	_ = g.Wait()
	if err := cmp.Or(ctx.Err(), errors.Join(errs...)); err != nil {
		return fail(err)
	}
	return rs.lock(ctx, images)
}

// image is what one reference resolved to.
type image struct {
	ref   Ref // with its digest
	items []airgap.Item
	learn []airgap.Unknown // blobs that upstream names by another digest than sha256
	trust airgap.Trust
}

type resolver struct {
	env       airgap.Env
	mirror    airgap.Mirror
	platforms platforms
	plain     func(string) bool
	keys      []key

	mu    sync.Mutex
	repos map[string]*repoTags
}

// repoTags are the tags of a repository, asked for once.
type repoTags struct {
	once sync.Once
	tags map[string]bool // nil: upstream does not tell
	err  error
}

func (rs *resolver) source(r Ref) source {
	return source{rs.env, endpoint(r.Host, rs.plain), r.Repo}
}

func (rs *resolver) tags(ctx context.Context, r Ref) (map[string]bool, error) {
	rs.mu.Lock()
	t := rs.repos[r.Name()]
	if t == nil {
		t = &repoTags{}
		rs.repos[r.Name()] = t
	}
	rs.mu.Unlock()
	t.once.Do(func() {
		all, ok, err := rs.source(r).tags(ctx)
		if t.err = err; ok {
			t.tags = all
		}
	})
	return t.tags, t.err
}

// refs are the images that the site wants, patterns replaced by tags, in order.
func (rs *resolver) refs(ctx context.Context) ([]Ref, error) {
	all := map[string]Ref{}
	for _, s := range rs.mirror.Images {
		r, err := ParseRef(s)
		if err != nil {
			return nil, err
		}
		if !r.pattern() {
			if old, ok := all[itemPath(r)]; ok && old != r {
				return nil, fmt.Errorf("the site wants both %s and %s", old, r)
			}
			all[itemPath(r)] = r
			continue
		}
		tags, err := rs.tags(ctx, r)
		if err != nil {
			return nil, err
		}
		if tags == nil {
			return nil, fmt.Errorf("image %s: its registry does not list tags, so that a pattern finds none; name them", r)
		}
		n := len(all)
		for t := range tags {
			ok, err := path.Match(r.Tag, t)
			if err != nil {
				return nil, fmt.Errorf("image %s: its tag is no pattern", r)
			}
			// Signatures come with what they sign.
			if one := (Ref{Host: r.Host, Repo: r.Repo, Tag: t}); ok && !isAttachment(t) {
				if _, named := all[itemPath(one)]; !named {
					all[itemPath(one)] = one
				}
				n = -1
			}
		}
		if n >= 0 {
			return nil, fmt.Errorf("image %s: none of the %d tags is one of those", r, len(tags))
		}
	}
	if len(all) > maxImages {
		return nil, fmt.Errorf("the site wants %d images; at most %d of one mirror", len(all), maxImages)
	}
	return slices.SortedFunc(maps.Values(all), func(a, b Ref) int { return cmp.Compare(a.String(), b.String()) }), nil
}

// isAttachment tells whether a tag is made of a digest.
func isAttachment(tag string) bool {
	rest, ok := strings.CutPrefix(tag, "sha256-")
	return ok && len(rest) >= 64
}

// itemPath is where the lock has an image.
func itemPath(r Ref) string {
	if r.Tag != "" {
		return "images/" + r.local() + "/" + r.Tag
	}
	return "images/" + r.local() + "/@" + strings.Replace(string(r.Digest), ":", "-", 1)
}

// image resolves one reference with everything that belongs to it.
func (rs *resolver) image(ctx context.Context, r Ref, prev *airgap.LockedMirror) (image, error) {
	s := rs.source(r)
	want, ref := r.Digest, string(r.Digest)
	if r.Tag != "" {
		got, err := s.digest(ctx, r.Tag)
		if err != nil {
			return image{}, err
		}
		if want != "" && got != "" && got != want {
			return image{}, fmt.Errorf("%w: upstream has %s at tag %s, and the site wants %s; nothing was kept", ErrMoved, got, r.Tag, want)
		}
		if want = cmp.Or(want, got); want == "" {
			ref = r.Tag
		} else {
			ref = string(want)
		}
	}
	top, err := s.manifest(ctx, ref, want)
	if err != nil {
		return image{}, err
	}
	if err := rs.moved(r, top.digest, prev); err != nil {
		return image{}, err
	}
	im := image{ref: r, trust: airgap.Trust{What: "image " + r.Name() + ":" + r.Tag, Source: r.Host}}
	switch {
	case r.Digest != "":
		im.trust.Source = "the site file"
	case s.base.Scheme == "http":
		im.trust.Source += ", over plain HTTP"
	}
	if r.Tag == "" {
		im.trust.What = "image " + r.String()
	}
	im.ref.Digest = top.digest
	tags, err := rs.tags(ctx, r)
	if err != nil {
		return image{}, err
	}
	t := &tree{resolver: rs, source: s, ref: r, image: &im, tags: tags, seen: map[Digest]bool{}}
	im.items = append(im.items, item(s, itemPath(r), r, cmp.Or(r.Tag, string(r.Digest)), top, "the site file"))
	t.seen[top.digest] = true
	if err := t.add(ctx, top, r.String(), 0); err != nil {
		return image{}, err
	}
	if len(rs.keys) > 0 {
		signer, err := t.verify(ctx, top.digest)
		if err != nil {
			return image{}, err
		}
		im.trust.SignedBy, im.trust.Source = signer.id, signer.file
	}
	return im, nil
}

// moved refuses a tag that means another image than in the lock before, unless
// the site says that it may, or says which image it wants.
func (rs *resolver) moved(r Ref, d Digest, prev *airgap.LockedMirror) error {
	if prev == nil || r.Tag == "" || r.Digest != "" {
		return nil
	}
	for _, p := range rs.mirror.Moving {
		if ok, err := path.Match(p, r.Tag); err == nil && ok {
			return nil
		}
	}
	for _, it := range prev.Items {
		if it.Path == itemPath(r) && it.Kind == airgap.KindPackage && itemDigest(it) != d {
			return fmt.Errorf("%w: the lock has %s and upstream %s now; if that is right, write %s@%s, or list the tag under moving", ErrMoved, itemDigest(it), d, r, d)
		}
	}
	return nil
}

// item is a manifest that has a name.
func item(s source, p string, r Ref, version string, m fetched, why string) airgap.Item {
	it := airgap.Item{Path: p, URL: s.url("manifests", string(m.digest)), Size: int64(len(m.data)), SHA256: blob.Digest(canonical(m.data)),
		Kind: airgap.KindPackage, Name: r.Name(), Version: version, Why: why}
	if m.digest.blob() == "" {
		it.Sum = string(m.digest)
	}
	return it
}

// tree collects what belongs to an image.
type tree struct {
	*resolver
	source source
	ref    Ref
	image  *image
	tags   map[string]bool
	seen   map[Digest]bool
	signed []fetched // manifests that may hold signatures
	count  int
}

// add takes what a manifest names, and what is attached to it.
func (t *tree) add(ctx context.Context, m fetched, why string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%d manifests inside each other", depth)
	}
	for _, b := range m.m.blobs() {
		if !b.elsewhere() {
			t.blob(b, why)
		}
	}
	if m.m.index() {
		if err := t.children(ctx, m, why, depth); err != nil {
			return err
		}
	}
	return t.attachments(ctx, m.digest, depth)
}

// blob adds a config or a layer.
func (t *tree) blob(b descriptor, why string) {
	if t.seen[b.Digest] {
		return
	}
	t.seen[b.Digest] = true
	it := airgap.Item{Path: b.Digest.path(), URL: t.source.url("blobs", string(b.Digest)), Size: b.Size, SHA256: b.Digest.blob(),
		Kind: airgap.KindPart, Name: t.ref.Name(), Why: why}
	if it.SHA256 != "" {
		t.image.items = append(t.image.items, it)
		return
	}
	it.Sum = string(b.Digest)
	t.image.learn = append(t.image.learn, airgap.Unknown{Item: it, Check: func(r io.ReaderAt, size int64) error {
		h := b.Digest.hasher()
		if _, err := io.Copy(h, io.NewSectionReader(r, 0, size)); err != nil {
			return err
		}
		if size != b.Size || hex.EncodeToString(h.Sum(nil)) != b.Digest.Hex() {
			return fmt.Errorf("upstream sends other bytes than %s", b.Digest)
		}
		return nil
	}})
}

// children adds the manifests of an index that the site wants.
func (t *tree) children(ctx context.Context, index fetched, why string, depth int) error {
	kept := map[Digest]bool{}
	var all []string
	wanted := func(d descriptor) bool {
		// Statements about a child (SBOM, provenance) of BuildKit's have a platform
		// that is none, and name the child.
		if of := d.Annotations["vnd.docker.reference.digest"]; of != "" {
			return kept[Digest(of)]
		}
		return t.platforms.wants(d.Platform)
	}
	for _, about := range []bool{false, true} {
		for _, d := range index.m.Manifests {
			if (d.Annotations["vnd.docker.reference.digest"] != "") != about || !isManifest(d.MediaType) {
				continue
			}
			if d.Platform != nil && !about {
				all = append(all, d.Platform.String())
			}
			if !wanted(d) {
				continue
			}
			kept[d.Digest] = true
			if err := t.child(ctx, d, why, depth); err != nil {
				return err
			}
		}
	}
	if len(kept) == 0 && len(all) > 0 {
		return fmt.Errorf("it has none of the platforms that the site wants (archs); it has %s", strings.Join(all, ", "))
	}
	return nil
}

func (t *tree) child(ctx context.Context, d descriptor, why string, depth int) error {
	if t.seen[d.Digest] {
		return nil
	}
	t.seen[d.Digest] = true
	m, err := t.source.manifest(ctx, string(d.Digest), d.Digest)
	if err != nil {
		return err
	}
	if d.Platform != nil {
		why += " " + d.Platform.String()
	}
	it := item(t.source, d.Digest.path(), t.ref, "", m, why)
	it.Kind = airgap.KindPart
	t.image.items = append(t.image.items, it)
	t.signed = append(t.signed, m) // where a tag stands in for the referrers API, signatures are children
	return t.add(ctx, m, why, depth+1)
}

// attachments adds what is attached to a manifest.
func (t *tree) attachments(ctx context.Context, d Digest, depth int) error {
	found, err := t.source.attachedTo(ctx, d, t.tags)
	if err != nil {
		return err
	}
	for _, a := range found {
		if t.count++; t.count > maxAttached {
			return fmt.Errorf("more than %d things are attached to it", maxAttached)
		}
		if a.tag == "" && t.seen[a.digest] {
			continue
		}
		m, err := t.source.manifest(ctx, string(a.digest), a.digest)
		if err != nil {
			return fmt.Errorf("attached to it: %w", err)
		}
		r := Ref{Host: t.ref.Host, Repo: t.ref.Repo, Tag: a.tag, Digest: a.digest}
		t.image.items = append(t.image.items, item(t.source, itemPath(r), r, cmp.Or(a.tag, string(a.digest)), m, "attached to "+t.ref.String()))
		t.signed = append(t.signed, m)
		if t.seen[a.digest] {
			continue
		}
		t.seen[a.digest] = true
		if err := t.add(ctx, m, "attached to "+t.ref.String(), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// lock joins images. What several have stands in the lock once.
func (rs *resolver) lock(ctx context.Context, images []image) (airgap.LockedMirror, error) {
	var out airgap.LockedMirror
	var learn []airgap.Unknown
	have := map[string]bool{}
	h := []byte(fmt.Sprintf("oci 1 %q %q %q\n", rs.mirror.Archs, rs.mirror.Keyrings, rs.mirror.URLs))
	for _, im := range images {
		out.Trust = append(out.Trust, im.trust)
		h = fmt.Appendf(h, "%s %s\n", im.ref, im.trust.SignedBy)
		for _, it := range im.items {
			if !have[it.Path] {
				have[it.Path] = true
				out.Items = append(out.Items, it)
				h = fmt.Appendf(h, "%s %s\n", it.Path, itemDigest(it))
			}
		}
		for _, u := range im.learn {
			if !have[u.Item.Path] {
				have[u.Item.Path] = true
				learn = append(learn, u)
			}
		}
	}
	// A manifest that has a name in one image and is a child of another is in the
	// tree once anyway: Publish makes one file of both.
	more, err := rs.env.Fetch.Learn(ctx, learn)
	if err != nil {
		return airgap.LockedMirror{}, err
	}
	for _, it := range more {
		h = fmt.Appendf(h, "%s %s\n", it.Path, it.SHA256)
	}
	out.Items = append(out.Items, more...)
	out.Inputs = blob.FromBytes(h)
	return out, nil
}

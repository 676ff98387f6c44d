package rpm

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/pgp"
	"github.com/fettle-dev/fettle/blob"
)

// repo is a mirror's repository whose repomd.xml is verified, as far as it is
// signed.
type repo struct {
	m     airgap.Mirror
	prev  *airgap.LockedMirror
	base  string
	also  []string
	rd    repomd
	keys  blob.Digest // of the keyrings
	trust airgap.Trust
	link  metalink // empty: the mirror has none
	items map[string]airgap.Item
}

// Resolve implements airgap.Format.
func (f *Format) Resolve(ctx context.Context, env airgap.Env, m airgap.Mirror, prev *airgap.LockedMirror) (airgap.LockedMirror, error) {
	out, err := f.ResolveAll(ctx, env, []airgap.Mirror{m}, []*airgap.LockedMirror{prev})
	if err != nil {
		return airgap.LockedMirror{}, err
	}
	return out[0], nil
}

// ResolveAll implements airgap.Joint: mirrors of the same suites together.
func (f *Format) ResolveAll(ctx context.Context, env airgap.Env, ms []airgap.Mirror, prev []*airgap.LockedMirror) ([]airgap.LockedMirror, error) {
	repos := make([]*repo, len(ms))
	g, gctx := errgroup.WithContext(ctx)
	for i, m := range ms {
		g.Go(func() (err error) {
			if repos[i], err = f.open(gctx, env, m, prev[i]); err != nil {
				return fmt.Errorf("mirror %s: %w", m.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	worlds := map[string][]int{}
	for i, m := range ms {
		key := strings.Join(m.Suites, ",")
		worlds[key] = append(worlds[key], i)
	}
	out := make([]airgap.LockedMirror, len(ms))
	for _, world := range worlds {
		var rs []*repo
		for _, i := range world {
			rs = append(rs, repos[i])
		}
		got, err := resolveWorld(ctx, env, rs)
		if err != nil {
			return nil, err
		}
		for j, i := range world {
			out[i] = got[j]
		}
	}
	return out, nil
}

// open fetches and verifies a repository's index.
func (f *Format) open(ctx context.Context, env airgap.Env, m airgap.Mirror, prev *airgap.LockedMirror) (*repo, error) {
	switch {
	case len(m.URLs) == 0 && m.Metalink == "":
		return nil, errors.New("it has no urls and no metalink: name the folder that repodata is in")
	case len(m.URLs) > 0 && m.Metalink != "":
		return nil, errors.New("it has urls and a metalink: leave one of them out")
	case len(m.Keyrings) == 0:
		return nil, errors.New("it has no keyrings: name the files of upstream's OpenPGP keys")
	case remade(m) && env.Key == nil:
		return nil, errors.New("its index is to be signed by the site, and there is no site key: make one with fettle bundle key")
	case !m.Whole() && len(m.Archs) == 0:
		return nil, errors.New("it names no archs, such as amd64")
	}
	kr, err := pgp.ReadKeyring(f.Dir, m.Keyrings, nil)
	if err != nil {
		return nil, err
	}
	keys, err := armored(kr)
	if err != nil {
		return nil, err
	}
	var link metalink
	places := m.URLs
	if m.Metalink != "" {
		if link, err = fetchMetalink(ctx, env, m, prev); err != nil {
			return nil, err
		}
		places = link.bases
	}
	var errs []error
	for i, u := range places {
		r := &repo{m: m, prev: prev, base: strings.TrimSuffix(u, "/"), keys: blob.FromBytes(keys), link: link, items: map[string]airgap.Item{}}
		for j, other := range m.URLs { // a metalink's would change the lock each time
			if j != i {
				r.also = append(r.also, strings.TrimSuffix(other, "/"))
			}
		}
		err := r.fetchIndex(ctx, env, kr)
		if err == nil {
			return r, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (r *repo) kind() airgap.Kind {
	if remade(r.m) {
		return airgap.KindEvidence
	}
	return airgap.KindIndex
}

// place is where a metadata file stands in the tree.
func (r *repo) place(href string) string {
	if remade(r.m) {
		return evidence + href
	}
	return href
}

func (r *repo) add(it airgap.Item) error {
	if old, ok := r.items[it.Path]; ok && (old.SHA256 != it.SHA256 || old.Sum != it.Sum) {
		return fmt.Errorf("mirror %s: two different files would be at %s", r.m.Name, it.Path)
	}
	r.items[it.Path] = it
	return nil
}

func (r *repo) fetchIndex(ctx context.Context, env airgap.Env, kr pgp.Keyring) error {
	at := r.base + repomdPath
	data, err := env.Fetch.Index(ctx, at, maxRepomd)
	if err != nil {
		return err
	}
	if r.m.Metalink != "" {
		if err := r.link.vouches(data); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	signed := func(name string, b []byte) error {
		return r.add(airgap.Item{Path: r.place("repodata/" + name), URL: r.base + "/repodata/" + name, Size: int64(len(b)), SHA256: blob.FromBytes(b), Kind: r.kind()})
	}
	r.trust = airgap.Trust{What: "repository", Source: kr.Source}
	if packagesSigned(r.m) {
		r.trust = airgap.Trust{What: "packages; the index is not signed", Source: kr.Source}
	} else {
		sig, err := env.Fetch.Index(ctx, at+".asc", maxRepomd)
		if errors.Is(err, airgap.ErrGone) {
			return fmt.Errorf("%w; if upstream signs its packages only, say signed: packages", err)
		}
		if err != nil {
			return err
		}
		if r.trust.SignedBy, err = pgp.VerifyDetached(data, sig, kr, env.Now()); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if err := signed("repomd.xml.asc", sig); err != nil {
			return err
		}
	}
	if err := signed("repomd.xml", data); err != nil {
		return err
	}
	if r.rd, err = parseRepomd(data); err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	r.trust.Date = r.rd.date.Format(time.RFC3339)
	if r.prev != nil {
		for _, t := range r.prev.Trust {
			if old, err := time.Parse(time.RFC3339, t.Date); err == nil && t.What == r.trust.What && r.rd.date.Before(old) {
				return fmt.Errorf("%s is of %s, older than the locked one of %s: upstream, or somebody on the way, replays an old index", at, r.trust.Date, t.Date)
			}
		}
	}
	return nil
}

// inputs is a digest over everything that a world's resolution depends on.
func inputs(env airgap.Env, rs []*repo, name string) (blob.Digest, error) {
	type in struct {
		M      airgap.Mirror
		Keys   blob.Digest
		Repomd blob.Digest
		Base   string
		Trust  airgap.Trust
	}
	var ins []in
	signer := ""
	for _, r := range rs {
		if remade(r.m) {
			signer = env.Key.Public().String()
		}
		ins = append(ins, in{r.m, r.keys, r.items[r.place("repodata/repomd.xml")].SHA256, r.base, r.trust})
	}
	b, err := json.Marshal([]any{resolveVersion, name, ins, signer})
	return blob.FromBytes(b), err
}

// resolveWorld resolves mirrors that belong together.
func resolveWorld(ctx context.Context, env airgap.Env, rs []*repo) ([]airgap.LockedMirror, error) {
	out := make([]airgap.LockedMirror, len(rs))
	same := true
	for i, r := range rs {
		in, err := inputs(env, rs, r.m.Name)
		if err != nil {
			return nil, err
		}
		out[i] = airgap.LockedMirror{Inputs: in, Trust: []airgap.Trust{r.trust}}
		if r.m.Metalink != "" {
			out[i].Trust = append(out[i].Trust, airgap.Trust{What: "the index, by its digest", Source: r.m.Metalink})
		}
		same = same && r.prev != nil && r.prev.Inputs == in
	}
	if same {
		for i, r := range rs {
			out[i] = *r.prev
		}
		return out, nil
	}
	for _, r := range rs {
		if err := r.fetchMetadata(ctx, env); err != nil {
			return nil, fmt.Errorf("mirror %s: %w", r.m.Name, err)
		}
	}
	picked, err := pick(ctx, env, rs)
	if err != nil {
		return nil, err
	}
	for i, r := range rs {
		var files []wantedFile
		for _, c := range picked[i] {
			it, known := c.p.item(c.why)
			for _, base := range r.also {
				it.Also = append(it.Also, base+strings.TrimPrefix(it.URL, r.base))
			}
			files = append(files, wantedFile{it, known})
		}
		if err := r.learn(ctx, env, files); err != nil {
			return nil, fmt.Errorf("mirror %s: %w", r.m.Name, err)
		}
		for _, it := range r.items {
			out[i].Items = append(out[i].Items, it)
		}
	}
	return out, nil
}

// wantedFile is an item, with its digest or one that has to be learned.
type wantedFile struct {
	it    airgap.Item
	known bool
}

// learn adds items; those that upstream names by sha512 are fetched for it.
func (r *repo) learn(ctx context.Context, env airgap.Env, files []wantedFile) error {
	old := map[string]airgap.Item{}
	if r.prev != nil {
		for _, it := range r.prev.Items {
			old[it.Path] = it
		}
	}
	var unknown []airgap.Unknown
	for _, w := range files {
		if o, ok := old[w.it.Path]; !w.known && ok && o.Sum == w.it.Sum && o.SHA256.Validate() == nil {
			w.it.SHA256, w.it.Size, w.known = o.SHA256, o.Size, true
		}
		if w.known {
			if err := r.add(w.it); err != nil {
				return err
			}
			continue
		}
		unknown = append(unknown, airgap.Unknown{Item: w.it, Check: checkSHA512(w.it.Sum)})
	}
	got, err := env.Fetch.Learn(ctx, unknown)
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

func checkSHA512(want string) func(io.ReaderAt, int64) error {
	return func(f io.ReaderAt, size int64) error {
		h := sha512.New()
		if _, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
			return err
		}
		if got := "sha512:" + hex.EncodeToString(h.Sum(nil)); got != want {
			return fmt.Errorf("its digest is %s, and the index says %s", got, want)
		}
		return nil
	}
}

// wantedKinds are the metadata that a remade repository is made of.
var wantedKinds = []string{"primary", "filelists", "other", "updateinfo", "modules", "group", "group_gz", "group_xz", "group_zst"}

// fetchMetadata fetches the files that repomd.xml names: all of a whole mirror,
// else those that the site's own are made of.
func (r *repo) fetchMetadata(ctx context.Context, env airgap.Env) error {
	var files []wantedFile
	var fetch []airgap.Item
	for _, d := range r.rd.data {
		if remade(r.m) && (!slices.Contains(wantedKinds, d.kind) || strings.HasPrefix(d.kind, "group_") && r.has("group")) {
			continue
		}
		it := airgap.Item{Path: r.place(d.href), URL: r.base + "/" + d.href, Size: d.size, Kind: r.kind()}
		for _, base := range r.also {
			it.Also = append(it.Also, base+"/"+d.href)
		}
		it, known := withSum(it, d.sum)
		files = append(files, wantedFile{it, known})
		if known {
			fetch = append(fetch, it)
		}
	}
	if err := r.learn(ctx, env, files); err != nil {
		return err
	}
	return env.Fetch.All(ctx, fetch)
}

func (r *repo) has(kind string) bool {
	_, ok := r.rd.find(kind)
	return ok
}

// metadata opens a kind of metadata; r is nil when the repository has none.
func (r *repo) metadata(ctx context.Context, env airgap.Env, kind string) (io.Reader, func() error, error) {
	d, ok := r.rd.find(kind)
	if !ok {
		return nil, nil, nil
	}
	it, ok := r.items[r.place(d.href)]
	if !ok {
		return nil, nil, nil
	}
	return openMetadata(ctx, env.Blobs, it.SHA256, d)
}

func (r *repo) primary(ctx context.Context, env airgap.Env, i int) ([]*pkg, error) {
	d, _ := r.rd.find("primary")
	ps, err := readPrimary(ctx, env.Blobs, r.items[r.place(d.href)].SHA256, d, r.base, i)
	if err != nil {
		return nil, fmt.Errorf("mirror %s: %s/%s: %w", r.m.Name, r.base, d.href, err)
	}
	return ps, nil
}

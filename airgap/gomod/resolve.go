package gomod

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

const (
	maxInfo = 64 << 10
	// resolveVersion changes when the same wants resolve to something else.
	resolveVersion = "1"
	parallel       = 64 // requests to a host are bounded elsewhere: most of these wait for the disk
)

// resolver is one resolution.
type resolver struct {
	env     airgap.Env
	proxies []string
	db      *database // nil: the sums are those of go.sum files
	private string    // GONOSUMDB: modules that no database knows
	sums    sums
	prev    map[string]airgap.Item // by path

	mu    sync.Mutex
	mods  map[module.Version]modFile
	items map[string]airgap.Item
}

// Resolve implements airgap.Format. Versions are exact, so that upstream is
// asked nothing when the site asks for the same; only PATH@latest is looked up.
func (f *Format) Resolve(ctx context.Context, env airgap.Env, m airgap.Mirror, prev *airgap.LockedMirror) (airgap.LockedMirror, error) {
	none := airgap.LockedMirror{}
	w, err := f.readWants(m.Lockfiles, m.Packages)
	if err != nil {
		return none, err
	}
	proxies, err := f.proxies(m)
	if err != nil {
		return none, err
	}
	r := &resolver{env: env, proxies: proxies, sums: w.sums, prev: map[string]airgap.Item{}, mods: map[module.Version]modFile{}, items: map[string]airgap.Item{}}
	if r.private = f.env("GONOSUMDB"); r.private == "" {
		r.private = f.env("GOPRIVATE")
	}
	dbConfig := f.env("GOSUMDB")
	var latest []string
	for _, path := range w.latest {
		v, err := r.latest(ctx, path)
		if err != nil {
			return none, err
		}
		latest = append(latest, v.String())
		w.roots = append(w.roots, root{[]module.Version{v}, true, "the site file"})
	}
	b, err := json.Marshal([]any{resolveVersion, m, w.texts, latest, dbConfig, r.private})
	if err != nil {
		return none, err
	}
	inputs := blob.FromBytes(b)
	if prev != nil {
		if prev.Inputs == inputs {
			return *prev, nil
		}
		for _, it := range prev.Items {
			r.prev[it.Path] = it
		}
	}
	var unreachable error
	if r.db, unreachable, err = openDatabase(ctx, env, dbConfig, proxies, heads(prev)); err != nil {
		return none, err
	}
	all, err := r.graph(ctx, w)
	if err != nil {
		return none, explain(err, unreachable)
	}
	if err := r.fetch(ctx, all); err != nil {
		return none, explain(err, unreachable)
	}
	trust, err := r.prove(ctx, all, unreachable)
	if err != nil {
		return none, err
	}
	return airgap.LockedMirror{Inputs: inputs, Trust: trust, Items: slices.Collect(maps.Values(r.items))}, nil
}

// explain says that sums lack because the database could not be asked.
func explain(err, unreachable error) error {
	if unreachable == nil {
		return err
	}
	return fmt.Errorf("%w (the checksum database could not be asked: %w)", err, unreachable)
}

// proxies are the addresses of module proxies: those of the mirror, or the
// machine's own GOPROXY.
func (f *Format) proxies(m airgap.Mirror) ([]string, error) {
	list := m.URLs
	if len(list) == 0 {
		list = strings.FieldsFunc(f.env("GOPROXY"), func(c rune) bool { return c == ',' || c == '|' })
	}
	var out []string
	for _, u := range list {
		if u = strings.TrimSuffix(strings.TrimSpace(u), "/"); u == "direct" || u == "off" || u == "" {
			continue
		}
		if err := airgap.CheckURL(u); err != nil {
			return nil, fmt.Errorf("module proxy: %w", err)
		}
		out = append(out, u)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no module proxy: name it as the mirror's urls, or set GOPROXY")
	}
	return out, nil
}

// escaped is where a module's files are below a proxy's address.
func escaped(v module.Version) (at, version string, err error) {
	p, err := module.EscapePath(v.Path)
	if err != nil {
		return "", "", err
	}
	e, err := module.EscapeVersion(v.Version)
	return p + "/@v/", e, err
}

// item is one file of a module version.
func (r *resolver) item(v module.Version, suffix string) (airgap.Item, error) {
	at, version, err := escaped(v)
	if err != nil {
		return airgap.Item{}, err
	}
	it := airgap.Item{Path: at + version + suffix, Size: -1, Kind: airgap.KindIndex, Name: v.Path, Version: v.Version}
	if suffix == ".zip" {
		it.Kind = airgap.KindPackage
	}
	for i, p := range r.proxies {
		if u := p + "/" + it.Path; i == 0 {
			it.URL = u
		} else {
			it.Also = append(it.Also, u)
		}
	}
	return it, nil
}

// sum is what vouches for a file of a module version: the checksum database
// and the site's go.sum, which must agree.
func (r *resolver) sum(v module.Version, suffix string) (string, error) {
	key := v.Path + " " + v.Version + suffix
	own := r.sums[key]
	if r.db == nil || module.MatchPrefixPatterns(r.private, v.Path) {
		if own == "" {
			return "", fmt.Errorf("nothing vouches for %s: it is in no go.sum of this mirror, and in no checksum database that may be asked", key)
		}
		return own, nil
	}
	logged, err := r.db.sum(v, suffix)
	if err != nil {
		return "", err
	}
	if own != "" && own != logged {
		return "", fmt.Errorf("%s is %s in the site's go.sum and %s in the checksum database %s: one of them is wrong, nothing was kept", key, own, logged, r.db.name)
	}
	return logged, nil
}

// known is the file in the earlier lock, when it has the same sum and is there.
func (r *resolver) known(it airgap.Item) (airgap.Item, bool) {
	old, ok := r.prev[it.Path]
	if !ok || old.Sum != it.Sum || old.SHA256.Validate() != nil {
		return it, false
	}
	it.Size, it.SHA256 = old.Size, old.SHA256
	return it, true
}

// latest asks for the newest version of a module.
func (r *resolver) latest(ctx context.Context, path string) (module.Version, error) {
	at, err := module.EscapePath(path)
	if err != nil {
		return module.Version{}, err
	}
	info, err := r.info(ctx, at+"/@latest")
	if err != nil {
		return module.Version{}, err
	}
	v := module.Version{Path: path, Version: info.Version}
	return v, checkVersion(v)
}

// info is what a proxy says of a version. Nothing vouches for its time.
type info struct {
	Version string
	Time    *time.Time `json:",omitempty"`
}

func (r *resolver) info(ctx context.Context, at string) (info, error) {
	var errs []error
	for _, p := range r.proxies {
		data, err := r.env.Fetch.Index(ctx, p+"/"+at, maxInfo)
		if err == nil {
			var i info
			if err = json.Unmarshal(data, &i); err == nil {
				return i, nil
			}
			err = fmt.Errorf("%s/%s: %w", p, at, err)
		}
		errs = append(errs, err)
	}
	return info{}, errors.Join(errs...)
}

// fetch makes the items of all modules; the zips are fetched and compared.
func (r *resolver) fetch(ctx context.Context, all map[module.Version]wanted) error {
	var unknown []airgap.Unknown
	var infos []module.Version
	for _, v := range sortedVersions(all) {
		mod := r.mods[v].item
		mod.Why = all[v].why
		r.items[mod.Path] = mod
		if !all[v].zip {
			continue
		}
		it, err := r.item(v, ".zip")
		if err != nil {
			return err
		}
		it.Why = all[v].why
		if it.Sum, err = r.sum(v, ""); err != nil {
			return err
		}
		if old, ok := r.known(it); ok {
			r.items[it.Path] = old
		} else {
			unknown = append(unknown, airgap.Unknown{Item: it, Check: checkZip(v, it.Sum)})
		}
		infos = append(infos, v)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	var got []airgap.Item
	g.Go(func() (err error) {
		got, err = r.env.Fetch.Learn(gctx, unknown)
		return err
	})
	for _, v := range infos {
		g.Go(func() error { return r.addInfo(gctx, v) })
	}
	err := g.Wait()
	for _, it := range got {
		r.items[it.Path] = it
	}
	return err
}

func (r *resolver) addInfo(ctx context.Context, v module.Version) error {
	it, err := r.item(v, ".info")
	if err != nil {
		return err
	}
	it.Name, it.Version, it.Also = "", "", nil
	if old, ok := r.prev[it.Path]; ok && old.Text != "" {
		it.Text = old.Text
	} else {
		i, err := r.info(ctx, it.Path)
		if err != nil {
			return err
		}
		if i.Version != v.Version {
			return fmt.Errorf("%s says that it is of version %q", it.URL, i.Version)
		}
		b, err := json.Marshal(i)
		if err != nil {
			return err
		}
		it.Text = string(bytes.TrimSpace(b)) + "\n"
	}
	it.SHA256, it.Size = blob.FromBytes([]byte(it.Text)), int64(len(it.Text))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items[it.Path] = it
	return nil
}

package npm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// resolveVersion changes when the same lockfiles resolve to something else.
const resolveVersion = "1"

// Resolve implements airgap.Format. Lockfiles say everything but sizes: what is
// not in the earlier lock is fetched and compared with its integrity; upstream
// is asked nothing else.
func (f *Format) Resolve(ctx context.Context, env airgap.Env, m airgap.Mirror, prev *airgap.LockedMirror) (airgap.LockedMirror, error) {
	none := airgap.LockedMirror{}
	if len(m.Packages) > 0 {
		return none, errors.New("packages are named by lockfiles: put a package-lock.json that has them into the site folder")
	}
	if len(m.Lockfiles) == 0 {
		return none, errors.New("it names no lockfiles, such as package-lock.json")
	}
	registry, err := f.registry(m)
	if err != nil {
		return none, err
	}
	keys, keyTexts, err := f.keys(m)
	if err != nil {
		return none, err
	}
	set := map[string]wanted{}
	var order []string
	texts := []any{resolveVersion, m, registry}
	if len(keys) > 0 {
		texts = append(texts, keyTexts)
	}
	for _, name := range m.Lockfiles {
		data, err := os.ReadFile(filepath.Join(f.Dir, name))
		if err != nil {
			return none, fmt.Errorf("reading what is wanted: %w", err)
		}
		texts = append(texts, data)
		l, err := parseLockfile(name, data)
		if err != nil {
			return none, err
		}
		ws, err := l.wants(m)
		if err != nil {
			return none, err
		}
		for _, w := range ws {
			p := tarball(w.name, w.version)
			old, ok := set[p]
			if ok && old.integrity != w.integrity {
				return none, fmt.Errorf("%s %s has the integrity %s in one lockfile and %s in another: one of them is wrong", w.name, w.version, old.integrity, w.integrity)
			}
			if !ok {
				set[p] = w
				order = append(order, p)
			}
		}
	}
	b, err := json.Marshal(texts)
	if err != nil {
		return none, err
	}
	out := airgap.LockedMirror{Inputs: blob.FromBytes(b), Trust: []airgap.Trust{{What: "packages", Source: "integrity in " + strings.Join(m.Lockfiles, ", ")}}}
	known := map[string]airgap.Item{}
	if prev != nil {
		if prev.Inputs == out.Inputs {
			return *prev, nil
		}
		for _, it := range prev.Items {
			known[it.Path] = it
		}
	}
	if len(keys) > 0 {
		var wants []wanted
		for _, p := range order {
			wants = append(wants, set[p])
		}
		items, signers, err := f.signatures(ctx, env, registry, wants, keys, known)
		if err != nil {
			return none, err
		}
		out.Items = append(out.Items, items...)
		out.Trust[0].SignedBy, out.Trust[0].Source = strings.Join(signers, ", "), strings.Join(m.Keyrings, ", ")+" and "+out.Trust[0].Source
	}
	var unknown []airgap.Unknown
	for _, p := range order {
		w := set[p]
		at, err := address(registry, p, w.resolved)
		if err != nil {
			return none, fmt.Errorf("%s %s: %w", w.name, w.version, err)
		}
		it := airgap.Item{Path: p, URL: at, Size: -1, Kind: airgap.KindPackage, Name: w.name, Version: w.version, Why: w.why, Sum: w.integrity}
		if old, ok := known[p]; ok && old.Sum == it.Sum && old.SHA256.Validate() == nil {
			it.Size, it.SHA256 = old.Size, old.SHA256
			out.Items = append(out.Items, it)
			continue
		}
		unknown = append(unknown, airgap.Unknown{Item: it, Check: checkTarball(w.integrity)})
	}
	got, err := env.Fetch.Learn(ctx, unknown)
	if err != nil {
		return none, err
	}
	out.Items = append(out.Items, got...)
	return out, nil
}

// address is where a tarball is fetched: at the registry of this mirror,
// whatever registry the lockfile was written with (npm does the same, see its
// replace-registry-host), unless the tarball was at no registry's place.
func address(registry, p, resolved string) (string, error) {
	if resolved == "" {
		return registry + "/" + p, nil
	}
	u, err := url.Parse(resolved)
	if err != nil {
		return "", err
	}
	u.User, u.Fragment = nil, ""
	if strings.HasSuffix(u.Path, "/"+p) {
		return registry + "/" + p, nil
	}
	return u.String(), airgap.CheckURL(u.String())
}

// alias is the path below a registry that a lockfile may name for an item
// whose tarball is elsewhere; "" when there is none.
func alias(it airgap.Item) string {
	u, err := url.Parse(it.URL)
	if err != nil {
		return ""
	}
	p := strings.TrimPrefix(u.Path, "/")
	if strings.HasSuffix("/"+p, "/"+it.Path) || airgap.CheckPath(p) != nil {
		return ""
	}
	return p
}

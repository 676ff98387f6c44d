package gomod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/fettle-dev/fettle/airgap"
)

// Publish implements airgap.Format: the proxy's files, the lists of versions,
// and the part of the checksum database that proves them.
func (*Format) Publish(ctx context.Context, env airgap.Env, lm airgap.LockedMirror) ([]airgap.File, error) {
	puts := airgap.NewPuts(ctx, env.Blobs)
	out, err := publish(env, lm, puts)
	return out, errors.Join(err, puts.Wait())
}

func publish(env airgap.Env, lm airgap.LockedMirror, puts *airgap.Puts) ([]airgap.File, error) {
	var out []airgap.File
	put := func(path string, data []byte) {
		out = append(out, airgap.File{Path: path, Size: int64(len(data)), SHA256: puts.Bytes(data)})
	}
	versions := map[string][]string{}
	infos := map[string]airgap.Item{}
	for _, it := range lm.Items {
		if it.Kind == airgap.KindEvidence {
			continue
		}
		f, err := airgap.TreeFile(env.Blobs, it)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
		if at, name, ok := strings.Cut(it.Path, "/@v/"); ok {
			switch {
			case strings.HasSuffix(name, ".info"):
				infos[it.Path] = it
			case it.Kind == airgap.KindPackage:
				versions[at] = append(versions[at], it.Version)
			}
		}
	}
	for _, at := range slices.Sorted(maps.Keys(versions)) {
		vs := versions[at]
		slices.SortFunc(vs, semver.Compare)
		put(at+"/@v/list", lines(slices.DeleteFunc(slices.Clone(vs), pseudo)))
		e, err := module.EscapeVersion(newest(vs))
		if err != nil {
			return nil, err
		}
		if it, ok := infos[at+"/@v/"+e+".info"]; ok {
			put(at+"/@latest", []byte(it.Text))
		}
	}
	publishProof(lm, put)
	return out, nil
}

// newest is the version that @latest means: a release, else a pre-release,
// else a commit.
func newest(vs []string) string {
	rank := func(v string) int {
		switch {
		case pseudo(v):
			return 0
		case semver.Prerelease(v) != "":
			return 1
		}
		return 2
	}
	return slices.MaxFunc(vs, func(a, b string) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), semver.Compare(a, b)) })
}

// publishProof makes the answers of the checksum database: every record under
// the newest head.
func publishProof(lm airgap.LockedMirror, put func(string, []byte)) {
	hs := heads(&lm)
	if len(hs) == 0 {
		return
	}
	served := map[string]bool{}
	for _, it := range lm.Items {
		rest, ok := strings.CutPrefix(it.Path, proofDir)
		if !ok {
			continue
		}
		name, file, ok := strings.Cut(rest, "/record/")
		if !ok {
			continue
		}
		at := "sumdb/" + name + "/"
		if !served[at] {
			served[at] = true
			put(at+"supported", nil)
			put(at+"latest", hs[0].text)
		}
		put(at+"lookup/"+file, append([]byte(it.Text), hs[0].text...))
	}
}

// Serve implements airgap.Serving: files as they are, as text where they are.
func (*Format) Serve(w http.ResponseWriter, r *http.Request, t airgap.ServedTree, p string) {
	f, ok := t.File(p)
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
	case !ok:
		t.NotFound(w)
	case strings.HasSuffix(p, ".zip"):
		t.Send(w, r, f, "application/zip")
	case strings.HasSuffix(p, ".info"), strings.HasSuffix(p, "/@latest"):
		t.Send(w, r, f, "application/json")
	case strings.Contains(p, "/tile/"):
		t.Send(w, r, f, "application/octet-stream")
	default:
		t.Send(w, r, f, "text/plain; charset=utf-8")
	}
}

const profileFile = "/etc/profile.d/fettle-go.sh"

// Clients implements airgap.Configurer.
func (*Format) Clients() []string { return []string{"go"} }

// ClientConfig implements airgap.Configurer: the environment that sends go to
// the mirrors. Modules that no checksum database proves are named in
// GONOSUMDB; a project's go.sum is compared with nevertheless.
func (*Format) ClientConfig(_ context.Context, _ string, r airgap.ClientRequest) ([]airgap.ClientFile, error) {
	var proxies, unproved []string
	proofs := 0
	for _, t := range r.Snapshot.Trees {
		if t.Format != "go" {
			continue
		}
		proxies = append(proxies, r.Secure()+"/go/"+t.Mirror)
		proved := map[string]bool{}
		lm, _ := r.Snapshot.Lock.Mirror(t.Mirror)
		for _, it := range lm.Items {
			if _, rec, ok := strings.Cut(it.Path, "/record/"); ok && strings.HasPrefix(it.Path, proofDir) {
				proved[rec] = true
			}
		}
		if len(proved) > 0 {
			proofs++
		}
		for _, it := range lm.Items {
			if at, version, ok := strings.Cut(it.Path, "/@v/"); ok && it.Name != "" && strings.HasSuffix(version, ".mod") &&
				!proved[at+"@"+strings.TrimSuffix(version, ".mod")] && !slices.Contains(unproved, it.Name) {
				unproved = append(unproved, it.Name)
			}
		}
	}
	if len(proxies) == 0 {
		return nil, nil
	}
	if proofs > 1 {
		return nil, fmt.Errorf("%d mirrors of format go have proofs, and go asks only the first proxy for them: put their lockfiles into one mirror", proofs)
	}
	slices.Sort(unproved)
	text := "# Go modules come from fettle.\nexport GOPROXY=" + strings.Join(proxies, ",") + "\nexport GOTOOLCHAIN=local\n"
	if len(unproved) > 0 {
		text += "export GONOSUMDB=" + strings.Join(unproved, ",") + "\n"
	}
	return []airgap.ClientFile{{Path: profileFile, Mode: 0o644, Content: []byte(text)}}, nil
}

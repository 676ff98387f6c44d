package oci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fettle-dev/fettle/airgap"
)

// Options are what a registry is made with.
type Options struct {
	// Push tells whether somebody may push; nil: nobody may. Pulling is for
	// everyone.
	Push *Pushers
	// MaxBlob is the largest blob that is taken; 0: 256 GiB.
	MaxBlob int64
	// Sparse takes images whose config and layers are not there.
	Sparse bool
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger     // nil: nothing is logged
}

// Registry serves the OCI mirrors of a store's served snapshot, and the
// repositories that were pushed to it: OCI distribution-spec 1.1. It answers
// below /v2/ and may be used concurrently. Close must be called.
type Registry struct {
	store *airgap.Store
	opts  Options
	log   *slog.Logger
	now   func() time.Time
	own   *repos
	alone *os.File // locked: this process changes own; nil: it does not
	token *tokens

	mu  sync.Mutex
	cur *view
	bad string // the snapshot that could not be read

	stall   time.Duration
	write   sync.Mutex // held while a repository is changed
	upMu    sync.Mutex
	uploads map[string]*upload
}

// OpenRegistry makes the registry of a store. Of several on one store, the
// first may be pushed to.
func OpenRegistry(s *airgap.Store, opts Options) (*Registry, error) {
	g := &Registry{store: s, opts: opts, log: opts.Log, now: opts.Now, stall: uploadStall, uploads: map[string]*upload{},
		own: &repos{dir: filepath.Join(s.OwnDir(), "registry", "repos")}}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.now == nil {
		g.now = time.Now
	}
	if g.opts.MaxBlob <= 0 {
		g.opts.MaxBlob = 256 << 30
	}
	if opts.Push == nil {
		return g, nil
	}
	g.token = newTokens(g.now)
	if err := os.MkdirAll(g.own.dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening the registry: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(filepath.Dir(g.own.dir), ".server"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the registry: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			g.log.Warn("another fettle takes what is pushed to this store; this one only serves", "store", s.Dir())
			return g, nil
		}
		return nil, fmt.Errorf("opening the registry: locking %s: %w", f.Name(), err)
	}
	g.alone = f
	if err := g.own.sweep(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the registry: %w", err), g.Close())
	}
	return g, nil
}

// Close forgets uploads that are under way.
func (g *Registry) Close() error {
	g.upMu.Lock()
	for _, u := range g.uploads {
		u.forget()
	}
	g.uploads = map[string]*upload{}
	g.upMu.Unlock()
	if g.alone == nil {
		return nil
	}
	return g.alone.Close()
}

// Images are the images of the served snapshot and those pushed, by the names
// that clients pull them with: repositories and their tags.
func (g *Registry) Images(ctx context.Context) (map[string][]string, error) {
	names, err := g.catalogue(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, n := range names {
		r, err := g.find(ctx, asked{}, n)
		if err != nil {
			return nil, err
		}
		if r != nil {
			out[n] = r.sortedTags()
		}
	}
	return out, nil
}

// route is a request, taken apart.
type route struct {
	what string // "ping", "catalogue", "token", "tags", "uploads", "upload", "blob", "manifest", "referrers"
	name string // of the repository
	ref  string // tag, digest or upload
}

// parseRoute takes apart the path of a request: distribution-spec, endpoints.
// A repository's name may itself have parts called "blobs" or "tags".
func parseRoute(p string) (route, error) {
	unknown := refuse(http.StatusNotFound, "UNSUPPORTED", "the registry has no such endpoint")
	rest, ok := strings.CutPrefix(p, "/v2")
	if !ok || rest != "" && rest[0] != '/' {
		return route{}, unknown
	}
	switch rest {
	case "", "/":
		return route{what: "ping"}, nil
	case "/_catalog":
		return route{what: "catalogue"}, nil
	case "/token":
		return route{what: "token"}, nil
	}
	parts := strings.Split(rest[1:], "/")
	n := len(parts)
	at := func(i int) string {
		if i < 0 {
			return ""
		}
		return parts[i]
	}
	var out route
	cut := n - 2
	switch {
	case at(n-2) == "tags" && at(n-1) == "list":
		out.what = "tags"
	case at(n-3) == "blobs" && at(n-2) == "uploads" && at(n-1) == "":
		out.what, cut = "uploads", n-3
	case at(n-2) == "blobs" && at(n-1) == "uploads":
		out.what = "uploads"
	case at(n-3) == "blobs" && at(n-2) == "uploads":
		out.what, out.ref, cut = "upload", at(n-1), n-3
	case at(n-2) == "blobs":
		out.what, out.ref = "blob", at(n-1)
	case at(n-2) == "manifests":
		out.what, out.ref = "manifest", at(n-1)
	case at(n-2) == "referrers":
		out.what, out.ref = "referrers", at(n-1)
	default:
		return route{}, unknown
	}
	if cut <= 0 {
		return route{}, unknown
	}
	out.name = strings.Join(parts[:cut], "/")
	if err := checkRepo(out.name); err != nil {
		return route{}, errName(err)
	}
	return out, nil
}

// ServeHTTP implements http.Handler.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	rt, err := parseRoute(r.URL.Path)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	type do func(http.ResponseWriter, *http.Request, route) error
	methods := map[string]map[string]do{
		"ping":      {"GET": g.ping},
		"catalogue": {"GET": g.listRepos},
		"token":     {"GET": g.giveToken},
		"tags":      {"GET": g.listTags},
		"referrers": {"GET": g.listReferrers},
		"manifest":  {"GET": g.pullManifest, "PUT": g.pushManifest, "DELETE": g.deleteManifest},
		"blob":      {"GET": g.pullBlob, "DELETE": g.deleteBlob},
		"uploads":   {"POST": g.beginUpload},
		"upload":    {"GET": g.uploadStatus, "PATCH": g.patchUpload, "PUT": g.endUpload, "DELETE": g.cancelUpload},
	}[rt.what]
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	f := methods[method]
	if f == nil {
		var allow []string
		for _, m := range []string{"GET", "PATCH", "POST", "PUT", "DELETE"} {
			if methods[m] != nil {
				allow = append(allow, m)
			}
		}
		w.Header().Set("Allow", strings.Join(allow, ", "))
		g.fail(w, r, refuse(http.StatusMethodNotAllowed, "UNSUPPORTED", fmt.Sprintf("%s is not for this endpoint", r.Method)))
		return
	}
	// Whoever changes something may push; the state of an upload is its owner's.
	if method != http.MethodGet || rt.what == "upload" {
		err = g.mayPush(w, r, rt)
	}
	if err == nil {
		err = f(w, r, rt)
	}
	if err != nil {
		g.fail(w, r, err)
	}
}

func (g *Registry) ping(w http.ResponseWriter, r *http.Request, rt route) error {
	// Clients of Docker's learn here, and only here, how to authenticate.
	if g.opts.Push != nil && !g.opts.Push.Anyone {
		if _, ok := g.who(r); !ok {
			g.challenge(w, r, rt)
			return refuse(http.StatusUnauthorized, "UNAUTHORIZED", "ask for a token; without a name and a password it is for pulling")
		}
	}
	g.json(w, r, http.StatusOK, struct{}{}, "application/json")
	return nil
}

// asked is the registry that a client thinks it talks to.
type asked struct {
	host string
	sure bool // the client says so; else it may be our own address
}

// upstream is the registry of a request: containerd names it with ?ns=, and a
// client that was led here by DNS in the Host header.
func upstream(r *http.Request) asked {
	if ns := r.URL.Query().Get("ns"); ns != "" {
		return asked{ns, !strings.EqualFold(ns, r.Host)}
	}
	return asked{host: r.Host}
}

// find is the repository that a pull means; nil when there is none. Mirrored
// names come first: what is pushed never stands before upstream's.
func (g *Registry) find(ctx context.Context, from asked, name string) (*repo, error) {
	v, err := g.view(ctx)
	if err != nil {
		return nil, err
	}
	if r := v.find(from, name); r != nil {
		return r, nil
	}
	var names []string
	if !from.sure {
		names = append(names, name)
	}
	if n := localName(from.host, name); from.host != "" && checkRepo(n) == nil {
		names = append(names, n)
	}
	for _, n := range names {
		if r, err := g.own.load(n); err != nil || r != nil {
			return r, err
		}
	}
	return nil, nil
}

// pulled is the repository of a request.
func (g *Registry) pulled(r *http.Request, rt route) (*repo, error) {
	rp, err := g.find(r.Context(), upstream(r), rt.name)
	if err != nil {
		return nil, err
	}
	if rp == nil {
		return nil, refuse(http.StatusNotFound, "NAME_UNKNOWN", fmt.Sprintf("repository %s is neither mirrored nor pushed", rt.name))
	}
	return rp, nil
}

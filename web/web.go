// Package web is the operators' side of fettle: an HTTP API, described by
// openapi.json, the pages that show the same, and a [Client] of the API.
//
// An [Identity] is who asks, with a [Role]; an [Operator] is what acts on
// machines; a [Problem] is an error as the API tells it (RFC 9457). The
// package opens no socket, and knows machines only through the site and the
// state.
package web

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// Operator acts on machines for the API. Its methods may be called
// concurrently. Errors are sentences for people. machines are names or
// expressions as site.Select takes them.
type Operator interface {
	// Plan tells what a deploy would do, and changes nothing.
	Plan(ctx context.Context, machines []string) (state.Plan, error)
	// Deploy starts a run for each machine and returns the runs' ids. It
	// fails with state.ErrPlanChanged when the plan is no longer the one
	// whose digest is given. An error with ids means that only those started.
	Deploy(ctx context.Context, actor, plan string, machines []string) (runs []string, err error)
	// Inspect starts an inspection of each machine.
	Inspect(ctx context.Context, actor string, machines []string) (runs []string, err error)
	// Abort ends a machine's run; the machine is left as it is.
	Abort(ctx context.Context, actor, machine string) error
	// Why tells in sentences how a machine came to be as it is.
	Why(ctx context.Context, machine string) ([]string, error)
}

// Config is what a Server needs; Logger and Now may be left out.
type Config struct {
	Store    *state.Store
	Site     func() *site.Site // the current one
	Operator Operator
	Logger   *slog.Logger
	Now      func() time.Time
	// Authenticate tells who asks, or fails with ErrNobody. Authenticator
	// makes one.
	Authenticate func(*http.Request) (Identity, error)
	// Discoverer may be nil: then nothing is discovered here.
	Discoverer Discoverer
	// Reload reads the site folder again; nil: the server cannot.
	Reload func(ctx context.Context) (*site.Site, error)
	// BMCs may be nil: then the server speaks to no BMCs.
	BMCs BMCs
}

// Server is the API and the pages, an http.Handler. Give its listeners'
// http.Server ConnContext as well.
type Server struct {
	c       Config
	log     *slog.Logger
	handler http.Handler
	metrics *metrics
	pages   *pages

	// ctx ends the event streams, which http.Server.Shutdown would wait for.
	ctx   context.Context
	close context.CancelFunc
}

// New makes a Server. ctx ends its event streams, like Close.
func New(ctx context.Context, c Config) (*Server, error) {
	if c.Store == nil || c.Site == nil || c.Operator == nil || c.Authenticate == nil {
		return nil, errors.New("web: a server needs a store, a site, an operator and a way to authenticate")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	p, err := newPages()
	if err != nil {
		return nil, err
	}
	s := &Server{c: c, log: c.Logger, pages: p}
	s.ctx, s.close = context.WithCancel(ctx)
	s.metrics = newMetrics(s.ctx, c.Store, prometheus.NewRegistry())
	s.handler = s.routes()
	return s, nil
}

// Close ends the event streams. Requests that come later are still answered.
func (s *Server) Close() { s.close() }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// route is one way into the server.
type route struct {
	method, path string
	role         Role // the least that may; "" = anybody
	handle       func(http.ResponseWriter, *http.Request) error
	body         int64 // the longest; 0 = maxBody, -1 = whatever the handler takes
}

// apiRoutes are the routes of openapi.json; a test compares the two.
func (s *Server) apiRoutes() []route {
	return []route{
		{"GET", "/api/v1/health", "", s.getHealth, 0},
		{"GET", "/api/v1/openapi.json", "", s.getOpenAPI, 0},
		{"GET", "/api/v1/machines", RoleViewer, s.getMachines, 0},
		{"GET", "/api/v1/machines/{name}", RoleViewer, s.getMachine, 0},
		{"GET", "/api/v1/machines/{name}/events", RoleViewer, s.getEvents, 0},
		{"GET", "/api/v1/machines/{name}/why", RoleViewer, s.getWhy, 0},
		{"GET", "/api/v1/events", RoleViewer, s.getEvents, 0},
		{"GET", "/api/v1/site", RoleViewer, s.getSite, 0},
		{"GET", "/api/v1/leases", RoleViewer, s.getLeases, 0},
		{"DELETE", "/api/v1/leases/{network}/{addr}", RoleAdmin, s.deleteLease, 0},
		{"POST", "/api/v1/plan", RoleOperator, s.postPlan, 0},
		{"POST", "/api/v1/deploy", RoleOperator, s.postDeploy, 0},
		{"POST", "/api/v1/inspect", RoleOperator, s.postInspect, 0},
		{"POST", "/api/v1/machines/{name}/abort", RoleOperator, s.postAbort, 0},
		{"GET", "/api/v1/discovered", RoleViewer, s.getDiscovered, 0},
		{"DELETE", "/api/v1/discovered/{name}", RoleOperator, s.deleteDiscovered, 0},
		{"POST", "/api/v1/discovered/scan", RoleOperator, s.postScan, 0},
		{"POST", "/api/v1/site/reload", RoleOperator, s.postReload, 0},
		{"GET", "/api/v1/bmc", RoleViewer, s.getBMC, 0},
		{"POST", "/api/v1/bmc/files", RoleOperator, s.postBMCFile, -1},
		{"POST", "/api/v1/bmc/{operation}", RoleViewer, s.postBMC, maxOrder}, // and what the operation needs
		{"GET", "/api/v1/machines/{name}/console", RoleOperator, s.getConsole, 0},
		{"GET", "/metrics", RoleViewer, s.getMetrics, 0},
	}
}

func (s *Server) pageRoutes() []route {
	return []route{
		{"GET", "/{$}", RoleViewer, s.pageMachines, 0},
		{"GET", "/machines/{name}", RoleViewer, s.pageMachine, 0},
		{"GET", "/discovered", RoleViewer, s.pageDiscovered, 0},
		{"GET", "/events", RoleViewer, s.pageEvents, 0},
		{"GET", "/login", "", s.pageLogin, 0},
		{"POST", "/login", "", s.postLogin, 0},
		{"POST", "/logout", "", s.postLogout, 0},
		{"GET", "/static/{file}", "", s.getStatic, 0},
	}
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.apiRoutes() {
		mux.Handle(r.method+" "+r.path, s.guard(r, s.problem))
	}
	for _, r := range s.pageRoutes() {
		mux.Handle(r.method+" "+r.path, s.guard(r, s.problemPage))
	}
	mux.Handle("/api/", s.guard(route{path: "/api/"}.failing(errNoRoute), s.problem))
	mux.Handle("/", s.guard(route{path: "/"}.failing(errNoRoute), s.problemPage))
	// A page of another site must not act with this browser's cookie.
	return secure(http.NewCrossOriginProtection().Handler(mux))
}

func (r route) failing(err error) route {
	r.handle = func(http.ResponseWriter, *http.Request) error { return err }
	return r
}

// guard lets through who may, counts, and tells errors by fail.
func (s *Server) guard(rt route, fail func(http.ResponseWriter, *http.Request, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := &recorder{ResponseWriter: w, status: http.StatusOK}
		defer func() { s.metrics.count(rt.path, r.Method, out.status) }()
		if rt.body >= 0 {
			r.Body = http.MaxBytesReader(w, r.Body, cmp.Or(rt.body, maxBody))
		}
		if rt.role != "" {
			who, err := s.c.Authenticate(r)
			if err == nil && !who.Role.includes(rt.role) {
				err = forbidden(who, rt.role)
			}
			if err != nil {
				fail(out, r, err)
				return
			}
			r = r.WithContext(context.WithValue(r.Context(), identityKey{}, who))
		}
		if err := rt.handle(out, r); err != nil {
			fail(out, r, err)
		}
	})
}

// secure sets the headers that every answer has. Nothing comes from elsewhere,
// and nothing inline runs.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
			"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (r *recorder) WriteHeader(status int) {
	if !r.wrote {
		r.status, r.wrote = status, true
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.wrote = true
	return r.ResponseWriter.Write(p)
}

// Unwrap serves http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

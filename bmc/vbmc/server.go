package vbmc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// root is the service root's URI (DSP0266 §6.2).
const root = "/redfish/v1"

// Roles of accounts (DSP0266 §13.2.5, standard roles).
const (
	Administrator = "Administrator"
	Operator      = "Operator"
	ReadOnly      = "ReadOnly"
)

// Account is a user of the virtual BMC. An empty Role means Administrator.
type Account struct {
	User     string
	Password string
	Role     string
}

// String leaves the password out.
func (a Account) String() string { return a.User + " (" + a.Role + ") [secret]" }

// GoString leaves the password out.
func (a Account) GoString() string { return a.String() }

// Config is what a Server needs. Chassis and at least one account are required.
type Config struct {
	Chassis  Chassis
	Accounts []Account
	BIOS     []BIOSAttribute  // settings of the firmware; nil: those of a generic server
	Logger   *slog.Logger     // nil discards
	Now      func() time.Time // nil = time.Now

	// SessionTimeout ends a session that was idle for so long; default 30 min.
	SessionTimeout time.Duration
	// MaxSessions bounds simultaneous sessions; default 16.
	MaxSessions int
	// Lockout locks an account after so many wrong passwords in a row for
	// LockoutDuration, as real BMCs do (OpenBMC: 5, 300 s). 0 = never.
	Lockout         int
	LockoutDuration time.Duration

	// FetchImage gets a firmware image for UpdateService.SimpleUpdate; nil:
	// images can only be pushed.
	FetchImage func(ctx context.Context, uri string) (io.ReadCloser, error)
	// UpdateTime is how long a firmware update takes; default 2 s.
	UpdateTime time.Duration
	// Identity is the service's certificate, for CertificateService; nil: it has none.
	Identity *Identity
	// Console is the machine's serial port, for serial over LAN; nil: none.
	Console Console
	// Tree is what the Server shows in place of a generic server; nil: that.
	// Its BIOS settings are the tree's, and Config.BIOS is not used.
	Tree *Tree
}

// Server is a Redfish service (DSP0266) over one Chassis. It is an
// http.Handler and opens no sockets. It may be used concurrently.
type Server struct {
	chassis   Chassis
	log       *slog.Logger
	now       func() time.Time
	resources []*resource

	mu           sync.Mutex // guards what follows
	accounts     []*account
	sessions     map[string]*session // by id
	nextID       int
	timeout      time.Duration
	max          int
	lockout      int
	lockFor      time.Duration
	events       map[string][]event // by log: "manager", "system"
	eventSeq     int
	cleared      time.Time // the system's log
	ipmiServices int
	bios         firmware
	biosFirst    []BIOSAttribute // as the firmware came; never written

	fetchImage    func(ctx context.Context, uri string) (io.ReadCloser, error)
	updateTime    time.Duration
	trouble       Trouble
	console       Console
	solOwner      *sol
	identity      *Identity
	tree          *Tree
	clockSkew     atomic.Int64 // nanoseconds
	pushes        chan delivery
	ipmiOff       bool
	ntp           ntpSettings
	tasks         []*task
	taskSeq       int
	flashed       map[string]string // versions by component
	streams       []*receiver
	subscriptions []*receiver
	delivering    int // runs of DeliverEvents
}

// New makes a Server.
func New(c Config) (*Server, error) {
	if c.Chassis == nil {
		return nil, errors.New("a virtual BMC needs a chassis: set Config.Chassis")
	}
	s := &Server{chassis: c.Chassis, log: c.Logger, now: c.Now, sessions: map[string]*session{},
		timeout: c.SessionTimeout, max: c.MaxSessions, lockout: c.Lockout, lockFor: c.LockoutDuration,
		events: map[string][]event{}, fetchImage: c.FetchImage, updateTime: c.UpdateTime, identity: c.Identity, tree: c.Tree, console: c.Console,
		flashed: map[string]string{}, ntp: ntpSettings{servers: []string{}}}
	if s.updateTime <= 0 {
		s.updateTime = 2 * time.Second
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.timeout <= 0 {
		s.timeout = 30 * time.Minute
	}
	if s.max <= 0 {
		s.max = 16
	}
	if s.lockFor <= 0 {
		s.lockFor = 5 * time.Minute
	}
	if err := s.setAccounts(c.Accounts); err != nil {
		return nil, err
	}
	var err error
	given := c.BIOS
	if c.Tree != nil {
		given = c.Tree.attributes()
	}
	if s.bios, err = newFirmware(given); err != nil {
		return nil, err
	}
	s.biosFirst = s.bios.attributes
	s.resources = s.routes()
	return s, nil
}

// Sessions is the number of open sessions.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return len(s.sessions)
}

// call is one request on its way through the service.
type call struct {
	ctx  context.Context
	r    *http.Request
	path string            // without a trailing slash
	vars map[string]string // of the pattern
	who  identity
	body obj
}

// reply is what a method answers.
type reply struct {
	status int
	body   obj // nil: none
	header map[string]string
}

// resource is a URI pattern with its methods. A nil method is not allowed.
type resource struct {
	pattern string // segments; {x} matches one and names it
	open    bool   // GET needs no authentication (DSP0266 §13.3.1)
	openPut bool   // POST needs none: session creation
	priv    string // privilege for PATCH, POST and DELETE
	get     func(*call) (obj, error)
	raw     func(*call) (contentType, body string) // instead of get
	sse     func(http.ResponseWriter, *call) error // instead of get: a stream
	monitor func(*call) (reply, error)             // instead of get: a task's monitor
	stream  bool                                   // post reads the body itself
	patch   func(*call) ([]*message, error)
	post    func(*call) (reply, error)
	del     func(*call) (reply, error)
}

// allow is the value of the Allow header (RFC 9110 §10.2.1).
func (r *resource) allow() string {
	var m []string
	if r.get != nil || r.raw != nil || r.sse != nil || r.monitor != nil {
		m = append(m, "GET", "HEAD")
	}
	if r.patch != nil {
		m = append(m, "PATCH")
	}
	if r.post != nil {
		m = append(m, "POST")
	}
	if r.del != nil {
		m = append(m, "DELETE")
	}
	return strings.Join(m, ", ")
}

// find is the resource at path, with the variables of its pattern.
func (s *Server) find(path string) (*resource, map[string]string) {
	for _, r := range s.resources {
		if vars, ok := match(r.pattern, path); ok {
			return r, vars
		}
	}
	if s.tree != nil {
		return s.twinFind(path), nil
	}
	return nil, nil
}

// match compares segment by segment; it keeps nothing split, because a rack's
// thousand BMCs have some 200 patterns each.
func match(pattern, path string) (vars map[string]string, ok bool) {
	pattern, path = strings.Trim(pattern, "/"), strings.Trim(path, "/")
	for {
		want, restWant, moreWant := strings.Cut(pattern, "/")
		got, rest, more := strings.Cut(path, "/")
		if moreWant != more {
			return nil, false
		}
		if strings.HasPrefix(want, "{") {
			if vars == nil {
				vars = map[string]string{}
			}
			vars[want[1:len(want)-1]] = got
		} else if want != got {
			return nil, false
		}
		if !more {
			return vars, true
		}
		pattern, path = restWant, rest
	}
}

// maxBody bounds what is read of a request.
const maxBody = 64 << 10

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("OData-Version", "4.0") // DSP0266 §8.1
	h.Set("Cache-Control", "no-cache")
	path := r.URL.Path
	if len(path) > 1 {
		path = strings.TrimRight(path, "/")
	}
	if !s.suffer(r.Context()) {
		return
	}
	c := &call{ctx: r.Context(), r: r, path: path}
	if err := s.serve(w, c); err != nil {
		var m *message
		if !errors.As(err, &m) {
			s.log.ErrorContext(c.ctx, "virtual BMC: chassis failed", "method", r.Method, "path", path, "err", err)
			m = msgInternal()
		}
		writeError(w, m)
	}
}

func (s *Server) serve(w http.ResponseWriter, c *call) error {
	r := c.r
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodPut, http.MethodDelete, http.MethodOptions:
	default:
		return msgNotImplemented("the HTTP method " + r.Method)
	}
	res, vars := s.find(c.path)
	isGet := r.Method == http.MethodGet || r.Method == http.MethodHead
	isOpen := res != nil && (res.open && isGet || res.openPut && r.Method == http.MethodPost)
	if !isOpen {
		who, err := s.authenticate(r)
		if err != nil {
			return err
		}
		c.who = who
	}
	if res == nil {
		return msgNotFound(c.path)
	}
	c.vars = vars
	w.Header().Set("Allow", res.allow())
	if v := r.Header.Get("OData-Version"); v != "" && v != "4.0" {
		return &message{Status: http.StatusPreconditionFailed, ID: "HeaderInvalid", Args: []string{"OData-Version"},
			Text: "Header 'OData-Version' is invalid: this service speaks 4.0."}
	}
	switch {
	case isGet && res.raw != nil:
		ct, body := res.raw(c)
		w.Header().Set("Content-Type", ct)
		_, _ = io.WriteString(w, body)
		return nil
	case isGet && res.sse != nil:
		return res.sse(w, c)
	case isGet && res.monitor != nil:
		rep, err := res.monitor(c)
		if err != nil {
			return err
		}
		rep.write(w)
		return nil
	case isGet && res.get != nil:
		return s.serveGet(w, c, res)
	case r.Method == http.MethodPatch && res.patch != nil:
		return s.servePatch(w, c, res)
	case r.Method == http.MethodPost && res.post != nil:
		if !res.stream {
			if err := s.readBody(c); err != nil {
				return err
			}
		}
		return s.serveAction(w, c, res, res.post)
	case r.Method == http.MethodDelete && res.del != nil:
		return s.serveAction(w, c, res, res.del)
	}
	return msgMethod(r.Method, c.path, res.allow())
}

func (s *Server) serveGet(w http.ResponseWriter, c *call, res *resource) error {
	q, err := parseQuery(c.r.URL.RawQuery)
	if err != nil {
		return err
	}
	body, err := res.get(c)
	if err != nil {
		return err
	}
	tag := etag(body)
	if !q.shapes() { // an expanded or selected body is not the resource's representation
		w.Header().Set("ETag", tag)
		if matchTag(c.r.Header.Get("If-None-Match"), tag) {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	body["@odata.etag"] = tag
	if err := s.shape(c, body, q); err != nil {
		return err
	}
	if t, ok := body["@odata.type"].(string); ok {
		w.Header().Set("Link", "<"+schemaURI(t)+">; rel=describedby")
	}
	writeJSON(w, http.StatusOK, body)
	return nil
}

func (s *Server) servePatch(w http.ResponseWriter, c *call, res *resource) error {
	if err := s.allowed(c, res); err != nil {
		return err
	}
	if err := s.readBody(c); err != nil {
		return err
	}
	if c.body == nil {
		return msgMalformed()
	}
	if res.get != nil {
		before, err := res.get(c)
		if err != nil {
			return err
		}
		if m := c.r.Header.Get("If-Match"); m != "" && !matchTag(m, etag(before)) {
			return msgPrecondition()
		}
		for k := range c.body { // OData annotations carry no change (DSP0266 §7.6)
			if strings.HasPrefix(k, "@odata.") {
				delete(c.body, k)
			}
		}
		if len(c.body) == 0 {
			return msgNoOperation()
		}
	}
	notes, err := res.patch(c)
	if err != nil {
		return err
	}
	after, err := res.get(c)
	if err != nil {
		return err
	}
	tag := etag(after)
	w.Header().Set("ETag", tag)
	after["@odata.etag"] = tag
	if len(notes) > 0 {
		infos := make([]obj, len(notes))
		for i, n := range notes {
			infos[i] = n.info()
		}
		after["@Message.ExtendedInfo"] = infos
	}
	writeJSON(w, http.StatusOK, after)
	return nil
}

func (s *Server) serveAction(w http.ResponseWriter, c *call, res *resource, f func(*call) (reply, error)) error {
	if !res.openPut {
		if err := s.allowed(c, res); err != nil {
			return err
		}
	}
	rep, err := f(c)
	if err != nil {
		return err
	}
	rep.write(w)
	return nil
}

func (rep reply) write(w http.ResponseWriter) {
	for k, v := range rep.header {
		w.Header().Set(k, v)
	}
	if rep.body == nil {
		w.WriteHeader(rep.status)
		return
	}
	writeJSON(w, rep.status, rep.body)
}

// readBody parses the request's JSON object. An empty body is nil.
func (s *Server) readBody(c *call) error {
	if ct := c.r.Header.Get("Content-Type"); ct != "" {
		if mt, _, err := mime.ParseMediaType(ct); (err != nil || mt != "application/json") && c.r.ContentLength != 0 {
			return msgMediaType(ct)
		}
	}
	var err error
	c.body, err = parseObject(c.r.Body, maxBody)
	return err
}

// parseObject reads a JSON object of so many bytes at most; nothing is nil.
func parseObject(r io.Reader, limit int64) (obj, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, msgMalformed()
	}
	if int64(len(b)) > limit {
		return nil, msgTooLarge()
	}
	if len(b) == 0 {
		return nil, nil
	}
	var o obj
	if err := json.Unmarshal(b, &o); err != nil || o == nil {
		return nil, msgMalformed()
	}
	return o, nil
}

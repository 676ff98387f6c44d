package vbmc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"
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
	// Keep keeps event subscriptions over restarts; nil: they end with the Server.
	Keep Keeper
	// Tree is what the Server shows in place of a generic server; nil: that.
	// Its BIOS settings are the tree's, and Config.BIOS is not used.
	Tree *Tree
	// Node is the id of Chassis' system; "" = 1. Nodes are other machines behind
	// the same BMC.
	Node  string
	Nodes []Node
}

// Server is a Redfish service (DSP0266) over one Chassis. It is an
// http.Handler and opens no sockets. It may be used concurrently.
type Server struct {
	chassis   Chassis
	log       *slog.Logger
	now       func() time.Time
	resources atomic.Pointer[weak.Pointer[[]*resource]] // see table

	front *Server       // of several nodes: the one that has Nodes
	nodes []*nodeServer // of the front
	node  *nodeServer   // which one this Server is; nil: the only one

	mu        *sync.Mutex // guards what follows; nodes share it
	accounts  []*account
	sessions  map[string]*session // by id
	nextID    int
	timeout   time.Duration
	max       int
	lockout   int
	lockFor   time.Duration
	noBasic   bool               // only sessions
	events    map[string][]event // by log: "manager", "system"
	eventSeq  int
	cleared   time.Time // the system's log
	ipmi      ipmiState
	bios      firmware
	biosFirst []BIOSAttribute // as the firmware came; never written

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
	keep          Keeper
	ssdp          int          // runs of ServeSSDP
	reports       []*reportDef // that clients made; what one points to never changes
	triggers      []*trigger
	ssdpOff       bool
}

// New makes a Server.
func New(c Config) (*Server, error) {
	if c.Chassis == nil {
		return nil, errors.New("a virtual BMC needs a chassis: set Config.Chassis")
	}
	s := &Server{mu: new(sync.Mutex), chassis: c.Chassis, log: c.Logger, now: c.Now, sessions: map[string]*session{},
		timeout: c.SessionTimeout, max: c.MaxSessions, lockout: c.Lockout, lockFor: c.LockoutDuration,
		events: map[string][]event{}, fetchImage: c.FetchImage, updateTime: c.UpdateTime, identity: c.Identity, tree: c.Tree, console: c.Console, keep: c.Keep,
		ipmi: newIPMIState(), flashed: map[string]string{}, ntp: ntpSettings{servers: []string{}}}
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
	if err := s.addNodes(c); err != nil {
		return nil, err
	}
	if err := s.restore(); err != nil {
		return nil, err
	}
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

// created answers that something was made, and where it is.
func created(at string, body obj) reply {
	return reply{http.StatusCreated, body, map[string]string{"Location": at, "ETag": etag(body)}}
}

// resource is a URI pattern with its methods. A nil method is not allowed.
type resource struct {
	pattern string            // segments; {x} matches one and names it
	open    bool              // GET needs no authentication (DSP0266 §13.3.1)
	openPut bool              // POST needs none: session creation
	read    func(*call) error // who may GET, nil: whoever is logged in
	priv    string            // privilege for PATCH, POST and DELETE
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

// table are the routes. They are closures over this Server, and of a rack that
// nobody asks they would be two thirds of what is kept: the collector may take
// them, and the next request makes them again.
func (s *Server) table() []*resource {
	if w := s.resources.Load(); w != nil {
		if rs := w.Value(); rs != nil {
			return *rs
		}
	}
	rs := s.routes()
	w := weak.Make(&rs)
	s.resources.Store(&w)
	return rs
}

// find is the resource at path, with the variables of its pattern.
func (s *Server) find(path string) (*resource, map[string]string) {
	if s.nodes != nil {
		return s.findShared(path)
	}
	return s.findOwn(path)
}

// findOwn is find among the resources of this Server's chassis.
func (s *Server) findOwn(path string) (*resource, map[string]string) {
	for _, r := range s.table() {
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

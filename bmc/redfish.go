package bmc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/bmc-toolbox/bmclib/v2/providers"
	"github.com/jacobweinstock/registrar"
)

// redfishName is our driver's name in bmclib's registry.
const redfishName = "fettle-redfish"

var redfishFeatures = registrar.Features{providers.FeaturePowerState, providers.FeaturePowerSet, providers.FeatureBootDeviceSet}

// parallelRequests bounds the requests at once to one BMC (FIELD-NOTES: 1 to 4).
const parallelRequests = 4

// maxAnswer bounds what is read of one answer. Most that do not say how long
// they are are below usualAnswer.
const (
	maxAnswer   = 16 << 20
	usualAnswer = 4 << 10
)

// redfishDriver is a generic Redfish client: resources are found by following
// links, and read leniently. Error answers are read as gofish reads them.
type redfishDriver struct {
	t   Target
	hc  *http.Client
	log *slog.Logger

	session string // its URI
	token   string
	basic   bool        // the service has no sessions: the password goes with each request
	refused atomic.Bool // the service does not expand what it was asked to expand
	// mustChange is the account whose password the BMC wants to be changed
	// before anything else; "" = none.
	mustChange string

	rooting sync.Mutex // one reads the service root
	rooted  atomic.Bool
	root    serviceRoot // once rooted

	mu           sync.Mutex // guards what follows: found once, kept
	sysPath      string
	mgrPath      string // where the system names none
	serial       *chassisFacts
	managerModel *string
	registry     *attributeRegistry // of the BIOS
	given        []string           // new passwords that the BMC was told; see quote
}

// Name is the driver's name for bmclib.
func (d *redfishDriver) Name() string { return redfishName }

// Where services have their sessions and systems (DSP0266 §13.3.4.2 allows a
// login there without reading the service root; DSP0268 lists the URIs). One
// that has them elsewhere names them in its root.
const (
	rootPath     = "/redfish/v1/"
	sessionsPath = "/redfish/v1/SessionService/Sessions"
	systemsPath  = "/redfish/v1/Systems"
)

// Open logs in, once: with the password in one request.
func (d *redfishDriver) Open(ctx context.Context) error {
	const doing = "logging in"
	if err := ctx.Err(); err != nil { // before the password leaves
		return d.t.fail(doing, d.t.explain(ctx, err))
	}
	// The login goes on for a moment when ctx is cancelled, so that its session
	// can be ended.
	lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.t.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(loginGrace, cancel)
		context.AfterFunc(lctx, func() { t.Stop() })
	})
	defer stop()

	login := struct{ UserName, Password string }{d.t.User, string(d.t.Password)}
	a, err := d.do(lctx, http.MethodPost, sessionsPath, login, nil)
	if noSuchPlace(err) {
		a, err = d.loginByRoot(lctx, login, err)
	}
	if noSuchPlace(err) || statusOf(err) == http.StatusUnauthorized && d.hasNoSessions(lctx) {
		return d.loginBasic(ctx, lctx, err)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return d.t.fail(doing, d.loginError(lctx, err))
	}
	var body struct {
		At ref  `json:"@odata.id"`
		ID text `json:"Id"`
	}
	d.token, d.session = a.header.Get("X-Auth-Token"), localPath(a.header.Get("Location"))
	if len(a.body) > 0 {
		if err := json.Unmarshal(a.body, &struct{}{}); err != nil {
			return d.t.fail(doing, errors.Join(d.t.explain(ctx, err), d.logout(ctx)))
		}
	}
	if d.session == "" && unmarshal(a.body, &body) == nil { // no Location: the body names the session, too
		d.session = body.At.path()
		if d.session == "" && body.ID != "" && !strings.ContainsAny(string(body.ID), "/?#") {
			d.session = sessionsPath + "/" + string(body.ID)
		}
	}
	d.mustChange = mustChangeOf(a.body)
	if d.token == "" {
		return d.t.fail(doing, fmt.Errorf("%w: it accepted the login and gave no session token", ErrUnsupported))
	}
	if ctx.Err() != nil {
		return d.t.fail(doing, errors.Join(d.t.explain(ctx, ctx.Err()), d.logout(ctx)))
	}
	return nil
}

// noSuchPlace tells that a login was answered by a service that has no sessions
// there: the password was not looked at.
func noSuchPlace(err error) bool {
	st := statusOf(err)
	return st == http.StatusNotFound || st == http.StatusMethodNotAllowed || st == http.StatusNotImplemented
}

// hasNoSessions tells that the service root, which needs no login, names no
// place for sessions: such a service answers 401 to whoever asks for one, since
// it wants the password with every request.
func (d *redfishDriver) hasNoSessions(ctx context.Context) bool {
	return d.ready(ctx) == nil && d.root.SessionService.path() == "" && d.root.Links.Sessions.path() == ""
}

// loginBasic is for services without sessions (DSP0266 §13.3.3: every service
// has basic authentication): the systems are read with the password, once, so
// that a wrong one is known here and is not sent again.
func (d *redfishDriver) loginBasic(ctx, lctx context.Context, not error) error {
	const doing = "logging in"
	d.basic = true
	err := d.ready(lctx)
	if err == nil {
		_, err = d.do(lctx, http.MethodGet, d.root.Systems.path(), nil, nil)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err == nil {
		d.log.Debug("the service has no sessions: the password goes with each request", "err", not)
		return nil
	}
	if noSuchPlace(err) {
		err = not
	}
	return d.t.fail(doing, d.loginError(lctx, err))
}

// loginByRoot logs in where the service root says that sessions are; not is
// what the usual place answered.
func (d *redfishDriver) loginByRoot(ctx context.Context, login any, not error) (answer, error) {
	if err := d.ready(ctx); err != nil {
		return answer{}, err
	}
	at := d.root.Links.Sessions.path()
	if at == "" && d.root.SessionService.path() != "" {
		var svc struct{ Sessions ref }
		if err := d.optional(ctx, d.root.SessionService.path(), &svc); err != nil {
			return answer{}, err
		}
		at = svc.Sessions.path()
	}
	if at == "" || at == sessionsPath {
		return answer{}, not
	}
	return d.do(ctx, http.MethodPost, at, login, nil)
}

// ready reads the service root, once: where it fails it is read again.
func (d *redfishDriver) ready(ctx context.Context) error {
	if d.rooted.Load() {
		return nil
	}
	d.rooting.Lock()
	defer d.rooting.Unlock()
	if d.rooted.Load() {
		return nil
	}
	var root serviceRoot
	if _, err := d.get(ctx, rootPath, &root); err != nil {
		return err
	}
	for _, x := range []struct {
		to   *ref
		path string
	}{{&root.Systems, systemsPath}, {&root.Chassis, rootPath + "Chassis"}, {&root.Managers, rootPath + "Managers"}} {
		if x.to.path() == "" { // every service for a machine has these, and some do not say so (DSP0268 lists their URIs)
			x.to.id = x.path
		}
	}
	d.root = root
	d.refused.Store(!root.Features.Expand.NoLinks)
	d.rooted.Store(true)
	return nil
}

func (d *redfishDriver) loginError(ctx context.Context, err error) error {
	err = d.t.explain(ctx, err)
	var ae *answerError
	if errors.As(err, &ae) && (ae.status == http.StatusUnauthorized || ae.status == http.StatusForbidden) {
		ae.what = ErrPassword
	}
	return err
}

// Close ends the session.
func (d *redfishDriver) Close(ctx context.Context) error {
	defer d.hc.CloseIdleConnections()
	if d.token == "" || d.session == "" {
		return nil
	}
	_, err := d.do(ctx, http.MethodDelete, d.session, nil, nil)
	d.session = ""
	if s := statusOf(err); s == http.StatusUnauthorized || s == http.StatusNotFound {
		return nil // it had ended already
	}
	return d.t.own(ctx, "logging out", err)
}

// logout ends the session of an Open that failed.
func (d *redfishDriver) logout(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutTimeout)
	defer cancel()
	return d.Close(ctx)
}

// readAnswer reads a whole body of bounded length.
func readAnswer(resp *http.Response) ([]byte, error) {
	defer resp.Body.Close()
	if n := resp.ContentLength; n > 0 && n <= maxAnswer {
		b := make([]byte, n)
		_, err := io.ReadFull(resp.Body, b)
		return b, err
	}
	var b bytes.Buffer
	b.Grow(usualAnswer)
	if _, err := b.ReadFrom(io.LimitReader(resp.Body, maxAnswer+1)); err != nil {
		return nil, err
	}
	if b.Len() > maxAnswer {
		return nil, fmt.Errorf("the BMC's answer to %s is longer than %d bytes", resp.Request.URL.Path, maxAnswer)
	}
	return b.Bytes(), nil
}

// answer is a BMC's answer to one request.
type answer struct {
	header http.Header
	body   []byte
}

// do sends one request under ctx. An answer that is no success is an error
// with its status.
func (d *redfishDriver) do(ctx context.Context, method, path string, payload any, hdr map[string]string) (answer, error) {
	if !strings.HasPrefix(path, "/") {
		return answer{}, fmt.Errorf("the BMC names a resource %q, which is not a path", path)
	}
	var body io.Reader
	if payload != nil {
		b, err := json.Marshal(payload)
		if err != nil {
			return answer{}, fmt.Errorf("encoding a request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	if end, ok := ctx.Deadline(); !ok || time.Until(end) > d.t.Timeout { // one of many requests
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.t.Timeout)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+hostPort(d.t.Address)+path, body)
	if err != nil {
		return answer{}, err
	}
	d.head(req)
	if payload != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for k, v := range hdr {
		req.Header.Set(k, v)
	}
	a, err := d.exchange(req)
	// A server that sees us go ends its answer, and half of one may look whole.
	if err == nil && ctx.Err() != nil && len(a.body) > 0 && !json.Valid(a.body) {
		err = ctx.Err()
	}
	return a, err
}

// head sets the headers that every request has.
func (d *redfishDriver) head(req *http.Request) {
	req.Header.Set("User-Agent", "fettle")
	req.Header.Set("Accept", "application/json")
	switch {
	case d.token != "":
		req.Header.Set("X-Auth-Token", d.token)
	case d.basic:
		req.SetBasicAuth(d.t.User, string(d.t.Password))
	}
}

func (d *redfishDriver) exchange(req *http.Request) (answer, error) {
	resp, err := d.hc.Do(req)
	if err != nil {
		return answer{}, d.tells(err)
	}
	b, err := readAnswer(resp)
	if resp.StatusCode/100 != 2 {
		return answer{resp.Header, b}, d.refusal(resp.StatusCode, b) // a body that breaks off changes nothing
	}
	return answer{resp.Header, b}, err
}

// get reads a resource into v.
func (d *redfishDriver) get(ctx context.Context, path string, v any) (answer, error) {
	a, err := d.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return a, err
	}
	if err := unmarshal(a.body, v); err != nil {
		return a, fmt.Errorf("reading %s: %w", path, err)
	}
	return a, nil
}

// optional reads a resource that an operation can do without: what the BMC
// names and does not show leaves v as it is. The end of the session, of the
// context or of the BMC is an error.
func (d *redfishDriver) optional(ctx context.Context, path string, v any) error {
	if path == "" {
		return nil
	}
	_, err := d.get(ctx, path, v)
	if err != nil && !d.fatal(ctx, err) {
		d.log.Debug("the BMC names a resource that it does not show", "path", path, "err", err)
		return nil
	}
	return err
}

// fatal tells that nothing more can be read after err: the session or the
// context has ended, or the BMC does not answer.
func (d *redfishDriver) fatal(ctx context.Context, err error) bool {
	var ne net.Error
	return err != nil && (ctx.Err() != nil || statusOf(err) == http.StatusUnauthorized || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &ne) && ne.Timeout() || errors.Is(err, syscall.ECONNREFUSED))
}

// hostPort is a URL's host for a; a zone is the dialer's matter.
func hostPort(a netip.AddrPort) string {
	return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port()).String()
}

// localPath is the path of a link, whichever host it names.
func localPath(link string) string {
	u, err := url.Parse(link)
	if err != nil || !strings.HasPrefix(u.Path, "/") {
		return ""
	}
	u.Scheme, u.Host, u.User, u.Opaque, u.Fragment = "", "", nil, "", ""
	return u.String()
}

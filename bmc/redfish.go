package bmc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bmc-toolbox/bmclib/v2/providers"
	"github.com/jacobweinstock/registrar"
	"github.com/stmcginnis/gofish"
)

// redfishName is our driver's name in bmclib's registry.
const redfishName = "fettle-redfish"

var redfishFeatures = registrar.Features{providers.FeaturePowerState, providers.FeaturePowerSet, providers.FeatureBootDeviceSet}

// parallelRequests bounds the requests at once to one BMC (FIELD-NOTES: 1 to 4).
const parallelRequests = 4

// maxAnswer bounds what is read of one answer.
const maxAnswer = 16 << 20

// redfishDriver is a generic Redfish client on gofish: gofish logs in and
// sends; resources are found by following links, and read leniently.
type redfishDriver struct {
	t   Target
	hc  *http.Client
	log *slog.Logger

	api     *gofish.APIClient
	session string // its URI
	token   string
	root    serviceRoot
	expand  atomic.Bool // the service expands collections
	// mustChange is the account whose password the BMC wants to be changed
	// before anything else; "" = none.
	mustChange string

	mu           sync.Mutex // guards what follows: found once, kept
	sysPath      string
	serial       *chassisFacts
	managerModel *string
	registry     *attributeRegistry // of the BIOS
}

// Name is the driver's name for bmclib.
func (d *redfishDriver) Name() string { return redfishName }

// Open logs in once: the service root, then a session.
func (d *redfishDriver) Open(ctx context.Context) error {
	const doing = "logging in"
	// The login goes on for a moment when ctx is cancelled, so that its session
	// can be ended.
	lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.t.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(loginGrace, cancel)
		context.AfterFunc(lctx, func() { t.Stop() })
	})
	defer stop()

	rec := &recorder{bound: bound{lctx, d.hc.Transport}}
	login := *d.hc
	login.Transport = rec
	// gofish reads the service root, then posts the session (DSP0266 §13.3.4).
	api, err := gofish.ConnectContext(context.WithoutCancel(ctx), gofish.ClientConfig{
		Endpoint: "https://" + hostPort(d.t.Address), HTTPClient: &login, MaxConcurrentRequests: parallelRequests,
		Username: d.t.User, Password: string(d.t.Password),
	})
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return d.t.fail(doing, d.loginError(lctx, err, rec.posted))
	}
	d.api, d.token = api, rec.token
	d.session = localPath(rec.location)
	if d.session == "" { // no Location: the body names the session, too
		var body ref
		if json.Unmarshal(rec.session, &body) == nil {
			d.session = body.path()
		}
	}
	d.mustChange = mustChangeOf(rec.session)
	if rec.token == "" {
		return d.t.fail(doing, fmt.Errorf("%w: it accepted the login and gave no session token", ErrUnsupported))
	}
	if err := json.Unmarshal(rec.root, &d.root); err != nil {
		return d.t.fail(doing, errors.Join(d.t.explain(ctx, err), d.logout(ctx)))
	}
	d.expand.Store(d.root.Features.Expand.NoLinks)
	if ctx.Err() != nil {
		return d.t.fail(doing, errors.Join(d.t.explain(ctx, ctx.Err()), d.logout(ctx)))
	}
	return nil
}

func (d *redfishDriver) loginError(ctx context.Context, err error, posted bool) error {
	err = d.t.explain(ctx, err)
	var ae *answerError
	if errors.As(err, &ae) && posted && (ae.status == http.StatusUnauthorized || ae.status == http.StatusForbidden) {
		ae.what = ErrPassword
	}
	return err
}

// Close ends the session.
func (d *redfishDriver) Close(ctx context.Context) error {
	defer d.hc.CloseIdleConnections()
	if d.api == nil || d.session == "" {
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

// recorder keeps what gofish reads while it logs in: the service root, whose
// links gofish does not show, and the session.
type recorder struct {
	bound
	root, session   []byte
	token, location string
	posted          bool
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodPost {
		if err := r.ctx.Err(); err != nil { // before the password leaves
			return nil, err
		}
		r.posted = true
	}
	resp, err := r.bound.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	b, err := readAnswer(resp)
	if err != nil {
		return nil, err
	}
	if req.Method == http.MethodPost {
		r.session, r.token, r.location = b, resp.Header.Get("X-Auth-Token"), resp.Header.Get("Location")
	} else {
		r.root = b
	}
	resp.Body = io.NopCloser(bytes.NewReader(b))
	return resp, nil
}

// readAnswer reads a whole body of bounded length.
func readAnswer(resp *http.Response) ([]byte, error) {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("the BMC's answer to %s is longer than %d bytes", resp.Request.URL.Path, maxAnswer)
	}
	return b, nil
}

// answer is a BMC's answer to one request.
type answer struct {
	header http.Header
	body   []byte
}

// do sends one request under ctx.
func (d *redfishDriver) do(ctx context.Context, method, path string, payload any, hdr map[string]string) (answer, error) {
	if !strings.HasPrefix(path, "/") {
		return answer{}, fmt.Errorf("the BMC names a resource %q, which is not a path", path)
	}
	api := *d.api
	api.HTTPClient = under(ctx, d.hc)
	var resp *http.Response
	var err error
	switch method {
	case http.MethodGet:
		resp, err = api.GetWithHeaders(path, hdr)
	case http.MethodPost:
		resp, err = api.PostWithHeaders(path, payload, hdr)
	case http.MethodPatch:
		resp, err = api.PatchWithHeaders(path, payload, hdr)
	case http.MethodDelete:
		resp, err = api.DeleteWithHeaders(path, hdr) // closes the body
		if err != nil {
			return answer{}, err
		}
		return answer{header: resp.Header}, nil
	}
	if err != nil {
		return answer{}, err
	}
	b, err := readAnswer(resp)
	return answer{resp.Header, b}, err
}

// get reads a resource into v.
func (d *redfishDriver) get(ctx context.Context, path string, v any) (answer, error) {
	a, err := d.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		return a, fmt.Errorf("reading %s: %w", path, err)
	}
	return a, nil
}

// maxPages bounds a collection that comes in pages.
const maxPages = 64

// members reads the members of a collection: in one request where the service
// expands, one by one otherwise. A member that cannot be read is named in
// missing.
func (d *redfishDriver) members(ctx context.Context, path string) (all []json.RawMessage, missing []string, err error) {
	var coll struct {
		Members refs   `json:"Members"`
		Next    string `json:"Members@odata.nextLink"`
	}
	next := path
	for page := 0; next != "" && page < maxPages; page++ {
		coll.Members, coll.Next = nil, ""
		if err := d.collection(ctx, next, page == 0, &coll); err != nil {
			return nil, nil, err
		}
		full, miss, err := d.resolve(ctx, coll.Members)
		if err != nil {
			return nil, nil, err
		}
		all, missing = append(all, full...), append(missing, miss...)
		if next = localPath(coll.Next); next == path {
			break // it goes in a circle
		}
	}
	return all, missing, nil
}

// collection reads one page; expanded where the service can, and as it is when
// that fails (FIELD-NOTES: $expand with a fallback).
func (d *redfishDriver) collection(ctx context.Context, path string, first bool, v any) error {
	if first && d.expand.Load() && !strings.Contains(path, "?") {
		_, err := d.get(ctx, path+"?$expand=.($levels=1)", v)
		if err == nil || ctx.Err() != nil || statusOf(err) == http.StatusUnauthorized {
			return err
		}
		d.log.Debug("the BMC says that it expands, and does not", "path", path, "err", err)
		d.expand.Store(false)
	}
	_, err := d.get(ctx, path, v)
	return err
}

// resolve replaces references by what they name, in order.
func (d *redfishDriver) resolve(ctx context.Context, rs refs) (all []json.RawMessage, missing []string, err error) {
	out := make([]json.RawMessage, len(rs))
	errs := make([]error, len(rs))
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallelRequests)
	for i, r := range rs {
		if !r.bare() {
			out[i] = r.raw
			continue
		}
		slots <- struct{}{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			a, err := d.do(ctx, http.MethodGet, r.path(), nil, nil)
			if err == nil && !json.Valid(a.body) {
				err = errors.New("the answer is not JSON")
			}
			out[i], errs[i] = a.body, err
		}()
	}
	wg.Wait()
	for i, e := range errs {
		switch {
		case e == nil:
			all = append(all, out[i])
		case ctx.Err() != nil || statusOf(e) == http.StatusUnauthorized:
			return nil, nil, e
		default:
			missing = append(missing, fmt.Sprintf("%s: %v", rs[i].path(), d.t.explain(ctx, e)))
		}
	}
	return all, missing, nil
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

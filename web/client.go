package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/state"
)

// Client speaks to a Server. Its methods may be called concurrently. An error
// that the server told is a *Problem; errors.Is finds state.ErrPlanChanged
// and ErrNobody in it.
type Client struct {
	base  string // without a slash at the end
	where string // for errors
	hc    *http.Client
	token string
}

// ContinueTimeout is for a client's Transport: how long Upload waits to hear
// that the server takes the file before it sends it.
const ContinueTimeout = 10 * time.Second

// NewClient makes a client of the server at base, like
// "https://fettle.example.org:8443". hc may be nil; token may be empty.
func NewClient(base string, hc *http.Client, token string) *Client {
	if hc == nil {
		hc = &http.Client{}
	}
	base = strings.TrimRight(base, "/")
	return &Client{base: base, where: base, hc: hc, token: token}
}

// NewUnixClient makes a client of the server that listens on a Unix socket.
func NewUnixClient(path string) *Client {
	var d net.Dialer
	return &Client{base: "http://fettle", where: path, hc: &http.Client{Transport: &http.Transport{
		DialContext:           func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) },
		ExpectContinueTimeout: ContinueTimeout,
	}}}
}

// Machines lists the machines that selectors pick (see site.Site.Select), all
// of them without any, and without their inventories.
func (c *Client) Machines(ctx context.Context, selectors ...string) ([]Machine, error) {
	var out []Machine
	path := "/machines"
	if len(selectors) > 0 {
		path += "?" + url.Values{"select": selectors}.Encode()
	}
	return out, c.call(ctx, "GET", path, nil, &out)
}

// Machine tells of one machine.
func (c *Client) Machine(ctx context.Context, name string) (Machine, error) {
	var out Machine
	return out, c.call(ctx, "GET", "/machines/"+url.PathEscape(name), nil, &out)
}

// Why tells in sentences how a machine came to be as it is.
func (c *Client) Why(ctx context.Context, name string) ([]string, error) {
	var out Why
	err := c.call(ctx, "GET", "/machines/"+url.PathEscape(name)+"/why", nil, &out)
	return out.Sentences, err
}

// Plan asks what a deploy of machines would do.
func (c *Client) Plan(ctx context.Context, machines []string) (state.Plan, error) {
	var out state.Plan
	return out, c.call(ctx, "POST", "/plan", machinesRequest{machines}, &out)
}

// Deploy starts the plan whose digest was approved, and returns the ids of the
// runs; with an error, of those that did start.
func (c *Client) Deploy(ctx context.Context, plan string, machines []string) ([]string, error) {
	return c.start(ctx, "/deploy", deployRequest{plan, machines})
}

// Inspect starts an inspection of machines, and returns the ids of the runs;
// with an error, of those that did start.
func (c *Client) Inspect(ctx context.Context, machines []string) ([]string, error) {
	return c.start(ctx, "/inspect", machinesRequest{machines})
}

// Abort ends a machine's run; the machine is left as it is.
func (c *Client) Abort(ctx context.Context, machine string) error {
	return c.call(ctx, "POST", "/machines/"+url.PathEscape(machine)+"/abort", nil, nil)
}

func (c *Client) start(ctx context.Context, path string, req any) ([]string, error) {
	var out Runs
	err := c.call(ctx, "POST", path, req, &out)
	var p *Problem
	if errors.As(err, &p) {
		return p.Runs, err
	}
	return out.Runs, err
}

// Discovered lists what was seen and is not in the site; with all, also what
// the site has meanwhile.
func (c *Client) Discovered(ctx context.Context, all bool) ([]state.Discovery, error) {
	var out []state.Discovery
	path := "/discovered"
	if all {
		path += "?all=1"
	}
	return out, c.call(ctx, "GET", path, nil, &out)
}

// Forget forgets what was seen under a name, so that it is inspected anew.
func (c *Client) Forget(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", "/discovered/"+url.PathEscape(name), nil, nil)
}

// Scan has the server look for BMCs, and tells step how far it is.
func (c *Client) Scan(ctx context.Context, sc state.Scan, step func(state.ScanStep)) error {
	resp, err := c.send(ctx, "POST", "/discovered/scan", sc)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var l scanLine
		err := dec.Decode(&l)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("fettle at %s broke off the search: what it found is in fettle discover: %w", c.where, err)
		case l.End && l.Error != "":
			return fmt.Errorf("fettle at %s: %s", c.where, l.Error)
		case l.End:
			return nil
		case l.ScanStep != nil:
			step(*l.ScanStep)
		}
	}
}

// Reload has the server read its site folder again.
func (c *Client) Reload(ctx context.Context) (Reloaded, error) {
	var out Reloaded
	return out, c.call(ctx, "POST", "/site/reload", nil, &out)
}

// Site tells what should be.
func (c *Client) Site(ctx context.Context) (SiteView, error) {
	var out SiteView
	return out, c.call(ctx, "GET", "/site", nil, &out)
}

// Leases lists the addresses that are given.
func (c *Client) Leases(ctx context.Context) ([]state.Lease, error) {
	var out []state.Lease
	return out, c.call(ctx, "GET", "/leases", nil, &out)
}

// DropLease frees an address.
func (c *Client) DropLease(ctx context.Context, network string, addr netip.Addr) error {
	return c.call(ctx, "DELETE", "/leases/"+url.PathEscape(network)+"/"+addr.String(), nil, nil)
}

// Health asks whether the server works.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var out Health
	return out, c.call(ctx, "GET", "/health", nil, &out)
}

// Events yields the events that q selects, oldest first; with follow also
// those that come, until ctx ends, which is no error.
func (c *Client) Events(ctx context.Context, q state.Query, follow bool) iter.Seq2[state.Event, error] {
	return func(yield func(state.Event, error) bool) {
		resp, err := c.send(ctx, "GET", "/events?"+encodeQuery(q, follow), nil)
		if err != nil {
			if ctx.Err() == nil || !follow {
				yield(state.Event{}, err)
			}
			return
		}
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for {
			line, err := lines.ReadBytes('\n')
			if err == nil {
				if len(bytes.TrimSpace(line)) == 0 {
					continue // keep-alive
				}
				var e state.Event
				if err = json.Unmarshal(line, &e); err == nil {
					if !yield(e, nil) {
						return
					}
					continue
				}
				err = fmt.Errorf("%s sent an event that cannot be read: %w", c.where, err)
			}
			switch {
			case errors.Is(err, io.EOF) && !follow, follow && ctx.Err() != nil:
			case errors.Is(err, io.EOF):
				yield(state.Event{}, fmt.Errorf("fettle at %s ended the event stream: it is stopping", c.where))
			default:
				yield(state.Event{}, fmt.Errorf("reading events from %s: %w", c.where, err))
			}
			return
		}
	}
}

func encodeQuery(q state.Query, follow bool) string {
	v := url.Values{}
	if q.After != 0 {
		v.Set("after", strconv.FormatInt(q.After, 10))
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Machine != "" {
		v.Set("machine", q.Machine)
	}
	for _, k := range q.Kinds {
		v.Add("kind", string(k))
	}
	if follow {
		v.Set("follow", "1")
	}
	return v.Encode()
}

// call makes a request and reads its answer into out, unless that is nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("%s answered %s %s with something that cannot be read; is it fettle, and as new as this? %w", c.where, method, path, err)
	}
	return nil
}

// send makes a request whose answer is a success; the caller closes its body.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("asking %s: %w", c.where, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/api/v1"+path, body)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", c.where, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return c.do(req)
}

// do sends a request whose answer is a success; the caller closes its body.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.hc.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("asking %s: %w", c.where, context.Cause(ctx))
		}
		return nil, fmt.Errorf("fettle does not answer at %s; is fettle serve running there? %w", c.where, err)
	}
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, nil
	}
	defer resp.Body.Close()
	p := &Problem{}
	err = json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(p)
	if err != nil || p.Detail == "" {
		return nil, problem(resp.StatusCode, "is it fettle?", "%s answered %s %s with %s", c.where, req.Method, req.URL.Path, resp.Status)
	}
	p.Status = resp.StatusCode
	return nil, p
}

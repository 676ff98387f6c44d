package bmc

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Recording says what Record wrote.
type Recording struct {
	Resources int      `json:"resources"`
	Redacted  int      `json:"redacted"` // distinct values that were replaced
	Missing   []string `json:"missing"`  // resources that the BMC named and could not show
}

// maxRecorded bounds a crawl.
const maxRecorded = 20_000

// notRecorded are parts of a service that are of the moment, or huge, or
// published elsewhere.
var notRecorded = []string{"/redfish/v1/SessionService/Sessions/", "/redfish/v1/JsonSchemas/", "/redfish/v1/Schemas/", "/redfish/v1/TaskService/Tasks/",
	"/redfish/v1/EventService/Subscriptions/", "/redfish/v1/JobService/Jobs/"}

// Record reads every resource of the BMC's Redfish service and writes them to
// w: a tar archive packed with zstd, one index.json a resource, which a virtual
// BMC can wear. What tells this machine from others of its kind (serial
// numbers, UUIDs, MACs, addresses, names of hosts and users, certificates) is
// replaced wherever it stands, by something of the same form; the same value by
// the same one under the same key. progress, which may be nil, is told how many
// resources were read and how many are known.
//
// The crawl takes as long as the BMC needs, minutes on many; ctx bounds it.
func (c *Client) Record(ctx context.Context, w io.Writer, key []byte, progress func(read, known int)) (Recording, error) {
	const doing = "recording"
	d, ok := c.drv.(*redfishDriver)
	if !ok {
		return Recording{}, c.t.fail(doing, fmt.Errorf("%w: only Redfish can be recorded", ErrUnsupported))
	}
	cr := crawl{d: d, bodies: map[string]any{}}
	if err := cr.run(ctx, progress); err != nil {
		return Recording{}, c.t.own(ctx, doing, err)
	}
	red := newRedaction(key)
	for _, uri := range cr.order {
		red.collect("", cr.bodies[uri])
	}
	rec := Recording{Resources: len(cr.order), Redacted: len(red.secret), Missing: cr.missing}
	if err := cr.write(w, red); err != nil {
		return rec, c.t.fail(doing, err)
	}
	return rec, nil
}

// crawl is one walk over a service.
type crawl struct {
	d       *redfishDriver
	bodies  map[string]any
	order   []string
	missing []string
}

func (cr *crawl) run(ctx context.Context, progress func(read, known int)) error {
	seen := map[string]bool{}
	var todo []string
	add := func(link string) {
		uri := strings.TrimRight(localPath(link), "/")
		if uri == "" || seen[uri] || !strings.HasPrefix(uri, "/redfish") || strings.ContainsAny(uri, "?#") || len(seen) >= maxRecorded ||
			strings.Contains(uri, "..") || slices.ContainsFunc(notRecorded, func(p string) bool { return strings.HasPrefix(uri, p) }) {
			return
		}
		seen[uri] = true
		todo = append(todo, uri)
	}
	add("/redfish/v1")
	type result struct {
		uri  string
		body any
		err  error
	}
	for len(todo) > 0 {
		n := min(len(todo), parallelRequests)
		batch := todo[:n]
		todo = todo[n:]
		results := make(chan result, n)
		for _, uri := range batch {
			go func() {
				one, cancel := context.WithTimeout(ctx, cr.d.t.Timeout)
				defer cancel()
				var body any
				a, err := cr.d.do(one, http.MethodGet, uri, nil, nil)
				if err == nil {
					if err = json.Unmarshal(a.body, &body); err != nil {
						err = errors.New("the answer is not JSON")
					}
				}
				results <- result{uri, body, err}
			}()
		}
		got := make([]result, n)
		for i := range got {
			got[i] = <-results
		}
		slices.SortFunc(got, func(a, b result) int { return strings.Compare(a.uri, b.uri) })
		for _, r := range got {
			switch {
			case r.err == nil:
				cr.bodies[r.uri] = r.body
				cr.order = append(cr.order, r.uri)
				follow(r.body, add)
			case ctx.Err() != nil:
				return ctx.Err()
			case statusOf(r.err) == http.StatusUnauthorized:
				return r.err
			case r.uri == "/redfish/v1":
				return r.err
			default:
				cr.missing = append(cr.missing, fmt.Sprintf("%s: %v", r.uri, cr.d.t.explain(ctx, r.err)))
			}
		}
		if progress != nil {
			progress(len(cr.order)+len(cr.missing), len(seen))
		}
	}
	slices.Sort(cr.order)
	return nil
}

// follow calls add for each link in a resource.
func follow(v any, add func(string)) {
	switch x := v.(type) {
	case map[string]any:
		for k, y := range x {
			// Uri is where a registry's file is.
			if s, ok := y.(string); ok && (k == "@odata.id" || k == "@Redfish.ActionInfo" || k == "Uri" || k == "Members@odata.nextLink") {
				add(s)
			}
			follow(y, add)
		}
	case []any:
		for _, y := range x {
			follow(y, add)
		}
	}
}

func (cr *crawl) write(w io.Writer, red *redaction) error {
	z, err := zstd.NewWriter(w)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(z)
	for _, uri := range cr.order {
		b, err := json.MarshalIndent(red.apply("", cr.bodies[uri]), "", "  ")
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(red.text(uri), "/") + "/index.json"
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := tw.Write(b); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return z.Close()
}

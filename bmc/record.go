package bmc

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strconv"
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
	rec := Recording{Resources: len(cr.order), Redacted: red.values, Missing: cr.missing}
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
	full    bool
}

func (cr *crawl) run(ctx context.Context, progress func(read, known int)) error {
	seen := map[string]bool{}
	var todo []string
	add := func(link string) {
		uri := strings.TrimRight(localPath(link), "/")
		if uri == "" || seen[uri] || !strings.HasPrefix(uri, "/redfish") || strings.ContainsAny(uri, "?#") ||
			strings.Contains(uri, "..") || slices.ContainsFunc(notRecorded, func(p string) bool { return strings.HasPrefix(uri, p) }) {
			return
		}
		if len(seen) >= maxRecorded {
			if !cr.full {
				cr.missing = append(cr.missing, fmt.Sprintf("everything beyond the first %d resources", maxRecorded))
			}
			cr.full = true
			return
		}
		seen[uri] = true
		todo = append(todo, uri)
	}
	// A BIOS names its registry, and some BMCs have that where no link leads
	// (quirks.go): what is not there is not missing.
	guessed := map[string]bool{}
	guess := func(uri string, body any) {
		o, _ := body.(map[string]any)
		name, _ := o["AttributeRegistry"].(string)
		if name == "" || strings.ContainsAny(name, "/?#") {
			return
		}
		for _, p := range registryPlaces(uri, name) {
			if !seen[p] {
				guessed[p] = true
				add(p)
			}
		}
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
				body, err := cr.read(one, uri)
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
				guess(r.uri, r.body)
			case ctx.Err() != nil:
				return ctx.Err()
			case statusOf(r.err) == http.StatusUnauthorized:
				return r.err
			case r.uri == "/redfish/v1":
				return r.err
			case guessed[r.uri]:
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

// read reads one resource; the pages of a collection become one (a virtual BMC
// makes pages of its own).
func (cr *crawl) read(ctx context.Context, uri string) (any, error) {
	body, err := cr.page(ctx, uri)
	whole, _ := body.(map[string]any)
	members, _ := whole["Members"].([]any)
	done := map[string]bool{uri: true}
	next, _ := whole[nextLink].(string)
	if entries, ok := strings.CutSuffix(uri, "/Entries"); ok && isOtherLog(path.Base(entries)) {
		next = "" // iDRAC's lifecycle log has thousands; its latest are enough
		delete(whole, nextLink)
	}
	for err == nil && next != "" {
		at := localPath(next)
		if at == "" || done[at] || len(done) >= maxPages || len(members) >= maxRecorded {
			break
		}
		done[at] = true
		more, err := cr.page(ctx, at)
		if err != nil {
			return nil, fmt.Errorf("its next page %s: %w", at, err)
		}
		page, _ := more.(map[string]any)
		list, _ := page["Members"].([]any)
		members = append(members, list...)
		next, _ = page[nextLink].(string)
	}
	if whole != nil && len(done) > 1 {
		whole["Members"] = members
		whole["Members@odata.count"] = json.Number(strconv.Itoa(len(members)))
		delete(whole, nextLink)
	}
	return body, err
}

const nextLink = "Members@odata.nextLink"

// page reads JSON with its numbers as they are written.
func (cr *crawl) page(ctx context.Context, uri string) (body any, err error) {
	a, err := cr.d.do(ctx, http.MethodGet, uri, nil, nil)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(a.body))
	dec.UseNumber()
	if dec.Decode(&body) != nil {
		return nil, errors.New("the answer is not JSON")
	}
	return body, nil
}

// follow calls add for each link in a resource.
func follow(v any, add func(string)) {
	switch x := v.(type) {
	case map[string]any:
		for k, y := range x {
			// Uri is where a registry's file is, in an object of its own at iLO's;
			// href is a link before Redfish 1.0.
			if s, ok := y.(string); ok && slices.Contains([]string{"@odata.id", "@Redfish.ActionInfo", "Uri", "extref", "href", nextLink}, k) {
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

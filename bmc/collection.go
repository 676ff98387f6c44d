package bmc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
)

// Bounds of what is read of one collection. Real ones stay far below: an event
// log of some thousand entries, in pages of 50 or 100.
const (
	maxPages   = 200
	maxMembers = 5_000
	maxBytes   = 64 << 20
)

var errTooMuch = errors.New("it is longer than what any BMC has to say: check that a Redfish service runs there")

// members reads the members of a collection: in one request where the service
// expands, one by one otherwise. A member that cannot be read is named in
// missing.
func (d *redfishDriver) members(ctx context.Context, path string) (all []json.RawMessage, missing []string, err error) {
	var coll struct {
		Members refs   `json:"Members"`
		Old     refs   `json:"Items"` // before Redfish 1.0: iLO 4
		Next    string `json:"Members@odata.nextLink"`
	}
	read := map[string]bool{} // pages, in case they go in a circle
	size := 0
	for next := path; next != "" && !read[next]; {
		read[next] = true
		coll.Members, coll.Old, coll.Next = nil, nil, ""
		if err := d.collection(ctx, next, len(read) == 1, &coll); err != nil {
			return nil, nil, err
		}
		if len(coll.Members) == 0 {
			coll.Members = coll.Old
		}
		more := len(all)+len(coll.Members) > maxMembers || len(read) >= maxPages
		if more {
			coll.Members = coll.Members[:min(len(coll.Members), maxMembers-len(all))]
		}
		full, miss, err := d.resolve(ctx, coll.Members)
		if err != nil {
			return nil, nil, err
		}
		for _, b := range full {
			size += len(b)
		}
		if size > maxBytes {
			return nil, nil, fmt.Errorf("reading %s: %w", path, errTooMuch)
		}
		all, missing = append(all, full...), append(missing, miss...)
		next = localPath(coll.Next)
		if more && (next != "" || len(all) >= maxMembers) {
			return all, append(missing, fmt.Sprintf("%s: only its first %d members were read", path, len(all))), nil
		}
	}
	return all, missing, nil
}

// expandMembers asks for a collection with its members in it (DSP0266 §7.3.1).
const expandMembers = "?$expand=.($levels=1)"

// collection reads one page; expanded where the service can, and as it is when
// that fails (FIELD-NOTES: $expand with a fallback).
func (d *redfishDriver) collection(ctx context.Context, path string, first bool, v any) error {
	if first && !d.refused.Load() && !strings.Contains(path, "?") {
		_, err := d.get(ctx, path+expandMembers, v)
		if err == nil || ctx.Err() != nil || statusOf(err) == http.StatusUnauthorized {
			return err
		}
		d.log.Debug("the BMC says that it expands, and does not", "path", path, "err", err)
		d.refused.Store(true)
	}
	_, err := d.get(ctx, path, v)
	return err
}

// resolve replaces references by what they name, in order. References into the
// same resource (with a fragment) are one request.
func (d *redfishDriver) resolve(ctx context.Context, rs refs) (all []json.RawMessage, missing []string, err error) {
	type page struct {
		body []byte
		err  error
	}
	pages := map[string]*page{}
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallelRequests)
	for _, r := range rs {
		path := r.path()
		if !r.bare() || pages[path] != nil || path == "" {
			continue
		}
		p := &page{}
		pages[path] = p
		slots <- struct{}{}
		if ctx.Err() != nil {
			<-slots
			p.err = ctx.Err()
			break
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			a, err := d.do(ctx, http.MethodGet, path, nil, nil)
			p.body, p.err = a.body, err
		}()
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	for _, r := range rs {
		if !r.bare() {
			all = append(all, r.raw)
			continue
		}
		p := pages[r.path()]
		if p == nil {
			continue // it leads nowhere
		}
		b, err := p.body, p.err
		if err == nil {
			b, err = named(b, r)
		}
		switch {
		case err == nil:
			all = append(all, b)
		case d.fatal(ctx, err):
			return nil, nil, err
		default:
			missing = append(missing, fmt.Sprintf("%s: %v", r.path(), d.t.explain(ctx, err)))
		}
	}
	return all, missing, nil
}

// named is the resource that r names: the answer, or what its fragment points to
// within it (RFC 6901). Where the resource does not say its own id, it is given
// the one that it was asked for by.
func named(b []byte, r ref) (json.RawMessage, error) {
	_, pointer, _ := strings.Cut(r.id, "#")
	if pointer, err := url.PathUnescape(pointer); err == nil && strings.HasPrefix(pointer, "/") {
		for _, step := range strings.Split(pointer[1:], "/") {
			step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
			var o map[string]json.RawMessage
			var list []json.RawMessage
			i, err := strconv.Atoi(step)
			switch {
			case json.Unmarshal(b, &o) == nil && o[step] != nil:
				b = o[step]
			case err == nil && i >= 0 && json.Unmarshal(b, &list) == nil && i < len(list):
				b = list[i]
			default:
				return nil, fmt.Errorf("it has no %s", pointer)
			}
		}
	}
	var is struct {
		ID text `json:"@odata.id"`
	}
	b = bytes.TrimSpace(b)
	if err := unmarshal(b, &is); err != nil {
		return nil, fmt.Errorf("reading %s: %w", r.path(), err)
	}
	if is.ID != "" || len(b) <= len("{}") {
		return b, nil
	}
	id, err := json.Marshal(r.id)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{b[:len(b)-1], []byte(`,"@odata.id":`), id, []byte("}")}, nil), nil
}

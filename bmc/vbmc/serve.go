package vbmc

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
)

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
	// A POST to Members is one to the collection (DSP0266 §7.9.2).
	if coll, ok := strings.CutSuffix(c.path, "/Members"); ok && r.Method == http.MethodPost {
		if res, _ := s.find(coll); res != nil && res.post != nil && res.get != nil {
			c.path = coll
		}
	}
	res, vars := s.find(c.path)
	c.vars = vars
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
	w.Header().Set("Allow", res.allow())
	if c.who.mustChange && !c.changesPassword() {
		return msgPasswordChange(accountsPath + "/" + c.who.accountID)
	}
	if v := r.Header.Get("OData-Version"); v != "" && v != "4.0" {
		return msgHeader("OData-Version")
	}
	if isGet {
		if err := s.mayRead(c, res); err != nil {
			return err
		}
	}
	switch {
	case isGet && res.raw != nil:
		ct, body := res.raw(c)
		w.Header().Set("Content-Type", ct)
		_, _ = io.WriteString(w, body)
		return nil
	case isGet && res.sse != nil:
		if !accepts(r, "text/event-stream") {
			return msgNotAcceptable(r.Header.Get("Accept"), "text/event-stream")
		}
		return res.sse(w, c)
	case isGet && res.monitor != nil:
		rep, err := res.monitor(c)
		if err != nil {
			return err
		}
		rep.write(w)
		return nil
	case isGet && res.get != nil:
		if !accepts(r, "application/json") {
			return msgNotAcceptable(r.Header.Get("Accept"), "application/json")
		}
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

// accepts tells whether the client takes the media type (RFC 9110 §12.5.1).
func accepts(r *http.Request, have string) bool {
	all := r.Header.Values("Accept")
	if len(all) == 0 {
		return true
	}
	for _, want := range strings.Split(strings.Join(all, ","), ",") {
		mt, params, err := mime.ParseMediaType(want)
		if err != nil || params["q"] == "0" {
			continue
		}
		kind, _, _ := strings.Cut(have, "/")
		if mt == have || mt == "*/*" || mt == kind+"/*" {
			return true
		}
	}
	return false
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
	if _, ok := body["@odata.id"]; ok { // /redfish and the service document are no resources
		body["@odata.etag"] = tag
	}
	if q.shapes() { // that is not the resource's representation, and has no tag
		if body, err = plain(body); err != nil {
			return err
		}
		if body, err = s.shape(c, body, q); err != nil {
			return err
		}
	} else {
		w.Header().Set("ETag", tag)
		if matchTag(c.r.Header.Get("If-None-Match"), tag) {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
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

package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// code is the first error code of an answer.
func (a answer) code() string {
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(a.body, &e) != nil || len(e.Errors) == 0 {
		return ""
	}
	return e.Errors[0].Code
}

func TestBadRequests(t *testing.T) {
	_, srv := newRegistry(t, openStore(t), Options{MaxBlob: 10_000})
	c := &conformance{T: t, base: srv.URL}
	conf := random(10)
	c.pushBlob("post+put", "a", canonical(conf), conf, true)
	image := func(change string) []byte {
		return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x/y","digest":%q,"size":10},"layers":[]%s}`, typeImage, canonical(conf), change)
	}
	deep := []byte(`{"schemaVersion":2,"x":` + strings.Repeat("[", 1_000_000) + strings.Repeat("]", 1_000_000) + "}")
	many := []byte(`{"schemaVersion":2,"mediaType":"` + typeIndex + `","manifests":[` + strings.TrimSuffix(strings.Repeat(`{"mediaType":"x","digest":"`+string(canonical(nil))+`","size":1},`, maxDescriptors+1), ",") + "]}")
	for _, tt := range []struct {
		name, method, path string
		body               []byte
		ctype              string
		status             int
		code               string
	}{
		{"no such endpoint", "GET", "/v2/a/none/x", nil, "", 404, "UNSUPPORTED"},
		{"no name", "GET", "/v2/tags/list", nil, "", 404, "UNSUPPORTED"},
		{"name with dots", "GET", "/v2/a/%2e%2e/b/tags/list", nil, "", 400, "NAME_INVALID"},
		{"name with a capital", "GET", "/v2/A/tags/list", nil, "", 400, "NAME_INVALID"},
		{"name with an encoded slash and dots", "PUT", "/v2/a%2f..%2f..%2fetc/manifests/1", image(""), typeImage, 400, "NAME_INVALID"},
		{"name with a null", "GET", "/v2/a%00/tags/list", nil, "", 400, "NAME_INVALID"},
		{"name that is our file", "GET", "/v2/a/_repo.json/tags/list", nil, "", 400, "NAME_INVALID"},
		{"name that is long", "GET", "/v2/" + strings.Repeat("a", 256) + "/tags/list", nil, "", 400, "NAME_INVALID"},
		{"digest of another algorithm", "GET", "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", nil, "", 400, "DIGEST_INVALID"},
		{"digest with dots", "GET", "/v2/a/blobs/sha256:" + strings.Repeat("../", 21) + "x", nil, "", 404, "UNSUPPORTED"},
		{"digest in capitals", "GET", "/v2/a/blobs/sha256:" + strings.Repeat("A", 64), nil, "", 400, "DIGEST_INVALID"},
		{"tag with a slash", "PUT", "/v2/a/manifests/x%2fy", image(""), typeImage, 404, "UNSUPPORTED"},
		{"tag that is long", "PUT", "/v2/a/manifests/" + strings.Repeat("x", 129), image(""), typeImage, 400, "TAG_INVALID"},
		{"method", "PATCH", "/v2/a/manifests/1", image(""), typeImage, 405, "UNSUPPORTED"},
		{"page that is no number", "GET", "/v2/_catalog?n=many", nil, "", 400, "PAGINATION_NUMBER_INVALID"},
		{"page that is negative", "GET", "/v2/_catalog?n=-1", nil, "", 400, "PAGINATION_NUMBER_INVALID"},
		{"manifest of nothing", "PUT", "/v2/a/manifests/1", []byte{}, typeImage, 400, "MANIFEST_INVALID"},
		{"manifest that is a list", "PUT", "/v2/a/manifests/1", []byte("[]"), typeImage, 400, "MANIFEST_INVALID"},
		{"manifest with an end behind its end", "PUT", "/v2/a/manifests/1", append(image(""), "{}"...), typeImage, 400, "MANIFEST_INVALID"},
		{"manifest of schema 1", "PUT", "/v2/a/manifests/1", []byte(`{"schemaVersion":1}`), "application/vnd.docker.distribution.manifest.v1+json", 400, "MANIFEST_INVALID"},
		{"manifest of another type than sent", "PUT", "/v2/a/manifests/1", image(""), typeIndex, 400, "MANIFEST_INVALID"},
		{"manifest that is two things", "PUT", "/v2/a/manifests/1", image(`,"manifests":[]`), typeImage, 400, "MANIFEST_INVALID"},
		{"manifest with a wrong size", "PUT", "/v2/a/manifests/1", bytes.Replace(image(""), []byte(`"size":10`), []byte(`"size":11`), 1), typeImage, 400, "MANIFEST_INVALID"},
		{"manifest with a negative size", "PUT", "/v2/a/manifests/1", bytes.Replace(image(""), []byte(`"size":10`), []byte(`"size":-1`), 1), typeImage, 400, "MANIFEST_INVALID"},
		{"manifest with an unknown blob", "PUT", "/v2/a/manifests/1", bytes.Replace(image(""), []byte(canonical(conf)), []byte(canonical(nil)), 1), typeImage, 400, "MANIFEST_BLOB_UNKNOWN"},
		{"manifest whose blob is another repository's", "PUT", "/v2/b/manifests/1", image(""), typeImage, 400, "MANIFEST_BLOB_UNKNOWN"},
		{"manifest with a subject that is no digest", "PUT", "/v2/a/manifests/1", image(`,"subject":{"mediaType":"x","digest":"sha256:../../x","size":1}`), typeImage, 400, "MANIFEST_INVALID"},
		{"manifest that is deep", "PUT", "/v2/a/manifests/1", deep, typeImage, 400, "MANIFEST_INVALID"},
		{"manifest of many", "PUT", "/v2/a/manifests/1", many, typeIndex, 400, "MANIFEST_INVALID"},
		{"manifest that is large", "PUT", "/v2/a/manifests/1", bytes.Repeat([]byte(" "), maxManifest+1), typeImage, 413, "SIZE_INVALID"},
		{"blob that is large", "POST", "/v2/a/blobs/uploads/?digest=" + string(canonical(nil)), random(10_001), octets, 413, "SIZE_INVALID"},
		{"upload that is none", "PATCH", "/v2/a/blobs/uploads/00000000000000000000000000000000", random(10), octets, 404, "BLOB_UPLOAD_UNKNOWN"},
		{"mount of no digest", "POST", "/v2/a/blobs/uploads/?mount=x&from=b", nil, "", 400, "DIGEST_INVALID"},
		{"mount from no name", "POST", "/v2/a/blobs/uploads/?mount=" + string(canonical(conf)) + "&from=../b", nil, "", 400, "NAME_INVALID"},
		{"referrers of no digest", "GET", "/v2/a/referrers/1", nil, "", 400, "DIGEST_INVALID"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &conformance{T: t, base: srv.URL}
			a := c.do(tt.method, tt.path, tt.body, "Content-Type", tt.ctype)
			if a.StatusCode != tt.status || a.code() != tt.code {
				t.Errorf("%s %.100s = %s %s; want %d %s", tt.method, tt.path, a.Status, a.body, tt.status, tt.code)
			}
		})
	}
	// chunks
	for _, tt := range []struct {
		name, rng string
		n         int
		status    int
	}{
		{"no range", "x", 10, 400}, {"backwards", "5-1", 10, 400}, {"negative", "-1-8", 10, 400}, {"overflow", "0-99999999999999999999", 10, 400},
		{"shorter than said", "0-19", 10, 400}, {"longer than said", "0-4", 10, 400}, {"not the next", "1-10", 10, 416},
	} {
		at := c.location(c.do("POST", "/v2/a/blobs/uploads/", nil))
		if a := c.do("PATCH", at, random(tt.n), "Content-Range", tt.rng); a.StatusCode != tt.status {
			t.Errorf("%s: PATCH with Content-Range %q = %s; want %d", tt.name, tt.rng, a.Status, tt.status)
		}
		c.status(c.do("DELETE", at, nil), 204)
	}
	// An upload is of one repository.
	at := c.location(c.do("POST", "/v2/a/blobs/uploads/", nil))
	c.status(c.do("GET", strings.Replace(at, "/v2/a/", "/v2/b/", 1), nil), 404)
	c.status(c.do("GET", at, nil), 204)
}

func TestUploadsWithoutEnd(t *testing.T) {
	s := openStore(t)
	now := time.Now()
	g, srv := newRegistry(t, s, Options{Now: func() time.Time { return now }})
	c := &conformance{T: t, base: srv.URL}
	for range maxUploads {
		if _, err := g.newUpload("a"); err != nil {
			t.Fatal(err)
		}
	}
	if a := c.do("POST", "/v2/a/blobs/uploads/", nil); a.StatusCode != http.StatusTooManyRequests {
		t.Errorf("upload %d = %s; want 429", maxUploads+1, a.Status)
	}
	now = now.Add(uploadIdle + time.Second)
	c.status(c.do("POST", "/v2/a/blobs/uploads/", nil), 202)
	if n := tmpFiles(t, s); n != 1 {
		t.Errorf("%d files of uploads are left; want the new one", n)
	}
}

func tmpFiles(t testing.TB, s *airgap.Store) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Blobs().Dir(), "tmp", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// TestUploadGoesOn cuts a request in the middle and goes on where it was.
func TestUploadGoesOn(t *testing.T) {
	_, srv := newRegistry(t, openStore(t), Options{})
	c := &conformance{T: t, base: srv.URL}
	b := random(1 << 20)
	d := canonical(b)
	at := c.location(c.do("POST", "/v2/a/blobs/uploads/", nil))
	r, w := io.Pipe()
	go func() {
		_, _ = w.Write(b[:300_000])
		w.CloseWithError(errors.New("the cable was pulled"))
	}()
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), "PATCH", at, r))
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Fatal("a request that was cut succeeds")
	}
	var a answer
	for deadline := time.Now().Add(10 * time.Second); ; { // until the server has noticed
		if a = c.do("GET", at, nil); a.StatusCode == 204 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("GET of the upload = %s %s; want 204", a.Status, a.body)
		}
	}
	first, last, err := parseChunk(a.Header.Get("Range"))
	if err != nil || first != 0 || last+1 > 300_000 {
		t.Fatalf("Range = %q; want at most what was sent", a.Header.Get("Range"))
	}
	if last == 0 {
		last = -1
	}
	a = c.do("PATCH", c.location(a), b[last+1:], "Content-Range", fmt.Sprintf("%d-%d", last+1, len(b)-1))
	c.status(a, 202)
	c.status(c.do("PUT", c.location(a, "digest", string(d)), nil), 201)
	c.blobThere("a", d, b)
}

// TestUploadThatStalls gives up on a client that sends nothing more.
func TestUploadThatStalls(t *testing.T) {
	g, srv := newRegistry(t, openStore(t), Options{})
	g.stall = 100 * time.Millisecond
	c := &conformance{T: t, base: srv.URL}
	at := c.location(c.do("POST", "/v2/a/blobs/uploads/", nil))
	conn := must[net.Conn](t)((&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(srv.URL, "http://")))
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhello", strings.TrimPrefix(at, srv.URL)); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 408") {
		t.Errorf("answer to a stalled upload = %s, %v; want 408 and the end", got, err)
	}
	a := c.do("GET", at, nil)
	c.status(a, 204)
	c.header(a, "Range", "0-4")
}

// TestConcurrentPushes pushes to one repository from many at once.
func TestConcurrentPushes(t *testing.T) {
	s := openStore(t)
	_, srv := newRegistry(t, s, Options{})
	var wg sync.WaitGroup
	const n = 16
	same := random(5000)
	for i := range n {
		wg.Go(func() {
			c := &conformance{T: t, base: srv.URL}
			b := random(1000)
			c.pushBlob("stream", "a/b", canonical(b), b, true)
			c.pushBlob("post only", "a/b", canonical(same), same, true)
			m := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x/y","digest":%q,"size":%d},"layers":[{"mediaType":"x/y","digest":%q,"size":%d}]}`, typeImage, canonical(b), len(b), canonical(same), len(same))
			c.status(c.do("PUT", fmt.Sprintf("/v2/a/b/manifests/t%d", i), m, "Content-Type", typeImage), 201)
			if _, err := s.Collect(t.Context(), 1, false); err != nil && !errors.Is(err, airgap.ErrBusy) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c := &conformance{T: t, base: srv.URL}
	var tags struct{ Tags []string }
	if err := json.Unmarshal(c.do("GET", "/v2/a/b/tags/list", nil).body, &tags); err != nil || len(tags.Tags) != n {
		t.Errorf("tags = %v, %v; want %d", tags.Tags, err, n)
	}
	for _, tag := range tags.Tags {
		m := must[manifest](t)(parseManifest(c.do("GET", "/v2/a/b/manifests/"+tag, nil).body, ""))
		for _, b := range m.blobs() {
			c.status(c.do("GET", "/v2/a/b/blobs/"+string(b.Digest), nil), 200)
		}
	}
}

func TestDamagedBlobIsNotServed(t *testing.T) {
	s := openStore(t)
	_, srv := newRegistry(t, s, Options{})
	c := &conformance{T: t, base: srv.URL}
	b := random(100_000)
	d := canonical(b)
	c.pushBlob("post+put", "a", d, b, true)
	path := s.Blobs().Path(blob.Digest(d))
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	b[70_000] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	resp := must[*http.Response](t)(http.Get(srv.URL + "/v2/a/blobs/" + string(d)))
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("GET of a damaged blob = %d bytes; want a cut connection", len(got))
	}
	// Pushing it again mends it.
	b[70_000] ^= 1
	c.pushBlob("stream", "a", d, b, true)
	c.blobThere("a", d, b)
}

// TestRestart finds everything again after a server that did not end well.
func TestRestart(t *testing.T) {
	s := openStore(t)
	opts := Options{Push: &Pushers{Anyone: true}}
	g := must[*Registry](t)(OpenRegistry(s, opts))
	srv := httptest.NewServer(g)
	c := &conformance{T: t, base: srv.URL}
	sm := newSample("x")
	sm.image("one", 2, nil)
	for d, b := range sm.blobs {
		c.pushBlob("stream", "x/y", d, b, true)
	}
	c.status(c.do("PUT", "/v2/x/y/manifests/one", sm.manifests[0], "Content-Type", typeImage), 201)
	at := c.location(c.do("POST", "/v2/x/y/blobs/uploads/", nil))
	c.status(c.do("PATCH", at, random(1000)), 202)
	// a second server on the same store takes nothing
	second := must[*Registry](t)(OpenRegistry(s, opts))
	srv2 := httptest.NewServer(second)
	c2 := &conformance{T: t, base: srv2.URL}
	c2.status(c2.do("POST", "/v2/x/y/blobs/uploads/", nil), 503)
	c2.status(c2.do("GET", "/v2/x/y/manifests/one", nil), 200)
	srv2.Close()
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	srv.Close()
	// what a killed server leaves
	repoDir := filepath.Join(s.OwnDir(), "registry", "repos", "x", "y")
	if err := os.WriteFile(filepath.Join(repoDir, ".tmp-1"), []byte(`{"repo":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	_, srv3 := newRegistry(t, s, opts)
	c3 := &conformance{T: t, base: srv3.URL}
	c3.status(c3.do("GET", "/v2/x/y/manifests/one", nil), 200)
	for d, b := range sm.blobs {
		c3.blobThere("x/y", d, b)
	}
	c3.status(c3.do("PATCH", "/v2/x/y/blobs/uploads/"+filepath.Base(at), random(10)), 404)
	if left, err := os.ReadDir(repoDir); err != nil || len(left) != 1 {
		t.Errorf("files of the repository = %v, %v; want one", left, err)
	}
}

func TestPushing(t *testing.T) {
	s := openStore(t)
	now := time.Now()
	_, srv := newRegistry(t, s, Options{Push: &Pushers{Users: map[string]string{"ci": "right"}}, Now: func() time.Time { return now }})
	c := &conformance{T: t, base: srv.URL}
	a := c.do("GET", "/v2/", nil)
	c.status(a, 401)
	c.check(strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer realm="), "challenge = %q", a.Header.Get("WWW-Authenticate"))
	token := func(user, password string) (answer, string) {
		req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/v2/token?service=fettle", nil))
		if user != "" {
			req.SetBasicAuth(user, password)
		}
		resp := must[*http.Response](t)(http.DefaultClient.Do(req))
		defer resp.Body.Close()
		b := must[[]byte](t)(io.ReadAll(resp.Body))
		var out struct{ Token string }
		_ = json.Unmarshal(b, &out)
		return answer{resp, b}, out.Token
	}
	_, pull := token("", "")
	_, push := token("ci", "right")
	wrong, _ := token("ci", "wrong")
	c.status(wrong, 401)
	unknown, _ := token("cj", "")
	c.status(unknown, 401)
	for _, tt := range []struct {
		name, auth string
		ping, post int
	}{
		{"nothing", "", 401, 401},
		{"a token for pulling", "Bearer " + pull, 200, 401},
		{"a token for pushing", "Bearer " + push, 200, 202},
		{"a password", "Basic Y2k6cmlnaHQ=", 200, 202},
		{"a wrong password", "Basic Y2k6d3Jvbmc=", 401, 401},
		{"a token that was changed", "Bearer x" + push, 401, 401},
		{"a token of nobody", "Bearer a.b.c", 401, 401},
		{"no token", "Bearer ", 401, 401},
	} {
		if a := c.do("GET", "/v2/", nil, "Authorization", tt.auth); a.StatusCode != tt.ping {
			t.Errorf("%s: GET /v2/ = %s; want %d", tt.name, a.Status, tt.ping)
		}
		if a := c.do("POST", "/v2/a/blobs/uploads/", nil, "Authorization", tt.auth); a.StatusCode != tt.post {
			t.Errorf("%s: POST = %s; want %d", tt.name, a.Status, tt.post)
		}
	}
	now = now.Add(tokenLife + time.Second)
	if a := c.do("POST", "/v2/a/blobs/uploads/", nil, "Authorization", "Bearer "+push); a.StatusCode != 401 {
		t.Errorf("POST with an old token = %s; want 401", a.Status)
	}
	// Passwords do not cross a network in the clear.
	g := must[*Registry](t)(OpenRegistry(openStore(t), Options{Push: &Pushers{Users: map[string]string{"ci": "right"}}}))
	defer g.Close()
	rec := httptest.NewRecorder()
	req := httptest.NewRequest("POST", "/v2/a/blobs/uploads/", nil)
	req.SetBasicAuth("ci", "right")
	g.ServeHTTP(rec, req) // from 192.0.2.1
	if rec.Code != http.StatusForbidden {
		t.Errorf("POST over plain HTTP from another machine = %d; want 403", rec.Code)
	}
	// A registry that takes nothing asks for nothing.
	g2 := must[*Registry](t)(OpenRegistry(openStore(t), Options{}))
	defer g2.Close()
	for path, want := range map[string]int{"/v2/": 200, "/v2/token": 404} {
		rec := httptest.NewRecorder()
		g2.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if rec.Code != want {
			t.Errorf("GET %s of a registry without pushing = %d; want %d", path, rec.Code, want)
		}
	}
	rec = httptest.NewRecorder()
	g2.ServeHTTP(rec, httptest.NewRequest("POST", "/v2/a/blobs/uploads/", nil))
	if rec.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST to a registry without pushing = %d; want 405", rec.Code)
	}
}

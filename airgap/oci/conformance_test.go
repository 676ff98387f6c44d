package oci

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// The checks of distribution-spec's conformance suite (1.1 and what its
// successor adds), in the same steps: every way to push a blob with both
// digest algorithms, ranges, then each kind of image pushed, listed, asked
// for, pulled, referred to and deleted.

// conformance counts checks.
type conformance struct {
	*testing.T
	base          string
	checks, fails int
}

func (c *conformance) check(ok bool, format string, args ...any) bool {
	c.Helper()
	c.checks++
	if !ok {
		c.fails++
		c.Errorf(format, args...)
	}
	return ok
}

type answer struct {
	*http.Response
	body []byte
}

// do sends a body whose length is known, stream one that ends when it ends.
func (c *conformance) do(method, addr string, body []byte, header ...string) answer {
	c.Helper()
	var rd io.Reader
	if body != nil {
		rd = bytes.NewReader(body)
	}
	return c.send(method, addr, rd, header...)
}

func (c *conformance) stream(method, addr string, body []byte, header ...string) answer {
	c.Helper()
	return c.send(method, addr, io.NopCloser(bytes.NewReader(body)), header...)
}

func (c *conformance) send(method, addr string, rd io.Reader, header ...string) answer {
	c.Helper()
	if strings.HasPrefix(addr, "/") {
		addr = c.base + addr
	}
	req, err := http.NewRequestWithContext(c.Context(), method, addr, rd)
	if err != nil {
		c.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		c.Fatalf("%s %s: %v", method, addr, err)
	}
	return answer{resp, got}
}

// status checks a status.
func (c *conformance) status(a answer, want ...int) bool {
	c.Helper()
	return c.check(slices.Contains(want, a.StatusCode), "%s %s = %s %.300s; want %v", a.Request.Method, a.Request.URL, a.Status, a.body, want)
}

func (c *conformance) header(a answer, key, want string) bool {
	c.Helper()
	return c.check(a.Header.Get(key) == want, "%s %s: %s = %q; want %q", a.Request.Method, a.Request.URL, key, a.Header.Get(key), want)
}

// location is where an answer says to go on.
func (c *conformance) location(a answer, query ...string) string {
	c.Helper()
	u, err := a.Request.URL.Parse(a.Header.Get("Location"))
	if !c.check(err == nil && a.Header.Get("Location") != "", "%s %s: Location = %q", a.Request.Method, a.Request.URL, a.Header.Get("Location")) {
		c.FailNow()
	}
	q := u.Query()
	for i := 0; i+1 < len(query); i += 2 {
		q.Set(query[i], query[i+1])
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// digestOf names b by an algorithm.
func digestOf(algo string, b []byte) Digest {
	d := Digest(algo + ":")
	h := d.hasher()
	h.Write(b)
	return Digest(fmt.Sprintf("%s%x", d, h.Sum(nil)))
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

const octets = "application/octet-stream"

// blobThere checks a blob that is there, as HEAD and GET.
func (c *conformance) blobThere(name string, d Digest, b []byte) {
	c.Helper()
	for _, m := range []string{"HEAD", "GET"} {
		a := c.do(m, "/v2/"+name+"/blobs/"+string(d), nil)
		c.status(a, 200)
		c.header(a, "Content-Length", strconv.Itoa(len(b)))
		c.header(a, "Docker-Content-Digest", string(d))
		if m == "GET" {
			c.check(bytes.Equal(a.body, b), "GET of blob %s = %d other bytes; want %d", d.short(), len(a.body), len(b))
		}
	}
}

func (c *conformance) deleteBlob(name string, d Digest, want ...int) {
	c.Helper()
	at := "/v2/" + name + "/blobs/" + string(d)
	c.status(c.do("DELETE", at, nil), append(want, 202)...)
	c.status(c.do("HEAD", at, nil), 404)
}

// pushBlob pushes in one of the ways. good is false when b has another digest.
func (c *conformance) pushBlob(way, name string, d Digest, b []byte, good bool) {
	c.Helper()
	end := 201
	if !good {
		end = 400
	}
	uploads := "/v2/" + name + "/blobs/uploads/"
	var a answer
	if way == "post only" {
		a = c.do("POST", uploads+"?digest="+url.QueryEscape(string(d)), b, "Content-Type", octets)
	} else {
		a = c.do("POST", uploads, nil)
		c.status(a, 202)
	}
	switch way {
	case "post+put":
		a = c.do("PUT", c.location(a, "digest", string(d)), b, "Content-Type", octets)
	case "stream":
		a = c.stream("PATCH", c.location(a), b, "Content-Type", octets)
		c.status(a, 202)
		a = c.do("PUT", c.location(a, "digest", string(d)), nil)
	case "chunked", "chunked, the last by put", "chunked out of order", "chunked out of order, the last by put":
		size := len(b)/3 + 1
		for at := 0; at < len(b); at += size {
			to := min(at+size, len(b))
			put := strings.Contains(way, "put") && to == len(b)
			if strings.Contains(way, "order") {
				bad := at + size
				if bad >= len(b) {
					bad = 0
				}
				until := min(bad+size, len(b))
				method, addr := "PATCH", c.location(a)
				if strings.Contains(way, "put") && until == len(b) {
					method, addr = "PUT", c.location(a, "digest", string(d))
				}
				x := c.do(method, addr, b[bad:until], "Content-Type", octets, "Content-Range", fmt.Sprintf("%d-%d", bad, until-1))
				c.status(x, 416)
				a = c.do("GET", addr, nil)
				c.status(a, 204)
				c.header(a, "Range", fmt.Sprintf("0-%d", max(0, at-1)))
			}
			method, addr, want := "PATCH", c.location(a), 202
			if put {
				method, addr, want = "PUT", c.location(a, "digest", string(d)), end
			}
			a = c.do(method, addr, b[at:to], "Content-Type", octets, "Content-Range", fmt.Sprintf("%d-%d", at, to-1))
			c.status(a, want)
		}
		if !strings.Contains(way, "put") {
			a = c.do("PUT", c.location(a, "digest", string(d)), nil, "Content-Type", octets)
		}
	}
	if c.status(a, end) && good {
		c.header(a, "Docker-Content-Digest", string(d))
		x := c.do("GET", c.location(a), nil)
		c.status(x, 200)
		c.check(bytes.Equal(x.body, b), "GET of the Location after %s = %d other bytes", way, len(x.body))
	}
}

func (c *conformance) blobs(algo, name, other string) {
	b := random(512)
	c.status(c.do("GET", "/v2/"+name+"/blobs/"+string(digestOf(algo, b)), nil), 404)
	for _, way := range []string{"post only", "post+put", "stream", "chunked", "chunked, the last by put", "chunked out of order", "chunked out of order, the last by put"} {
		b := random(3*1024 - 5)
		d := digestOf(algo, b)
		c.pushBlob(way, name, d, b, true)
		c.blobThere(name, d, b)
		c.deleteBlob(name, d)
		c.pushBlob(way, name, d, append(b, "oh no"...), false)
		c.status(c.do("HEAD", "/v2/"+name+"/blobs/"+string(d), nil), 404)
	}
	// mounting
	for _, from := range []string{other, ""} {
		b := random(512)
		d := digestOf(algo, b)
		c.pushBlob("post+put", other, d, b, true)
		q := url.Values{"mount": {string(d)}}
		if from != "" {
			q.Set("from", from)
		}
		a := c.do("POST", "/v2/"+name+"/blobs/uploads/?"+q.Encode(), nil)
		c.status(a, 201)
		c.header(a, "Docker-Content-Digest", string(d))
		c.location(a)
		c.blobThere(name, d, b)
		c.deleteBlob(name, d)
		c.blobThere(other, d, b)
		c.deleteBlob(other, d)
	}
	missing := random(512)
	d := digestOf(algo, missing)
	a := c.do("POST", "/v2/"+name+"/blobs/uploads/?mount="+string(d)+"&from="+other, nil)
	c.status(a, 202)
	c.status(c.do("PUT", c.location(a, "digest", string(d)), missing), 201)
	c.blobThere(name, d, missing)
	c.deleteBlob(name, d)
	// cancelling
	at := c.location(c.do("POST", "/v2/"+name+"/blobs/uploads/", nil))
	c.status(c.do("DELETE", at, nil), 204)
	c.status(c.do("GET", at, nil), 404)
	// ranges
	b = random(2048)
	d = digestOf(algo, b)
	c.pushBlob("post only", name, d, b, true)
	for _, tt := range []struct {
		rng        string
		from, to   int
		wantStatus int
	}{
		{"bytes=500-1499", 500, 1500, 206}, {"bytes=500-", 500, 2048, 206}, {"bytes=-500", 1548, 2048, 206},
		{"bytes=2000-5000", 2000, 2048, 206}, {"bytes=500-0", 0, 0, 416}, {"bytes=5000-10000", 0, 0, 416},
	} {
		a := c.do("GET", "/v2/"+name+"/blobs/"+string(d), nil, "Range", tt.rng)
		if c.status(a, tt.wantStatus) && tt.wantStatus == 206 {
			c.header(a, "Content-Length", strconv.Itoa(tt.to-tt.from))
			c.header(a, "Content-Range", fmt.Sprintf("bytes %d-%d/2048", tt.from, tt.to-1))
			c.check(bytes.Equal(a.body, b[tt.from:tt.to]), "GET with %s = %d other bytes", tt.rng, len(a.body))
		}
	}
	c.deleteBlob(name, d)
	for _, b := range [][]byte{{}, []byte("{}")} {
		d := digestOf(algo, b)
		c.pushBlob("post+put", name, d, b, true)
		c.blobThere(name, d, b)
		c.deleteBlob(name, d)
	}
}

// sample is one kind of image: blobs, manifests in the order of pushing, tags.
type sample struct {
	name      string
	algo      string
	blobs     map[Digest][]byte
	manifests [][]byte
	tags      map[string]Digest
	referrers map[Digest][]descriptor
	tagParam  bool
}

func newSample(name string) *sample {
	return &sample{name: name, algo: "sha256", blobs: map[Digest][]byte{}, tags: map[string]Digest{}, referrers: map[Digest][]descriptor{}}
}

func (s *sample) blob(mediaType string, b []byte) map[string]any {
	d := digestOf(s.algo, b)
	s.blobs[d] = b
	return map[string]any{"mediaType": mediaType, "digest": d, "size": len(b)}
}

// put adds a manifest; its fields are completed.
func (s *sample) put(m map[string]any, mediaType string, tag string) map[string]any {
	m["schemaVersion"], m["mediaType"] = 2, mediaType
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	d := digestOf(s.algo, b)
	s.manifests = append(s.manifests, b)
	if tag != "" {
		s.tags[tag] = d
	}
	if sub, ok := m["subject"].(map[string]any); ok {
		at, _ := m["artifactType"].(string)
		if conf, ok := m["config"].(map[string]any); ok && at == "" {
			at = conf["mediaType"].(string)
		}
		ann, _ := m["annotations"].(map[string]string)
		s.referrers[sub["digest"].(Digest)] = append(s.referrers[sub["digest"].(Digest)],
			descriptor{MediaType: mediaType, ArtifactType: at, Digest: d, Size: int64(len(b)), Annotations: ann})
	}
	return map[string]any{"mediaType": mediaType, "digest": d, "size": len(b)}
}

// image adds an image with some layers.
func (s *sample) image(tag string, layers int, more map[string]any) map[string]any {
	m := map[string]any{"config": s.blob(typeConfig, fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","x":"%x"}`, random(8)))}
	list := []any{}
	for range layers {
		list = append(list, s.blob("application/vnd.oci.image.layer.v1.tar+gzip", random(300)))
	}
	m["layers"] = list
	maps.Copy(m, more)
	return s.put(m, typeImage, tag)
}

// artifact adds something that is no image.
func (s *sample) artifact(tag, kind string, layer []byte, more map[string]any) map[string]any {
	m := map[string]any{"artifactType": kind, "config": s.blob("application/vnd.oci.empty.v1+json", []byte("{}")),
		"layers": []any{s.blob(kind, layer)}, "annotations": map[string]string{"org.opencontainers.conformance": "hello", "org.example.x": fmt.Sprintf("%x", random(4))}}
	maps.Copy(m, more)
	return s.put(m, typeImage, tag)
}

func (s *sample) index(tag string, children []any, more map[string]any) map[string]any {
	m := map[string]any{"manifests": children}
	maps.Copy(m, more)
	return s.put(m, typeIndex, tag)
}

func (s *sample) twoPlatforms(tag string, more map[string]any) map[string]any {
	var children []any
	for _, arch := range []string{"amd64", "arm64"} {
		d := s.image("", 2, nil)
		d["platform"] = map[string]any{"os": "linux", "architecture": arch}
		children = append(children, d)
	}
	return s.index(tag, children, more)
}

const kind1, kind2 = "application/vnd.example.oci.conformance.v1", "application/vnd.example.oci.conformance.v2"

func samples() []*sample {
	var out []*sample
	add := func(name string, fill func(s *sample)) {
		s := newSample(name)
		fill(s)
		out = append(out, s)
	}
	add("image", func(s *sample) { s.image("image", 2, nil) })
	add("large manifest", func(s *sample) {
		ann := map[string]string{}
		for i := range 390 {
			ann[fmt.Sprintf("large-annotation-%d", i)] = strings.Repeat("A", 10_000)
		}
		s.image("large", 2, map[string]any{"annotations": ann})
	})
	add("index", func(s *sample) { s.twoPlatforms("index", nil) })
	add("nested index", func(s *sample) {
		s.index("nested", []any{s.twoPlatforms("", nil), s.twoPlatforms("", nil)}, nil)
	})
	add("empty index", func(s *sample) { s.index("index", []any{}, nil) })
	add("artifact", func(s *sample) { s.artifact("artifact", kind1, random(512), nil) })
	add("index of artifacts", func(s *sample) {
		s.index("artifacts", []any{s.artifact("", kind1, random(512), nil), s.artifact("", kind1, random(512), nil)}, map[string]any{"artifactType": kind1})
	})
	add("artifact without layers", func(s *sample) { s.artifact("artifact", "application/vnd.oci.empty.v1+json", []byte("{}"), nil) })
	add("subject", func(s *sample) {
		sub := s.image("image", 2, nil)
		s.image("", 2, map[string]any{"subject": sub})
		s.artifact("artifact1", kind1, random(512), map[string]any{"subject": sub})
		s.artifact("artifact2", kind2, random(512), map[string]any{"subject": sub})
	})
	add("index with subject", func(s *sample) {
		sub := s.twoPlatforms("index", nil)
		s.twoPlatforms("artifact", map[string]any{"subject": sub, "artifactType": kind1, "annotations": map[string]string{"a": "b"}})
	})
	add("missing subject", func(s *sample) {
		s.artifact("artifact", kind1, random(512), map[string]any{"subject": map[string]any{"mediaType": typeImage, "size": 123, "digest": digestOf("sha256", []byte("missing content"))}})
	})
	add("data field", func(s *sample) {
		b := []byte(`{"os":"linux"}`)
		conf := s.blob(typeConfig, b)
		conf["data"] = b
		s.put(map[string]any{"config": conf, "layers": []any{}}, typeImage, "data")
	})
	add("layers that are elsewhere", func(s *sample) {
		b := random(256)
		d := digestOf("sha256", b)
		s.image("elsewhere", 1, map[string]any{"layers": []any{map[string]any{"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "digest": d, "size": 123456,
			"urls": []string{"https://store.example.com/blobs/" + string(d)}}, s.blob("application/vnd.oci.image.layer.v1.tar+gzip", random(99))}})
	})
	add("custom fields", func(s *sample) {
		s.index("custom", []any{s.image("", 2, map[string]any{"org.example.x": "y"})}, map[string]any{"org.example.z": 1})
	})
	add("no layers", func(s *sample) { s.image("no-layers", 0, nil) })
	add("sparse", func(s *sample) {
		s.image("sparse", 2, nil)
		for d := range s.blobs {
			delete(s.blobs, d)
			break
		}
		d := s.image("", 2, nil)
		s.index("sparse-index", []any{d, map[string]any{"mediaType": typeImage, "digest": digestOf("sha256", random(9)), "size": 1024}}, nil)
	})
	add("sha512", func(s *sample) { s.algo = "sha512"; s.twoPlatforms("", nil) })
	for _, algo := range []string{"sha256", "sha512"} {
		add("tags beside the digest, "+algo, func(s *sample) {
			s.algo, s.tagParam = algo, true
			s.twoPlatforms("param-"+algo, nil)
			for i, b := range s.manifests {
				s.tags[fmt.Sprintf("param-%s-%d", algo, i)] = digestOf(algo, b)
			}
		})
	}
	return out
}

func (c *conformance) manifestThere(name, ref string, d Digest, b []byte, mediaType string) {
	c.Helper()
	for _, m := range []string{"HEAD", "GET"} {
		a := c.do(m, "/v2/"+name+"/manifests/"+ref, nil, "Accept", typeIndex, "Accept", typeImage)
		c.status(a, 200)
		c.header(a, "Content-Type", mediaType)
		c.header(a, "Content-Length", strconv.Itoa(len(b)))
		c.header(a, "Docker-Content-Digest", string(d))
		if m == "GET" {
			c.check(bytes.Equal(a.body, b), "GET of manifest %s = %d other bytes", ref, len(a.body))
		}
	}
}

// typeOf and subjectOf read what the client knows of a manifest.
func typeOf(b []byte) (mediaType string, subject Digest) {
	var m manifest
	_ = json.Unmarshal(b, &m)
	if m.Subject != nil {
		subject = m.Subject.Digest
	}
	return m.MediaType, subject
}

func (c *conformance) sample(s *sample, name string) {
	ways := []string{"post+put", "post only", "stream", "chunked"}
	for i, d := range slices.Sorted(maps.Keys(s.blobs)) {
		c.pushBlob(ways[i%len(ways)], name, d, s.blobs[d], true)
	}
	put := func(ref string, b []byte, tags []string) {
		mt, sub := typeOf(b)
		q := url.Values{"tag": tags}
		addr := "/v2/" + name + "/manifests/" + ref
		if len(tags) > 0 {
			addr += "?" + q.Encode()
		}
		send := c.do
		if len(tags) == 0 {
			send = c.stream
		}
		a := send("PUT", addr, b, "Content-Type", mt)
		if !c.status(a, 201) {
			return
		}
		d := digestOf(s.algo, b)
		c.header(a, "Docker-Content-Digest", string(d))
		if sub != "" {
			c.header(a, "OCI-Subject", string(sub))
		}
		c.check(slices.Equal(a.Header.Values("OCI-Tag"), tags), "OCI-Tag = %v; want %v", a.Header.Values("OCI-Tag"), tags)
		x := c.do("GET", c.location(a), nil)
		c.status(x, 200)
		c.header(x, "Content-Type", mt)
		c.check(bytes.Equal(x.body, b), "GET of the manifest's Location = %d other bytes", len(x.body))
	}
	byDigest := map[Digest][]byte{}
	for _, b := range s.manifests {
		d := digestOf(s.algo, b)
		byDigest[d] = b
		var tags []string
		for _, t := range slices.Sorted(maps.Keys(s.tags)) {
			if s.tagParam && s.tags[t] == d {
				tags = append(tags, t)
			}
		}
		put(string(d), b, tags)
	}
	for _, t := range slices.Sorted(maps.Keys(s.tags)) {
		if !s.tagParam {
			put(t, byDigest[s.tags[t]], nil)
		}
	}
	c.tagList(s, name)
	for t, d := range s.tags {
		mt, _ := typeOf(byDigest[d])
		c.manifestThere(name, t, d, byDigest[d], mt)
	}
	for d, b := range byDigest {
		mt, _ := typeOf(b)
		c.manifestThere(name, string(d), d, b, mt)
	}
	for d, b := range s.blobs {
		c.blobThere(name, d, b)
	}
	c.referrers(s, name)
	for t := range s.tags {
		at := "/v2/" + name + "/manifests/" + t
		c.status(c.do("DELETE", at, nil), 202)
		c.status(c.do("HEAD", at, nil), 404)
	}
	for _, b := range slices.Backward(s.manifests) {
		at := "/v2/" + name + "/manifests/" + string(digestOf(s.algo, b))
		c.status(c.do("DELETE", at, nil), 202)
		c.status(c.do("HEAD", at, nil), 404)
	}
	for d := range s.blobs {
		c.deleteBlob(name, d)
	}
}

func (c *conformance) tagList(s *sample, name string) {
	list := func(query string) []string {
		a := c.do("GET", "/v2/"+name+"/tags/list"+query, nil)
		var out struct {
			Name string
			Tags []string
		}
		c.status(a, 200)
		err := json.Unmarshal(a.body, &out)
		c.check(err == nil && out.Name == name && out.Tags != nil, "tags/list%s = %s, %v", query, a.body, err)
		return out.Tags
	}
	want := slices.SortedFunc(maps.Keys(s.tags), compareNames)
	if want == nil {
		want = []string{}
	}
	c.check(slices.Equal(list(""), want), "tags = %v; want %v", list(""), want)
	c.check(len(list("?n=0")) == 0, "tags with n=0 are some")
	if len(want) < 2 {
		return
	}
	c.check(slices.Equal(list("?last="+want[0]), want[1:]), "tags after %s = %v", want[0], list("?last="+want[0]))
	c.check(slices.Equal(list("?n=1"), want[:1]), "first tag = %v", list("?n=1"))
	// by the links
	var got []string
	for addr := "/v2/" + name + "/tags/list?n=1"; addr != ""; {
		a := c.do("GET", addr, nil)
		var out struct{ Tags []string }
		if err := json.Unmarshal(a.body, &out); err != nil || len(got) > 100 {
			c.Fatalf("tags/list = %s, %v", a.body, err)
		}
		got = append(got, out.Tags...)
		addr, _, _ = strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
	}
	c.check(slices.Equal(got, want), "tags by links = %v; want %v", got, want)
}

func (c *conformance) referrers(s *sample, name string) {
	for sub, want := range s.referrers {
		types := map[string]bool{"": true, "application/x-none": true}
		for _, d := range want {
			types[d.ArtifactType] = true
		}
		for at := range types {
			a := c.do("GET", "/v2/"+name+"/referrers/"+string(sub)+"?artifactType="+url.QueryEscape(at), nil)
			c.status(a, 200)
			c.header(a, "Content-Type", typeIndex)
			c.check((a.Header.Get("OCI-Filters-Applied") == "artifactType") == (at != ""), "OCI-Filters-Applied = %q for type %q", a.Header.Get("OCI-Filters-Applied"), at)
			var got struct {
				SchemaVersion int
				MediaType     string
				Manifests     []descriptor
			}
			err := json.Unmarshal(a.body, &got)
			c.check(err == nil && got.SchemaVersion == 2 && got.MediaType == typeIndex && got.Manifests != nil, "referrers = %s, %v", a.body, err)
			n := 0
			for _, w := range want {
				if at != "" && w.ArtifactType != at {
					continue
				}
				n++
				c.check(slices.ContainsFunc(got.Manifests, func(g descriptor) bool {
					return g.Digest == w.Digest && g.MediaType == w.MediaType && g.Size == w.Size && g.ArtifactType == w.ArtifactType && maps.Equal(g.Annotations, w.Annotations)
				}), "referrers of %s lack %+v: %s", sub.short(), w, a.body)
			}
			c.check(len(got.Manifests) == n, "%d referrers of type %q; want %d", len(got.Manifests), at, n)
		}
	}
}

// newRegistry serves a store; pushing is open unless opts say otherwise.
func newRegistry(t testing.TB, s *airgap.Store, opts Options) (*Registry, *httptest.Server) {
	t.Helper()
	if opts.Push == nil {
		opts.Push = &Pushers{Anyone: true}
	}
	g, err := OpenRegistry(s, opts)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(g)
	t.Cleanup(func() {
		srv.Close()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g, srv
}

func openStore(t testing.TB) *airgap.Store {
	t.Helper()
	s, err := airgap.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	s := openStore(t)
	g, srv := newRegistry(t, s, Options{Sparse: true})
	c := &conformance{T: t, base: srv.URL}
	name, other := "conformance/repo1", "conformance/repo2"
	c.status(c.do("GET", "/v2/", nil), 200)
	c.status(c.do("GET", "/v2/"+name+"/tags/list", nil), 404)
	a := c.do("GET", "/v2/"+name+"/referrers/"+string(digestOf("sha256", random(9))), nil)
	c.status(a, 200)
	c.header(a, "Content-Type", typeIndex)
	for _, algo := range []string{"sha256", "sha512"} {
		c.blobs(algo, name, other)
	}
	for _, sm := range samples() {
		before := c.fails
		// A first image keeps the repository there while the sample comes and goes.
		c.sample(sm, "conformance/"+strings.Map(func(r rune) rune {
			if r == ' ' || r == ',' {
				return '-'
			}
			return r
		}, strings.ReplaceAll(sm.name, ", ", " ")))
		if c.fails > before {
			t.Errorf("%s: %d checks failed", sm.name, c.fails-before)
		}
	}
	// manifests that are refused
	bad := newSample("bad")
	bad.image("", 1, nil)
	for d, b := range bad.blobs {
		c.pushBlob("post+put", name, d, b, true)
	}
	m := bad.manifests[0]
	c.status(c.do("PUT", "/v2/"+name+"/manifests/"+string(digestOf("sha256", m)), append(slices.Clone(m), "  "...), "Content-Type", typeImage), 400)
	c.status(c.do("PUT", "/v2/"+name+"/manifests/sha256:baddigeststring", m, "Content-Type", typeImage), 400)
	c.status(c.do("GET", "/v2/"+name+"/manifests/sha256:baddigeststring", nil), 400, 404)
	c.status(c.do("GET", "/v2/"+name+"/manifests/"+string(digestOf("sha256", random(9))), nil), 404)
	c.status(c.do("GET", "/v2/"+name+"/manifests/missing-tag", nil), 404)
	for d := range bad.blobs {
		c.deleteBlob(name, d)
	}
	names, err := g.own.names()
	c.check(err == nil && len(names) == 0, "after everything was deleted, repositories = %v, %v", names, err)
	got, err := s.Collect(t.Context(), 1, false)
	c.check(err == nil && got.Blobs > 0, "Collect = %+v, %v", got, err)
	n := 0
	_ = s.Blobs().List(t.Context(), func(_ blob.Digest, _ int64) error { n++; return nil })
	c.check(n == 0, "after Collect, %d blobs are left", n)
	t.Logf("%d checks, %d failed", c.checks, c.fails)
}

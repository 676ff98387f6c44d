package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

// writable refuses to change a repository that is a mirrored one, or that
// would be taken for one.
func (g *Registry) writable(r *http.Request, name string) error {
	v, err := g.view(r.Context())
	if err != nil {
		return err
	}
	if rp := v.find(asked{}, name); rp != nil {
		return refuse(http.StatusForbidden, "DENIED", fmt.Sprintf("%s is mirrored from upstream (%s, snapshot %s): push to a name of your own", name, rp.Name, v.snapshot))
	}
	return nil
}

// change changes a repository of the site's own, durably. do gets a copy that
// it may change; its error leaves all as it was.
func (g *Registry) change(name string, do func(*repo) error) error {
	g.write.Lock()
	defer g.write.Unlock()
	r, err := g.own.load(name)
	if err != nil {
		return err
	}
	if r == nil {
		r = newRepo(name)
	} else {
		r = r.clone()
	}
	if err := do(r); err != nil {
		return err
	}
	return g.own.save(r)
}

// link puts a blob that the store has into a repository.
func (g *Registry) link(name string, d Digest, c content) error {
	release, err := g.store.Hold()
	if err != nil {
		return err
	}
	defer release()
	return g.linkHeld(name, d, c)
}

func (g *Registry) linkHeld(name string, d Digest, c content) error {
	if n, err := g.store.Blobs().Size(c.SHA256); err != nil || n != c.Size {
		return errors.Join(err, fmt.Errorf("blob %s is not here whole", d))
	}
	return g.change(name, func(r *repo) error {
		r.Blobs[d] = c
		return nil
	})
}

// mountable finds a blob in the repository from, or in any when it is "".
func (g *Registry) mountable(r *http.Request, from string, d Digest) (content, bool, error) {
	whole := func(c content, ok bool) (content, bool, error) {
		n, err := g.store.Blobs().Size(c.SHA256)
		return c, ok && err == nil && n == c.Size, nil
	}
	if from != "" {
		if err := checkRepo(from); err != nil {
			return content{}, false, errName(err)
		}
		rp, err := g.find(r.Context(), asked{}, from)
		if err != nil || rp == nil {
			return content{}, false, err
		}
		return whole(rp.blob(d))
	}
	v, err := g.view(r.Context())
	if err != nil {
		return content{}, false, err
	}
	if c, ok := v.files[d]; ok {
		return whole(c, true)
	}
	names, err := g.own.names()
	if err != nil {
		return content{}, false, err
	}
	for _, n := range names {
		rp, err := g.own.load(n)
		if err != nil {
			return content{}, false, err
		}
		if rp == nil {
			continue
		}
		if c, ok := rp.blob(d); ok {
			return whole(c, true)
		}
	}
	return content{}, false, nil
}

// pushManifest answers PUT of /v2/NAME/manifests/REFERENCE: distribution-spec
// 1.1, pushing manifests; with tags beside a digest as its successor has it.
func (g *Registry) pushManifest(w http.ResponseWriter, r *http.Request, rt route) error {
	if err := g.writable(r, rt.name); err != nil {
		return err
	}
	tags := r.URL.Query()["tag"]
	var want Digest
	if strings.Contains(rt.ref, ":") {
		d, err := ParseDigest(rt.ref)
		if err != nil {
			return errDigest(err)
		}
		want = d
	} else {
		tags = append(tags, rt.ref)
	}
	for _, t := range tags {
		if err := checkTag(t); err != nil {
			return refuse(http.StatusBadRequest, "TAG_INVALID", err.Error())
		}
	}
	data, err := io.ReadAll(io.LimitReader(&paced{r: r.Body, rc: http.NewResponseController(w), now: g.now, stall: g.stall}, maxManifest+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) || err != nil:
		return refuse(http.StatusBadRequest, "MANIFEST_INVALID", "the request was cut")
	case len(data) > maxManifest:
		return refuse(http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("a manifest has at most %d bytes", maxManifest))
	}
	if want == "" {
		want = canonical(data)
	} else if !want.of(data) {
		return errDigest(fmt.Errorf("the manifest has another digest than %s", want))
	}
	m, err := parseManifest(data, r.Header.Get("Content-Type"))
	if err != nil {
		return refuse(http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
	}
	if err := g.putManifest(r.Context(), rt.name, want, m, data, tags); err != nil {
		return err
	}
	w.Header().Set("Location", "/v2/"+rt.name+"/manifests/"+string(want))
	w.Header().Set("Docker-Content-Digest", string(want))
	if m.Subject != nil {
		w.Header().Set("OCI-Subject", string(m.Subject.Digest))
	}
	if want != Digest(rt.ref) {
		tags = tags[:len(tags)-1]
	}
	for _, t := range tags {
		w.Header().Add("OCI-Tag", t)
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (g *Registry) putManifest(ctx context.Context, name string, d Digest, m manifest, data []byte, tags []string) error {
	release, err := g.store.Hold()
	if err != nil {
		return err
	}
	defer release()
	at, _, err := g.store.Blobs().Put(ctx, bytes.NewReader(data), "")
	if err != nil {
		return err
	}
	return g.change(name, func(r *repo) error {
		for _, b := range m.blobs() {
			c, ok := r.blob(b.Digest)
			switch {
			case b.elsewhere() || g.opts.Sparse && !ok:
			case !ok:
				return refuse(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", fmt.Sprintf("%s has no blob %s: push it before the manifest", name, b.Digest))
			case c.Size != b.Size:
				return refuse(http.StatusBadRequest, "MANIFEST_INVALID", fmt.Sprintf("blob %s has %d bytes and the manifest says %d", b.Digest, c.Size, b.Size))
			}
		}
		r.add(d, m, content{int64(len(data)), at})
		for _, t := range tags {
			r.Tags[t] = d
		}
		return nil
	})
}

// deleteManifest removes a tag, or a manifest with its tags.
func (g *Registry) deleteManifest(w http.ResponseWriter, r *http.Request, rt route) error {
	if strings.Contains(rt.ref, ":") {
		if _, err := ParseDigest(rt.ref); err != nil {
			return errDigest(err)
		}
	}
	if err := g.writable(r, rt.name); err != nil {
		return err
	}
	err := g.change(rt.name, func(rp *repo) error {
		d, _, ok := rp.manifest(rt.ref)
		if !ok {
			return refuse(http.StatusNotFound, "MANIFEST_UNKNOWN", fmt.Sprintf("%s has no manifest %.200s", rt.name, rt.ref))
		}
		if d != Digest(rt.ref) {
			delete(rp.Tags, rt.ref)
			return nil
		}
		delete(rp.Manifests, d)
		for t, of := range rp.Tags {
			if of == d {
				delete(rp.Tags, t)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// deleteBlob takes a blob out of a repository. Its bytes go when the store is
// collected, if nothing else needs them.
func (g *Registry) deleteBlob(w http.ResponseWriter, r *http.Request, rt route) error {
	d, err := ParseDigest(rt.ref)
	if err != nil {
		return errDigest(err)
	}
	if err := g.writable(r, rt.name); err != nil {
		return err
	}
	err = g.change(rt.name, func(rp *repo) error {
		if _, ok := rp.Blobs[d]; !ok {
			return refuse(http.StatusNotFound, "BLOB_UNKNOWN", fmt.Sprintf("%s has no blob %s", rt.name, d))
		}
		delete(rp.Blobs, d)
		return nil
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

// source is one repository of an upstream registry.
type source struct {
	env  airgap.Env
	base *url.URL // of the registry
	repo string
}

const (
	maxTagPage  = 8 << 20
	maxTagPages = 200
)

func (s source) url(kind, what string) string {
	u := *s.base
	u.Path = "/v2/" + s.repo + "/" + kind + "/" + what
	return u.String()
}

// digest asks what a tag means; "" when the registry does not say it without
// sending the manifest.
func (s source) digest(ctx context.Context, tag string) (Digest, error) {
	a, err := s.env.Fetch.Ask(ctx, http.MethodHead, s.url("manifests", tag), http.Header{"Accept": {manifestTypes}}, 0)
	if err != nil {
		return "", err
	}
	d, err := ParseDigest(a.Header.Get("Docker-Content-Digest"))
	if err != nil {
		return "", nil // it sends none, or one that we do not know
	}
	return d, nil
}

// manifest brings a manifest by tag or digest into the blob store. want is the
// digest that it must have, "" when none is known.
func (s source) manifest(ctx context.Context, ref string, want Digest) (fetched, error) {
	if want.blob() != "" && s.env.Blobs.Has(want.blob()) {
		data, err := airgap.ReadBlob(ctx, s.env.Blobs, want.blob(), maxManifest)
		if err == nil {
			m, err := parseManifest(data, "")
			return fetched{want, data, m}, err
		}
	}
	a, err := s.env.Fetch.Ask(ctx, http.MethodGet, s.url("manifests", ref), http.Header{"Accept": {manifestTypes}}, maxManifest)
	if err != nil {
		return fetched{}, err
	}
	switch {
	case want == "":
		want = canonical(a.Body)
	case !want.of(a.Body):
		return fetched{}, fmt.Errorf("upstream sends another manifest than %s, nothing was kept", want)
	}
	m, err := parseManifest(a.Body, a.Header.Get("Content-Type"))
	if err != nil {
		return fetched{}, err
	}
	if _, err := airgap.PutBytes(ctx, s.env.Blobs, a.Body); err != nil {
		return fetched{}, err
	}
	return fetched{want, a.Body, m}, nil
}

// fetched is a manifest of upstream.
type fetched struct {
	digest Digest
	data   []byte
	m      manifest
}

// tags lists all tags: distribution-spec 1.1, listing tags. ok is false when
// the registry does not tell, or has too many.
func (s source) tags(ctx context.Context) (all map[string]bool, ok bool, err error) {
	all = map[string]bool{}
	next := s.url("tags", "list") + "?n=1000"
	for range maxTagPages {
		a, err := s.env.Fetch.Ask(ctx, http.MethodGet, next, nil, maxTagPage)
		var se *airgap.StatusError
		if errors.As(err, &se) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		var page struct {
			Tags []string `json:"tags"`
		}
		if err := json.Unmarshal(a.Body, &page); err != nil {
			return nil, false, fmt.Errorf("the tags of %s: %w", s.repo, err)
		}
		for _, t := range page.Tags {
			if checkTag(t) == nil {
				all[t] = true
			}
		}
		link := nextLink(a.Header.Get("Link"))
		if link == "" {
			return all, true, nil
		}
		u, err := a.URL.Parse(link)
		if err != nil || u.Host != s.base.Host {
			return nil, false, fmt.Errorf("the tags of %s go on at %.200q, which is another host", s.repo, link)
		}
		u.Scheme = s.base.Scheme
		if next == u.String() {
			return nil, false, fmt.Errorf("the tags of %s go on where they began", s.repo)
		}
		next = u.String()
	}
	return nil, false, nil
}

// nextLink is the address of the next page: RFC 8288.
func nextLink(h string) string {
	for _, l := range strings.Split(h, ",") {
		addr, params, ok := strings.Cut(strings.TrimSpace(l), ">")
		if ok && strings.HasPrefix(addr, "<") && strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
			return addr[1:]
		}
	}
	return ""
}

// attached is a manifest that belongs to another: a signature, an SBOM.
type attached struct {
	digest Digest
	tag    string // "": it names its subject itself
}

// attachedTo finds what is attached to a manifest: by the referrers API, by the
// tag that stands in for it, and by cosign's tags. known are the repository's
// tags; nil: they are not known.
func (s source) attachedTo(ctx context.Context, d Digest, known map[string]bool) ([]attached, error) {
	var out []attached
	a, err := s.env.Fetch.Ask(ctx, http.MethodGet, s.url("referrers", string(d)), http.Header{"Accept": {typeIndex}}, maxManifest)
	var se *airgap.StatusError
	switch {
	case err == nil && strings.HasPrefix(a.Header.Get("Content-Type"), typeIndex):
		m, err := parseManifest(a.Body, typeIndex)
		if err != nil {
			return nil, fmt.Errorf("what refers to %s: %w", d.short(), err)
		}
		for _, r := range m.Manifests {
			out = append(out, attached{digest: r.Digest})
		}
	case err == nil, errors.As(err, &se): // it has no such API
	default:
		return nil, err
	}
	base := d.Algorithm() + "-" + d.Hex()
	for _, tag := range []string{base, base + ".sig", base + ".att", base + ".sbom"} {
		if known != nil && !known[tag] || checkTag(tag) != nil {
			continue
		}
		got, err := s.digest(ctx, tag)
		if errors.Is(err, airgap.ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if got == "" {
			f, err := s.manifest(ctx, tag, "")
			if err != nil {
				return nil, err
			}
			got = f.digest
		}
		out = append(out, attached{got, tag})
	}
	return out, nil
}

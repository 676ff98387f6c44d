package oci

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
)

// page is what n and last of a request leave of a sorted list, and the address
// of the rest: distribution-spec 1.1, listing tags.
func page(r *http.Request, all []string) (out []string, next string, err error) {
	q := r.URL.Query()
	if last := q.Get("last"); last != "" {
		all = all[sort.Search(len(all), func(i int) bool { return compareNames(all[i], last) > 0 }):]
	}
	out = all
	if s := q.Get("n"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return nil, "", refuse(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", fmt.Sprintf("n=%.40q is no number of results", s))
		}
		if n < len(all) {
			out = all[:n]
			if n > 0 {
				q.Set("last", out[n-1])
				next = (&url.URL{Path: r.URL.Path, RawQuery: q.Encode()}).String()
			}
		}
	}
	if out == nil {
		out = []string{}
	}
	return out, next, nil
}

func (g *Registry) listTags(w http.ResponseWriter, r *http.Request, rt route) error {
	rp, err := g.pulled(r, rt)
	if err != nil {
		return err
	}
	tags, next, err := page(r, rp.sortedTags())
	if err != nil {
		return err
	}
	if next != "" {
		w.Header().Set("Link", "<"+next+`>; rel="next"`)
	}
	g.json(w, r, http.StatusOK, map[string]any{"name": rt.name, "tags": tags}, "application/json")
	return nil
}

// catalogue is the names of all repositories.
func (g *Registry) catalogue(ctx context.Context) ([]string, error) {
	v, err := g.view(ctx)
	if err != nil {
		return nil, err
	}
	own, err := g.own.names()
	if err != nil {
		return nil, err
	}
	names := slices.AppendSeq(own, maps.Keys(v.repos))
	slices.SortFunc(names, compareNames)
	return slices.Compact(names), nil
}

// listRepos answers /v2/_catalog, which the specification does not have and
// everybody uses.
func (g *Registry) listRepos(w http.ResponseWriter, r *http.Request, _ route) error {
	all, err := g.catalogue(r.Context())
	if err != nil {
		return err
	}
	names, next, err := page(r, all)
	if err != nil {
		return err
	}
	if next != "" {
		w.Header().Set("Link", "<"+next+`>; rel="next"`)
	}
	g.json(w, r, http.StatusOK, map[string]any{"repositories": names}, "application/json")
	return nil
}

// listReferrers answers /v2/NAME/referrers/DIGEST: distribution-spec 1.1,
// listing referrers. What is not known has none.
func (g *Registry) listReferrers(w http.ResponseWriter, r *http.Request, rt route) error {
	d, err := ParseDigest(rt.ref)
	if err != nil {
		return errDigest(err)
	}
	rp, err := g.find(r.Context(), upstream(r), rt.name)
	if err != nil {
		return err
	}
	if rp == nil {
		rp = newRepo(rt.name)
	}
	artifactType := r.URL.Query().Get("artifactType")
	if artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	g.json(w, r, http.StatusOK, map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": rp.referrers(d, artifactType)}, typeIndex)
	return nil
}

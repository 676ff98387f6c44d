package pypi

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

// Serve implements airgap.Serving: the simple repository API below simple/, in
// the form that the client asks for.
func (*Format) Serve(w http.ResponseWriter, r *http.Request, t airgap.ServedTree, p string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	if strings.HasPrefix(p, filesDir) {
		if f, ok := t.File(p); ok {
			ctype := "application/octet-stream"
			if strings.HasSuffix(p, ".metadata") {
				ctype = "text/plain; charset=utf-8"
			}
			t.Send(w, r, f, ctype)
			return
		}
	}
	name, ok := strings.CutPrefix(p, "simple")
	if !ok || name != "" && name[0] != '/' {
		t.NotFound(w)
		return
	}
	name = strings.Trim(name, "/")
	page := "_root"
	if name != "" {
		if !nameRE.MatchString(name) {
			t.NotFound(w)
			return
		}
		page = normalize(name)
	}
	form, ctype := negotiate(r.Header.Get("Accept"))
	f, ok := t.File(made + page + "." + form)
	if !ok {
		t.NotFound(w)
		return
	}
	// Addresses on a page are relative to its own, which ends in a slash.
	to := "/pypi/" + t.Mirror + "/simple/"
	if name != "" {
		to += page + "/"
	}
	if r.URL.Path != to && !strings.HasSuffix(r.URL.Path, to) {
		http.Redirect(w, r, (&url.URL{Path: to}).String(), http.StatusMovedPermanently)
		return
	}
	w.Header().Set("Vary", "Accept")
	t.Send(w, r, f, ctype)
}

// negotiate chooses the form of a page: PEP 691.
func negotiate(accept string) (form, ctype string) {
	form, ctype = "html", "text/html; charset=utf-8"
	best := 0.0
	for part := range strings.SplitSeq(accept, ",") {
		kind, params, _ := strings.Cut(part, ";")
		q := 1.0
		for prm := range strings.SplitSeq(params, ";") {
			if v, ok := strings.CutPrefix(strings.TrimSpace(prm), "q="); ok {
				if x, err := strconv.ParseFloat(v, 64); err == nil {
					q = x
				}
			}
		}
		if q <= best {
			continue
		}
		switch strings.TrimSpace(kind) {
		case jsonType, "application/vnd.pypi.simple.latest+json":
			best, form, ctype = q, "json", jsonType
		case htmlType, "application/vnd.pypi.simple.latest+html":
			best, form, ctype = q, "html", htmlType
		case "text/html":
			best, form, ctype = q, "html", "text/html; charset=utf-8"
		}
	}
	return form, ctype
}

// Clients implements airgap.Configurer.
func (*Format) Clients() []string { return []string{"pip"} }

// ClientConfig implements airgap.Configurer: pip's configuration for all users.
func (*Format) ClientConfig(_ context.Context, _ string, r airgap.ClientRequest) ([]airgap.ClientFile, error) {
	var at []string
	base := r.Secure()
	for _, t := range r.Snapshot.Trees {
		if t.Format == "pypi" {
			at = append(at, base+"/pypi/"+t.Mirror+"/simple/")
		}
	}
	if len(at) == 0 {
		return nil, nil
	}
	slices.Sort(at)
	text := "# Python packages come from fettle.\n[global]\nindex-url = " + at[0] + "\n"
	if len(at) > 1 {
		text += "extra-index-url =\n    " + strings.Join(at[1:], "\n    ") + "\n"
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "http" {
		text += "trusted-host = " + u.Host + "\n"
	} else if r.CAFile != "" {
		text += "cert = " + r.CAFile + "\n"
	}
	text += "disable-pip-version-check = true\n"
	return []airgap.ClientFile{{Path: "/etc/pip.conf", Mode: 0o644, Content: []byte(text)}}, nil
}

package npm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

const installType = "application/vnd.npm.install-v1+json"

// Serve implements airgap.Serving: the read side of a registry,
// https://github.com/npm/registry/blob/main/docs/REGISTRY-API.md.
func (*Format) Serve(w http.ResponseWriter, r *http.Request, t airgap.ServedTree, p string) {
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	p = strings.TrimSuffix(p, "/")
	switch {
	case p == "-/ping" && read, p == "" && read:
		sendJSON(w, r, "application/json", []byte("{}\n"))
	case strings.HasPrefix(p, "-/npm/v1/security/"):
		// Saying that nothing is known to be wrong would be a lie: no
		// advisories cross the gap.
		refuse(w, http.StatusNotImplemented, "this mirror has no advisories: audit on the connected side")
	case !read:
		refuse(w, http.StatusMethodNotAllowed, "this mirror is read only")
	case strings.HasPrefix(p, made):
		refuse(w, http.StatusNotFound, "not in this mirror")
	case p == keysPath:
		f, ok := t.File(p)
		if !ok {
			refuse(w, http.StatusNotFound, "this mirror carries no signatures: give it keyrings")
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		t.Send(w, r, f, "application/json")
	default:
		serveFile(w, r, t, p)
	}
}

func serveFile(w http.ResponseWriter, r *http.Request, t airgap.ServedTree, p string) {
	if f, ok := t.File(p); ok {
		t.Send(w, r, f, "application/octet-stream")
		return
	}
	if name, ok := strings.CutPrefix(p, "-/package/"); ok {
		if name, ok = strings.CutSuffix(name, "/dist-tags"); ok {
			servePart(w, r, t, name, func(doc map[string]json.RawMessage) (json.RawMessage, bool) {
				v, ok := doc["dist-tags"]
				return v, ok
			})
			return
		}
	}
	form, ctype := "full", "application/json"
	if strings.Contains(r.Header.Get("Accept"), installType) {
		form, ctype = "install", installType
	}
	w.Header().Set("Vary", "Accept")
	if f, ok := t.File(made + p + "/" + form + ".json"); ok {
		if data, ok := readMade(w, r, t, f); ok {
			sendJSON(w, r, ctype, data)
		}
		return
	}
	// NAME/VERSION or NAME/TAG
	if i := strings.LastIndex(p, "/"); i > 0 {
		servePart(w, r, t, p[:i], func(doc map[string]json.RawMessage) (json.RawMessage, bool) {
			var tags map[string]string
			var versions map[string]json.RawMessage
			if err := errors.Join(json.Unmarshal(doc["dist-tags"], &tags), json.Unmarshal(doc["versions"], &versions)); err != nil {
				return nil, false
			}
			v := p[i+1:]
			if tag, ok := tags[v]; ok {
				v = tag
			}
			m, ok := versions[v]
			return m, ok
		})
		return
	}
	refuse(w, http.StatusNotFound, "not in this mirror")
}

// readMade reads a packument with this client's addresses.
func readMade(w http.ResponseWriter, r *http.Request, t airgap.ServedTree, f airgap.File) ([]byte, bool) {
	data, err := t.Read(r.Context(), f, maxMade)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "damaged here: fettle mirror verify --mend, then import the bundle again")
		return nil, false
	}
	return bytes.ReplaceAll(data, []byte(`"`+base), []byte(`"`+t.Base+"/")), true
}

// servePart sends a part of a packument.
func servePart(w http.ResponseWriter, r *http.Request, t airgap.ServedTree, name string, part func(map[string]json.RawMessage) (json.RawMessage, bool)) {
	f, ok := t.File(made + name + "/full.json")
	if !ok {
		refuse(w, http.StatusNotFound, "not in this mirror")
		return
	}
	data, ok := readMade(w, r, t, f)
	if !ok {
		return
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(data, &doc); err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	v, ok := part(doc)
	if !ok {
		refuse(w, http.StatusNotFound, "no such version in this mirror")
		return
	}
	sendJSON(w, r, "application/json", v)
}

func sendJSON(w http.ResponseWriter, r *http.Request, ctype string, data []byte) {
	w.Header().Set("Content-Type", ctype)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("ETag", `"`+blob.FromBytes(data).Hex()+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// refuse answers as registries do: npm prints the error.
func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text}) // the client went away
}

// Clients implements airgap.Configurer.
func (*Format) Clients() []string { return []string{"npm"} }

// ClientConfig implements airgap.Configurer: npm's global configuration, at
// the places where Debian's npm and those of other makers look for it.
func (*Format) ClientConfig(_ context.Context, _ string, r airgap.ClientRequest) ([]airgap.ClientFile, error) {
	i := slices.IndexFunc(r.Snapshot.Trees, func(t airgap.Tree) bool { return t.Format == "npm" })
	if i < 0 {
		return nil, nil
	}
	if slices.ContainsFunc(r.Snapshot.Trees[i+1:], func(t airgap.Tree) bool { return t.Format == "npm" }) {
		return nil, errors.New("npm uses one registry: put all lockfiles into one mirror")
	}
	at := r.Secure()
	// A lockfile may name any registry: what it names is fetched here too.
	text := "; npm packages come from fettle.\nregistry=" + at + "/npm/" + r.Snapshot.Trees[i].Mirror + "/\nreplace-registry-host=always\naudit=false\nfund=false\nupdate-notifier=false\n"
	if strings.HasPrefix(at, "https://") && r.CAFile != "" {
		text += "cafile=" + r.CAFile + "\n"
	}
	var out []airgap.ClientFile
	for _, p := range []string{"/etc/npmrc", "/usr/etc/npmrc", "/usr/local/etc/npmrc"} {
		out = append(out, airgap.ClientFile{Path: p, Mode: 0o644, Content: []byte(text)})
	}
	return out, nil
}

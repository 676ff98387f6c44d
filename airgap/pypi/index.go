package pypi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"strings"

	"golang.org/x/net/html"

	"github.com/fettle-dev/fettle/airgap"
)

const (
	jsonType = "application/vnd.pypi.simple.v1+json"
	htmlType = "application/vnd.pypi.simple.v1+html"
	accept   = jsonType + ", " + htmlType + ";q=0.2, text/html;q=0.01"
	maxIndex = 64 << 20
)

// listed is a file as an index lists it.
type listed struct {
	file, url string
	sha256    string // "" when the index does not say
	size      int64  // -1: not said
	python    string // requires-python
	yanked    string // why; "" when it is not
}

// parseIndex reads the page of a project, in JSON or HTML, that was at base.
func parseIndex(data []byte, base string) ([]listed, error) {
	at, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	var out []listed
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		out, err = parseJSON(data)
	} else {
		out, err = parseHTML(data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", base, err)
	}
	for i := range out {
		u, err := at.Parse(out[i].url)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", base, err)
		}
		u.Fragment, u.User = "", nil
		out[i].url = u.String()
		if err := airgap.CheckURL(out[i].url); err != nil {
			return nil, fmt.Errorf("%s: %w", base, err)
		}
	}
	return out, nil
}

// parseJSON reads PEP 691.
func parseJSON(data []byte) ([]listed, error) {
	var doc struct {
		Meta struct {
			Version string `json:"api-version"`
		} `json:"meta"`
		Files []struct {
			File   string            `json:"filename"`
			URL    string            `json:"url"`
			Hashes map[string]string `json:"hashes"`
			Python string            `json:"requires-python"`
			Yanked json.RawMessage   `json:"yanked"`
			Size   *int64            `json:"size"`
		} `json:"files"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(doc.Meta.Version, "1.") {
		return nil, fmt.Errorf("it is of version %q of the simple API; version 1 can be read", doc.Meta.Version)
	}
	var out []listed
	for _, f := range doc.Files {
		l := listed{file: f.File, url: f.URL, sha256: strings.ToLower(f.Hashes["sha256"]), size: -1, python: f.Python}
		if f.Size != nil && *f.Size >= 0 {
			l.size = *f.Size
		}
		var reason string
		switch {
		case string(f.Yanked) == "true":
			l.yanked = "yanked"
		case json.Unmarshal(f.Yanked, &reason) == nil && reason != "":
			l.yanked = reason
		}
		out = append(out, l)
	}
	return out, nil
}

// parseHTML reads PEP 503.
func parseHTML(data []byte) ([]listed, error) {
	z := html.NewTokenizer(bytes.NewReader(data))
	var out []listed
	for {
		switch z.Next() {
		case html.ErrorToken:
			return out, nil // the end; half a page has half its files, and their digests decide
		case html.StartTagToken:
			t := z.Token()
			if t.Data != "a" {
				continue
			}
			l := listed{size: -1}
			for _, a := range t.Attr {
				switch a.Key {
				case "href":
					u, err := url.Parse(a.Val)
					if err != nil {
						return nil, err
					}
					l.url, l.file = a.Val, path.Base(u.Path)
					if v, ok := strings.CutPrefix(u.Fragment, "sha256="); ok {
						l.sha256 = strings.ToLower(v)
					}
				case "data-requires-python":
					l.python = a.Val
				case "data-yanked":
					if l.yanked = a.Val; l.yanked == "" {
						l.yanked = "yanked"
					}
				}
			}
			if l.url != "" {
				out = append(out, l)
			}
		}
	}
}

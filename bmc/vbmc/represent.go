package vbmc

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// etag is the entity tag of a resource: a digest of its JSON, the clock of the
// manager left out.
func etag(body obj) string {
	if _, ok := body["DateTime"]; ok {
		body = maps.Clone(body)
		delete(body, "DateTime")
	}
	b, err := json.Marshal(body) // map keys are sorted
	if err != nil {
		return `""`
	}
	sum := sha256.Sum256(b)
	return `"` + hex.EncodeToString(sum[:8]) + `"`
}

// matchTag compares an If-Match or If-None-Match list with a tag. Quotes are
// optional, since clients strip them, and W/ is ignored.
func matchTag(list, tag string) bool {
	tag = strings.Trim(tag, `"`)
	return slices.ContainsFunc(strings.Split(list, ","), func(t string) bool {
		t = strings.Trim(strings.TrimPrefix(strings.TrimSpace(t), "W/"), `"`)
		return t == "*" || t == tag && t != ""
	})
}

func link(path string) obj { return obj{"@odata.id": path} }

func links(paths ...string) []obj {
	out := make([]obj, len(paths))
	for i, p := range paths {
		out[i] = link(p)
	}
	return out
}

// collection is a resource collection (DSP0266 §9.6).
func collection(path, kind, name string, members ...string) obj {
	return obj{
		"@odata.id": path, "@odata.type": "#" + kind + "." + kind, "Name": name,
		"Members": links(members...), "Members@odata.count": len(members),
	}
}

// idOf makes a resource id of a name: only what stands unescaped in a URI.
func idOf(name string, i int) string {
	if name == "" {
		return fmt.Sprint(i + 1)
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_', r == ':':
			return r
		}
		return '_'
	}, name)
}

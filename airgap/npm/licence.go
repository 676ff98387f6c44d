package npm

import (
	"context"
	"io"

	"github.com/fettle-dev/fettle/airgap"
)

// Licences implements airgap.Licensed: what package.json says, an SPDX
// expression or, in old packages, an object or a list of them.
func (*Format) Licences(ctx context.Context, it airgap.Item, r io.Reader) ([]string, error) {
	if it.Kind != airgap.KindPackage {
		return nil, nil
	}
	m, err := packageJSON(r)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, nil // not readable: not known
	}
	return append(licencesIn(m["license"]), licencesIn(m["licenses"])...), nil
}

func licencesIn(v any) []string {
	switch v := v.(type) {
	case string:
		if v != "" {
			return []string{v}
		}
	case map[string]any:
		return licencesIn(v["type"])
	case []any:
		var out []string
		for _, x := range v {
			out = append(out, licencesIn(x)...)
		}
		return out
	}
	return nil
}

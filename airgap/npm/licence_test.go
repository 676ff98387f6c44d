package npm

import (
	"bytes"
	"slices"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
)

func TestLicences(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []string
	}{
		{`{"license":"MIT"}`, []string{"MIT"}},
		{`{"license":"(MIT OR Apache-2.0)"}`, []string{"(MIT OR Apache-2.0)"}},
		{`{"license":{"type":"BSD","url":"x"}}`, []string{"BSD"}},
		{`{"licenses":[{"type":"MIT"},"ISC"]}`, []string{"MIT", "ISC"}},
		{`{"license":7}`, nil},
		{`{}`, nil},
		{`no json`, nil},
	} {
		got, err := (&Format{}).Licences(t.Context(), airgap.Item{Kind: airgap.KindPackage}, bytes.NewReader(tgz(t, map[string]string{"package.json": tt.text})))
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("licences of %s = %q, %v; want %q", tt.text, got, err, tt.want)
		}
	}
}

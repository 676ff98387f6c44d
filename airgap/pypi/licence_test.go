package pypi

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
		{"License-Expression: MIT OR Apache-2.0\nLicense: x\n", []string{"MIT OR Apache-2.0"}},
		{"License: whatever\nClassifier: License :: OSI Approved :: BSD License\nClassifier: License :: OSI Approved\nClassifier: Topic :: x\n", []string{"BSD License"}},
		{"License: Apache 2.0\n", []string{"Apache 2.0"}},
		{"License: UNKNOWN\n", nil},
		{"", nil},
	} {
		_, data := wheel(t, "a", "1", "py3-none-any", tt.text)
		got, err := (&Format{}).Licences(t.Context(), airgap.Item{Kind: airgap.KindPackage, Path: "packages/a-1-py3-none-any.whl"}, bytes.NewReader(data))
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("licences of %q = %q, %v; want %q", tt.text, got, err, tt.want)
		}
	}
}

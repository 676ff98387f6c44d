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

func TestTokens(t *testing.T) {
	got := Tokens([]byte("registry=https://r.example.org/npm/\n//r.example.org/npm/:_authToken=abc\n//s.example.org/:_authToken=${TOK}\n//t.example.org/:_authToken=${NONE}\n; //u.example.org/:_authToken=x\n"),
		func(k string) string { return map[string]string{"TOK": "def"}[k] })
	if len(got) != 2 || got[0].At != "r.example.org/npm" || got[0].Token != "abc" || got[1].At != "s.example.org" || got[1].Token != "def" {
		t.Errorf("Tokens = %v; want those of r and s", got)
	}
}

package papers

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/airgap"
)

// bundled makes a real bundle whose papers say what carried says.
func bundled(t *testing.T) *airgap.OpenedBundle {
	t.Helper()
	s, err := airgap.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := carried(t)
	c.Snapshot.Trees = nil
	if err := os.WriteFile(filepath.Join(s.Dir(), "snapshots", "two.json"), mustJSON(t, c.Snapshot), 0o644); err != nil {
		t.Fatal(err)
	}
	key, err := airgap.ParseKey("fettle-secret-key-1:" + strings.Repeat("A", 43) + "=")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	_, err = s.Create(t.Context(), key, dir, airgap.CreateOptions{Site: "dc1", Parity: 1, Documents: func(in airgap.Carried) ([]airgap.Document, error) {
		in.Base, in.New = c.Base, c.New
		return Documents(in, licences, "fettle-1.0")
	}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := airgap.OpenBundle(key.Public(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestReport(t *testing.T) {
	b := bundled(t)
	r, err := NewReport(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Entering) != 2 || len(r.Mirrors) != 7 || r.Mirrors[0].Things != 2 || r.Mirrors[0].Entering != 1 || r.Mirrors[0].Bytes != 10 || r.Parity != 1 {
		t.Errorf("the report = %+v", r)
	}
	if got := len(strings.Fields(r.Words)); got != 12 || r.Words == r.KeyWords {
		t.Errorf("words = %q and %q; want twelve each", r.Words, r.KeyWords)
	}
	text := string(r.Text())
	for _, want := range []string{"ABCDEF", "mirror.example.org", "became 2:2.36-9+deb12u2", "LGPL-2.1-or-later", "not known", r.Words, "1 volume may be lost"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	page, err := r.HTML()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"@page", "<b>2</b><span>things enter", "mirror.example.org", strings.Fields(r.KeyWords)[11], b.Fingerprint().Hex()} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, not := range []string{"src=", "href=", "url(", "<script", "@import"} {
		if bytes.Contains(page, []byte(not)) {
			t.Errorf("the page needs something else: it has %q", not)
		}
	}
	data, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(data, &back); err != nil || back.Fingerprint != r.Fingerprint || !back.Created.Equal(time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)) {
		t.Errorf("the JSON form = %+v, %v", back, err)
	}
}

// A name from upstream cannot become markup of the page.
func TestReportEscapes(t *testing.T) {
	r := Report{Site: "<script>x</script>", Changes: []string{"<img src=x>"}, Mirrors: []MirrorReport{{Name: "<b>", Hosts: []string{"<i>"}}}}
	page, err := r.HTML()
	if err != nil {
		t.Fatal(err)
	}
	for _, not := range []string{"<script>", "<img", "<i>"} {
		if bytes.Contains(page, []byte(not)) {
			t.Errorf("the page has %q", not)
		}
	}
}

func TestWords(t *testing.T) {
	if got, want := Words("sha256:0000000000000000000000000000000000000000000000000000000000000000"), strings.TrimSpace(strings.Repeat("abandon ", 12)); got != want {
		t.Errorf("Words(0) = %q; want %q", got, want)
	}
	if got, want := Words("sha256:ffe00000000000000000000000000000000000000000000000000000000000ff"), "zoo"+strings.Repeat(" abandon", 11); got != want {
		t.Errorf("Words() = %q; want %q", got, want)
	}
}

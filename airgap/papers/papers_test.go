package papers

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/package-url/packageurl-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

func digest(s string) blob.Digest { return blob.FromBytes([]byte(s)) }

// lockOf has one mirror of each format.
func lockOf(versions string) airgap.Lock {
	item := func(path, name, version, arch string) airgap.Item {
		return airgap.Item{Path: path, URL: "https://mirror.example.org/debian/" + path, Size: 10, SHA256: digest(path + version), Kind: airgap.KindPackage, Name: name, Version: version, Arch: arch}
	}
	mirror := func(name, format string, items ...airgap.Item) airgap.LockedMirror {
		m := airgap.LockedMirror{Name: name, Format: format, Spec: airgap.Mirror{Name: name, Format: format}, Inputs: digest(name), Items: items,
			Trust: []airgap.Trust{{What: "suite x", Date: "2026-11-20T00:00:00Z", SignedBy: "ABCDEF", Source: "keyring.gpg"}}}
		m.Sort()
		return m
	}
	iso := item("tool.iso", "", "", "")
	iso.Kind, iso.Size = airgap.KindFile, -1
	return airgap.Lock{Version: 1, Mirrors: []airgap.LockedMirror{
		mirror("a-debian", "apt", item("pool/l/libc6.deb", "libc6", "2:2.36-9+deb12u"+versions, "amd64"), item("pool/b/bash.deb", "bash", "5.2", "all")),
		mirror("b-files", "files", iso),
		mirror("c-go", "go", item("golang.org/x/mod/@v/v0.2.0.zip", "golang.org/x/mod", "v0.2.0", "")),
		mirror("d-npm", "npm", item("@scope/pkg/-/pkg-1.0.0.tgz", "@scope/pkg", "1.0.0", "")),
		mirror("e-images", "oci", item("v2/x", "registry.example.org/library/nginx:1.27", "1.27", "amd64")),
		mirror("f-python", "pypi", item("packages/six-1.17.0-py3-none-any.whl", "six", "1.17.0", "")),
		mirror("g-rpm", "rpm", item("Packages/b/bash.rpm", "bash", "5.2-1.el9", "x86_64")),
	}}
}

func carried(t testing.TB) airgap.Carried {
	t.Helper()
	created := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	snap := airgap.Snapshot{Version: 1, Name: "two", Serial: 2, Created: created, Lock: lockOf("2")}
	base := airgap.Snapshot{Version: 1, Name: "one", Serial: 1, Created: created.Add(-24 * time.Hour), Lock: lockOf("1")}
	c := airgap.Carried{Snapshot: snap, Base: &base, Bundle: airgap.Bundle{Site: "dc1", Serial: 2, Created: created, Snapshot: airgap.SnapshotRef{Name: "two", SHA256: digest("two"), Size: 1}}}
	for _, m := range snap.Lock.Mirrors {
		tree := airgap.Tree{Mirror: m.Name, Format: m.Format}
		for _, it := range m.Items {
			f := airgap.File{Path: it.Path, Size: 10, SHA256: it.SHA256}
			tree.Files = append(tree.Files, f)
			if it.Name == "libc6" || it.Kind == airgap.KindFile {
				c.New = append(c.New, f)
			}
		}
		tree.Files = append(tree.Files, airgap.File{Path: "zz-index", Size: 3, SHA256: digest("made")})
		c.Snapshot.Trees = append(c.Snapshot.Trees, tree)
	}
	return c
}

func licences(it airgap.Item) []string {
	switch it.Name {
	case "libc6":
		return []string{"LGPL-2.1+", "GPL-2+"}
	case "bash":
		return []string{"GPL-3+", "Some Odd Licence+"}
	case "@scope/pkg":
		return []string{"(MIT OR GPL-3.0-or-later)"}
	}
	return nil
}

func TestLicenceIDs(t *testing.T) {
	for _, tt := range []struct {
		names []string
		want  string
		refs  []string
	}{
		{[]string{"GPL-3+", "Expat"}, "GPL-3.0-or-later AND MIT", nil},
		{[]string{"(MIT OR Apache-2.0)"}, "MIT OR Apache-2.0", nil},
		{[]string{"(MIT OR Apache-2.0)", "ISC"}, "(MIT OR Apache-2.0) AND ISC", nil},
		{[]string{"MIT and GPLv2+"}, "MIT AND LicenseRef-GPLv2-or-later", []string{"LicenseRef-GPLv2-or-later"}},
		{[]string{"GPL-2.0-only WITH Classpath-exception-2.0"}, "GPL-2.0-only WITH Classpath-exception-2.0", nil},
		{[]string{"GPL-2+ with OpenSSL exception"}, "LicenseRef-GPL-2-or-later-WITH-OpenSSL-exception", []string{"LicenseRef-GPL-2-or-later-WITH-OpenSSL-exception"}},
		{[]string{"BSD License"}, "LicenseRef-BSD-License", []string{"LicenseRef-BSD-License"}},
		{[]string{"?"}, "", nil},
		{[]string{"MIT AND ?"}, "MIT AND LicenseRef-unnamed", []string{"LicenseRef-unnamed"}},
	} {
		refs := map[string]string{}
		if got := expression(licenceIDs(tt.names, refs)); got != tt.want || !slices.Equal(slices.Sorted(maps.Keys(refs)), tt.refs) {
			t.Errorf("licenceIDs(%q) = %q, %q; want %q, %q", tt.names, got, refs, tt.want, tt.refs)
		}
	}
}

func TestPackageURLs(t *testing.T) {
	want := []string{
		"pkg:deb/debian/bash@5.2?arch=all",
		"pkg:deb/debian/libc6@2:2.36-9%2Bdeb12u2?arch=amd64",
		"pkg:generic/tool.iso?checksum=sha256:" + digest("tool.iso").Hex() + "&download_url=https:%2F%2Fmirror.example.org%2Fdebian%2Ftool.iso",
		"pkg:golang/golang.org/x/mod@v0.2.0",
		"pkg:npm/%40scope/pkg@1.0.0",
		"pkg:oci/nginx@" + string(digest("v2/x1.27")) + "?arch=amd64&repository_url=registry.example.org%2Flibrary%2Fnginx&tag=1.27",
		"pkg:pypi/six@1.17.0?file_name=six-1.17.0-py3-none-any.whl",
		"pkg:rpm/debian/bash@5.2-1.el9?arch=x86_64",
	}
	same := strings.NewReplacer("%3A", ":", "%2F", "/") // both spellings are right
	var got []string
	for _, c := range Components(carried(t), licences) {
		if _, err := packageurl.FromString(c.PURL); err != nil {
			t.Errorf("%s: %v", c.PURL, err)
		}
		got = append(got, same.Replace(c.PURL))
	}
	for i := range want {
		want[i] = same.Replace(want[i])
	}
	if !slices.Equal(got, want) {
		t.Errorf("purls =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDocumentsAreTheSameEachTime(t *testing.T) {
	a, err := Documents(carried(t), licences, "fettle-1.0")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Documents(carried(t), licences, "fettle-1.0")
	if err != nil {
		t.Fatal(err)
	}
	if len(a) != 4 {
		t.Fatalf("%d documents; want 4", len(a))
	}
	for i := range a {
		if !bytes.Equal(a[i].Data, b[i].Data) {
			t.Errorf("%s differs", a[i].Name)
		}
	}
}

func TestSPDXIsValid(t *testing.T) {
	c := carried(t)
	data, err := SPDX(c, Components(c, licences), "fettle-1.0")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := spdxjson.Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	var declared []string
	for _, p := range doc.Packages {
		if p.PackageName == "libc6" || p.PackageName == "bash" || p.PackageName == "six" {
			declared = append(declared, p.PackageName+": "+p.PackageLicenseDeclared)
		}
	}
	if want := []string{"bash: GPL-3.0-or-later AND LicenseRef-Some-Odd-Licence-or-later", "libc6: GPL-2.0-or-later AND LGPL-2.1-or-later", "six: NOASSERTION", "bash: NOASSERTION"}; !slices.Equal(declared[:3], want[:3]) {
		t.Errorf("licences = %q; want %q", declared, want)
	}
	if len(doc.Packages) != 9 || len(doc.OtherLicenses) != 1 {
		t.Errorf("%d packages, %d licences of its own; want 9, 1", len(doc.Packages), len(doc.OtherLicenses))
	}
}

// TestCycloneDXIsValid reads the standard's own schema from the library's module.
func TestCycloneDXIsValid(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "schema")
	comp := jsonschema.NewCompiler()
	for _, name := range []string{"bom-1.6.schema.json", "spdx.schema.json", "jsf-0.82.schemax.json"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := comp.AddResource("http://cyclonedx.org/schema/"+strings.Replace(name, "schemax", "schema", 1), v); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := comp.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	c := carried(t)
	data, err := CycloneDX(c, Components(c, licences), "fettle-1.0")
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(v); err != nil {
		t.Errorf("%v", err)
	}
	if !bytes.Contains(data, []byte(`"fettle:inThisBundle"`)) || !bytes.Contains(data, []byte("LGPL-2.1-or-later")) || !bytes.Contains(data, []byte(`"expression": "MIT OR GPL-3.0-or-later"`)) {
		t.Error("it does not say what is in the bundle, or no licence")
	}
}

func TestProvenanceAndChanges(t *testing.T) {
	c := carried(t)
	data, err := Provenance(c)
	if err != nil {
		t.Fatal(err)
	}
	var p provenance
	if err := json.Unmarshal(data, &p); err != nil {
		t.Fatal(err)
	}
	m := p.Mirrors[0]
	if m.Trust[0].SignedBy != "ABCDEF" || len(m.Items) != 2 || m.Items[1].Path != "pool/l/libc6.deb" || !m.Items[1].InBundle || m.Items[0].InBundle || len(m.Made) != 1 {
		t.Errorf("provenance = %+v", m)
	}
	if p.Mirrors[1].Items[0].Size != 10 {
		t.Errorf("a size that the lock does not know = %d; want the tree's 10", p.Mirrors[1].Items[0].Size)
	}
	text := string(changesText(c))
	if !strings.Contains(text, "a-debian: libc6 (amd64) 2:2.36-9+deb12u1 became 2:2.36-9+deb12u2.") || !strings.Contains(text, "since snapshot one") {
		t.Errorf("changes = %s", text)
	}
	c.Base = nil
	if text := string(changesText(c)); !strings.Contains(text, "bash (all) 5.2 is new") || !strings.Contains(text, "is full") {
		t.Errorf("changes of a full bundle = %s", text)
	}
}

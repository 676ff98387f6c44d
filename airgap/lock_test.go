package airgap

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/blob"
)

func item(name, version, content string) Item {
	p := fmt.Sprintf("pool/%s_%s.deb", name, version)
	return Item{Path: p, URL: "http://example.org/" + p, Size: int64(len(content)), SHA256: blob.FromBytes([]byte(content)), Kind: KindPackage, Name: name, Version: version, Arch: "amd64"}
}

func lockOf(date, signer string, items ...Item) Lock {
	lm := LockedMirror{Name: "debian", Format: "apt", Spec: Mirror{Name: "debian", Format: "apt"}, Inputs: blob.FromBytes([]byte(date)),
		Trust: []Trust{{What: "suite stable", Date: date, SignedBy: signer, Source: "/k.gpg"}}, Items: items}
	lm.Sort()
	return Lock{LockVersion, []LockedMirror{lm}}
}

func specLock(m Mirror) Lock {
	m.Name, m.Format = "debian", "apt"
	return Lock{LockVersion, []LockedMirror{{Name: "debian", Format: "apt", Spec: m}}}
}

func TestLockDiff(t *testing.T) {
	a := lockOf("1", "F", item("openssl", "3.0.1", "x"), item("gone", "1", "x"), item("same", "1", "x"), item("swapped", "1", "x"))
	nu := item("new", "2", "x")
	nu.Why = "web"
	b := lockOf("2", "F", item("openssl", "3.0.2", "y"), nu, item("same", "1", "x"), item("swapped", "1", "evil"))
	for _, tt := range []struct {
		name string
		a, b Lock
		want []string
	}{
		{"equal", a, a, nil},
		{"packages", a, b, []string{
			"debian: suite stable is as of 2; it was as of 1.",
			"debian: gone (amd64) 1 is gone.",
			"debian: new (amd64) 2 is new, because of web.",
			"debian: openssl (amd64) 3.0.1 became 3.0.2.",
			"debian: ATTENTION: swapped (amd64) 1 has other bytes under the same version: " + blob.FromBytes([]byte("x")).Short() + " became " + blob.FromBytes([]byte("evil")).Short() + ".",
		}},
		{"signer", lockOf("1", "F"), lockOf("1", "G"), []string{"debian: ATTENTION: suite stable is trusted for another reason: signed by G of /k.gpg; it was signed by F of /k.gpg."}},
		{"spec", specLock(Mirror{Suites: []string{"a", "b"}}), specLock(Mirror{Suites: []string{"b", "c"}, Packages: []string{"x"}, Resign: true}), []string{
			"debian: the site wants only some packages now.", "debian: the site wants the suite c too.", "debian: the site does not want the suite a any more.",
			"debian: the site wants the package x too.", "debian: resign: false became true."}},
		{"installer", specLock(Mirror{Packages: []string{"x"}, Sources: true}), specLock(Mirror{Packages: []string{"x"}, Installer: true, Udebs: []string{"anna"}, Bootstrap: true}), []string{
			"debian: the site wants the installer's package anna too.", "debian: bootstrap: false became true.", "debian: sources: true became false.", "debian: installer: false became true."}},
		{"mirror", Lock{Version: 1}, lockOf("1", "F"), []string{"debian: the mirror is new: 0 files."}},
		{"no mirror", lockOf("1", "F"), Lock{Version: 1}, []string{"debian: the mirror is gone."}},
	} {
		if got := Diff(tt.a, tt.b); !slices.Equal(got, tt.want) {
			t.Errorf("%s: Diff = %q; want %q", tt.name, got, tt.want)
		}
	}
}

func TestLockForm(t *testing.T) {
	l := lockOf("1", "F", item("b", "1", "x"), item("a", "1+<&>", "x"))
	data, err := MarshalLock(l)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(data, []byte("\n")); n != 6 {
		t.Errorf("the lock has %d lines; want one for each of 2 items and 4 around them:\n%s", n, data)
	}
	got, err := ParseLock(data)
	if err != nil || !reflect.DeepEqual(got, l) {
		t.Errorf("ParseLock(MarshalLock(l)) = %+v, %v; want %+v", got, err, l)
	}
	for name, bad := range map[string]string{
		"unknown key":     strings.Replace(string(data), `"format"`, `"fromat"`, 1),
		"behind the end":  string(data) + "{}",
		"no digest":       strings.Replace(string(data), `"sha256":"sha256:`, `"sha256":"md5:`, 1),
		"leaves its tree": strings.Replace(string(data), `"path":"pool/a_1`, `"path":"../a_1`, 1),
		"twice":           strings.Replace(string(data), "pool/b_1.deb", "pool/a_1+<&>.deb", 1),
		"a password":      strings.Replace(string(data), "http://example.org", "http://a:b@example.org", 1),
		"file URL":        strings.Replace(string(data), "http://example.org", "file://example.org", 1),
		"version":         strings.Replace(string(data), `{"lock":1`, `{"lock":2`, 1),
	} {
		if _, err := ParseLock([]byte(bad)); err == nil {
			t.Errorf("ParseLock of a lock with %s = nil; want an error", name)
		}
	}
}

func FuzzLock(f *testing.F) {
	data, err := MarshalLock(lockOf("1", "F", item("b", "1", "x")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"lock":1,"mirrors":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseLock(data)
		if err != nil {
			return
		}
		once, err := MarshalLock(l)
		if err != nil {
			t.Fatalf("MarshalLock of what was parsed = %v", err)
		}
		again, err := ParseLock(once)
		if err != nil {
			t.Fatalf("ParseLock of what was written = %v\n%s", err, once)
		}
		if twice, err := MarshalLock(again); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("MarshalLock is not stable: %q, then %q, %v", once, twice, err)
		}
		if d := Diff(l, again); len(d) > 0 {
			t.Errorf("Diff of a lock with itself = %q", d)
		}
	})
}

func TestKeyDoesNotShow(t *testing.T) {
	k := testKey(t, "Q")
	text := fmt.Sprintf("%v %+v %#v %s %q %x", k, k, k, k, k, k)
	if strings.Contains(text, "QQQQ") || !strings.Contains(text, k.Public().ID()) {
		t.Errorf("a key prints as %s", text)
	}
	p, err := ParsePublicKey(k.Public().String())
	if err != nil || p.ID() != k.Public().ID() {
		t.Errorf("ParsePublicKey = %v, %v; want %v", p, err, k.Public())
	}
	again, err := ParseKey(k.Reveal() + "\n")
	if err != nil || again.Public().ID() != p.ID() {
		t.Errorf("ParseKey(Reveal()) = %v, %v", again, err)
	}
}

func TestReceiptSlip(t *testing.T) {
	r := Receipt{Version: 1, Site: "dc1", Serial: 7, Snapshot: "s", SHA256: blob.FromBytes(nil), Bundle: blob.FromBytes(nil), Imported: testTime}
	r.Check = r.checksum()
	data, err := marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseReceipt(data); err != nil {
		t.Errorf("ParseReceipt = %v", err)
	}
	if _, err := ParseReceipt(bytes.Replace(data, []byte(`"serial":7`), []byte(`"serial":1`), 1)); err == nil || !strings.Contains(err.Error(), "mistyped") {
		t.Errorf("ParseReceipt of a mistyped one = %v; want it refused", err)
	}
}

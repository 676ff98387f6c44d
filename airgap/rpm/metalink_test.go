package rpm

import (
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
)

// metalinkOf is a metalink as MirrorManager writes it; hashes are elements of
// verification.
func metalinkOf(hashes string, urls ...string) string {
	var places strings.Builder
	for i, u := range urls {
		fmt.Fprintf(&places, `<url protocol="%s" type="x" location="US" preference="%d">%s</url>`, strings.SplitN(u, ":", 2)[0], 100-i, u)
	}
	return `<?xml version="1.0" encoding="utf-8"?>
<metalink version="3.0" xmlns="http://www.metalinker.org/" type="dynamic" pubdate="Mon, 01 Jan 2024 00:00:00 GMT" generator="mirrormanager" xmlns:mm0="http://fedorahosted.org/mirrormanager">
 <files>
  <file name="repomd.xml">
   <mm0:timestamp>1704067200</mm0:timestamp>
   <size>3000</size>
   <verification>` + hashes + `</verification>
   <mm0:alternates><mm0:alternate><mm0:timestamp>1</mm0:timestamp><verification><hash type="sha256">` + strings.Repeat("5", 64) + `</hash></verification></mm0:alternate></mm0:alternates>
   <resources maxconnections="1">` + places.String() + `</resources>
  </file>
 </files>
</metalink>`
}

func hashesOf(data []byte) string {
	return fmt.Sprintf(`<hash type="md5">%x</hash><hash type="sha256">%x</hash>`, md5.Sum(data), sha256.Sum256(data))
}

func TestParseMetalink(t *testing.T) {
	one, sum := "https://one.example.org/epel"+repomdPath, strings.Repeat("a", 64)
	good := `<hash type="sha256">` + sum + `</hash>`
	ml, err := parseMetalink([]byte(metalinkOf(good+`<hash type="sha512">`+strings.Repeat("b", 128)+`</hash>`, one, "rsync://two.example.org/epel"+repomdPath, "http://three.example.org"+repomdPath, one, "https://user:word@four.example.org"+repomdPath)))
	if want := []string{"https://one.example.org/epel", "http://three.example.org"}; err != nil || !slices.Equal(ml.bases, want) {
		t.Errorf("parseMetalink: bases = %q, %v; want %q", ml.bases, err, want)
	}
	if want := []string{"sha256:" + sum, "sha512:" + strings.Repeat("b", 128), "sha256:" + strings.Repeat("5", 64)}; !slices.Equal(ml.sums, want) {
		t.Errorf("parseMetalink: sums = %q; want %q", ml.sums, want)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"weak digests only", metalinkOf(`<hash type="md5">00</hash><hash type="sha1">00</hash>`, one), "weaker digests"},
		{"no place", metalinkOf(good, "rsync://two.example.org"+repomdPath), "no http or https address"},
		{"another file", strings.Replace(metalinkOf(good, one), `name="repomd.xml"`, `name="x.iso"`, 1), "names no repomd.xml"},
		{"no metalink", "<html></html>", "metalink"},
		{"cut", metalinkOf(good, one)[:600], "EOF"},
	} {
		if _, err := parseMetalink([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: parseMetalink = %v; want an error with %q", tt.name, err, tt.want)
		}
	}
}

func FuzzMetalink(f *testing.F) {
	f.Add([]byte(metalinkOf(`<hash type="sha256">`+strings.Repeat("a", 64)+`</hash>`, "https://one.example.org"+repomdPath)))
	f.Add([]byte("<metalink/>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ml, err := parseMetalink(b)
		if err == nil && (len(ml.bases) == 0 || len(ml.sums) == 0) {
			t.Errorf("parseMetalink(%q) = %+v; want a place and a digest, or an error", b, ml)
		}
		for _, base := range ml.bases {
			if err := airgap.CheckURL(base); err != nil {
				t.Error(err)
			}
		}
	})
}

// A repository by its metalink: copies that are gone, lag or were changed are
// passed over; the one that was taken stays; an index that only its packages'
// signatures would vouch for must be the metalink's.
func TestMetalink(t *testing.T) {
	u := newUpstream(t)
	rpms := build(t, rpmSpec{name: "lib", version: "1.2"})
	rpmsign(t, u.key, rpms)
	u.add(t, "good", rpms)
	u.add(t, "lags", build(t, rpmSpec{name: "lib", version: "1.1"}))
	for _, repo := range []string{"good", "lags"} { // as Fedora's, which signs packages alone
		if err := os.Remove(filepath.Join(u.dir, repo, "repodata", "repomd.xml.asc")); err != nil {
			t.Fatal(err)
		}
	}
	md, err := os.ReadFile(filepath.Join(u.dir, "good", "repodata", "repomd.xml"))
	if err != nil {
		t.Fatal(err)
	}
	at := func(repo string) string { return u.URL + "/" + repo + repomdPath }
	answer := metalinkOf(hashesOf(md), at("gone"), at("lags"), at("good"))
	list := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
	defer list.Close()
	s := newSide(t, u)
	m := airgap.Mirror{Metalink: list.URL + "/metalink?repo=x", Signed: "packages", Packages: []string{"lib"}}
	if _, _, err := s.sync(t, m); err != nil {
		t.Fatal(err)
	}
	lm := s.Lock.Mirrors[0]
	for _, it := range lm.Items {
		if !strings.HasPrefix(it.URL, u.URL+"/good/") {
			t.Errorf("%s is taken from %s; want the copy that the metalink vouches for", it.Path, it.URL)
		}
	}
	if len(lm.Trust) != 2 || lm.Trust[1].Source != m.Metalink {
		t.Errorf("trust = %+v; want the metalink in it", lm.Trust)
	}
	if err := os.CopyFS(filepath.Join(u.dir, "also"), os.DirFS(filepath.Join(u.dir, "good"))); err != nil {
		t.Fatal(err)
	}
	answer = metalinkOf(hashesOf(md), at("also"), at("good"))
	if _, made, err := s.sync(t, m); err != nil || made {
		t.Errorf("sync with another copy in front: made = %t, %v; want the snapshot that is there", made, err)
	}
	served, _ := s.Store.Served()
	for _, tt := range []struct{ name, metalink, answer, want string }{
		{"every copy lags", m.Metalink, metalinkOf(hashesOf(md), at("lags")), "none that the metalink vouches for"},
		{"weak digests", m.Metalink, metalinkOf(`<hash type="md5">00</hash>`, at("good")), "weaker digests"},
		{"not https", "http://mirrors.example.org/metalink", "", "is not at an https address"},
	} {
		answer = tt.answer
		bad := m
		bad.Metalink = tt.metalink
		if _, _, err := s.sync(t, bad); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: sync = %v; want an error with %q", tt.name, err, tt.want)
		}
	}
	if got, err := s.Store.Served(); err != nil || got != served {
		t.Errorf("served = %s, %v; want the last good %s", got, err, served)
	}
	answer = metalinkOf(hashesOf(md), at("good"))
	s.dnf(t).must(t, "install", "lib")
}

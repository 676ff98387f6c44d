package oci

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"regexp"
	"strings"

	"github.com/fettle-dev/fettle/blob"
)

// Digest names content: "sha256:" and 64 hex digits, or "sha512:" and 128.
// OCI image-spec, descriptor.md.
type Digest string

// ParseDigest reads a digest.
func ParseDigest(s string) (Digest, error) {
	algo, digits, ok := strings.Cut(s, ":")
	want := map[string]int{"sha256": 2 * sha256.Size, "sha512": 2 * sha512.Size}[algo]
	if !ok || want == 0 {
		return "", fmt.Errorf("digest %.80q: it must begin with sha256: or sha512:", s)
	}
	if len(digits) != want {
		return "", fmt.Errorf("digest %.160q: it has %d hex digits; %s has %d", s, len(digits), algo, want)
	}
	for _, c := range []byte(digits) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fmt.Errorf("digest %q: %q is not a lower case hex digit", s, string(c))
		}
	}
	return Digest(s), nil
}

// Algorithm is "sha256" or "sha512".
func (d Digest) Algorithm() string { a, _, _ := strings.Cut(string(d), ":"); return a }

// Hex is the digest without its algorithm.
func (d Digest) Hex() string { _, h, _ := strings.Cut(string(d), ":"); return h }

// short is enough of a digest for people.
func (d Digest) short() string { return d.Algorithm() + ":" + d.Hex()[:min(12, len(d.Hex()))] }

// path is where an image layout has the content.
func (d Digest) path() string { return "blobs/" + d.Algorithm() + "/" + d.Hex() }

// blob is the digest as package blob names it; "" for another algorithm.
func (d Digest) blob() blob.Digest {
	if d.Algorithm() != "sha256" {
		return ""
	}
	return blob.Digest(d)
}

func (d Digest) hasher() hash.Hash {
	if d.Algorithm() == "sha512" {
		return sha512.New()
	}
	return sha256.New()
}

// of tells whether d is the digest of b.
func (d Digest) of(b []byte) bool {
	h := d.hasher()
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil)) == d.Hex()
}

// canonical is the sha256 digest of b.
func canonical(b []byte) Digest { return Digest(blob.FromBytes(b)) }

var (
	// Names: OCI distribution-spec 1.1, pulling manifests.
	repoName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagName  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$`)
)

// checkRepo refuses what is no name of a repository.
func checkRepo(name string) error {
	if len(name) > 255 || !repoName.MatchString(name) {
		return fmt.Errorf("repository %.300q: use lower case letters and digits, parted by . _ - and /, at most 255 in all", name)
	}
	return nil
}

func checkTag(tag string) error {
	if !tagName.MatchString(tag) {
		return fmt.Errorf("tag %.160q: use at most 128 letters, digits and . _ -, beginning with none of . and -", tag)
	}
	return nil
}

// Ref is an image as the site writes it: HOST/REPOSITORY:TAG,
// HOST/REPOSITORY@DIGEST, or both, where the digest says what the tag must be.
type Ref struct {
	Host   string // as it was written, with its port
	Repo   string
	Tag    string
	Digest Digest
}

// ParseRef reads a reference. There is no default registry and no default tag:
// a site says what it wants. The tag may be a pattern (path.Match), which
// stands for all tags that it matches.
func ParseRef(s string) (Ref, error) {
	fail := func(why string) (Ref, error) {
		return Ref{}, fmt.Errorf("image %.300q: %s; write REGISTRY/REPOSITORY:TAG, or @sha256:… instead of a tag or behind it", s, why)
	}
	rest, digest, hasDigest := strings.Cut(s, "@")
	host, rest, ok := strings.Cut(rest, "/")
	if !ok || (!strings.ContainsAny(host, ".:") && host != "localhost") {
		return fail("it names no registry")
	}
	if len(host) > 128 || !hostName.MatchString(host) {
		return fail("its registry is no host name in lower case")
	}
	r := Ref{Host: host, Repo: rest}
	if i := strings.LastIndex(rest, ":"); i >= 0 {
		r.Repo, r.Tag = rest[:i], rest[i+1:]
		if !r.pattern() && checkTag(r.Tag) != nil || len(r.Tag) > 128 || strings.ContainsAny(r.Tag, "/\\") {
			return fail("its tag has other characters than letters, digits and . _ -")
		}
	}
	if checkRepo(r.Repo) != nil || checkRepo(r.local()) != nil {
		return fail("its registry or its repository is not of lower case letters and digits, parted by . _ - and /")
	}
	if hasDigest {
		d, err := ParseDigest(digest)
		if err != nil {
			return Ref{}, fmt.Errorf("image %.300q: %w", s, err)
		}
		r.Digest = d
		if r.pattern() {
			return fail("a pattern for tags has no digest")
		}
	}
	if r.Tag == "" && r.Digest == "" {
		return fail("it has neither a tag nor a digest")
	}
	return r, nil
}

// pattern tells whether the tag stands for several.
func (r Ref) pattern() bool { return strings.ContainsAny(r.Tag, "*?[") }

// Name is the registry and the repository.
func (r Ref) Name() string { return r.Host + "/" + r.Repo }

func (r Ref) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + string(r.Digest)
	}
	return s
}

// local is the repository in our own registry.
func (r Ref) local() string { return localName(r.Host, r.Repo) }

// localName is where our registry has a repository of another one. A port's
// colon cannot stand in a repository's name.
func localName(host, repo string) string {
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		host = "docker.io"
	}
	return strings.ReplaceAll(host, ":", "_") + "/" + repo
}

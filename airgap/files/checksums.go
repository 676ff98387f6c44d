package files

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/pgp"
	"github.com/fettle-dev/fettle/blob"
)

const maxList = 16 << 20

// checksums resolves signed lists of digests, such as SHA256SUMS with
// SHA256SUMS.gpg. The list and its signature are served too.
func (f Format) checksums(ctx context.Context, r *resolver) error {
	if len(r.m.Checksums) == 0 {
		return nil
	}
	if len(r.m.Keyrings) == 0 {
		return fmt.Errorf("%s: its signature needs keyrings: name the files of upstream's OpenPGP keys", r.m.Checksums[0].URL)
	}
	kr, err := pgp.ReadKeyring(f.Dir, r.m.Keyrings, nil)
	if err != nil {
		return err
	}
	for _, w := range r.m.Checksums {
		if err := r.checked(ctx, w, kr); err != nil {
			return fmt.Errorf("%s: %w", w.URL, err)
		}
	}
	return nil
}

func (r *resolver) checked(ctx context.Context, w airgap.WantChecked, kr pgp.Keyring) error {
	base, err := url.Parse(w.URL)
	if err != nil {
		return err
	}
	data, err := r.env.Fetch.Index(ctx, w.URL, maxList)
	if err != nil {
		return err
	}
	listItem := func(at string, b []byte) error {
		u, err := url.Parse(at)
		if err != nil {
			return err
		}
		r.all = fmt.Appendf(r.all, "%s %s %q %s\n", at, blob.FromBytes(b), w.Files, w.Path)
		return r.add(airgap.Item{Path: path.Join(w.Path, path.Base(u.Path)), URL: at, Size: int64(len(b)), SHA256: blob.FromBytes(b), Kind: airgap.KindIndex})
	}
	if err := listItem(w.URL, data); err != nil {
		return err
	}
	text, fingerprint := data, ""
	if w.Signature == "" {
		text, fingerprint, err = pgp.VerifyInline(data, kr, r.env.Now())
	} else {
		var sig []byte
		if sig, err = r.env.Fetch.Index(ctx, w.Signature, maxList); err != nil {
			return err
		}
		if err := listItem(w.Signature, sig); err != nil {
			return err
		}
		fingerprint, err = pgp.VerifyDetached(data, sig, kr, r.env.Now())
	}
	if err != nil {
		return err
	}
	r.out.Trust = append(r.out.Trust, airgap.Trust{What: "list " + w.URL, SignedBy: fingerprint, Source: kr.Source})
	list, err := parseList(string(text))
	if err != nil {
		return err
	}
	matched := map[string]bool{}
	for _, l := range list {
		pattern, ok := match(w.Files, l.name)
		if !ok {
			continue
		}
		matched[pattern] = true
		at := base.ResolveReference(&url.URL{Path: l.name})
		it := airgap.Item{Path: path.Join(w.Path, l.name), URL: at.String(), Size: -1, SHA256: l.sha256, Kind: airgap.KindFile, Why: "the list " + path.Base(base.Path)}
		if err := r.add(it); err != nil {
			return err
		}
	}
	return unmatched(w.Files, matched)
}

// match finds the pattern that a name matches, whole or by its last part; no
// patterns match everything.
func match(patterns []string, name string) (string, bool) {
	if len(patterns) == 0 {
		return "", true
	}
	for _, p := range patterns {
		whole, err := path.Match(p, name)
		last, err2 := path.Match(p, path.Base(name))
		if err == nil && err2 == nil && (whole || last) {
			return p, true
		}
	}
	return "", false
}

// unmatched makes an error of patterns that no file matched: a mirror without a
// file that was asked for is found out too late.
func unmatched(patterns []string, matched map[string]bool) error {
	for _, p := range patterns {
		if !matched[p] {
			return fmt.Errorf("no file matches %q", p)
		}
	}
	return nil
}

// listLine is a file of a list.
type listLine struct {
	name   string
	sha256 blob.Digest
}

var (
	gnuLine = regexp.MustCompile(`^([0-9a-fA-F]{64}) [ *](.+)$`)          // sha256sum(1)
	bsdLine = regexp.MustCompile(`^SHA256 \((.+)\) = ([0-9a-fA-F]{64})$`) // sha256(1)
)

// parseList reads a list of sha256 digests in either form. All other lines, such
// as those of other digests and comments, are passed over.
func parseList(text string) ([]listLine, error) {
	var out []listLine
	seen := map[string]blob.Digest{}
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimRight(line, "\r")
		var name, hex string
		if m := gnuLine.FindStringSubmatch(line); m != nil {
			name, hex = m[2], m[1]
		} else if m := bsdLine.FindStringSubmatch(line); m != nil {
			name, hex = m[1], m[2]
		} else {
			continue
		}
		name = strings.TrimPrefix(name, "./")
		if err := airgap.CheckPath(name); err != nil {
			return nil, err
		}
		d := blob.Digest("sha256:" + strings.ToLower(hex))
		if old, ok := seen[name]; ok {
			if old != d {
				return nil, fmt.Errorf("it names %s twice and differently", name)
			}
			continue
		}
		seen[name] = d
		out = append(out, listLine{name, d})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("it has no sha256 digests, and weaker ones are not trusted")
	}
	return out, nil
}

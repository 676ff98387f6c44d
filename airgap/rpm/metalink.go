package rpm

import (
	"cmp"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

const (
	maxMetalink = 4 << 20
	// maxPlaces is how many places of a metalink are tried.
	maxPlaces  = 8
	repomdPath = "/repodata/repomd.xml"
)

// metalink says where copies of a repository are, and which repomd.xml they may
// have: Metalink 3.0, as MirrorManager makes it for Fedora and EPEL. It is not
// signed: who answers for it is its https address.
type metalink struct {
	bases []string // the preferred first
	sums  []string // of repomd.xml, and of those before that copies may still have
}

// parseMetalink reads a metalink of a repomd.xml.
func parseMetalink(b []byte) (metalink, error) {
	type verification struct {
		Hash []xmlSum `xml:"hash"`
	}
	var doc struct {
		XMLName xml.Name `xml:"metalink"`
		Files   []struct {
			Name         string       `xml:"name,attr"`
			Verification verification `xml:"verification"`
			Alternates   []struct {
				Verification verification `xml:"verification"`
			} `xml:"alternates>alternate"`
			URLs []struct {
				Preference int    `xml:"preference,attr"`
				URL        string `xml:",chardata"`
			} `xml:"resources>url"`
		} `xml:"files>file"`
	}
	if err := xml.Unmarshal(b, &doc); err != nil {
		return metalink{}, err
	}
	var out metalink
	for _, f := range doc.Files {
		if f.Name != "repomd.xml" {
			continue
		}
		take := func(v verification) {
			for _, h := range v.Hash { // it has MD5 and SHA1 beside
				if sum, err := sumOf(h); err == nil && !slices.Contains(out.sums, sum) {
					out.sums = append(out.sums, sum)
				}
			}
		}
		take(f.Verification)
		if len(out.sums) == 0 {
			return metalink{}, errors.New("it has no sha256 or sha512 of repomd.xml, and weaker digests vouch for nothing today")
		}
		for _, a := range f.Alternates {
			take(a.Verification)
		}
		urls := f.URLs
		slices.SortStableFunc(urls, func(a, b struct {
			Preference int    `xml:"preference,attr"`
			URL        string `xml:",chardata"`
		}) int {
			return cmp.Or(cmp.Compare(b.Preference, a.Preference), cmp.Compare(a.URL, b.URL))
		})
		for _, u := range urls { // rsync and ftp are left out
			base, ok := strings.CutSuffix(strings.TrimSpace(u.URL), repomdPath)
			if ok && airgap.CheckURL(base) == nil && !slices.Contains(out.bases, base) {
				out.bases = append(out.bases, base)
			}
		}
	}
	switch {
	case len(out.sums) == 0:
		return metalink{}, errors.New("it names no repomd.xml")
	case len(out.bases) == 0:
		return metalink{}, errors.New("it names no http or https address of a repomd.xml")
	}
	return out, nil
}

// fetchMetalink asks for a mirror's metalink. The place of the earlier lock
// stays the first while it is listed: each answer has others in front.
func fetchMetalink(ctx context.Context, env airgap.Env, m airgap.Mirror, prev *airgap.LockedMirror) (metalink, error) {
	u, err := url.Parse(m.Metalink)
	if err != nil {
		return metalink{}, err
	}
	if a, err := netip.ParseAddr(u.Hostname()); u.Scheme != "https" && (err != nil || !a.IsLoopback()) {
		return metalink{}, fmt.Errorf("its metalink %s is not at an https address, and nothing else vouches for it", m.Metalink)
	}
	data, err := env.Fetch.Index(ctx, m.Metalink, maxMetalink)
	if err != nil {
		return metalink{}, err
	}
	ml, err := parseMetalink(data)
	if err != nil {
		return metalink{}, fmt.Errorf("the metalink %s: %w", m.Metalink, err)
	}
	if prev != nil {
		for _, it := range prev.Items {
			if base, ok := strings.CutSuffix(it.URL, repomdPath); ok {
				if i := slices.Index(ml.bases, base); i > 0 {
					ml.bases = slices.Insert(slices.Delete(ml.bases, i, i+1), 0, base)
				}
			}
		}
	}
	ml.bases = ml.bases[:min(len(ml.bases), maxPlaces)]
	return ml, nil
}

// vouches refuses a repomd.xml that a metalink does not have.
func (ml metalink) vouches(data []byte) error {
	sum := sha512.Sum512(data)
	if slices.Contains(ml.sums, string(blob.FromBytes(data))) || slices.Contains(ml.sums, "sha512:"+hex.EncodeToString(sum[:])) {
		return nil
	}
	return errors.New("it is none that the metalink vouches for: this copy lags behind, or somebody changed it")
}

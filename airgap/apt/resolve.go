package apt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/pgp"
	"github.com/fettle-dev/fettle/blob"
)

const (
	maxRelease = 32 << 20
	evidence   = ".upstream/"
	// resolveVersion changes when the same upstream resolves to something else.
	resolveVersion = "5"
)

// suite is a source whose Release is verified.
type suite struct {
	source
	rel    release
	trust  airgap.Trust
	signed []airgap.Item // InRelease, or Release and Release.gpg
}

// remade tells whether a mirror gets a Release of the site's own.
func remade(m airgap.Mirror) bool { return !m.Whole() || m.Resign }

// place is where a file of dists/SUITE stands in a mirror's tree.
func place(m airgap.Mirror, suite, file string) string {
	if remade(m) {
		return path.Join(evidence, evidenceName(suite), file)
	}
	return path.Join(indexDir(suite), file)
}

// flat tells whether a suite is a folder with the index and the packages of an
// archive without dists: its name ends with a slash (sources.list(5)).
func flat(suite string) bool { return strings.HasSuffix(suite, "/") }

// indexDir is where a suite's Release is, below the archive's address; "." is
// the address itself.
func indexDir(suite string) string {
	if flat(suite) {
		return path.Clean(strings.TrimLeft(suite, "/") + ".")
	}
	return "dists/" + suite
}

func evidenceName(suite string) string {
	if flat(suite) {
		return path.Join("flat", indexDir(suite))
	}
	return suite
}

// address is where a file of a suite's index is at upstream.
func (s source) address(file string) string {
	return s.base + "/" + path.Join(indexDir(s.suite), file)
}

func indexKind(m airgap.Mirror) airgap.Kind {
	if remade(m) {
		return airgap.KindEvidence
	}
	return airgap.KindIndex
}

// inputsOf is a digest over everything that a resolution, and the tree that is
// made of it, depends on.
func inputsOf(env airgap.Env, m airgap.Mirror, suites []suite) (blob.Digest, error) {
	signer := ""
	if remade(m) {
		signer = env.Key.Public().String()
	}
	type in struct {
		Base    string
		Trust   airgap.Trust
		Release blob.Digest
	}
	var ins []in
	for _, s := range suites {
		ins = append(ins, in{s.base, s.trust, s.signed[0].SHA256})
	}
	b, err := json.Marshal([]any{resolveVersion, m, ins, signer})
	return blob.FromBytes(b), err
}

// notOlder refuses a Release that is older than the one that was locked.
func notOlder(prev []airgap.Trust, suites []suite) error {
	for _, s := range suites {
		for _, t := range prev {
			if old, err := time.Parse(time.RFC3339, t.Date); t.What == s.trust.What && err == nil && s.rel.date.Before(old) {
				return fmt.Errorf("%s at %s is of %s, older than the locked one of %s: upstream, or somebody on the way, replays an old index", t.What, s.base, s.trust.Date, t.Date)
			}
		}
	}
	return nil
}

// firstSuite is the first candidate that has the suite.
func firstSuite(ctx context.Context, env airgap.Env, m airgap.Mirror, candidates []source) (suite, error) {
	var errs []error
	for _, src := range candidates {
		s, err := fetchSuite(ctx, env, m, src)
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
		if !errors.Is(err, airgap.ErrGone) {
			break
		}
	}
	return suite{}, errors.Join(errs...)
}

// fetchSuite fetches and verifies a suite's Release.
func fetchSuite(ctx context.Context, env airgap.Env, m airgap.Mirror, src source) (suite, error) {
	kr, err := pgp.ReadKeyring(src.dir, src.keyrings, src.keyTexts)
	if err != nil {
		return suite{}, err
	}
	s := suite{source: src}
	at := strings.TrimSuffix(src.address("x"), "x")
	item := func(name string, data []byte) airgap.Item {
		return airgap.Item{Path: place(m, src.suite, name), URL: at + name, Size: int64(len(data)), SHA256: blob.FromBytes(data), Kind: indexKind(m)}
	}
	now := env.Now()
	var fingerprint string
	data, err := env.Fetch.Index(ctx, at+"InRelease", maxRelease)
	switch {
	case err == nil:
		s.signed = []airgap.Item{item("InRelease", data)}
		if data, fingerprint, err = pgp.VerifyInline(data, kr, now); err != nil {
			return suite{}, fmt.Errorf("%sInRelease: %w", at, err)
		}
	case errors.Is(err, airgap.ErrGone):
		if data, err = env.Fetch.Index(ctx, at+"Release", maxRelease); err != nil {
			return suite{}, err
		}
		sig, err := env.Fetch.Index(ctx, at+"Release.gpg", maxRelease)
		if err != nil {
			return suite{}, err
		}
		if fingerprint, err = pgp.VerifyDetached(data, sig, kr, now); err != nil {
			return suite{}, fmt.Errorf("%sRelease: %w", at, err)
		}
		s.signed = []airgap.Item{item("Release", data), item("Release.gpg", sig)}
	default:
		return suite{}, err
	}
	if s.rel, err = parseRelease(data); err != nil {
		return suite{}, fmt.Errorf("%s: the signed Release: %w", at, err)
	}
	if err := s.rel.check(src.suite, now); err != nil {
		return suite{}, fmt.Errorf("%s: the signed Release: %w", at, err)
	}
	s.trust = airgap.Trust{What: "suite " + src.suite, Date: s.rel.date.Format(time.RFC3339), SignedBy: fingerprint, Source: kr.Source}
	if !s.rel.validUntil.IsZero() {
		s.trust.Until = s.rel.validUntil.Format(time.RFC3339)
	}
	return s, nil
}

// indexOf says what an index lists.
type indexOf int

const (
	ofPackages indexOf = iota
	ofUdebs            // packages of the Debian installer
	ofSources
	ofNetboot // SHA256SUMS of the installer's images
)

// wanted is an index to be read.
type wanted struct {
	suite  suite
	kind   indexOf
	file   string // e.g. COMPONENT/binary-ARCH/Packages
	suffix string
	item   airgap.Item
}

// listing is what the indexes of a mirror list.
type listing struct {
	pkgs, udebs []*pkg
	sources     []srcPkg
	netboot     []airgap.Item
}

// readIndexes fetches the indexes and reads them.
func readIndexes(ctx context.Context, env airgap.Env, m airgap.Mirror, suites []suite, put func(airgap.Item) error) (l listing, err error) {
	var read []wanted
	var items []airgap.Item
	for _, s := range suites {
		r, its, err := indexesOf(m, s)
		if err != nil {
			return l, fmt.Errorf("suite %s: %w", s.suite, err)
		}
		read = append(read, r...)
		items = append(items, its...)
	}
	if err := fetchIndexes(ctx, env, items); err != nil {
		return l, err
	}
	for _, it := range items {
		if err := put(it); err != nil {
			return l, err
		}
	}
	for _, w := range read {
		switch w.kind {
		case ofPackages, ofUdebs:
			ps, err := readPackages(ctx, env.Blobs, w)
			if err != nil {
				return l, fmt.Errorf("%s: %w", w.item.URL, err)
			}
			if w.kind == ofUdebs {
				l.udebs = append(l.udebs, ps...)
			} else {
				l.pkgs = append(l.pkgs, ps...)
			}
		case ofSources:
			ss, err := readSourceIndex(ctx, env.Blobs, w)
			if err != nil {
				return l, fmt.Errorf("%s: %w", w.item.URL, err)
			}
			l.sources = append(l.sources, ss...)
		case ofNetboot:
			fs, err := readNetboot(ctx, env.Blobs, w)
			if err != nil {
				return l, fmt.Errorf("%s: %w", w.item.URL, err)
			}
			l.netboot = append(l.netboot, fs...)
		}
	}
	return l, nil
}

// indexesOf are the indexes of a suite: one of each to read, and all that the
// lock takes.
func indexesOf(m airgap.Mirror, s suite) (read []wanted, items []airgap.Item, err error) {
	components := s.components
	if len(components) == 0 {
		components = s.rel.components
	}
	item := func(file string) airgap.Item {
		l := s.rel.files[file]
		at := file
		if s.rel.byHash {
			at = byHashPath(file, l.sha256)
		}
		return airgap.Item{Path: place(m, s.suite, file), URL: s.address(at), Size: l.size, SHA256: l.sha256, Kind: indexKind(m)}
	}
	add := func(kind indexOf, file string, needed bool) error {
		i := slices.IndexFunc(suffixes, func(x string) bool { _, ok := s.rel.files[file+x]; return ok })
		if i < 0 {
			if !needed {
				return nil
			}
			return fmt.Errorf("its Release has no %s: its components are %s, its architectures %s", file, strings.Join(s.rel.components, ", "), strings.Join(s.rel.archs, ", "))
		}
		w := wanted{s, kind, file, suffixes[i], item(file + suffixes[i])}
		read = append(read, w)
		items = append(items, w.item)
		if !remade(m) {
			items = append(items, variants(s.rel, file, suffixes[i], item)...)
		}
		return nil
	}
	if flat(s.suite) {
		if err := add(ofPackages, "Packages", true); err != nil {
			return nil, nil, err
		}
		if m.Sources {
			err = add(ofSources, "Sources", false)
		}
		return read, items, err
	}
	for _, comp := range components {
		for _, arch := range archsOf(m, s.rel) {
			if err := add(ofPackages, comp+"/binary-"+arch+"/Packages", arch != "all"); err != nil {
				return nil, nil, err
			}
			if !m.Installer || arch == "all" {
				continue
			}
			if file := comp + "/binary-" + arch + "/Release"; !remade(m) && s.rel.files[file].size > 0 {
				items = append(items, item(file)) // choose-mirror asks for it
			}
			// Not every pocket has an installer.
			if err := add(ofUdebs, comp+"/debian-installer/binary-"+arch+"/Packages", false); err != nil {
				return nil, nil, err
			}
			if sums := comp + "/installer-" + arch + "/current/images/SHA256SUMS"; s.rel.files[sums].size > 0 {
				w := wanted{s, ofNetboot, sums, "", item(sums)}
				read, items = append(read, w), append(items, w.item)
			}
		}
		if m.Sources {
			if err := add(ofSources, comp+"/source/Sources", false); err != nil {
				return nil, nil, err
			}
		}
		if !remade(m) {
			items = append(items, variants(s.rel, comp+"/i18n/Translation-en", "-", item)...)
		}
	}
	return read, items, nil
}

// variants are the other compressed forms of an index: apt takes the one that
// it likes best of those that the Release names.
func variants(r release, file, but string, item func(string) airgap.Item) []airgap.Item {
	var out []airgap.Item
	for _, x := range []string{".xz", ".gz", ".zst", ".bz2", ".lzma"} {
		if _, ok := r.files[file+x]; ok && x != but {
			out = append(out, item(file+x))
		}
	}
	return out
}

// archsOf are the architectures whose indexes are read.
func archsOf(m airgap.Mirror, r release) []string {
	out := slices.Clone(m.Archs)
	if r.allApart && slices.Contains(r.archs, "all") && !slices.Contains(out, "all") {
		out = append(out, "all")
	}
	return out
}

// fetchIndexes takes indexes by their digest where the archive offers that,
// so that an update of it meanwhile does no harm; where it only says so, under
// their names.
func fetchIndexes(ctx context.Context, env airgap.Env, items []airgap.Item) error {
	err := env.Fetch.All(ctx, items)
	if !errors.Is(err, airgap.ErrGone) {
		return err
	}
	for i, it := range items {
		if at, _, ok := strings.Cut(it.URL, "/by-hash/"); ok {
			items[i].URL = at + "/" + path.Base(it.Path)
		}
	}
	return env.Fetch.All(ctx, items)
}

// readPackages reads an index that is in the store.
func readPackages(ctx context.Context, s *blob.Store, w wanted) (out []*pkg, err error) {
	var plain *listed
	if l, ok := w.suite.rel.files[w.file]; ok {
		plain = &l
	}
	r, done, err := openIndex(ctx, s, w.item.SHA256, w.suffix, plain)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	err = readStanzas(r, packageFields(), false, func(st stanza) error {
		p, err := parsePackage(st, w.suite.base)
		if err != nil {
			return err
		}
		p.suite, p.pin = w.suite.suite, w.suite.rel.pin()
		out = append(out, p)
		return nil
	})
	return out, err
}

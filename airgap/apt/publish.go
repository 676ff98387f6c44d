package apt

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/pgp"
	"github.com/fettle-dev/fettle/blob"
)

// keyFile is the site's OpenPGP key in the tree of a remade mirror.
const keyFile = "site-key.asc"

// Publish implements airgap.Format.
func (f *Format) Publish(ctx context.Context, env airgap.Env, lm airgap.LockedMirror) ([]airgap.File, error) {
	files := map[string]airgap.File{}
	for _, it := range lm.Items {
		file, err := airgap.TreeFile(env.Blobs, it)
		if err != nil {
			return nil, err
		}
		files[it.Path] = file
		if it.Kind == airgap.KindIndex && !slices.Contains([]string{"InRelease", "Release", "Release.gpg"}, path.Base(it.Path)) {
			file.Path = byHashPath(it.Path, it.SHA256)
			files[file.Path] = file
		}
	}
	if remade(lm.Spec) {
		if env.Key == nil {
			return nil, errors.New("its index is to be signed by the site, and there is no site key: make one with fettle bundle key")
		}
		if err := remake(ctx, env, lm, files); err != nil {
			return nil, err
		}
	}
	return slices.Collect(maps.Values(files)), nil
}

func byHashPath(file string, d blob.Digest) string {
	return path.Join(path.Dir(file), "by-hash/SHA256", d.Hex())
}

// remade suites, from the evidence in a lock.
type remadeSuite struct {
	name    string
	rel     release
	indexes []remadeIndex
}

type remadeIndex struct {
	file   string // without suffix, e.g. COMPONENT/binary-ARCH/Packages
	item   airgap.Item
	suffix string
}

// parts are the component and the architecture of an index; "" where it has
// none.
func (ix remadeIndex) parts() (component, arch string) {
	dir := path.Dir(ix.file)
	if before, after, ok := strings.Cut(dir, "/binary-"); ok {
		return strings.TrimSuffix(before, "/debian-installer"), after
	}
	component, _ = strings.CutSuffix(dir, "/source")
	if component == dir {
		component = "" // flat, or the installer's images
	}
	return component, ""
}

// suitesOf finds the suites and their indexes among a mirror's evidence.
func suitesOf(ctx context.Context, env airgap.Env, lm airgap.LockedMirror) ([]remadeSuite, error) {
	var out []remadeSuite
	for _, name := range lm.Spec.Suites {
		at := evidence + evidenceName(name) + "/"
		s := remadeSuite{name: name}
		for _, it := range lm.Items {
			file, ok := strings.CutPrefix(it.Path, at)
			if !ok || it.Kind != airgap.KindEvidence {
				continue
			}
			switch {
			case file == "InRelease" || file == "Release":
				rel, err := readLocked(ctx, env, it)
				if err != nil {
					return nil, fmt.Errorf("suite %s: %w", name, err)
				}
				s.rel = rel
			default:
				base, suffix, _ := strings.Cut(path.Base(file), ".")
				if suffix != "" {
					suffix = "." + suffix
				}
				if !slices.Contains([]string{"Packages", "Sources", "SHA256SUMS"}, base) {
					continue // e.g. Release.gpg
				}
				s.indexes = append(s.indexes, remadeIndex{path.Join(path.Dir(file), base), it, suffix})
			}
		}
		if len(s.rel.files) == 0 {
			return nil, fmt.Errorf("the lock has no Release of suite %s: resolve again", name)
		}
		out = append(out, s)
	}
	return out, nil
}

// readLocked reads a Release whose digest the lock vouches for.
func readLocked(ctx context.Context, env airgap.Env, it airgap.Item) (release, error) {
	r, err := env.Blobs.Open(ctx, it.SHA256)
	if err != nil {
		return release{}, err
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		return release{}, err
	}
	data := b.Bytes()
	if path.Base(it.Path) == "InRelease" {
		if data, err = pgp.SignedText(data); err != nil {
			return release{}, err
		}
	}
	return parseRelease(data)
}

// remake adds the indexes of the site's own to files.
func remake(ctx context.Context, env airgap.Env, lm airgap.LockedMirror, files map[string]airgap.File) error {
	kept := map[string]blob.Digest{}
	for _, it := range lm.Items {
		if it.Kind == airgap.KindPackage {
			kept[it.Path] = it.SHA256
		}
	}
	suites, err := suitesOf(ctx, env, lm)
	if err != nil {
		return err
	}
	signer, err := pgp.NewSigner(env.Key)
	if err != nil {
		return err
	}
	put := func(p string, data []byte) (blob.Digest, error) {
		d, _, err := env.Blobs.Put(ctx, bytes.NewReader(data), "")
		files[p] = airgap.File{Path: p, Size: int64(len(data)), SHA256: d}
		return d, err
	}
	if _, err := put(keyFile, signer.Public); err != nil {
		return err
	}
	if lm.Spec.Installer {
		overlay, err := installerOverlay(signer.Public)
		if err != nil {
			return err
		}
		if _, err := put(overlayFile, overlay); err != nil {
			return err
		}
	}
	for _, s := range suites {
		if err := remakeSuite(ctx, env, s, kept, signer, put); err != nil {
			return fmt.Errorf("suite %s: %w", s.name, err)
		}
	}
	return nil
}

func remakeSuite(ctx context.Context, env airgap.Env, s remadeSuite, kept map[string]blob.Digest, signer *pgp.Signer, put func(string, []byte) (blob.Digest, error)) error {
	at := func(file string) string { return path.Join(indexDir(s.name), file) }
	sums := map[string]string{} // lines by file
	var components, archs []string
	for _, ix := range s.indexes {
		if path.Base(ix.file) == "SHA256SUMS" { // as upstream wrote it
			data, err := airgap.ReadBlob(ctx, env.Blobs, ix.item.SHA256, maxRelease)
			if err != nil {
				return fmt.Errorf("%s: %w", ix.item.Path, err)
			}
			d, err := put(at(ix.file), data)
			if err != nil {
				return err
			}
			sums[ix.file] = fmt.Sprintf(" %s %d %s\n", d.Hex(), len(data), ix.file)
			continue
		}
		data, err := filter(ctx, env, s.rel, ix, kept)
		if err != nil {
			return fmt.Errorf("%s: %w", ix.item.Path, err)
		}
		packed, err := airgap.Gzip(data)
		if err != nil {
			return err
		}
		for file, b := range map[string][]byte{ix.file: data, ix.file + ".gz": packed} {
			d, err := put(at(file), b)
			if err != nil {
				return err
			}
			if _, err := put(byHashPath(at(file), d), b); err != nil {
				return err
			}
			sums[file] = fmt.Sprintf(" %s %d %s\n", d.Hex(), len(b), file)
		}
		component, arch := ix.parts()
		if file, text := archRelease(s, ix); file != "" {
			d, err := put(at(file), []byte(text))
			if err != nil {
				return err
			}
			sums[file] = fmt.Sprintf(" %s %d %s\n", d.Hex(), len(text), file)
		}
		if component != "" {
			components = append(components, component)
		}
		if arch != "" {
			archs = append(archs, arch)
		}
	}
	slices.Sort(components)
	slices.Sort(archs)
	var r bytes.Buffer
	field := func(k, v string) {
		if v != "" {
			fmt.Fprintf(&r, "%s: %s\n", k, strings.ReplaceAll(v, "\n", " "))
		}
	}
	field("Origin", s.rel.origin)
	field("Label", s.rel.label)
	if flat(s.name) {
		field("Suite", s.rel.suite)
		field("Codename", s.rel.codename)
		archs = s.rel.archs
	} else {
		field("Suite", cmp.Or(s.rel.suite, s.name))
		field("Codename", cmp.Or(s.rel.codename, s.name))
	}
	field("Date", formatDate(s.rel.date))
	field("Acquire-By-Hash", "yes")
	if s.rel.notAutomatic {
		field("NotAutomatic", "yes")
	}
	if s.rel.butUpgrades {
		field("ButAutomaticUpgrades", "yes")
	}
	if !slices.Contains(archs, "all") {
		field("No-Support-for-Architecture-all", "Packages")
	}
	field("Architectures", strings.Join(slices.Compact(archs), " "))
	field("Components", strings.Join(slices.Compact(components), " "))
	field("Description", "what this site needs of upstream, signed by the site")
	r.WriteString("SHA256:\n")
	for _, file := range slices.Sorted(maps.Keys(sums)) {
		r.WriteString(sums[file])
	}
	inline, detached, err := signer.Sign(r.Bytes(), s.rel.date)
	if err != nil {
		return err
	}
	for name, b := range map[string][]byte{"Release": r.Bytes(), "InRelease": inline, "Release.gpg": detached} {
		if _, err := put(at(name), b); err != nil {
			return err
		}
	}
	return nil
}

// filter is an index with the packages that are kept, as upstream wrote them.
func filter(ctx context.Context, env airgap.Env, rel release, ix remadeIndex, kept map[string]blob.Digest) (_ []byte, err error) {
	var plain *listed
	if l, ok := rel.files[ix.file]; ok {
		plain = &l
	}
	r, done, err := openIndex(ctx, env.Blobs, ix.item.SHA256, ix.suffix, plain)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	fields := map[string]bool{"filename": true, "sha256": true}
	if path.Base(ix.file) == "Sources" {
		fields = sourceFields()
	}
	var out bytes.Buffer
	err = readStanzas(r, fields, true, func(st stanza) error {
		if path.Base(ix.file) == "Sources" {
			src, err := parseSource(st, "")
			if err == nil && src.keptIn(kept) {
				out.Write(st.raw)
				out.WriteByte('\n')
			}
			return err
		}
		name := strings.TrimPrefix(st.get("Filename"), "./")
		if d, ok := kept[name]; ok && d.Hex() == strings.ToLower(st.get("SHA256")) {
			out.Write(st.raw)
			out.WriteByte('\n')
		}
		return nil
	})
	return out.Bytes(), err
}

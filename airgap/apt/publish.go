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

	"github.com/klauspost/compress/gzip"

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
		if it.Kind == airgap.KindIndex && strings.Count(it.Path, "/") > 2 {
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
	return path.Dir(file) + "/by-hash/SHA256/" + d.Hex()
}

// remade suites, from the evidence in a lock.
type remadeSuite struct {
	name    string
	rel     release
	indexes []remadeIndex
}

type remadeIndex struct {
	component, arch string
	item            airgap.Item
	suffix          string
}

// suitesOf finds the suites and their indexes among a mirror's evidence.
func suitesOf(ctx context.Context, env airgap.Env, lm airgap.LockedMirror) ([]remadeSuite, error) {
	var out []remadeSuite
	for _, name := range lm.Spec.Suites {
		at := evidence + name + "/"
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
			case strings.HasPrefix(path.Base(file), "Packages"):
				comp, rest, ok := strings.Cut(path.Dir(file), "/binary-")
				if !ok {
					return nil, fmt.Errorf("suite %s: %s is at no place for an index", name, it.Path)
				}
				s.indexes = append(s.indexes, remadeIndex{comp, rest, it, strings.TrimPrefix(path.Base(file), "Packages")})
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
	for _, s := range suites {
		if err := remakeSuite(ctx, env, s, kept, signer, put); err != nil {
			return fmt.Errorf("suite %s: %w", s.name, err)
		}
	}
	return nil
}

func remakeSuite(ctx context.Context, env airgap.Env, s remadeSuite, kept map[string]blob.Digest, signer *pgp.Signer, put func(string, []byte) (blob.Digest, error)) error {
	at := "dists/" + s.name + "/"
	sums := map[string]string{} // lines by file
	var components, archs []string
	for _, ix := range s.indexes {
		data, err := filter(ctx, env, s.rel, ix, kept)
		if err != nil {
			return fmt.Errorf("%s: %w", ix.item.Path, err)
		}
		packed, err := gz(data)
		if err != nil {
			return err
		}
		for name, b := range map[string][]byte{"Packages": data, "Packages.gz": packed} {
			file := ix.component + "/binary-" + ix.arch + "/" + name
			d, err := put(at+file, b)
			if err != nil {
				return err
			}
			if _, err := put(byHashPath(at+file, d), b); err != nil {
				return err
			}
			sums[file] = fmt.Sprintf(" %s %d %s\n", d.Hex(), len(b), file)
		}
		components, archs = append(components, ix.component), append(archs, ix.arch)
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
	field("Suite", cmp.Or(s.rel.suite, s.name))
	field("Codename", cmp.Or(s.rel.codename, s.name))
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
		if _, err := put(at+name, b); err != nil {
			return err
		}
	}
	return nil
}

// filter is an index with the packages that are kept, as upstream wrote them.
func filter(ctx context.Context, env airgap.Env, rel release, ix remadeIndex, kept map[string]blob.Digest) (_ []byte, err error) {
	var plain *listed
	if l, ok := rel.files[ix.component+"/binary-"+ix.arch+"/Packages"]; ok {
		plain = &l
	}
	r, done, err := openIndex(ctx, env.Blobs, ix.item.SHA256, ix.suffix, plain)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	fields := map[string]bool{"filename": true, "sha256": true}
	var out bytes.Buffer
	err = readStanzas(r, fields, true, func(st stanza) error {
		name := strings.TrimPrefix(st.get("Filename"), "./")
		if d, ok := kept[name]; ok && d.Hex() == strings.ToLower(st.get("SHA256")) {
			out.Write(st.raw)
			out.WriteByte('\n')
		}
		return nil
	})
	return out.Bytes(), err
}

// gz compresses without a name or a time: the same bytes each time.
func gz(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(data)
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}

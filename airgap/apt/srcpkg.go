package apt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// srcPkg is a source package as an index describes it.
type srcPkg struct {
	name, version string
	base          string // address of the archive
	files         []srcFile
}

type srcFile struct {
	path string
	listed
}

func sourceFields() map[string]bool {
	return map[string]bool{"package": true, "version": true, "directory": true, "checksums-sha256": true}
}

// parseSource reads a stanza of Sources.
func parseSource(s stanza, base string) (srcPkg, error) {
	p := srcPkg{name: s.get("Package"), version: s.get("Version"), base: base}
	if p.name == "" || p.version == "" {
		return p, fmt.Errorf("a source package %q has no version", p.name)
	}
	for _, line := range strings.Split(s.get("Checksums-Sha256"), "\n") {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 || strings.Contains(f[2], "/") {
			return p, fmt.Errorf("source package %s: its Checksums-Sha256 has the line %q", p.name, line)
		}
		d, err := blob.ParseDigest("sha256:" + strings.ToLower(f[0]))
		n, err2 := strconv.ParseInt(f[1], 10, 64)
		file := path.Join(strings.TrimPrefix(s.get("Directory"), "./"), f[2])
		if strings.Contains("/"+s.get("Directory")+"/", "/../") {
			file = s.get("Directory") + "/" + f[2] // refused below, as it is written
		}
		if err := errors.Join(err, err2, checkFilename(file)); err != nil || n < 0 {
			return p, fmt.Errorf("source package %s: its Checksums-Sha256 has the line %q: %w", p.name, line, err)
		}
		p.files = append(p.files, srcFile{file, listed{d, n}})
	}
	if len(p.files) == 0 {
		return p, fmt.Errorf("source package %s has no SHA256 digests", p.name)
	}
	return p, nil
}

// keptIn tells whether all files of a source package are kept.
func (p srcPkg) keptIn(kept map[string]blob.Digest) bool {
	return !slices.ContainsFunc(p.files, func(f srcFile) bool { return kept[f.path] != f.sha256 })
}

func readSourceIndex(ctx context.Context, s *blob.Store, w wanted) (out []srcPkg, err error) {
	var plain *listed
	if l, ok := w.suite.rel.files[w.file]; ok {
		plain = &l
	}
	r, done, err := openIndex(ctx, s, w.item.SHA256, w.suffix, plain)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	err = readStanzas(r, sourceFields(), false, func(st stanza) error {
		p, err := parseSource(st, w.suite.base)
		if err == nil {
			out = append(out, p)
		}
		return err
	})
	return out, err
}

// takeSources adds the source packages: of whole mirrors all, else those that
// what was taken is built from, wherever among the mirrors they are.
func takeSources(js []*joined) error {
	type key struct{ name, version string }
	at := map[key]*joined{}
	of := map[key]srcPkg{}
	for _, j := range js {
		for _, s := range j.sources {
			k := key{s.name, s.version}
			if at[k] == nil {
				at[k], of[k] = j, s
			}
			if j.m.Whole() {
				if err := j.takeSource(s, ""); err != nil {
					return fmt.Errorf("mirror %s: %w", j.m.Name, err)
				}
			}
		}
	}
	var errs []error
	for _, j := range js {
		if !j.m.Sources || j.m.Whole() {
			continue
		}
		for _, p := range slices.Concat(j.pkgs, j.udebs) {
			if _, taken := j.set[p.filename]; !taken {
				continue
			}
			k := key{p.source, p.sourceVer}
			if at[k] == nil {
				errs = append(errs, fmt.Errorf("mirror %s: %s %s is built from %s %s, which no suite has as source", j.m.Name, p.name, p.version, k.name, k.version))
				continue
			}
			if err := at[k].takeSource(of[k], p.name); err != nil {
				errs = append(errs, fmt.Errorf("mirror %s: %w", at[k].m.Name, err))
			}
		}
	}
	return airgap.Several(errs)
}

func (j *joined) takeSource(s srcPkg, why string) error {
	for _, f := range s.files {
		err := j.put(airgap.Item{Path: f.path, URL: s.base + "/" + (&url.URL{Path: f.path}).EscapedPath(), Size: f.size, SHA256: f.sha256,
			Kind: airgap.KindPackage, Name: s.name, Version: s.version, Arch: "source", Why: why})
		if err != nil {
			return err
		}
	}
	return nil
}

// readNetboot reads SHA256SUMS of the installer's images and takes what boots
// from the network, in its plain form: netboot/debian-installer.
func readNetboot(ctx context.Context, s *blob.Store, w wanted) ([]airgap.Item, error) {
	data, err := airgap.ReadBlob(ctx, s, w.item.SHA256, maxRelease)
	if err != nil {
		return nil, err
	}
	dir := path.Join(indexDir(w.suite.suite), path.Dir(w.file))
	var out []airgap.Item
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		sum, name, ok := strings.Cut(strings.TrimSpace(sc.Text()), " ")
		if !ok {
			continue
		}
		name = strings.TrimPrefix(strings.TrimLeft(name, " *"), "./")
		if !strings.HasPrefix(name, "netboot/debian-installer/") {
			continue
		}
		d, err := blob.ParseDigest("sha256:" + strings.ToLower(sum))
		if err := errors.Join(err, airgap.CheckPath(name)); err != nil {
			return nil, fmt.Errorf("the line %q: %w", sc.Text(), err)
		}
		file := path.Join(dir, name)
		out = append(out, airgap.Item{Path: file, URL: w.suite.base + "/" + (&url.URL{Path: file}).EscapedPath(), Size: -1, SHA256: d, Kind: airgap.KindFile, Why: "the Debian installer"})
	}
	return out, sc.Err()
}

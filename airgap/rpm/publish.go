package rpm

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/pgp"
	"github.com/fettle-dev/fettle/blob"
)

// tree is what becomes of a mirror.
type tree struct {
	ctx   context.Context
	env   airgap.Env
	lm    airgap.LockedMirror
	files map[string]airgap.File
}

func (t *tree) put(p string, data []byte) (blob.Digest, error) {
	d, err := airgap.PutBytes(t.ctx, t.env.Blobs, data)
	t.files[p] = airgap.File{Path: p, Size: int64(len(data)), SHA256: d}
	return d, err
}

// Publish implements airgap.Format.
func (f *Format) Publish(ctx context.Context, env airgap.Env, lm airgap.LockedMirror) ([]airgap.File, error) {
	t := &tree{ctx, env, lm, map[string]airgap.File{}}
	for _, it := range lm.Items {
		file, err := airgap.TreeFile(env.Blobs, it)
		if err != nil {
			return nil, err
		}
		t.files[it.Path] = file
	}
	if err := f.putKeys(t); err != nil {
		return nil, err
	}
	if remade(lm.Spec) {
		if env.Key == nil {
			return nil, errors.New("its index is to be signed by the site, and there is no site key: make one with fettle bundle key")
		}
		if err := t.remake(); err != nil {
			return nil, err
		}
	}
	return slices.Collect(maps.Values(t.files)), nil
}

// putKeys verifies the packages' own signatures and puts upstream's keys into
// the tree. Where packages are what upstream signs, one that is not signed is
// an error; elsewhere it only means that clients cannot ask for it.
func (f *Format) putKeys(t *tree) error {
	kr, err := pgp.ReadKeyring(f.Dir, t.lm.Spec.Keyrings, nil)
	if err != nil {
		return err
	}
	keys, err := armored(kr)
	if err != nil {
		return err
	}
	if _, err := t.put(keysFile, keys); err != nil {
		return err
	}
	must := packagesSigned(t.lm.Spec)
	all := true
	var errs []error
	for _, it := range t.lm.Items {
		if it.Kind != airgap.KindPackage || !must && !all {
			continue
		}
		err := t.verify(it, kr, must)
		if ctxErr := t.ctx.Err(); ctxErr != nil {
			return ctxErr
		}
		if err != nil && must {
			errs = append(errs, fmt.Errorf("%s: %w", it.Path, err))
		}
		all = all && err == nil
	}
	if err := airgap.Several(errs); err != nil || !all {
		return err
	}
	_, err = t.put(packageKeys, keys)
	return err
}

func (t *tree) verify(it airgap.Item, kr pgp.Keyring, payload bool) error {
	r, err := t.env.Blobs.Open(t.ctx, it.SHA256)
	if err != nil {
		return err
	}
	defer r.Close()
	v, err := verifyPackage(r, kr, payload)
	if err != nil {
		return err
	}
	if v.name != it.Name || v.arch != it.Arch || v.evr.String() != it.Version {
		return fmt.Errorf("its signed header says that it is %s-%s.%s, and the index that it is %s-%s.%s: a package was swapped", v.name, v.evr, v.arch, it.Name, it.Version, it.Arch)
	}
	return nil
}

var packagesAttr = regexp.MustCompile(`\bpackages="[0-9]+"`)

// part is a metadata file of a remade repository.
type part struct {
	kind, file string
	packed     []byte
	open       int64
	plain      blob.Digest
}

// remake makes the metadata of the site's own from upstream's.
func (t *tree) remake() error {
	item := func(name string) (airgap.Item, bool) {
		i := slices.IndexFunc(t.lm.Items, func(it airgap.Item) bool { return it.Path == evidence+name })
		if i < 0 {
			return airgap.Item{}, false
		}
		return t.lm.Items[i], true
	}
	md, ok := item("repodata/repomd.xml")
	if !ok {
		return errors.New("the lock has no repomd.xml: resolve again")
	}
	data, err := airgap.ReadBlob(t.ctx, t.env.Blobs, md.SHA256, maxRepomd)
	if err != nil {
		return err
	}
	rd, err := parseRepomd(data)
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	names := map[string]bool{}
	for _, it := range t.lm.Items {
		if it.Kind == airgap.KindPackage {
			sum := string(it.SHA256)
			if it.Sum != "" {
				sum = it.Sum
			}
			kept[sum[strings.Index(sum, ":")+1:]] = true
			names[path.Base(it.Path)] = true
		}
	}
	var parts []part
	for _, d := range rd.data {
		it, ok := item(d.href)
		if !ok {
			continue
		}
		p := part{kind: d.kind, file: d.kind + ".xml.gz"}
		switch d.kind {
		case "primary":
			err = t.filter(&p, it, d, "package", func(raw []byte) (bool, error) {
				x, err := parsePackage(raw, "", 0)
				return err == nil && kept[x.sum[strings.Index(x.sum, ":")+1:]], err
			})
		case "filelists", "other":
			err = t.filter(&p, it, d, "package", func(raw []byte) (bool, error) {
				var x struct {
					ID string `xml:"pkgid,attr"`
				}
				err := xml.Unmarshal(raw, &x)
				return kept[x.ID], err
			})
		case "updateinfo":
			err = t.filter(&p, it, d, "update", func(raw []byte) (bool, error) {
				var x struct {
					Files []string `xml:"pkglist>collection>package>filename"`
				}
				err := xml.Unmarshal(raw, &x)
				return slices.ContainsFunc(x.Files, func(f string) bool { return names[f] }), err
			})
		default: // groups and modules name more than is here, which dnf takes
			err = t.copy(&p, it, d)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.href, err)
		}
		parts = append(parts, p)
	}
	return t.sign(parts, rd)
}

// filter makes a metadata file with those elements that keep wants, as upstream
// wrote them.
func (t *tree) filter(p *part, it airgap.Item, d metadata, element string, keep func([]byte) (bool, error)) (err error) {
	r, done, err := openMetadata(t.ctx, t.env.Blobs, it.SHA256, d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	var body bytes.Buffer
	n := 0
	head, err := elements(r, element, func(raw []byte) error {
		ok, err := keep(raw)
		if err == nil && ok {
			n++
			body.Write(raw)
			body.WriteByte('\n')
		}
		return err
	})
	if err != nil {
		return err
	}
	end, err := rootEnd(head)
	if err != nil {
		return err
	}
	head = packagesAttr.ReplaceAll(bytes.TrimRight(head, " \n"), fmt.Appendf(nil, `packages="%d"`, n))
	data := slices.Concat(head, []byte("\n"), body.Bytes(), end, []byte("\n"))
	if p.packed, err = airgap.Gzip(data); err != nil {
		return err
	}
	p.open, p.plain = int64(len(data)), blob.FromBytes(data)
	return nil
}

// rootEnd is the end tag of the root that begins in head.
func rootEnd(head []byte) ([]byte, error) {
	i := bytes.LastIndexByte(head, '<')
	if i < 0 {
		return nil, errors.New("it has no root")
	}
	if bytes.HasSuffix(bytes.TrimSpace(head), []byte("/>")) {
		return nil, nil // empty
	}
	name := head[i+1:]
	if j := bytes.IndexAny(name, " \t\r\n>"); j > 0 {
		name = name[:j]
	}
	return slices.Concat([]byte("</"), name, []byte(">")), nil
}

// copy takes a metadata file as it is.
func (t *tree) copy(p *part, it airgap.Item, d metadata) error {
	r, err := t.env.Blobs.Open(t.ctx, it.SHA256)
	if err != nil {
		return err
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		return err
	}
	p.packed, p.file = b.Bytes(), d.kind+path.Ext(d.href)
	if name := path.Base(d.href); strings.Contains(name, "comps") || strings.Contains(name, "modules") {
		if i := strings.IndexByte(name, '-'); i > 0 { // without upstream's digest
			p.file = name[i+1:]
		}
	}
	return nil
}

// sign writes repomd.xml and its signature.
func (t *tree) sign(parts []part, rd repomd) error {
	signer, err := pgp.NewSigner(t.env.Key)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<repomd xmlns=\"http://linux.duke.edu/metadata/repo\" xmlns:rpm=\"http://linux.duke.edu/metadata/rpm\">\n  <revision>%d</revision>\n", rd.date.Unix())
	for _, p := range parts {
		d := blob.FromBytes(p.packed)
		href := "repodata/" + d.Hex() + "-" + p.file
		if _, err := t.put(href, p.packed); err != nil {
			return err
		}
		fmt.Fprintf(&b, "  <data type=%q>\n    <checksum type=\"sha256\">%s</checksum>\n", p.kind, d.Hex())
		if p.plain != "" {
			fmt.Fprintf(&b, "    <open-checksum type=\"sha256\">%s</open-checksum>\n", p.plain.Hex())
		}
		fmt.Fprintf(&b, "    <location href=%q/>\n    <timestamp>%d</timestamp>\n    <size>%d</size>\n", href, rd.date.Unix(), len(p.packed))
		if p.plain != "" {
			fmt.Fprintf(&b, "    <open-size>%d</open-size>\n", p.open)
		}
		b.WriteString("  </data>\n")
	}
	b.WriteString("</repomd>\n")
	_, sig, err := signer.Sign(b.Bytes(), rd.date)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"repodata/repomd.xml": b.Bytes(), "repodata/repomd.xml.asc": sig, "repodata/repomd.xml.key": signer.Public, siteKeyFile: signer.Public} {
		if _, err := t.put(name, data); err != nil {
			return err
		}
	}
	return nil
}

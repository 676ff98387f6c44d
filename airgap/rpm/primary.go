package rpm

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// pkg is a package as primary describes it.
type pkg struct {
	name, arch string
	evr        evr
	sum        string // of the whole file, sha256:… or sha512:…
	size       int64
	href, base string // where its file is, in the tree and upstream
	source     string // file name of its source package
	repo       int    // of which mirror

	provides, obsoletes  []relation
	requires, recommends []*expr
	supplements          []*expr
	files                []string // those that primary names
}

func (p *pkg) nevra() string {
	return p.name + "-" + nonempty(p.evr.epoch, "0") + ":" + p.evr.version + "-" + p.evr.release + "." + p.arch
}

func (p *pkg) String() string { return p.name + "-" + p.evr.String() + "." + p.arch }

func nonempty(s, or string) string {
	if s == "" {
		return or
	}
	return s
}

type xmlEntries struct {
	Entry []struct {
		Name  string `xml:"name,attr"`
		Flags string `xml:"flags,attr"`
		Epoch string `xml:"epoch,attr"`
		Ver   string `xml:"ver,attr"`
		Rel   string `xml:"rel,attr"`
	} `xml:"entry"`
}

func (es xmlEntries) relations() []relation {
	ops := map[string]string{"LT": "<", "LE": "<=", "EQ": "=", "GE": ">=", "GT": ">"}
	var out []relation
	for _, e := range es.Entry {
		r := relation{name: e.Name, op: ops[e.Flags]}
		if r.op != "" {
			r.evr = evr{e.Epoch, e.Ver, e.Rel}
		}
		out = append(out, r)
	}
	return out
}

func (es xmlEntries) exprs() ([]*expr, error) {
	var out []*expr
	for _, r := range es.relations() {
		if strings.HasPrefix(r.name, "rpmlib(") {
			continue // of rpm itself
		}
		e, err := parseExpr(r)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

type xmlPackage struct {
	Name    string `xml:"name"`
	Arch    string `xml:"arch"`
	Version struct {
		Epoch string `xml:"epoch,attr"`
		Ver   string `xml:"ver,attr"`
		Rel   string `xml:"rel,attr"`
	} `xml:"version"`
	Checksum xmlSum `xml:"checksum"`
	Size     struct {
		Package int64 `xml:"package,attr"`
	} `xml:"size"`
	Location struct {
		Href string `xml:"href,attr"`
		Base string `xml:"base,attr"`
	} `xml:"location"`
	Format struct {
		Source      string     `xml:"sourcerpm"`
		Provides    xmlEntries `xml:"provides"`
		Requires    xmlEntries `xml:"requires"`
		Obsoletes   xmlEntries `xml:"obsoletes"`
		Recommends  xmlEntries `xml:"recommends"`
		Supplements xmlEntries `xml:"supplements"`
		Files       []string   `xml:"file"`
	} `xml:"format"`
}

// parsePackage reads a package of primary.
func parsePackage(raw []byte, base string, repo int) (*pkg, error) {
	var x xmlPackage
	if err := xml.Unmarshal(raw, &x); err != nil {
		return nil, err
	}
	p := &pkg{name: x.Name, arch: x.Arch, evr: evr{x.Version.Epoch, x.Version.Ver, x.Version.Rel}, size: x.Size.Package,
		href: strings.TrimPrefix(x.Location.Href, "./"), base: base, source: x.Format.Source, repo: repo, files: x.Format.Files}
	if p.name == "" || p.arch == "" || p.evr.version == "" || p.size < 0 {
		return nil, fmt.Errorf("a package %q has no version, no architecture or no size", p.name)
	}
	wrong := func(err error) (*pkg, error) { return nil, fmt.Errorf("package %s: %w", p, err) }
	if x.Location.Base != "" {
		return wrong(fmt.Errorf("it is at another base, %s: refused", x.Location.Base))
	}
	if err := checkHref(p.href, false); err != nil {
		return wrong(err)
	}
	var err error
	if p.sum, err = sumOf(x.Checksum); err != nil {
		return wrong(err)
	}
	p.provides, p.obsoletes = x.Format.Provides.relations(), x.Format.Obsoletes.relations()
	if p.requires, err = x.Format.Requires.exprs(); err != nil {
		return wrong(err)
	}
	if p.recommends, err = x.Format.Recommends.exprs(); err != nil {
		return wrong(err)
	}
	if p.supplements, err = x.Format.Supplements.exprs(); err != nil {
		return wrong(err)
	}
	return p, nil
}

// item is the package's file, as an item whose digest may still be unknown.
func (p *pkg) item(why string) (it airgap.Item, known bool) {
	it = airgap.Item{Path: p.href, URL: p.base + "/" + (&url.URL{Path: p.href}).EscapedPath(), Size: p.size, Kind: airgap.KindPackage,
		Name: p.name, Version: p.evr.String(), Arch: p.arch, Why: why}
	return withSum(it, p.sum)
}

// withSum gives an item its digest, when it is the lock's.
func withSum(it airgap.Item, sum string) (airgap.Item, bool) {
	if strings.HasPrefix(sum, "sha256:") {
		it.SHA256 = blob.Digest(sum)
		return it, true
	}
	it.Sum = sum
	return it, false
}

// readPrimary reads the packages of a repository.
func readPrimary(ctx context.Context, s *blob.Store, d blob.Digest, m metadata, base string, repo int) (out []*pkg, err error) {
	r, done, err := openMetadata(ctx, s, d, m)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	_, err = elements(r, "package", func(raw []byte) error {
		p, err := parsePackage(raw, base, repo)
		if err == nil {
			out = append(out, p)
		}
		return err
	})
	return out, err
}

// readFiles finds who has the files in want, of filelists: paths by
// "NAME ARCH EVR".
func readFiles(r io.Reader, want map[string]bool, found func(name, arch string, v evr, file string)) error {
	_, err := elements(r, "package", func(raw []byte) error {
		var x struct {
			Name    string `xml:"name,attr"`
			Arch    string `xml:"arch,attr"`
			Version struct {
				Epoch string `xml:"epoch,attr"`
				Ver   string `xml:"ver,attr"`
				Rel   string `xml:"rel,attr"`
			} `xml:"version"`
			Files []string `xml:"file"`
		}
		if err := xml.Unmarshal(raw, &x); err != nil {
			return err
		}
		for _, f := range x.Files {
			if want[f] {
				found(x.Name, x.Arch, evr{x.Version.Epoch, x.Version.Ver, x.Version.Rel}, f)
			}
		}
		return nil
	})
	return err
}

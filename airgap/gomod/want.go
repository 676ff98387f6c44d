package gomod

import (
	"cmp"
	"errors"
	"fmt"
	"go/version"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

const maxModFile = 16 << 20

// wanted is a module version that is mirrored.
type wanted struct {
	module.Version
	zip bool   // else only its go.mod
	why string // what brought it in
}

// root is where a module graph begins.
type root struct {
	requires []module.Version
	pruned   bool // go 1.17 and newer: https://go.dev/ref/mod#graph-pruning
	why      string
}

// sums are what go.sum files say: "PATH VERSION" and "PATH VERSION/go.mod" to h1.
type sums map[string]string

func (s sums) add(key, sum, file string) error {
	if old, ok := s[key]; ok && old != sum {
		return fmt.Errorf("%s has another sum of %s, %s, than was read before, %s", file, key, sum, old)
	}
	s[key] = sum
	return nil
}

// wants is what a mirror asks for, before any module was read.
type wants struct {
	listed map[module.Version]wanted // of go.sum files
	roots  []root
	sums   sums
	latest []string // paths without a version
	texts  [][]byte // everything that was read
}

// readWants reads a mirror's lockfiles and packages.
func (f *Format) readWants(lockfiles, packages []string) (wants, error) {
	w := wants{listed: map[module.Version]wanted{}, sums: sums{}}
	if len(lockfiles)+len(packages) == 0 {
		return w, errors.New("it names no lockfiles (go.mod, go.sum) and no packages (PATH@VERSION)")
	}
	for _, name := range lockfiles {
		data, err := os.ReadFile(filepath.Join(f.Dir, name))
		if err != nil {
			return w, fmt.Errorf("reading what is wanted: %w", err)
		}
		w.texts = append(w.texts, data)
		switch base := filepath.Base(name); {
		case strings.HasSuffix(base, ".mod"):
			err = w.readMod(name, data)
			if err == nil {
				err = w.besideMod(f.Dir, name)
			}
		case strings.HasSuffix(base, ".sum"):
			err = w.readSum(name, data, true)
		default:
			err = fmt.Errorf("%s is no go.mod and no go.sum", name)
		}
		if err != nil {
			return w, err
		}
	}
	for _, p := range packages {
		if err := w.readPackage(p); err != nil {
			return w, err
		}
	}
	return w, nil
}

// besideMod reads the sums of the go.sum that stands beside a go.mod.
func (w *wants) besideMod(dir, name string) error {
	sum := strings.TrimSuffix(name, ".mod") + ".sum"
	data, err := os.ReadFile(filepath.Join(dir, sum))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading what is wanted: %w", err)
	}
	w.texts = append(w.texts, data)
	return w.readSum(sum, data, false)
}

// readSum reads go.sum: https://go.dev/ref/mod#go-sum-files.
func (w *wants) readSum(file string, data []byte, take bool) error {
	n := 0
	for line := range strings.SplitSeq(string(data), "\n") {
		n++
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 3 {
			return fmt.Errorf("%s, line %d: %d words; a line is PATH VERSION SUM", file, n, len(words))
		}
		v, isMod := strings.CutSuffix(words[1], "/go.mod")
		m := module.Version{Path: words[0], Version: v}
		if err := checkVersion(m); err != nil {
			return fmt.Errorf("%s, line %d: %w", file, n, err)
		}
		if !strings.HasPrefix(words[2], "h1:") {
			continue // of a later kind, beside h1
		}
		if err := w.sums.add(words[0]+" "+words[1], words[2], fmt.Sprintf("%s, line %d,", file, n)); err != nil {
			return err
		}
		if take {
			old := w.listed[m]
			w.listed[m] = wanted{m, old.zip || !isMod, cmp.Or(old.why, file)}
		}
	}
	return nil
}

// readMod makes a root of a go.mod: https://go.dev/ref/mod#go-mod-file.
func (w *wants) readMod(file string, data []byte) error {
	mf, err := modfile.Parse(file, data, nil)
	if err != nil {
		return err
	}
	r := root{pruned: prunes(mf), why: file}
	for _, req := range mf.Require {
		v := req.Mod
		for _, rep := range mf.Replace {
			if rep.Old.Path == v.Path && (rep.Old.Version == "" || rep.Old.Version == v.Version) {
				v = rep.New
			}
		}
		if v.Version == "" {
			continue // a folder of the project's own
		}
		if err := checkVersion(v); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		r.requires = append(r.requires, v)
	}
	w.roots = append(w.roots, r)
	return nil
}

func (w *wants) readPackage(p string) error {
	path, vers, ok := strings.Cut(p, "@")
	if err := module.CheckPath(path); err != nil {
		return fmt.Errorf("package %q: %w", p, err)
	}
	if !ok || vers == "latest" {
		w.latest = append(w.latest, path)
		return nil
	}
	v := module.Version{Path: path, Version: vers}
	if err := checkVersion(v); err != nil {
		return fmt.Errorf("package %q: %w; write PATH@VERSION, such as example.org/tool@v1.2.3", p, err)
	}
	w.roots = append(w.roots, root{[]module.Version{v}, true, "the site file"})
	return nil
}

// checkVersion refuses what is no canonical version: it would be a query.
func checkVersion(v module.Version) error {
	if err := module.Check(v.Path, v.Version); err != nil {
		return err
	}
	if c := module.CanonicalVersion(v.Version); c != v.Version {
		return fmt.Errorf("%s is no canonical version of %s", v.Version, v.Path)
	}
	return nil
}

// prunes tells whether a module's requirements are complete, so that those of
// its dependencies' dependencies are not read.
func prunes(mf *modfile.File) bool {
	return mf.Go != nil && version.Compare("go"+mf.Go.Version, "go1.17") >= 0
}

func sortedVersions[T any](m map[module.Version]T) []module.Version {
	out := slices.Collect(maps.Keys(m))
	slices.SortFunc(out, func(a, b module.Version) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), semver.Compare(a.Version, b.Version), cmp.Compare(a.Version, b.Version))
	})
	return out
}

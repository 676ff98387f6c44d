package images

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path"
	"slices"
)

// tree is files by path, as packages bring them.
type tree map[string]debFile

// resolveLink follows symbolic links and returns the path of the file, and
// the paths of the links on the way.
func (t tree) resolve(p string) (string, []string, error) {
	var links []string
	for range 16 {
		f, ok := t[p]
		if !ok {
			return "", nil, fmt.Errorf("no package has the file /%s", p)
		}
		if f.Link == "" {
			return p, links, nil
		}
		links = append(links, p)
		if path.IsAbs(f.Link) {
			p = mergedPath(f.Link)
		} else {
			p = mergedPath(path.Join(path.Dir(p), f.Link))
		}
	}
	return "", nil, fmt.Errorf("/%s is a chain of too many links", p)
}

// libDirs is where the loader of Debian looks (ld.so(8)).
var libDirs = []string{"usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib"}

// programs returns the files that the named programs need to run: themselves,
// their loader, and the closure of their DT_NEEDED entries, with the links
// that lead there, sorted.
func (t tree) programs(names []string) ([]string, error) {
	need := map[string]bool{}
	var add func(p, from string) error
	add = func(p, from string) error {
		file, links, err := t.resolve(p)
		if err != nil {
			return fmt.Errorf("%s needs it: %w", from, err)
		}
		for _, l := range links {
			need[l] = true
		}
		if need[file] {
			return nil
		}
		need[file] = true
		libs, interp, err := elfNeeds(t[file].Data)
		if err != nil {
			return fmt.Errorf("/%s: %w", file, err)
		}
		if interp != "" {
			if err := add(mergedPath(interp), "/"+file); err != nil {
				return err
			}
		}
		for _, lib := range libs {
			i := slices.IndexFunc(libDirs, func(d string) bool { _, ok := t[d+"/"+lib]; return ok })
			if i < 0 {
				return fmt.Errorf("/%s needs %s, which no package has", file, lib)
			}
			if err := add(libDirs[i]+"/"+lib, "/"+file); err != nil {
				return err
			}
		}
		return nil
	}
	for _, n := range names {
		if err := add(n, "the ramdisk"); err != nil {
			return nil, err
		}
	}
	out := make([]string, 0, len(need))
	for p := range need {
		out = append(out, p)
	}
	slices.Sort(out)
	return out, nil
}

// elfNeeds reads DT_NEEDED and PT_INTERP. A file that is not ELF, a script,
// needs nothing.
func elfNeeds(data []byte) (libs []string, interp string, err error) {
	if !bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
		return nil, "", nil
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, "", fmt.Errorf("reading it as ELF: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err != nil {
				return nil, "", fmt.Errorf("reading its interpreter: %w", err)
			}
			interp = string(bytes.TrimRight(b, "\x00"))
		}
	}
	libs, err = f.ImportedLibraries()
	if err != nil {
		return nil, "", fmt.Errorf("reading the libraries that it needs: %w", err)
	}
	return libs, interp, nil
}

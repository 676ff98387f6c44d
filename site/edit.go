package site

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Edit is a change of a site folder that is being made: things are added to
// its files as a person would write them, what was in the files stays as it
// was. Nothing is written before Commit.
type Edit struct {
	dir    string
	root   fs.FS
	close  func() error
	site   *Site // as it was
	before map[string][]byte
	after  map[string][]byte
	files  []string // that change, in the order in which they are written
}

// ErrTaken means that something of what is added is already in the site.
var ErrTaken = errors.New("the site has it already")

// ErrFileChanged means that a file was changed by somebody else meanwhile.
var ErrFileChanged = errors.New("the file was changed meanwhile: run the command again")

// OpenEdit reads a site folder, which must be without errors, to change it.
// The caller closes it.
func OpenEdit(dir string) (*Edit, error) {
	s, err := Load(dir)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the site folder: %w", err)
	}
	return &Edit{dir: dir, root: root.FS(), close: root.Close, site: s, before: map[string][]byte{}, after: map[string][]byte{}}, nil
}

// Close ends the edit.
func (e *Edit) Close() error { return e.close() }

// Before is the site as it was.
func (e *Edit) Before() *Site { return e.site }

// Files are those that change, relative to the folder.
func (e *Edit) Files() []string { return slices.Clone(e.files) }

// AddMachine adds a machine to file, or, without one, where its siblings are:
// machines of the same name but for the number, else of the same rack, else
// all, when they are in one file; else to machines/NAME.yaml.
func (e *Edit) AddMachine(m Machine, file string) error {
	now, err := e.Site()
	if err != nil {
		return err
	}
	if err := now.taken(m); err != nil {
		return err
	}
	if file == "" {
		file = now.fileFor(m)
	}
	if !fs.ValidPath(file) || !strings.HasSuffix(file, ".yaml") {
		return fmt.Errorf("%s is no file of the site: name one relative to its folder, such as machines/%s.yaml", file, m.Name)
	}
	o := format().of("machines")
	if err := e.add(file, "machines", o, ordered(o, encoded(o, m)), m.Name); err != nil {
		return err
	}
	now, err = e.Site()
	if err != nil {
		return err
	}
	if _, ok := now.Machine(m.Name); !ok {
		return fmt.Errorf("%s would not be read: files in machines/ are, and those that include: in site.yaml names", file)
	}
	return nil
}

// AddSecret adds the name of a secret beside the others, or to site.yaml.
func (e *Edit) AddSecret(s SecretName) error {
	now, err := e.Site()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(now.Secrets, func(o SecretName) bool { return o.Name == s.Name }) {
		return nil
	}
	file := mainFile
	names, err := e.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		data, err := e.read(name)
		if err != nil {
			return err
		}
		if list, _ := section(data, "secrets"); list != nil && len(list.Content) > 0 {
			file = name
		}
	}
	o := format().of("secrets")
	return e.add(file, "secrets", o, ordered(o, encoded(o, s)), s.Name)
}

// Site is the site as it would be.
func (e *Edit) Site() (*Site, error) {
	if len(e.files) == 0 {
		return e.site, nil
	}
	s, err := load(overlay{e.root, e.after})
	if s != nil {
		s.Dir = e.dir
	}
	return s, err
}

// Commit checks the site as it would be and replaces the files, each whole. A
// file that somebody else changed since it was read is ErrFileChanged, and
// nothing is written. Files are written in the order in which they were added
// to, so that a crash between two leaves a site that can be read.
func (e *Edit) Commit() error {
	if _, err := e.Site(); err != nil {
		return err
	}
	return lockedDir(e.dir, func() error {
		for _, name := range e.files {
			now, err := readFile(e.root, name)
			was := e.before[name]
			if errors.Is(err, fs.ErrNotExist) && was == nil {
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if was == nil || !bytes.Equal(now, was) {
				return fmt.Errorf("%s: %w", name, ErrFileChanged)
			}
		}
		for _, name := range e.files {
			full := filepath.Join(e.dir, filepath.FromSlash(name))
			mode := fs.FileMode(0o644)
			if info, err := os.Stat(full); err == nil {
				mode = info.Mode().Perm()
			} else if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
				return fmt.Errorf("making the folder of %s: %w", name, err)
			}
			if err := writeFile(full, e.after[name], mode); err != nil {
				return fmt.Errorf("writing %s: %w", name, err)
			}
		}
		return nil
	})
}

// Diff is what Commit would change, as a unified diff.
func (e *Edit) Diff() string {
	var b strings.Builder
	for _, name := range e.files {
		unified(&b, name, e.before[name], e.after[name])
	}
	return b.String()
}

// read is a file as it would be; nil if there is none.
func (e *Edit) read(name string) ([]byte, error) {
	if data, ok := e.after[name]; ok {
		return data, nil
	}
	data, err := readFile(e.root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

// change remembers what a file would be.
func (e *Edit) change(name string, data []byte) error {
	if !slices.Contains(e.files, name) {
		was, err := e.read(name)
		if err != nil {
			return err
		}
		e.before[name] = was
		e.files = append(e.files, name)
	}
	e.after[name] = data
	return nil
}

// names are the files that machines stand in, and site.yaml.
func (e *Edit) names() ([]string, error) {
	s, err := e.Site()
	if err != nil {
		return nil, err
	}
	out := []string{mainFile}
	for _, m := range s.Machines {
		if !slices.Contains(out, m.Pos.File) {
			out = append(out, m.Pos.File)
		}
	}
	return out, nil
}

// taken tells what of a new machine another one has already.
func (s *Site) taken(m Machine) error {
	var errs Errors
	say := func(o Machine, what string, v any) {
		errs = append(errs, &Error{Pos: o.Pos, Path: "machines", Msg: fmt.Sprintf("%s %v is already that of machine %s", what, v, o.Name),
			Hint: "it is enrolled, or one of the two was read wrong", Err: ErrTaken})
	}
	for _, o := range s.Machines {
		mine := m
		if m.BMC.System != "" && o.BMC.System != "" && m.BMC.System != o.BMC.System && m.BMC.Address == o.BMC.Address {
			mine.BMC = BMC{} // nodes that share it
		}
		macs, addrs := machinePorts(mine)
		if o.Name == m.Name {
			say(o, "name", m.Name)
		}
		if o.Serial == m.Serial && m.Serial != "" {
			say(o, "serial", m.Serial)
		}
		theirMACs, theirAddrs := machinePorts(o)
		for _, mac := range macs {
			if slices.Contains(theirMACs, mac) {
				say(o, "MAC address", mac)
			}
		}
		for _, a := range addrs {
			if slices.Contains(theirAddrs, a) {
				say(o, "address", a)
			}
		}
		for _, d := range m.Disks {
			if d.Serial != "" && slices.ContainsFunc(o.Disks, func(k Disk) bool { return k.Serial == d.Serial }) {
				say(o, "disk", d.Serial)
			}
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

// machinePorts are the MAC addresses and addresses of a machine and its BMC.
func machinePorts(m Machine) (macs []MAC, addrs []any) {
	if !m.BMC.MAC.IsZero() {
		macs = append(macs, m.BMC.MAC)
	}
	if m.BMC.Address.IsValid() {
		addrs = append(addrs, m.BMC.Address)
	}
	for _, n := range m.NICs {
		macs = append(macs, n.MAC)
		if n.Address.IsValid() {
			addrs = append(addrs, n.Address)
		}
	}
	return macs, addrs
}

// fileFor is where a new machine's siblings are.
func (s *Site) fileFor(m Machine) string {
	for _, sibling := range []func(Machine) bool{
		func(o Machine) bool { return stem(o.Name) == stem(m.Name) },
		func(o Machine) bool { return m.Rack != "" && o.Rack == m.Rack },
		func(Machine) bool { return true },
	} {
		var files []string
		for _, o := range s.Machines {
			if sibling(o) && !slices.Contains(files, o.Pos.File) {
				files = append(files, o.Pos.File)
			}
		}
		if len(files) == 1 {
			return files[0]
		}
	}
	return path.Join("machines", m.Name+".yaml")
}

// Sibling is the machine that a new one of that name is most like: the one of
// the same name but for the number that is nearest below it, else the first of
// the rack, else the first; ok is false in a site without machines.
func (s *Site) Sibling(name, rack string) (m Machine, ok bool) {
	best := -1
	for i, o := range s.Machines {
		if stem(o.Name) == stem(name) && (best < 0 || numberOf(o.Name) <= numberOf(name) && (numberOf(s.Machines[best].Name) > numberOf(name) || numberOf(o.Name) > numberOf(s.Machines[best].Name))) {
			best = i
		}
	}
	if best < 0 {
		best = slices.IndexFunc(s.Machines, func(o Machine) bool { return rack != "" && o.Rack == rack })
	}
	if best < 0 && len(s.Machines) > 0 {
		best = 0
	}
	if best < 0 {
		return Machine{}, false
	}
	return s.Machines[best], true
}

// stem is a name without the number at its end.
func stem(name string) string { return strings.TrimRight(name, "0123456789") }

// numberOf is the number at the end of a name, 0 if there is none.
func numberOf(name string) int {
	n := 0
	for _, c := range name[len(stem(name)):] {
		if n < 1e9 {
			n = n*10 + int(c-'0')
		}
	}
	return n
}

// ExpandNames lists the names that names with ranges stand for:
// gpu-[01-32,40].
func ExpandNames(expr string) ([]string, error) {
	parts, err := splitOutside(expr, ',')
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range parts {
		names, err := expand(strings.TrimSpace(p))
		if err != nil {
			return nil, err
		}
		out = append(out, names...)
	}
	for _, n := range out {
		if _, err := kindName().parse(n); err != nil {
			return nil, fmt.Errorf("a machine cannot be called so: %w", err)
		}
	}
	return out, nil
}

// overlay is a file system with some files in memory instead.
type overlay struct {
	fs.FS
	files map[string][]byte
}

// Open opens a file of the overlay, or of what is below.
func (o overlay) Open(name string) (fs.File, error) {
	if data, ok := o.files[name]; ok {
		return &memoryFile{Reader: *bytes.NewReader(data), name: path.Base(name), size: int64(len(data))}, nil
	}
	return o.FS.Open(name)
}

// Glob finds files of both.
func (o overlay) Glob(pattern string) ([]string, error) {
	names, err := fs.Glob(o.FS, pattern)
	if err != nil {
		return nil, err
	}
	for name := range o.files {
		if ok, err := path.Match(pattern, name); err == nil && ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// memoryFile is a file of an overlay.
type memoryFile struct {
	bytes.Reader
	name string
	size int64
}

func (f *memoryFile) Stat() (fs.FileInfo, error) { return f, nil }
func (*memoryFile) Close() error                 { return nil }
func (f *memoryFile) Name() string               { return f.name }
func (f *memoryFile) Size() int64                { return f.size }
func (*memoryFile) Mode() fs.FileMode            { return 0o644 }
func (*memoryFile) ModTime() (t time.Time)       { return t }
func (*memoryFile) IsDir() bool                  { return false }
func (*memoryFile) Sys() any                     { return nil }

package site

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// mainFile is the file that makes a folder a site.
const mainFile = "site.yaml"

// maxFile bounds one file: ten thousand machines are about 5 MiB.
const maxFile = 32 << 20

// defaultIncludes are read when they are there, include or not.
func defaultIncludes() []string {
	return []string{"machines/*.yaml", "networks/*.yaml", "profiles/*.yaml"}
}

// Load reads, joins and validates the site folder dir. The error is [Errors]:
// all that is wrong, each with its place. Nothing outside dir is read.
func Load(dir string) (*Site, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, Errors{{Path: dir, Msg: fmt.Sprintf("cannot open the site folder: %v", err), Hint: "give a site folder with --site, or make one: fettle init " + dir, Err: err}}
	}
	defer func() { _ = root.Close() }() // read only
	if _, err := root.Stat(mainFile); errors.Is(err, fs.ErrNotExist) {
		return nil, Errors{{Path: dir, Msg: "is no site folder: it has no " + mainFile, Hint: "give a site folder with --site, or make one: fettle init DIR", Err: err}}
	}
	s, err := load(root.FS())
	if s != nil {
		s.Dir = dir
	}
	return s, err
}

// load reads a site from a file system.
func load(fsys fs.FS) (*Site, error) {
	p, s := newProblems(), &Site{}
	p.pos[""] = Pos{mainFile, 1, 1}
	l := &loader{problems: p, fsys: fsys, table: format(), site: s, read: map[string]bool{}, whole: true}
	includes := l.file(mainFile, true)
	for _, g := range append(includes, defaultIncludes()...) {
		names, err := l.glob(g)
		if err != nil {
			continue // reported with the include
		}
		slices.Sort(names)
		for _, name := range names {
			if !l.read[name] {
				l.file(name, false)
			}
		}
	}
	if l.whole {
		// What does not agree can be said only when everything was read.
		l.table.setDefaults(reflect.ValueOf(s).Elem())
		s.derive()
		s.validate(p)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return s, nil
}

type loader struct {
	*problems
	fsys  fs.FS
	table *object
	site  *Site
	read  map[string]bool
	whole bool // every file was YAML
}

// file reads one file into the site and gives the patterns that it includes.
func (l *loader) file(name string, main bool) (includes []string) {
	l.read[name] = true
	at := "(" + name + ")" // the path of a file's own troubles
	l.pos[at] = Pos{name, 1, 1}
	data, err := readFile(l.fsys, name)
	if err != nil {
		hint := "check the file"
		if errors.Is(err, fs.ErrNotExist) {
			hint = "make a site folder with fettle init, or name one with --site"
		}
		l.whole = false
		l.errs = append(l.errs, &Error{Pos: l.pos[at], Path: at, Msg: fmt.Sprintf("cannot be read: %v", err), Hint: hint, Err: err})
		return nil
	}
	n, line, err := parseYAML(data)
	if err != nil {
		l.whole, l.pos[at] = false, Pos{name, line, 1}
		l.add(at, "mend the YAML: look at the indentation and quotes of this line and the one before", "%v", err)
		return nil
	}
	if n == nil {
		if main {
			l.add(at, "fettle init DIR writes a commented one to start from", "the file is empty")
		}
		return nil
	}
	if n.Kind != yaml.MappingNode {
		l.mark(at+"!", name, n)
		l.add(at+"!", "write keys such as machines: at the start of a line", "the file must be a mapping, not %s", describe(n))
		return nil
	}
	v := reflect.ValueOf(l.site).Elem()
	l.pairs(n, name, "", func(key, value *yaml.Node, at string) {
		f, ok := l.table.field(key.Value)
		known := append(l.table.keys(), "include")
		if !main {
			known = partKeys()
		}
		here := name + "!" + at
		switch {
		case main && key.Value == "include":
			includes = l.includes(value)
		case !slices.Contains(known, key.Value) && ok:
			l.mark(here, name, key)
			l.add(here, "move it to site.yaml", "%q belongs in site.yaml; a file beside it holds only %s", key.Value, strings.Join(known, ", "))
		case !ok || !slices.Contains(known, key.Value):
			l.bad[unknownSection+nearest(key.Value, known)] = true
			l.mark(here, name, key)
			l.add(here, meant(key.Value, known, ""), "unknown key %q of a site", key.Value)
		case value.ShortTag() == "!!null" && isList(f.kind):
			// "machines:" with nothing behind it is an empty list: a file that is being begun.
		case isList(f.kind) && value.Kind != yaml.SequenceNode:
			// Its own path: the list's is that of the first file that has it.
			l.bad[at] = true
			l.mark(here, name, value)
			l.decode(f.kind, value, name, here, reflect.New(v.FieldByName(f.goName).Type()).Elem())
		default:
			l.decode(f.kind, value, name, at, v.FieldByName(f.goName))
		}
	})
	return includes
}

// unknownSection and a key mark in problems.bad that this section was probably
// meant by an unknown key.
const unknownSection = "?"

func isList(k kind) bool { _, ok := k.(list); return ok }

// includes reads the include list of site.yaml.
func (l *loader) includes(n *yaml.Node) []string {
	globs := []string{}
	l.decode(list{of: kindText("file pattern")}, n, mainFile, "include", reflect.ValueOf(&globs).Elem())
	var out []string
	for i, g := range globs {
		at := fmt.Sprintf("include[%d]", i)
		names, err := l.glob(g)
		switch {
		case g == "":
		case err != nil:
			l.add(at, "use * for any part of a file name", "%q is not a file pattern", g)
		case path.IsAbs(g) || path.Clean(g) != g || strings.HasPrefix(g, ".."):
			l.add(at, "write it relative to the site folder, such as machines/*.yaml", "%q is not a path inside the site folder", g)
		case len(names) == 0:
			l.add(at, "add the file or remove the line", "%q matches no file", g)
		default:
			out = append(out, g)
		}
	}
	return out
}

// glob finds the files of a pattern. fs.Glob passes over folders that cannot be
// read: a site without their machines would be another one.
func (l *loader) glob(pattern string) ([]string, error) {
	if _, ok := l.fsys.(fs.GlobFS); ok { // an edit of a site that was read
		return fs.Glob(l.fsys, pattern)
	}
	return fs.Glob(watchedFS{l.fsys, l.unreadable}, pattern)
}

// unreadable says that a folder cannot be read, once.
func (l *loader) unreadable(dir string, err error) {
	if l.read[dir] {
		return
	}
	l.read[dir], l.whole = true, false
	at := "(" + dir + ")"
	l.pos[at] = Pos{dir, 1, 1}
	l.errs = append(l.errs, &Error{Pos: l.pos[at], Path: at, Msg: fmt.Sprintf("the folder cannot be read: %v", err), Hint: "let fettle's user read it, or take it out of the site", Err: err})
}

// watchedFS tells of folders that cannot be read.
type watchedFS struct {
	fs.FS
	failed func(dir string, err error)
}

func (w watchedFS) ReadDir(dir string) ([]fs.DirEntry, error) {
	es, err := fs.ReadDir(w.FS, dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return es, err
	}
	if fi, serr := fs.Stat(w.FS, dir); serr != nil || fi.IsDir() { // or it is a file, which has no files
		w.failed(dir, err)
	}
	return es, err
}

func readFile(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("it is larger than %s", Bytes(maxFile))
	}
	return data, err
}

// yamlLine finds the line in an error text of yaml.v3, which has no type for it.
var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// parseYAML gives the top node of a file with one document, nil if it is
// empty, and the line of an error.
func parseYAML(data []byte) (*yaml.Node, int, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, 0, nil
	}
	if err == nil {
		if err = dec.Decode(&second); err == nil {
			return nil, max(second.Line, 1), errors.New("a site file is one YAML document; there is a second one behind ---")
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		line := 1
		text := err.Error()
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			text = text[len(m[0]):]
			if n, convErr := strconv.Atoi(m[1]); convErr == nil && n > 0 {
				line = n
			}
		}
		return nil, line, errors.New("not YAML: " + text)
	}
	if len(doc.Content) == 0 || (doc.Content[0].Kind == yaml.ScalarNode && doc.Content[0].ShortTag() == "!!null") {
		return nil, 0, nil
	}
	return doc.Content[0], 0, nil
}

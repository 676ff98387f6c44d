package site

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

func mustLoad(t *testing.T, dir string) *Site {
	t.Helper()
	s, err := Load(dir)
	if err != nil {
		t.Fatalf("Load(%s) = %v; want no error", dir, err)
	}
	return s
}

func TestExamplesLoad(t *testing.T) {
	dirs, err := filepath.Glob("../examples/*/site.yaml")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("examples = %v, %v; want at least one", dirs, err)
	}
	for _, d := range dirs {
		t.Run(filepath.Base(filepath.Dir(d)), func(t *testing.T) {
			s := mustLoad(t, filepath.Dir(d))
			if err := s.Validate(); err != nil {
				t.Errorf("Validate() of what Load gave = %v; want nil", err)
			}
			if got, want := s.Clone().Revision(), s.Revision(); got != want {
				t.Errorf("Clone().Revision() = %s; want %s", got, want)
			}
		})
	}
}

func TestInitLoads(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	if err := Init(dir); err != nil {
		t.Fatalf("Init() = %v; want nil", err)
	}
	s := mustLoad(t, dir)
	if len(s.Machines) != 1 || len(s.Networks) != 2 || len(s.Profiles) != 1 {
		t.Errorf("the starter has %d machines, %d networks, %d profiles; want 1, 2, 1", len(s.Machines), len(s.Networks), len(s.Profiles))
	}
	// It must build on whatever machine it was typed: no release is named.
	if len(s.Images) != 1 || s.Images[0].OS != OSHost || len(s.Mirrors) != 0 {
		t.Errorf("the starter has images %+v and mirrors %+v; want one of os: host, and no mirror of a release", s.Images, s.Mirrors)
	}
	if err := Init(dir); err == nil {
		t.Error("Init() on a site folder = nil; want a refusal")
	}
}

// closedFS has folders that nobody may read.
type closedFS struct {
	fstest.MapFS
	closed string
}

func (c closedFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == c.closed {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return c.MapFS.ReadDir(name)
}

func (c closedFS) Open(name string) (fs.File, error) { return c.MapFS.Open(name) }

// onlyFS hides that a MapFS globs by itself, which os.Root's does not.
type onlyFS struct{ fs.ReadDirFS }

// TestLoadUnreadableFolder: a site whose machines cannot be read is none without
// machines.
func TestLoadUnreadableFolder(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for closed, include := range map[string]string{"machines": "", "racks": "include: [racks/*.yaml]\n", "racks/a": "include: [racks/*/*.yaml]\n"} {
		files := fstest.MapFS{"site.yaml": file("name: s\ndomain: example.org\n" + include), "machines/r1.yaml": file("machines: []\n"),
			"racks/b.yaml": file("racks: []\n"), "racks/a/c.yaml": file("racks: []\n"), "racks/d/e.yaml": file("racks: []\n")}
		if _, err := load(onlyFS{closedFS{files, ""}}); err != nil {
			t.Errorf("load with %s readable = %v; want nil", closed, err)
		}
		_, err := load(onlyFS{closedFS{files, closed}})
		if want := closed + ":1:1: the folder cannot be read"; err == nil || strings.Count(err.Error(), want) != 1 {
			t.Errorf("load with %s unreadable = %v; want %q, once", closed, err, want)
		}
	}
}

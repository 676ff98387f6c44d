package site

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

//go:embed starter
var starter embed.FS

// starterFiles are the files of a new site folder by path.
func starterFiles() (map[string][]byte, error) {
	files := map[string][]byte{
		"schema/site.json": Schema(),
		"schema/part.json": PartSchema(),
	}
	err := fs.WalkDir(starter, "starter", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := starter.ReadFile(path)
		name := path[len("starter/"):]
		if name == "gitignore" {
			name = ".gitignore"
		}
		files[name] = data
		return err
	})
	return files, err
}

// Init writes a commented starter folder, which Load accepts. It overwrites
// nothing: if one of its files is there, it writes none.
func Init(dir string) error {
	files, err := starterFiles()
	if err != nil {
		return fmt.Errorf("reading the starter folder: %w", err)
	}
	var names []string
	for name := range files {
		names = append(names, name)
		_, err := os.Lstat(filepath.Join(dir, name))
		if err == nil {
			return fmt.Errorf("%s is already there: choose an empty folder", filepath.Join(dir, name))
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the site folder cannot be made at %s: choose another place: %w", dir, err)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("making the site folder: %w", err)
		}
		if err := writeFile(path, files[name], 0o644); err != nil {
			return fmt.Errorf("writing the site folder: %w", err)
		}
	}
	return nil
}

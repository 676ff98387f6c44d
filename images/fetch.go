package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// download makes sure that all pkgs are in the cache, verified, and returns
// their paths by package name.
func (a *apt) download(ctx context.Context, pkgs []pkg) (map[string]string, error) {
	paths := map[string]string{}
	args := []string{"apt-get", "download", "-q", "--"}
	sizes := map[string]int64{}
	var total int64
	for _, p := range pkgs {
		path := filepath.Join(a.debDir(), p.fileName())
		paths[p.Name] = path
		err := checkDeb(ctx, path, p)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(a.b.log(), "%v: fetched again\n", err)
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("fetching %s: %w", p.Name, err)
			}
		}
		args = append(args, p.Name+"="+p.Version)
		sizes[p.Name] = p.Size
		total += p.Size
	}
	if len(sizes) == 0 {
		return paths, nil
	}
	tmp, err := os.MkdirTemp(a.debDir(), ".get-")
	if err != nil {
		return nil, fmt.Errorf("fetching packages: %w", err)
	}
	defer os.RemoveAll(tmp)
	var done int64
	t := a.tool(args...)
	t.dir = tmp
	t.out = &tailWriter{log: a.b.log(), each: func(line string) {
		// Get:3 URI SUITE/COMPONENT ARCH NAME ARCH VERSION [SIZE]
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[0], "Get:") {
			a.b.progress(Progress{Name: a.name, Stage: StageDownload, Text: f[4], Done: done, Total: total})
			done += sizes[f[4]]
		}
	}}
	a.b.progress(Progress{Name: a.name, Stage: StageDownload, Total: total})
	if err := a.b.run(ctx, t); err != nil {
		return nil, fmt.Errorf("fetching the packages of %s: %w", a.name, err)
	}
	for _, p := range pkgs {
		if _, ok := sizes[p.Name]; !ok {
			continue
		}
		got := filepath.Join(tmp, p.fileName())
		if err := checkDeb(ctx, got, p); err != nil {
			return nil, fmt.Errorf("fetching %s: %w", p.Name, err)
		}
		if err := os.Rename(got, paths[p.Name]); err != nil {
			return nil, fmt.Errorf("fetching %s: %w", p.Name, err)
		}
	}
	a.b.progress(Progress{Name: a.name, Stage: StageDownload, Done: total, Total: total})
	return paths, nil
}

// checkDeb compares a file with what the signed package lists say of it.
func checkDeb(ctx context.Context, path string, p pkg) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, readerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return f.Read(b)
	}))
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != p.SHA256 || n != p.Size {
		return fmt.Errorf("package file %s has %d bytes, sha256 %s; want %d, %s", path, n, got, p.Size, p.SHA256)
	}
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

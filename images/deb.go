package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// debFile is one member of a package's file tree. The path is without a
// leading slash, below usr where Debian's merged /usr puts it.
type debFile struct {
	Path string
	Mode int64  // permission bits
	Link string // target of a symbolic link
	Dir  bool
	Data []byte
}

// readDeb calls each for every file in a package that want keeps. dpkg-deb
// unpacks the compression; no file is written.
func (b *Builder) readDeb(ctx context.Context, deb string, want func(path string) bool, each func(debFile) error) error {
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := b.run(ctx, tool{args: []string{"dpkg-deb", "--fsys-tarfile", deb}, pkg: "dpkg", out: pw})
		pw.CloseWithError(err)
		done <- err
	}()
	err := readTar(pr, want, each)
	if err == nil {
		_, err = io.Copy(io.Discard, pr) // tar's padding
	}
	pr.CloseWithError(err)
	if runErr := <-done; runErr != nil && err == nil {
		err = runErr
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", path.Base(deb), err)
	}
	return nil
}

// mergedPath is where a path of a package is on a system with merged /usr.
func mergedPath(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	first, _, _ := strings.Cut(p, "/")
	switch first {
	case "bin", "sbin", "lib", "lib32", "lib64", "libx32":
		return "usr/" + p
	}
	return p
}

func readTar(r io.Reader, want func(string) bool, each func(debFile) error) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p := mergedPath(h.Name)
		if p == "" || !want(p) {
			continue
		}
		f := debFile{Path: p, Mode: h.Mode & 0o7777}
		switch h.Typeflag {
		case tar.TypeDir:
			f.Dir = true
		case tar.TypeSymlink:
			f.Link = h.Linkname
		case tar.TypeReg:
			if f.Data, err = io.ReadAll(tr); err != nil {
				return err
			}
		case tar.TypeLink:
			// A hard link within one package: the same bytes under another name.
			f.Link = "/" + mergedPath(h.Linkname)
		default:
			continue
		}
		if err := each(f); err != nil {
			return err
		}
	}
}

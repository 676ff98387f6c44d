package images

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Entry is one file of a ramdisk. The path is without a leading slash.
type Entry struct {
	Path  string
	Mode  uint32 // permission bits
	Dir   bool
	Link  string // target of a symbolic link
	Dev   bool   // a character device
	Major uint32
	Minor uint32
	Data  []byte
}

// File types in the mode of a cpio header (inode(7)).
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioLink = 0o120000
	cpioChar = 0o020000
)

// ramdiskTime is the modification time of every file in a ramdisk: one
// constant, so that equal content gives equal bytes.
const ramdiskTime = 1735689600 // 2025-01-01

// WriteCPIO writes a ramdisk in the "newc" format that the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst): entries sorted
// by path, parent folders added, owned by root, one fixed time. Equal entries
// give equal bytes. Several such archives may follow each other.
func WriteCPIO(w io.Writer, entries []Entry) error {
	all, err := withParents(entries)
	if err != nil {
		return err
	}
	cw := &countWriter{w: w}
	for i, e := range all {
		if err := writeEntry(cw, e, uint32(i+1)); err != nil {
			return fmt.Errorf("writing %s to the ramdisk: %w", e.Path, err)
		}
	}
	if err := writeEntry(cw, Entry{Path: "TRAILER!!!"}, 0); err != nil {
		return fmt.Errorf("writing the ramdisk's end: %w", err)
	}
	// GNU cpio pads to blocks of 512; the kernel skips zeros between archives.
	return pad(cw, 512)
}

// withParents sorts entries and adds the folders that they stand in.
func withParents(entries []Entry) ([]Entry, error) {
	byPath := map[string]Entry{}
	for _, e := range entries {
		if e.Path == "" || path.Clean("/"+e.Path) != "/"+e.Path {
			return nil, fmt.Errorf("ramdisk path %q: want a clean path without a leading slash", e.Path)
		}
		if old, dup := byPath[e.Path]; dup && !(old.Dir && e.Dir) {
			return nil, fmt.Errorf("ramdisk path %q is given twice", e.Path)
		}
		byPath[e.Path] = e
	}
	for _, e := range entries {
		for dir := path.Dir(e.Path); dir != "."; dir = path.Dir(dir) {
			p, ok := byPath[dir]
			if !ok {
				byPath[dir] = Entry{Path: dir, Dir: true, Mode: 0o755}
			} else if !p.Dir {
				return nil, fmt.Errorf("ramdisk path %q is below %q, which is no folder", e.Path, dir)
			}
		}
	}
	all := make([]Entry, 0, len(byPath))
	for _, e := range byPath {
		all = append(all, e)
	}
	// A folder is a prefix of what is in it, so it comes first.
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

func writeEntry(w *countWriter, e Entry, ino uint32) error {
	mode, nlink, data := e.Mode&0o7777, uint32(1), e.Data
	switch {
	case ino == 0: // the trailer
	case e.Dir:
		mode, nlink, data = mode|cpioDir, 2, nil
	case e.Dev:
		mode, data = mode|cpioChar, nil
	case e.Link != "":
		mode, data = cpioLink|0o777, []byte(e.Link)
	default:
		mode |= cpioFile
	}
	mtime := uint32(ramdiskTime)
	if ino == 0 {
		mtime = 0
	}
	if int64(len(data)) > 0xffffffff {
		return errors.New("a file of 4 GiB or more does not fit the format")
	}
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		ino, mode, 0, 0, nlink, mtime, len(data), 0, 0, e.Major, e.Minor, len(e.Path)+1, 0)
	if _, err := io.WriteString(w, head+e.Path+"\x00"); err != nil {
		return err
	}
	if err := pad(w, 4); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	return pad(w, 4)
}

// pad writes zeros up to a multiple of n.
func pad(w *countWriter, n int64) error {
	_, err := w.Write(bytes.Repeat([]byte{0}, int((n-w.n%n)%n)))
	return err
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

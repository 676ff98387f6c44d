//go:build unix

package blob

import (
	"io/fs"
	"syscall"
)

// inodeOf tells a file from another that has taken its name.
func inodeOf(fi fs.FileInfo) any {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return [2]uint64{uint64(st.Dev), st.Ino} //nolint:unconvert // not the same on every system
}

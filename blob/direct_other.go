//go:build !linux

package blob

import "os"

func setDirect(*os.File, bool) bool { return false }

func aligned(n int) []byte { return make([]byte, n) }

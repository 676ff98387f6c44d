package images

import (
	"fmt"
	"testing"
)

// Another ramdisk may follow the agent's at once: see compressRamdisk.
func TestRamdiskEndsAligned(t *testing.T) {
	for n := range 16 {
		data := fmt.Appendf(nil, "%0*d", n+1, 7)
		b, _, err := compressRamdisk([]Entry{{Path: "f", Mode: 0o644, Data: data}})
		if err != nil {
			t.Fatal(err)
		}
		if len(b)%4 != 0 {
			t.Errorf("a ramdisk with a file of %d bytes has %d bytes; want a multiple of 4", len(data), len(b))
		}
	}
}

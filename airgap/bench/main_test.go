package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// TestOnly: a word that names no work is an error that lists the words, before
// anything is made.
func TestOnly(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown", []string{"-only", "atp"}, "-only atp: there is no such work; it is one of apt, bundle, formats, memory, files, npm, pypi, go, rpm"},
		{"memory without a size", []string{"-only", "memory"}, "-only memory: say how large a bundle with -large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			var out bytes.Buffer
			err := run(t.Context(), append(tt.args, "-dir", dir, "-packages", "1", "-bytes", "2000"), &out, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tt.want) || out.Len() > 0 {
				t.Errorf("run(%v) = %v, printed %q; want %q and nothing", tt.args, err, out.String(), tt.want)
			}
		})
	}
	for _, word := range append(onlyWords(), "") {
		if err := checkOnly(options{only: word, large: 1}); err != nil {
			t.Errorf("checkOnly(%q) = %v; want nil", word, err)
		}
	}
}

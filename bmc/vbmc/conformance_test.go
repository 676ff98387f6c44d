package vbmc

import (
	"os"
	"testing"

	"github.com/fettle-dev/fettle/bmc/vbmc/conformance"
)

// matrix is what the tests of clients saw, for CONFORMANCE.md.
var matrix conformance.Matrix

func TestMain(m *testing.M) { os.Exit(matrix.Run(m, "CONFORMANCE.md", "bmc/vbmc")) }

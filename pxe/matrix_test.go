package pxe

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The matrix of BOOTING.md, firmware × way of booting × result, is written by
// the tests that boot firmware: FETTLE_MATRIX=write go test ./pxe -run Firmware.
// Without that they check that what they see is what it says.

const (
	matrixFile  = "BOOTING.md"
	matrixBegin = "<!-- matrix: FETTLE_MATRIX=write go test ./pxe -run Firmware -->"
	matrixEnd   = "<!-- end of matrix -->"
	matrixHead  = "| firmware | way of booting | result | seconds (of CPU) |\n|---|---|---|---|"
)

// Firmware of the matrix.
const (
	fwSeaBIOS = "SeaBIOS, QEMU's iPXE ROM"
	fwOVMF    = "OVMF x64"
	fwSecure  = "OVMF x64, Secure Boot on"
	fwAAVMF   = "AAVMF arm64"
	fwUBoot   = "U-Boot 2023.01 arm64"
)

// matrixRow is a row: its way is unique for its firmware.
type matrixRow struct{ firmware, way string }

// matrixRows are all rows, in their order: a test that goes takes its row along.
var matrixRows = [...]matrixRow{
	{fwSeaBIOS, "PXE → script → kernel, 2 ramdisks"},
	{fwSeaBIOS, "PXE → script → disk"},
	{fwSeaBIOS, "PXE → script, kernel missing"},
	{fwSeaBIOS, "ProxyDHCP beside dnsmasq → script"},
	{fwOVMF, "PXE → snponly.efi → script → kernel, 2 ramdisks"},
	{fwOVMF, "HTTP boot → snponly.efi → script"},
	{fwOVMF, "PXE over IPv6 → snponly.efi → script → kernel"},
	{fwOVMF, "HTTP boot over IPv6 → snponly.efi → script → kernel"},
	{fwOVMF, "network without IPv4: snponly.efi → script → kernel, 2 ramdisks"},
	{fwOVMF, "HTTPS boot, our CA enrolled → unified kernel image"},
	{fwOVMF, "HTTPS boot, another CA enrolled"},
	{fwOVMF, "PXE, told to boot its disk"},
	{fwOVMF, "PXE → snponly.efi → script → disk"},
	{fwOVMF, "ProxyDHCP beside dnsmasq → snponly.efi → script"},
	{fwOVMF, "ProxyDHCP beside dnsmasq, HTTP boot → snponly.efi → script"},
	{fwOVMF, "port 4011 → snponly.efi"},
	{fwSecure, "PXE → shim → GRUB → kernel, 2 ramdisks"},
	{fwSecure, "PXE → shim → GRUB, kernel missing"},
	{fwSecure, "PXE → snponly.efi (nobody said secure-boot)"},
	{fwSecure, "HTTP boot"},
	{fwSecure, "PXE, switched on again after that → shim → GRUB → kernel, 2 ramdisks"},
	{fwSecure, "iPXE in the NIC's ROM → script → shim → GRUB → kernel, 2 ramdisks"},
	{fwSecure, "iPXE in the NIC's ROM → script → kernel (nobody said secure-boot)"},
	{fwSecure, "ProxyDHCP beside dnsmasq, iPXE in the NIC's ROM → script → shim → GRUB"},
	{fwAAVMF, "PXE → shim → GRUB → kernel, 2 ramdisks"},
	{fwAAVMF, "HTTP boot → unified kernel image"},
	{fwUBoot, "boot target dhcp → boot.scr.uimg → pxelinux.cfg → kernel, 2 ramdisks"},
	{fwUBoot, "boot target pxe → pxelinux.cfg → kernel, 2 ramdisks"},
}

// readMatrix reads the rows of BOOTING.md: result and seconds by row.
func readMatrix(t *testing.T) (before, after string, rows map[matrixRow][2]string) {
	t.Helper()
	b, err := os.ReadFile(matrixFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), matrixBegin)
	table, after, end := strings.Cut(rest, matrixEnd)
	if !ok || !end {
		t.Fatalf("%s has no table between %q and %q", matrixFile, matrixBegin, matrixEnd)
	}
	rows = map[matrixRow][2]string{}
	for line := range strings.Lines(strings.TrimPrefix(strings.TrimSpace(table), matrixHead)) {
		f := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(f) != 4 {
			continue
		}
		rows[matrixRow{strings.TrimSpace(f[0]), strings.TrimSpace(f[1])}] = [2]string{strings.TrimSpace(f[2]), strings.TrimSpace(f[3])}
	}
	return before, after, rows
}

// TestMatrix: the document has the rows that the tests see, and no others.
func TestMatrix(t *testing.T) {
	_, _, rows := readMatrix(t)
	for _, r := range matrixRows {
		if _, ok := rows[r]; !ok {
			t.Errorf("%s lacks the row %q: FETTLE_MATRIX=write go test ./pxe -run Firmware", matrixFile, r)
		}
		delete(rows, r)
	}
	for _, r := range slices.Collect(maps.Keys(rows)) {
		t.Errorf("%s has the row %q, which no test sees", matrixFile, r)
	}
}

// saw takes a result to the matrix, or compares it with what is there.
func saw(t *testing.T, firmware, way, result string, seconds, cpu float64) {
	t.Helper()
	if t.Failed() {
		return
	}
	row := matrixRow{firmware, way}
	if !slices.Contains(matrixRows[:], row) {
		t.Fatalf("matrixRows lacks %q", row)
	}
	before, after, rows := readMatrix(t)
	if os.Getenv("FETTLE_MATRIX") != "write" {
		if got := rows[row][0]; got != result {
			t.Errorf("%s says of %q: %q; seen: %q (FETTLE_MATRIX=write go test ./pxe -run Firmware)", matrixFile, row, got, result)
		}
		return
	}
	rows[row] = [2]string{result, fmt.Sprintf("%.0f (%.0f)", seconds, cpu)}
	var b bytes.Buffer
	b.WriteString(before + matrixBegin + "\n" + matrixHead + "\n")
	for _, r := range matrixRows {
		if v, ok := rows[r]; ok {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.firmware, r.way, v[0], v[1])
		}
	}
	b.WriteString(matrixEnd + after)
	tmp := filepath.Join(filepath.Dir(matrixFile), ".matrix")
	if err := os.WriteFile(tmp, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, matrixFile); err != nil {
		t.Fatal(err)
	}
}

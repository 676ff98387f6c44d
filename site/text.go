package site

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"net"
	"strconv"
	"strings"
)

// ParseMAC reads a 48-bit Ethernet address: six pairs of hex digits joined by
// colons or hyphens (IEEE 802, "52:54:00:aa:bb:cc").
func ParseMAC(s string) (MAC, error) {
	var m MAC
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(m) {
		return m, fmt.Errorf("%q is not a MAC address; write six pairs of hex digits, such as 52:54:00:aa:bb:cc", s)
	}
	copy(m[:], hw)
	return m, nil
}

// IsZero says whether m is unset.
func (m MAC) IsZero() bool { return m == MAC{} }

// String is the lower-case text with colons.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// HardwareAddr is a copy of m as package net's type.
func (m MAC) HardwareAddr() net.HardwareAddr { return bytes.Clone(m[:]) }

// MarshalText is "" for the zero MAC.
func (m MAC) MarshalText() ([]byte, error) {
	if m.IsZero() {
		return []byte{}, nil
	}
	return []byte(m.String()), nil
}

// UnmarshalText is the inverse of MarshalText.
func (m *MAC) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*m = MAC{}
		return nil
	}
	v, err := ParseMAC(string(b))
	if err != nil {
		return err
	}
	*m = v
	return nil
}

// byteUnits are the suffixes of a size. Without B they mean powers of 1024,
// as people say "64G of memory".
var byteUnits = []struct {
	suffix string
	size   int64
}{
	{"PiB", 1 << 50}, {"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"PB", 1e15}, {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3},
	{"P", 1 << 50}, {"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10},
	{"B", 1},
}

// ParseBytes reads "512MiB", "1.92TB", "64G" (64 GiB) or a plain number of
// bytes. A fraction of a byte is cut off.
func ParseBytes(s string) (Bytes, error) {
	wrong := func(why string) (Bytes, error) {
		return 0, fmt.Errorf("%q is not a size: %s; write for example 512MiB, 64GiB or 1.92TB", s, why)
	}
	num, unit := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits {
		if n := len(num) - len(u.suffix); n > 0 && strings.EqualFold(num[n:], u.suffix) {
			num, unit = strings.TrimSpace(num[:n]), u.size
			break
		}
	}
	if num == "" || len(num) > 24 || strings.Trim(num, "0123456789.") != "" {
		return wrong("no number with a unit")
	}
	r, ok := new(big.Rat).SetString(num)
	if !ok {
		return wrong("no number with a unit")
	}
	r.Mul(r, new(big.Rat).SetInt64(unit))
	n := new(big.Int).Quo(r.Num(), r.Denom())
	if !n.IsInt64() {
		return wrong("it is more than " + Bytes(math.MaxInt64/(1<<50)*(1<<50)).String())
	}
	return Bytes(n.Int64()), nil
}

// String is the shortest exact text that ParseBytes reads back.
func (b Bytes) String() string {
	best := strconv.FormatInt(int64(b), 10)
	if b <= 0 {
		return best
	}
	best += "B"
	for _, u := range byteUnits {
		if len(u.suffix) < 2 {
			break
		}
		if int64(b) < u.size {
			continue
		}
		q := big.NewRat(int64(b), u.size)
		// At most three decimals, and exactly.
		t := q.FloatString(3)
		if back, _ := new(big.Rat).SetString(t); back.Cmp(q) != 0 {
			continue
		}
		t = strings.TrimSuffix(strings.TrimRight(t, "0"), ".") + u.suffix
		if len(t) < len(best) {
			best = t
		}
	}
	return best
}

// MarshalText is String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText is ParseBytes.
func (b *Bytes) UnmarshalText(text []byte) error {
	v, err := ParseBytes(string(text))
	if err != nil {
		return err
	}
	*b = v
	return nil
}

// UnmarshalJSON reads a size as text or as a plain number of bytes.
func (b *Bytes) UnmarshalJSON(j []byte) error {
	s := string(j)
	if len(j) > 0 && j[0] == '"' {
		if err := json.Unmarshal(j, &s); err != nil {
			return fmt.Errorf("reading a size: %w", err)
		}
	}
	return b.UnmarshalText([]byte(s))
}

// String is "file:line:column", or "" for the zero Pos.
func (p Pos) String() string {
	if p == (Pos{}) {
		return ""
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// canonicalUUID reads an RFC 4122 UUID in its 36-character text form.
func canonicalUUID(s string) (string, error) {
	bare := strings.ReplaceAll(s, "-", "")
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' && len(bare) == 32 {
		if _, err := hex.DecodeString(bare); err == nil {
			return strings.ToLower(s), nil
		}
	}
	return "", fmt.Errorf("%q is not a UUID; write it as SMBIOS shows it, such as 6ba7b810-9dad-11d1-80b4-00c04fd430c8, or leave it out to derive it from the serial", s)
}

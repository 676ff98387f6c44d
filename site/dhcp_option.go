package site

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// OptionType is how a DHCP option's value is written.
type OptionType string

// Types of DHCP options.
const (
	OptionText     OptionType = "text"
	OptionAddress  OptionType = "address" // one or more IPv4 addresses
	OptionNumber8  OptionType = "number8"
	OptionNumber16 OptionType = "number16"
	OptionNumber32 OptionType = "number32"
	OptionHex      OptionType = "hex"
)

// Bytes is the option's value on the wire, in network order (RFC 2132 §2).
func (o DHCPOption) Bytes() ([]byte, error) {
	number := func(bits int) (uint64, error) {
		n, err := strconv.ParseUint(o.Value, 0, bits)
		if err != nil {
			return 0, fmt.Errorf("%q is not a number of %d bits", o.Value, bits)
		}
		return n, nil
	}
	switch o.Type {
	case OptionText:
		return []byte(o.Value), nil
	case OptionAddress:
		var b []byte
		for _, w := range strings.FieldsFunc(o.Value, func(r rune) bool { return r == ',' || r == ' ' }) {
			a, err := netip.ParseAddr(w)
			if err != nil || !a.Is4() {
				return nil, fmt.Errorf("%q is not an IPv4 address; write one or more, with commas", w)
			}
			b = append(b, a.AsSlice()...)
		}
		if len(b) == 0 {
			return nil, fmt.Errorf("%q holds no address", o.Value)
		}
		return b, nil
	case OptionNumber8:
		n, err := number(8)
		return []byte{byte(n)}, err
	case OptionNumber16:
		n, err := number(16)
		return binary.BigEndian.AppendUint16(nil, uint16(n)), err
	case OptionNumber32:
		n, err := number(32)
		return binary.BigEndian.AppendUint32(nil, uint32(n)), err
	case OptionHex:
		b, err := hex.DecodeString(strings.NewReplacer(":", "", " ", "").Replace(o.Value))
		if err != nil || len(b) == 0 {
			return nil, fmt.Errorf("%q is not hex; write bytes such as 01:a0:ff", o.Value)
		}
		return b, nil
	}
	return nil, fmt.Errorf("type %q is unknown", o.Type)
}

// reservedOption says where else an option that fettle sets itself is written;
// "" for one that is free.
func reservedOption(number int) string {
	own := func(key string) string { return "write it as the network's key " + key }
	switch number {
	case 1:
		return own("prefix")
	case 3:
		return own("gateway")
	case 6:
		return own("dns")
	case 15:
		return own("domain")
	case 26:
		return own("mtu")
	case 42:
		return own("ntp")
	case 51, 58, 59:
		return own("lease")
	case 119:
		return own("search")
	case 121, 249:
		return own("routes")
	case 12, 28, 43, 50, 52, 53, 54, 55, 56, 57, 60, 61, 66, 67, 77, 82, 93, 94, 97, 118, 175:
		return "remove it: booting depends on it"
	}
	return ""
}

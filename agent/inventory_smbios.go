package agent

import "encoding/binary"

// SMBIOS structure types (DSP0134 3.7 §7).
const (
	smbiosMemoryDevice = 17
	smbiosEnd          = 127
)

// smbiosMemory adds up the sizes of the memory devices in a structure table.
// A broken table ends the sum early.
func smbiosMemory(table []byte) int64 {
	var sum int64
	for len(table) >= 4 {
		kind, length := table[0], int(table[1])
		if length < 4 || length > len(table) || kind == smbiosEnd {
			break
		}
		if kind == smbiosMemoryDevice {
			sum += memoryDeviceSize(table[:length])
		}
		// Strings follow, each ended by a zero, the set by another (§6.1.3).
		rest := table[length:]
		i := 0
		for i+1 < len(rest) && (rest[i] != 0 || rest[i+1] != 0) {
			i++
		}
		if i+2 > len(rest) {
			break
		}
		table = rest[i+2:]
	}
	return sum
}

// memoryDeviceSize is the size of one device (§7.18.4, §7.18.5).
func memoryDeviceSize(s []byte) int64 {
	if len(s) < 14 {
		return 0
	}
	switch n := binary.LittleEndian.Uint16(s[12:]); {
	case n == 0 || n == 0xffff: // empty slot, or unknown
		return 0
	case n == 0x7fff: // in the extended field, MiB
		if len(s) < 32 {
			return 0
		}
		return int64(binary.LittleEndian.Uint32(s[28:])&0x7fffffff) << 20
	case n&0x8000 != 0:
		return int64(n&0x7fff) << 10
	default:
		return int64(n) << 20
	}
}

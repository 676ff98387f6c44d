package state

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/site"
)

// An embedded store keeps the leases of neighbouring addresses under one key:
// machines that boot together have addresses that lie together, and what etcd
// does for a key costs more than what it does for a hundred bytes more.
const (
	pageBits    = 4
	pageSize    = 1 << pageBits // addresses
	pageVersion = 1             // first byte of a page
)

// leasePage is the leases of neighbouring addresses, by the last bits of their
// address; nil where there is none.
type leasePage [pageSize]*held

// pageOf is the first address of an address's page, and the place on it.
func pageOf(a netip.Addr) (first netip.Addr, place int) {
	if a.Is4() {
		b := a.As4()
		place = int(b[3] % pageSize)
		b[3] -= byte(place)
		return netip.AddrFrom4(b), place
	}
	b := a.As16()
	place = int(b[15] % pageSize)
	b[15] -= byte(place)
	return netip.AddrFrom16(b), place
}

func pagePrefix(network string) string { return prefixLeasePages + url.PathEscape(network) + "/" }

// encode appends the page as it is stored (STATE.md says how).
func (p *leasePage) encode(b []byte) []byte {
	b = append(b, pageVersion)
	for _, h := range p {
		if h == nil {
			continue
		}
		flags := byte(0)
		if h.Declined {
			flags = 1
		}
		b = append(b, flags)
		if h.Addr.Is4() {
			a := h.Addr.As4()
			b = append(append(b, 4), a[:]...)
		} else {
			a := h.Addr.As16()
			b = append(append(b, 16), a[:]...)
		}
		b = append(b, h.MAC[:]...)
		b = appendTime(appendTime(b, h.Granted), h.Expires)
		b = binary.AppendUvarint(b, uint64(len(h.Hostname)))
		b = append(b, h.Hostname...)
	}
	return b
}

func appendTime(b []byte, t time.Time) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(t.Unix())) //nolint:gosec // and back again
	return binary.BigEndian.AppendUint32(b, uint32(t.Nanosecond()))
}

// empty reports whether no address of the page is leased.
func (p *leasePage) empty() bool { return *p == leasePage{} }

// decodePage reads the leases of a page that is stored under key.
func decodePage(key string, b []byte) ([]Lease, error) {
	unreadable := func(why string) ([]Lease, error) {
		return nil, fmt.Errorf("%s is unreadable: %s", key, why)
	}
	name, _, ok := strings.Cut(strings.TrimPrefix(key, prefixLeasePages), "/")
	network, err := url.PathUnescape(name)
	if err != nil || !ok {
		return unreadable("its key names no network")
	}
	if len(b) == 0 || b[0] != pageVersion {
		return unreadable("it was written by another version of fettle")
	}
	var out []Lease
	for b = b[1:]; len(b) > 0; {
		l := Lease{Network: network, Declined: b[0]&1 != 0}
		if len(b) < 2 || b[1] != 4 && b[1] != 16 {
			return unreadable("an address is neither IPv4 nor IPv6")
		}
		size := int(b[1])
		if b = b[2:]; len(b) < size+len(l.MAC)+24 {
			return unreadable("it ends within a lease")
		}
		l.Addr, _ = netip.AddrFromSlice(b[:size])
		l.MAC = site.MAC(b[size : size+len(l.MAC)])
		b = b[size+len(l.MAC):]
		l.Granted, l.Expires = readTime(b), readTime(b[12:])
		b = b[24:]
		n, used := binary.Uvarint(b)
		if used <= 0 || n > uint64(len(b)-used) {
			return unreadable("it ends within a host name")
		}
		l.Hostname, b = string(b[used:used+int(n)]), b[used+int(n):] //nolint:gosec // bounded above
		out = append(out, l)
	}
	return out, nil
}

func readTime(b []byte) time.Time {
	return time.Unix(int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint32(b[8:]))).UTC() //nolint:gosec // as it was written
}

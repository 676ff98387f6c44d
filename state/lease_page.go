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
// address.
type leasePage struct {
	names *[pageSize]string // host names; nil while no lease has one
	kept  [pageSize]kept
}

// kept is a lease as a page has it in memory, where its address is the page's
// matter. It has no pointers (leaseBook), and its times are in two pieces each.
type kept struct {
	granted, expires           int64 // seconds since 1970
	grantedNanos, expiresNanos int32
	until                      time.Duration
	mac                        site.MAC
	there                      bool // or the address is free
	declined                   bool
}

func nanos(t time.Time) int32 { return int32(t.Nanosecond()) } //nolint:gosec // below 1e9

func timeOf(sec int64, nanos int32) time.Time { return time.Unix(sec, int64(nanos)).UTC() }

// held is the lease at a place that has one, whose address is a.
func (p *leasePage) held(network string, a netip.Addr, place int) held {
	k := &p.kept[place]
	h := held{Lease{Network: network, Addr: a, MAC: k.mac, Declined: k.declined,
		Granted: timeOf(k.granted, k.grantedNanos), Expires: timeOf(k.expires, k.expiresNanos)}, k.until}
	if p.names != nil {
		h.Hostname = p.names[place]
	}
	return h
}

func (p *leasePage) set(place int, h held) {
	p.kept[place] = kept{
		granted: h.Granted.Unix(), grantedNanos: nanos(h.Granted), expires: h.Expires.Unix(), expiresNanos: nanos(h.Expires),
		until: h.until, mac: h.MAC, there: true, declined: h.Declined,
	}
	if p.names == nil && h.Hostname != "" {
		p.names = new([pageSize]string)
	}
	if p.names != nil {
		p.names[place] = h.Hostname
	}
}

func (p *leasePage) free(place int) {
	p.kept[place] = kept{}
	if p.names != nil {
		p.names[place] = ""
	}
}

// copyOf makes the page say what another one does; nil is an empty one.
func (p *leasePage) copyOf(from *leasePage) {
	if from == nil {
		*p = leasePage{}
		return
	}
	p.kept = from.kept
	if p.names = nil; from.names != nil {
		names := *from.names
		p.names = &names
	}
}

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

// placeOn is the address at a place of a page.
func placeOn(first netip.Addr, place int) netip.Addr {
	if first.Is4() {
		b := first.As4()
		b[3] |= byte(place)
		return netip.AddrFrom4(b)
	}
	b := first.As16()
	b[15] |= byte(place)
	return netip.AddrFrom16(b)
}

func pagePrefix(network string) string { return prefixLeasePages + url.PathEscape(network) + "/" }

// encode appends the page that begins at an address as it is stored (STATE.md
// says how).
func (p *leasePage) encode(first netip.Addr, b []byte) []byte {
	b = append(b, pageVersion)
	for place := range p.kept {
		k := &p.kept[place]
		if !k.there {
			continue
		}
		flags := byte(0)
		if k.declined {
			flags = 1
		}
		b = append(b, flags)
		if addr := placeOn(first, place); addr.Is4() {
			a := addr.As4()
			b = append(append(b, 4), a[:]...)
		} else {
			a := addr.As16()
			b = append(append(b, 16), a[:]...)
		}
		b = append(b, k.mac[:]...)
		b = appendTime(appendTime(b, k.granted, k.grantedNanos), k.expires, k.expiresNanos)
		name := ""
		if p.names != nil {
			name = p.names[place]
		}
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
	}
	return b
}

func appendTime(b []byte, sec int64, nanos int32) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(sec))      //nolint:gosec // and back again
	return binary.BigEndian.AppendUint32(b, uint32(nanos)) //nolint:gosec // below 1e9
}

// empty reports whether no address of the page is leased.
func (p *leasePage) empty() bool {
	for place := range p.kept {
		if p.kept[place].there {
			return false
		}
	}
	return true
}

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

package pxe

import (
	"strings"
)

// extras appends what the network has beyond address, router and names: each
// where the client asks for it, because the packet is small.
func (n *Network) extras(e *encoder) {
	if e.r.asks(optSearch) {
		e.bytes(optSearch, searchList(n.Search))
	}
	// A client that gets 121 must ignore the router option (RFC 3442): the
	// default route is in it too.
	for _, code := range []byte{optRoutes, optRoutesMS} {
		if len(n.Routes) > 0 && e.r.asks(code) {
			e.bytes(code, n.routes())
		}
	}
	for _, o := range n.Options {
		if o.Always || e.r.asks(o.Number) {
			e.bytes(o.Number, o.Value)
		}
	}
}

// routes encodes static routes: the width of each destination, its significant
// bytes, the router (RFC 3442).
func (n *Network) routes() (b []byte) {
	add := func(r Route) {
		bits := r.To.Bits()
		to, via := r.To.Masked().Addr().As4(), r.Via.As4()
		b = append(b, byte(bits))
		b = append(b, to[:(bits+7)/8]...)
		b = append(b, via[:]...)
	}
	hasDefault := false
	for _, r := range n.Routes {
		add(r)
		hasDefault = hasDefault || r.To.Bits() == 0
	}
	if n.Gateway.IsValid() && !hasDefault {
		b = append(b, 0)
		via := n.Gateway.As4()
		b = append(b, via[:]...)
	}
	return b
}

// searchList encodes domain names as in DNS, each ending in a pointer to what
// an earlier one ends with (RFC 3397 §2, RFC 1035 §4.1.4).
func searchList(names []string) (b []byte) {
	seen := map[string]int{}
	for _, name := range names {
		rest := strings.Trim(name, ".")
		for rest != "" {
			if at, ok := seen[rest]; ok {
				b = append(b, 0xc0|byte(at>>8), byte(at))
				break
			}
			if len(b) < 0x4000 {
				seen[rest] = len(b)
			}
			var label string
			label, rest, _ = strings.Cut(rest, ".")
			b = append(b, byte(len(label)))
			b = append(b, label...)
			if rest == "" {
				b = append(b, 0)
			}
		}
	}
	return b
}

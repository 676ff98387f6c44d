package site

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
)

// Validate checks a Site that was made or changed in Go, by the rules of Load.
// The error is [Errors] without positions.
func (s *Site) Validate() error {
	c, p := s.Clone(), newProblems()
	format().setDefaults(reflect.ValueOf(c).Elem())
	c.derive()
	c.validate(p)
	return p.err()
}

// validator holds what the checks look up.
type validator struct {
	*problems
	s        *Site
	networks map[string]*Network
	names    map[string][]string // "profile" → known names
	partial  map[string]bool     // "profile": some of them were not understood
	addrs    map[netip.Addr]owner
	macs     map[MAC]owner
	serials  map[string]owner
	uuids    map[string]owner
	disks    map[string]owner
	nodes    map[node]owner // of BMCs that have several
}

// node is one of the machines that share a BMC.
type node struct {
	bmc    netip.Addr
	system string
}

// owner is who has a value that must be unique, and where that is written.
type owner struct{ who, path string }

func (s *Site) validate(p *problems) {
	v := &validator{
		problems: p, s: s,
		networks: map[string]*Network{}, names: map[string][]string{}, partial: map[string]bool{},
		addrs: map[netip.Addr]owner{}, macs: map[MAC]owner{},
		serials: map[string]owner{}, uuids: map[string]owner{}, disks: map[string]owner{}, nodes: map[node]owner{},
	}
	format().check(p, "", reflect.ValueOf(s).Elem())
	v.uniqueNames()
	v.checkNetworks()
	for i := range s.Machines {
		v.machine(&s.Machines[i], fmt.Sprintf("machines[%d]", i))
	}
	v.rackUnits()
	v.checkImages()
	v.checkProfiles()
	v.checkMirrors()
}

// unique claims a value and reports who has it already.
func unique[K comparable](v *validator, taken map[K]owner, key K, what, who, path, hint string) {
	var zero K
	if key == zero {
		return
	}
	if first, ok := taken[key]; ok {
		where := ""
		if pos := v.at(first.path); pos != (Pos{}) {
			where = " (" + pos.String() + ")"
		}
		v.add(path, hint, "%s: %s %v is already that of %s%s", who, what, key, first.who, where)
		return
	}
	taken[key] = owner{who, path}
}

// uniqueNames reports two things of one sort with one name, and learns names.
func (v *validator) uniqueNames() {
	site := reflect.ValueOf(v.s).Elem()
	for _, f := range format().fields {
		l, ok := f.kind.(list)
		if !ok {
			continue
		}
		what, items, taken := l.of.label(), site.FieldByName(f.goName), map[string]owner{}
		v.partial[what] = v.bad[unknownSection+f.key] || v.bad[f.key]
		for i := range items.Len() {
			name := items.Index(i).FieldByName("Name").String()
			unique(v, taken, name, "name", "a "+what, fmt.Sprintf("%s[%d].name", f.key, i), "rename one of them")
			if name == "" {
				v.partial[what] = true
			} else {
				v.names[what] = append(v.names[what], name)
			}
		}
	}
	for i := range v.s.Networks {
		v.networks[v.s.Networks[i].Name] = &v.s.Networks[i]
	}
}

// refers reports a name that nothing has.
func (v *validator) refers(who, to, name, path string) {
	if name != "" && !slices.Contains(v.names[to], name) && !v.partial[to] {
		v.add(path, meant(name, v.names[to], fmt.Sprintf("the site has no %ss yet: add one", to)), "%s: there is no %s %q", who, to, name)
	}
}

// usable reports an address that a host of a network cannot have.
func (v *validator) usable(who, what string, a netip.Addr, n *Network, path string) bool {
	if !a.IsValid() || n == nil || !n.Prefix.IsValid() {
		return false
	}
	first, last := bounds(n.Prefix)
	switch {
	case !n.Prefix.Contains(a):
		hint := fmt.Sprintf("use an address from %s to %s", first.Next(), last.Prev())
		for _, other := range v.s.Networks {
			if other.Prefix.IsValid() && other.Prefix.Contains(a) {
				hint += fmt.Sprintf(", or network %s, which it is on", other.Name)
				break
			}
		}
		v.add(path, hint, "%s: %s %s is outside network %s (%s)", who, what, a, n.Name, n.Prefix)
	case a == first:
		v.add(path, fmt.Sprintf("the first host is %s", first.Next()), "%s: %s %s is the address of network %s itself", who, what, a, n.Name)
	case a == last:
		v.add(path, fmt.Sprintf("the last host is %s", last.Prev()), "%s: %s %s is the broadcast address of network %s", who, what, a, n.Name)
	default:
		return true
	}
	return false
}

// bounds are the network and broadcast address of an IPv4 prefix (RFC 919
// section 7).
func bounds(p netip.Prefix) (first, last netip.Addr) {
	a4 := p.Masked().Addr().As4()
	n := binary.BigEndian.Uint32(a4[:]) | (1<<(32-p.Bits()) - 1)
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return p.Masked().Addr(), netip.AddrFrom4(b)
}

func (v *validator) checkNetworks() {
	vlans := map[int]string{}
	for i := range v.s.Networks {
		n, path := &v.s.Networks[i], fmt.Sprintf("networks[%d]", i)
		who := "network " + n.Name
		if len(n.Relays) > 0 {
			// It is elsewhere, where VLAN numbers are others.
		} else if other, ok := vlans[n.VLAN]; ok {
			vlan := fmt.Sprintf("VLAN %d", n.VLAN)
			if n.VLAN == 0 {
				vlan = "untagged"
			}
			v.add(path+".vlan", "give each network its own vlan; only one may be untagged", "%s is %s, as is network %s", who, vlan, other)
		} else {
			vlans[n.VLAN] = n.Name
		}
		for _, other := range v.s.Networks[:i] {
			if n.Prefix.IsValid() && other.Prefix.IsValid() && n.Prefix.Overlaps(other.Prefix) {
				v.add(path+".prefix", "give each network its own addresses", "%s: %s overlaps %s of network %s", who, n.Prefix, other.Prefix, other.Name)
			}
		}
		if !n.Prefix.IsValid() {
			v.only6(n, who, path)
		} else if n.Purpose == PurposeBoot && !n.Server.IsValid() {
			v.add(path+".server", "add server: with the address that fettle shall have there", "%s is for booting but has no server address", who)
		}
		if len(n.Relays) > 0 {
			v.relayed(n, who, path)
		} else if v.usable(who, "server", n.Server, n, path+".server") {
			unique(v, v.addrs, n.Server, "address", who+"'s server", path+".server", "give each its own address")
		}
		if v.usable(who, "gateway", n.Gateway, n, path+".gateway") && n.Gateway != n.Server {
			unique(v, v.addrs, n.Gateway, "address", who+"'s gateway", path+".gateway", "give each its own address")
		}
		v.pools(n, who, path)
		v.dhcp(n, who, path)
		v.ipv6(n, who, path)
	}
}

func (v *validator) pools(n *Network, who, path string) {
	for i, p := range n.Pools {
		at := fmt.Sprintf("%s.pools[%d]", path, i)
		okFrom := v.usable(who, "pool start", p.From, n, at+".from")
		okTo := v.usable(who, "pool end", p.To, n, at+".to")
		if !okFrom || !okTo {
			continue
		}
		if p.To.Less(p.From) {
			v.add(at+".to", "swap from and to", "%s: a pool from %s to %s is backwards", who, p.From, p.To)
			continue
		}
		for _, q := range n.Pools[:i] {
			if q.From.IsValid() && q.To.IsValid() && !p.To.Less(q.From) && !q.To.Less(p.From) {
				v.add(at, "join them or move one", "%s: pool %s-%s overlaps pool %s-%s", who, p.From, p.To, q.From, q.To)
			}
		}
	}
}

// rackUnits reports machines that stand in the same place, or above the rack.
func (v *validator) rackUnits() {
	type place struct {
		rack string
		unit int
	}
	taken := map[place]string{}
	for i, m := range v.s.Machines {
		path, who := fmt.Sprintf("machines[%d]", i), "machine "+m.Name
		if m.Unit == 0 {
			continue
		}
		if m.Rack == "" {
			v.add(path+".unit", "add rack: with the name of its rack", "%s stands in unit %d of no rack", who, m.Unit)
			continue
		}
		rack, ok := v.s.Rack(m.Rack)
		top := m.Unit + max(m.Height, 1) - 1
		if ok && top > rack.Units {
			v.add(path+".unit", "correct unit or height, or the rack's units", "%s reaches unit %d, but rack %s has %d units", who, top, rack.Name, rack.Units)
			continue
		}
		for u := m.Unit; u <= min(top, m.Unit+100); u++ {
			if other, full := taken[place{m.Rack, u}]; full {
				v.add(path+".unit", "correct unit or height of one of them", "%s: unit %d of rack %s is already machine %s's", who, u, m.Rack, other)
				break
			}
			taken[place{m.Rack, u}] = m.Name
		}
	}
}

// checkImages checks that an image says where its packages come from, once.
func (v *validator) checkImages() {
	for i, img := range v.s.Images {
		path, who := fmt.Sprintf("images[%d]", i), "image "+img.Name
		switch {
		case img.OS == "":
		case img.OS == OSHost && img.Suite != "":
			v.add(path+".suite", "take it away, or write os: debian or os: ubuntu", "%s: os: host is the release of the machine that builds it, and suite says another", who)
		case img.OS == OSHost && len(img.Mirrors) > 0:
			v.add(path+".mirrors", "take them away, or write os: debian or os: ubuntu and a suite", "%s: os: host is built from the machine's own apt sources, and mirrors says otherwise", who)
		case img.OS != OSHost && img.Suite == "" && !v.bad[path+".suite"]:
			v.add(path, `add suite: its release, such as bookworm or noble`, "%s has no \"suite\"", who)
		}
		found := len(img.Mirrors) == 0
		for j, name := range img.Mirrors {
			at := fmt.Sprintf("%s.mirrors[%d]", path, j)
			v.refers(who, "mirror", name, at)
			k := slices.IndexFunc(v.s.Mirrors, func(m Mirror) bool { return m.Name == name })
			if k < 0 {
				found = true // what it would have is not known
				continue
			}
			m := v.s.Mirrors[k]
			if m.Format != "apt" {
				v.add(at, "name mirrors of format apt", "%s: mirror %s is of format %s", who, name, m.Format)
			} else if len(m.URLs) > 0 && len(m.Keyrings) == 0 {
				v.add(at, "add keyrings: to the mirror, with the distribution's archive keys", "%s: mirror %s has urls and no keyrings: whose signature is to be trusted?", who, name)
			}
			found = found || slices.Contains(m.Suites, img.Suite)
		}
		if !found && img.Suite != "" {
			v.add(path+".mirrors", "add the mirror that has it, or the suite to one of them", "%s: none of its mirrors has the suite %s", who, img.Suite)
		}
	}
}

func (v *validator) checkProfiles() {
	for i, p := range v.s.Profiles {
		path, who := fmt.Sprintf("profiles[%d]", i), "profile "+p.Name
		v.refers(who, "image", p.Image, path+".image")
		taken := map[string]owner{}
		for j, u := range p.Users {
			unique(v, taken, u.Name, "name", who+": a user", fmt.Sprintf("%s.users[%d].name", path, j), "rename one of them")
		}
	}
}

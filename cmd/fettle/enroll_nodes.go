package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// hasNodes tells that a machine of a site folder says which of its BMC's
// machines it is: others may share that BMC.
func hasNodes(dir, name string) bool {
	s, err := site.Load(dir)
	if err != nil {
		return false
	}
	m, ok := s.Machine(name)
	return ok && m.BMC.System != ""
}

// nodesSecret is the secret of a BMC that other nodes have already, in the site
// or before in the list; else its own.
func nodesSecret(s *site.Site, before []*enrollee, at netip.Addr, own string) string {
	for _, m := range s.Machines {
		if m.BMC.Address == at {
			return cmp.Or(m.BMC.Secret, own)
		}
	}
	for _, x := range before {
		if x.adopt != nil && x.adopt.Addr == at {
			return x.adopt.Secret
		}
	}
	return own
}

// bmcNodes finds out which of the machines behind a BMC those of a list are.
type bmcNodes struct {
	s    *site.Site
	list []*enrollee
	want string // what a person says

	read map[netip.Addr][]bmc.Node
}

// choose sets x's system where its BMC has several machines: the one that a
// person names, the one with the serial number that was inspected, or the next
// one that nobody has. It logs in where somebody else shares the BMC, or where
// the machine is known by its BMC alone.
func (n *bmcNodes) choose(ctx context.Context, x *enrollee) error {
	at := x.adopt.Addr
	inSite := slices.DeleteFunc(slices.Clone(n.s.Machines), func(m site.Machine) bool { return m.BMC.Address != at })
	here, left := 0, 0 // of the list: at this BMC, and not found out yet
	for _, o := range n.list {
		if o == x || o.adopt != nil && o.adopt.Addr == at || o.adopt == nil && o.found.BMC != nil && o.found.BMC.Addr == at {
			here++
			if o.adopt == nil || o.adopt.System == "" {
				left++
			}
		}
	}
	byBMC := x.found.Sort == state.SortBMC
	if x.adopt.Protocol != site.Redfish {
		if here+len(inSite) > 1 || n.want != "" {
			return fail(exitInput, fmt.Errorf("%s: the BMC at %s is asked by IPMI, which cannot say which of several machines is meant: use redfish", x.name, at))
		}
		return nil
	}
	if !byBMC && n.want == "" && here+len(inSite) == 1 {
		return nil
	}
	all, ok := n.read[at]
	if !ok {
		var err error
		if all, err = x.adopt.Nodes(ctx); err != nil {
			return fail(exitFailed, err)
		}
		if n.read == nil {
			n.read = map[netip.Addr][]bmc.Node{}
		}
		n.read[at] = all
	}
	if len(all) == 1 && n.want == "" {
		if here+len(inSite) > 1 {
			return fail(exitInput, fmt.Errorf("%s: the BMC at %s has one machine, %s, and %d are to share it", x.name, at, all[0].System, here+len(inSite)))
		}
		return nil
	}
	free := slices.DeleteFunc(slices.Clone(all), func(o bmc.Node) bool {
		return slices.ContainsFunc(inSite, func(m site.Machine) bool { return isNode(o, m.BMC.System) || isNode(o, m.Serial) }) ||
			slices.ContainsFunc(n.list, func(l *enrollee) bool { return l.adopt != nil && l.adopt.Addr == at && l.adopt.System == o.System })
	})
	var names []string
	for _, o := range free {
		names = append(names, strings.TrimSuffix(o.System+" "+o.Serial, " "))
	}
	lacks := fmt.Sprintf("the BMC at %s has %d machines, of which the site lacks %s", at, len(all), cmp.Or(strings.Join(names, ", "), "none"))
	i := -1
	switch {
	case n.want != "":
		i = slices.IndexFunc(free, func(o bmc.Node) bool { return isNode(o, n.want) })
	case !byBMC:
		i = slices.IndexFunc(free, func(o bmc.Node) bool { return isNode(o, x.found.Serial) || isNode(o, x.found.UUID) })
	case left == len(free) && left > 0:
		i = 0 // in the BMC's order
	default:
		return fail(exitInput, fmt.Errorf("%s: %s: give as many names (--name NAMES), or say which one with --system", x.name, lacks))
	}
	if i < 0 {
		return fail(exitInput, fmt.Errorf("%s: %s: none of them is %s", x.name, lacks, cmp.Or(n.want, x.found.Serial, x.found.UUID, "what was inspected")))
	}
	x.adopt.System, x.machine.BMC.System = free[i].System, free[i].System
	if byBMC { // what the BMC told without a login is the chassis', or another node's
		x.found.Serial, x.found.UUID, x.found.Model = "", "", ""
	}
	return nil
}

// isNode tells that a node is called so.
func isNode(o bmc.Node, what string) bool {
	return what != "" && slices.ContainsFunc([]string{o.System, o.Serial, o.SKU, o.UUID}, func(s string) bool { return strings.EqualFold(s, what) })
}

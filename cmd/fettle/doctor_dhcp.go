package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
)

// dhcpServer is a DHCP server that answered on a network.
type dhcpServer struct {
	Family string `json:"family"` // "DHCPv4", "DHCPv6"
	Server string `json:"server"`
	MAC    string `json:"mac,omitempty"`
	DUID   string `json:"duid,omitempty"`
	Offers string `json:"offers,omitempty"`
	File   string `json:"file,omitempty"`
	Ours   bool   `json:"ours,omitempty"` // it has the network's server address
}

// checkDHCP asks on the named networks who answers DHCP there. Only what a
// caller names is asked.
func (e *env) checkDHCP(c *cli.Context) ([]finding, error) {
	if len(c.StringSlice("network")) == 0 {
		return nil, nil
	}
	s, err := e.loadSite(c)
	if err != nil {
		return nil, err
	}
	named := map[string]string{}
	var nets []site.Network
	for _, v := range c.StringSlice("network") {
		name, ifname, given := strings.Cut(v, "=")
		n, ok := s.Network(name)
		if !ok || given && ifname == "" {
			return nil, usage("--network is NETWORK or NETWORK=INTERFACE with a network of the site, not %q", v)
		}
		if behindRelay(n) {
			return nil, fail(exitInput, fmt.Errorf("network %s is behind relays: this machine is not on it, so ask from one that is", name))
		}
		nets = append(nets, n)
		if given {
			named[name] = ifname
		}
	}
	var out []finding
	for _, n := range nets {
		ifname := named[n.Name]
		if ifname == "" {
			st, err := newHostStack([]site.Network{{Name: n.Name, Prefix: n.Prefix, Server: n.Server, IPv6: n.IPv6}}, nil)
			if err != nil {
				return nil, fmt.Errorf("%w, or say --network %s=INTERFACE", err, n.Name)
			}
			ifname = st.interfaces[n.Name]
		}
		fmt.Fprintf(e.stderr, "asking for DHCP servers on network %s (%s), 3 s; no address is taken\n", n.Name, ifname)
		found, err := pxe.FindServers(c.Context, ifname)
		if err != nil {
			return nil, fail(exitMissing, err)
		}
		out = append(out, dhcpFinding(n, ifname, found))
	}
	return out, nil
}

// dhcpFinding judges who answers on a network.
func dhcpFinding(n site.Network, ifname string, found []pxe.FoundServer) finding {
	f := finding{Check: "DHCP on " + n.Name + " (" + ifname + ")", For: "booting", OK: true}
	var others, gives []string
	for _, s := range found {
		d := dhcpServer{Family: "DHCPv4", Server: s.Server.String(), MAC: s.MAC.String(), File: s.File}
		if s.Offers.IsValid() {
			d.Offers = s.Offers.String()
		}
		if s.IPv6 {
			d.Family, d.DUID = "DHCPv6", fmt.Sprintf("%x", s.DUID)
		}
		d.Ours = s.Server == n.Server || s.IPv6 && pxe.IsServerDUID(s.DUID, n.IPv6.Server)
		f.Servers = append(f.Servers, d)
		if d.Ours {
			continue
		}
		word := d.String()
		if n.Proxy && !s.IPv6 && s.Offers.IsValid() {
			gives = append(gives, word)
			continue
		}
		others = append(others, word)
	}
	slices.SortFunc(f.Servers, func(a, b dhcpServer) int { return strings.Compare(a.Family+a.Server, b.Family+b.Server) })
	slices.Sort(others)
	slices.Sort(gives)
	switch {
	case len(others) > 0 && n.Proxy:
		f.OK, f.Text = false, strings.Join(others, "; ")+": machines may take its boot files for fettle's: stop it, or let it give addresses alone"
	case len(others) > 0:
		f.OK, f.Text = false, strings.Join(others, "; ")+": machines may take its address and boot from it: stop it there, or write proxy: true and let it give the addresses"
	case n.Proxy && len(gives) == 0:
		f.OK, f.Text = false, "nobody gives IPv4 addresses there, and the site says proxy: true: start that DHCP server, or remove proxy"
	case len(gives) > 1:
		f.OK, f.Text = false, "more than one gives addresses: "+strings.Join(gives, "; ")
	case n.Proxy:
		f.Text = "addresses come from " + gives[0]
	default:
		f.Text = "no other DHCP server answers"
	}
	return f
}

// String is a server in a sentence.
func (d dhcpServer) String() string {
	s := d.Family + " server " + d.Server + " (" + d.MAC + ")"
	if a, err := netip.ParseAddr(d.Offers); err == nil {
		s += " offers " + a.String()
	} else if d.File != "" {
		s += " offers boot files alone"
	}
	if d.File != "" {
		s += " and boot file " + d.File
	}
	return s
}

package bmc

import (
	"encoding/hex"
	"net"
	"path"
	"slices"
	"strings"
)

// networkPort is what we use of Port, and of NetworkPort that came before it.
type networkPort struct {
	ID         text `json:"Id"`
	Path       text `json:"@odata.id"`
	LinkStatus text
	Speed      number `json:"CurrentSpeedGbps"`
	OldSpeed   number `json:"CurrentLinkSpeedMbps"`
	Addresses  texts  `json:"AssociatedNetworkAddresses"`
	Ethernet   struct {
		AssociatedMACAddresses texts
	}
	InfiniBand struct{ AssociatedPortGUIDs, AssociatedNodeGUIDs texts }
}

func (p networkPort) mbps() int {
	if p.Speed > 0 {
		return int(p.Speed * 1000)
	}
	return int(p.OldSpeed)
}

func linkUp(status text) bool { return status == "LinkUp" || status == "Up" }

// networkAdapter is what we use of NetworkAdapter (DSP0268).
type networkAdapter struct {
	ID                     text `json:"Id"`
	Status                 health
	Ports, NetworkPorts    ref
	NetworkDeviceFunctions ref
}

// hardwareAddress reads an Ethernet address in any notation; nil for none, and
// for what is written where there is none.
func hardwareAddress(s string) net.HardwareAddr {
	hw, err := net.ParseMAC(s)
	if err != nil && len(s) == 12 { // without separators
		hw, err = hex.DecodeString(s)
	}
	if err != nil || len(hw) != 6 || strings.Trim(hw.String(), "0:") == "" || strings.Trim(hw.String(), "f:") == "" {
		return nil
	}
	return hw
}

// nics are the host's Ethernet interfaces, and the ports of the network adapters
// that these do not show (BMCs list those on the board alone, or only the ones
// whose driver runs). The port by which the host speaks to its own BMC is no NIC.
func (r *reader) nics(inv *Inventory, s computerSystem) {
	inner := map[string]bool{}
	add := func(n NIC, mac string) {
		hw := hardwareAddress(mac)
		if hw != nil {
			n.MAC = hw.String()
		}
		if n.MAC == "" && n.GUID == "" || inner[n.MAC] || slices.ContainsFunc(inv.NICs, func(x NIC) bool { return x.MAC == n.MAC && x.GUID == n.GUID }) {
			return
		}
		inv.NICs = append(inv.NICs, n)
	}
	for _, n := range list[struct {
		ID                              text `json:"Id"`
		MACAddress, PermanentMACAddress text
		Name, Description               text
		LinkStatus                      text
		SpeedMbps                       number
		Status                          health
	}](r, s.EthernetInterfaces) {
		mac := n.PermanentMACAddress
		if hardwareAddress(mac.known()) == nil {
			mac = n.MACAddress
		}
		if toManager(string(n.ID), string(n.Name)+" "+string(n.Description)) {
			inner[hardwareAddress(mac.known()).String()] = true
			continue
		}
		if !n.Status.absent() {
			add(NIC{ID: string(n.ID), Link: linkUp(n.LinkStatus), Mbps: int(n.SpeedMbps)}, mac.known())
		}
	}
	delete(inner, "")
	known := slices.Clone(inv.NICs)
	for _, a := range r.adapters(s, known) {
		r.adapter(a, add)
	}
	for _, a := range list[struct { // HPE: HpeBaseNetworkAdapter
		ID    text `json:"Id"`
		Ports []struct {
			MacAddress text
			LinkStatus text
			SpeedMbps  number
		} `json:"PhysicalPorts"`
	}](r, s.Oem.link("NetworkAdapters")) {
		for i, p := range a.Ports {
			add(NIC{ID: string(a.ID) + "/" + string(rune('1'+i%9)), Link: linkUp(p.LinkStatus), Mbps: int(p.SpeedMbps)}, p.MacAddress.known())
		}
	}
}

// adapters are the network adapters whose ports are not known yet by their names
// (iDRAC: NIC.Integrated.1 has the port NIC.Integrated.1-1-1).
func (r *reader) adapters(s computerSystem, known []NIC) []networkAdapter {
	places := r.around(s)
	if len(known) == 0 {
		places = r.enclosures()
	}
	var from refs
	seen := map[string]bool{}
	for _, c := range places {
		if c.NetworkAdapters.path() == "" || r.err != nil || seen[c.NetworkAdapters.path()] {
			continue
		}
		seen[c.NetworkAdapters.path()] = true
		var coll struct{ Members refs }
		if err := r.collection(r.ctx, c.NetworkAdapters.path(), true, &coll); err != nil {
			r.note(c.NetworkAdapters.path(), err)
			continue
		}
		from = append(from, coll.Members...)
	}
	if len(from) == 0 {
		for _, n := range list[struct {
			Links struct{ NetworkAdapter ref }
		}](r, s.NetworkInterfaces) {
			if n.Links.NetworkAdapter.path() != "" {
				from = append(from, n.Links.NetworkAdapter)
			}
		}
	}
	from = slices.DeleteFunc(from, func(a ref) bool {
		id := path.Base(strings.TrimRight(a.path(), "/"))
		return slices.ContainsFunc(known, func(n NIC) bool { return strings.HasPrefix(n.ID, id+"-") })
	})
	return linked[networkAdapter](r, from)
}

// adapter adds an adapter's ports: by the addresses of the ports themselves, or
// by those of the functions on them.
func (r *reader) adapter(a networkAdapter, add func(NIC, string)) {
	if a.Status.absent() {
		return
	}
	from := a.Ports
	if from.path() == "" {
		from = a.NetworkPorts
	}
	ports := list[networkPort](r, from)
	found := false
	name := func(id text) string {
		if len(a.ID) > 2 && strings.HasPrefix(string(id), string(a.ID)) {
			return string(id)
		}
		return string(a.ID) + "/" + string(id)
	}
	for _, p := range ports {
		n := NIC{ID: name(p.ID), Link: linkUp(p.LinkStatus), Mbps: p.mbps()}
		macs := slices.Concat(p.Ethernet.AssociatedMACAddresses, p.Addresses)
		i := slices.IndexFunc(macs, func(m string) bool { return hardwareAddress(m) != nil })
		if i >= 0 { // the first is the port's own, others are of its functions
			found = true
			add(n, macs[i])
			continue
		}
		for _, g := range slices.Concat(p.InfiniBand.AssociatedPortGUIDs, p.InfiniBand.AssociatedNodeGUIDs) {
			if n.GUID = guid(g); n.GUID != "" {
				found = true
				add(n, "")
				break
			}
		}
	}
	if found {
		return
	}
	for _, f := range list[struct {
		ID       text `json:"Id"`
		Status   health
		Ethernet struct{ PermanentMACAddress, MACAddress text }
		IB       struct{ PermanentPortGUID, PortGUID, PermanentNodeGUID, NodeGUID text } `json:"InfiniBand"`
		Port     ref                                                                     `json:"PhysicalPortAssignment"`
		Assigned refs                                                                    `json:"AssignablePhysicalPorts"`
		Links    struct {
			Port ref `json:"PhysicalPortAssignment"`
		}
	}](r, a.NetworkDeviceFunctions) {
		if f.Status.absent() {
			continue
		}
		n := NIC{ID: name(f.ID)}
		for _, at := range append(refs{f.Links.Port, f.Port}, f.Assigned...) {
			if i := slices.IndexFunc(ports, func(p networkPort) bool { return at.path() != "" && same(string(p.Path), at.path()) }); i >= 0 {
				n.Link, n.Mbps = linkUp(ports[i].LinkStatus), ports[i].mbps()
				break
			}
		}
		mac := f.Ethernet.PermanentMACAddress.known()
		if hardwareAddress(mac) == nil {
			mac = f.Ethernet.MACAddress.known()
		}
		if hardwareAddress(mac) == nil {
			for _, g := range []text{f.IB.PermanentPortGUID, f.IB.PortGUID, f.IB.PermanentNodeGUID, f.IB.NodeGUID} {
				if n.GUID == "" {
					n.GUID = guid(string(g))
				}
			}
		}
		add(n, mac)
	}
}

// guid reads an EUI-64 of InfiniBand in any notation; "" for none.
func guid(s string) string {
	plain := strings.NewReplacer(":", "", "-", "", ".", "").Replace(strings.TrimPrefix(strings.ToLower(s), "0x"))
	b, err := hex.DecodeString(plain)
	if err != nil || len(b) != 8 || strings.Trim(plain, "0") == "" || strings.Trim(plain, "f") == "" {
		return ""
	}
	return net.HardwareAddr(b).String()
}

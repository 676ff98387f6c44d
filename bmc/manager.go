package bmc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Network is a BMC's own network interface.
type Network struct {
	ID       string       `json:"id"`
	MAC      string       `json:"mac"`
	HostName string       `json:"hostname,omitempty"`
	DHCP     bool         `json:"dhcp"`
	Address  netip.Prefix `json:"address"`
	Gateway  netip.Addr   `json:"gateway"`
	DNS      []netip.Addr `json:"dns,omitempty"`
	VLAN     int          `json:"vlan,omitempty"`

	path string
}

// Networks are the BMC's own interfaces.
func (c *Client) Networks(ctx context.Context) ([]Network, error) {
	const doing = "reading the BMC's network interfaces"
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return nil, err
	}
	defer cancel()
	ns, err := c.drv.networks(ctx)
	return ns, c.t.own(ctx, doing, err)
}

// SetNetwork gives the BMC's interface an IPv4 address, or DHCP. The session
// may end with it: only a login at the new address shows that it took.
func (c *Client) SetNetwork(ctx context.Context, n Network) error {
	const doing = "setting the BMC's network"
	d, err := c.onlyRedfish(doing)
	if err != nil {
		return err
	}
	if !n.DHCP && (!n.Address.IsValid() || !n.Address.Addr().Is4()) {
		return c.t.fail(doing, errors.New("give an IPv4 address with its network's length, such as 192.0.2.9/24, or DHCP"))
	}
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	all, err := d.networks(ctx)
	if err != nil {
		return c.t.own(ctx, doing, err)
	}
	i := slices.IndexFunc(all, func(x Network) bool { return n.ID == x.ID || n.ID == "" && x.Address.Addr() == c.t.Address.Addr() })
	if i < 0 && n.ID == "" && len(all) == 1 {
		i = 0
	}
	if i < 0 {
		return c.t.fail(doing, fmt.Errorf("it has %d interfaces, and none is %q or has the address %s: name one", len(all), n.ID, c.t.Address.Addr()))
	}
	body := map[string]any{"DHCPv4": map[string]any{"DHCPEnabled": n.DHCP}}
	if !n.DHCP {
		a := map[string]any{"Address": n.Address.Addr().String(), "SubnetMask": net.IP(net.CIDRMask(n.Address.Bits(), 32)).String()}
		if n.Gateway.IsValid() {
			a["Gateway"] = n.Gateway.String()
		}
		body["IPv4StaticAddresses"] = []any{a}
	}
	return c.t.own(ctx, doing, d.change(ctx, all[i].path, body))
}

// Clock is the BMC's time.
func (c *Client) Clock(ctx context.Context) (time.Time, error) {
	const doing = "reading the BMC's clock"
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return time.Time{}, err
	}
	defer cancel()
	t, err := c.drv.clock(ctx)
	return t, c.t.own(ctx, doing, err)
}

// SetClock sets it, and reads it back. now is called when it is written.
func (c *Client) SetClock(ctx context.Context, now func() time.Time) error {
	const doing = "setting the BMC's clock"
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	if err := c.drv.setClock(ctx, now()); err != nil {
		return c.t.own(ctx, doing, err)
	}
	got, err := c.drv.clock(ctx)
	if err != nil {
		return c.t.own(ctx, doing, err)
	}
	if off := got.Sub(now()).Abs(); off > 30*time.Second {
		return c.t.fail(doing, fmt.Errorf("%w: it is off by %s still; it may take its time from NTP or from the host", errNothing, off.Round(time.Second)))
	}
	return nil
}

// ResetBMC restarts the BMC, not the machine. It answers nothing for a minute
// or more, and the session is gone.
func (c *Client) ResetBMC(ctx context.Context) error {
	const doing = "restarting the BMC"
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	return c.t.own(ctx, doing, c.drv.resetBMC(ctx))
}

// Interrupt sends the machine a non-maskable interrupt, for a crash dump.
func (c *Client) Interrupt(ctx context.Context) error {
	const doing = "sending an NMI"
	p, err := c.Power(ctx)
	if err != nil {
		return err
	}
	if p == Off {
		return c.t.fail(doing, errors.New("the machine is off"))
	}
	return c.set(ctx, doing, "nmi")
}

// managerPath is the manager of the host: the one that it names, or the only
// one that there is; of several, a BMC.
func (d *redfishDriver) managerPath(ctx context.Context) (string, error) {
	s, _, err := d.system(ctx)
	if err != nil {
		return "", err
	}
	return d.managerOf(ctx, s)
}

func (d *redfishDriver) managerOf(ctx context.Context, s computerSystem) (string, error) {
	if p := s.Links.ManagedBy.first(); p != "" {
		return p, nil
	}
	d.mu.Lock()
	known := d.mgrPath
	d.mu.Unlock()
	if known != "" {
		return known, nil
	}
	r := &reader{redfishDriver: d, ctx: ctx}
	best, isBMC := "", false
	for _, m := range list[manager](r, d.root.Managers) {
		if best == "" || m.ManagerType == "BMC" && !isBMC {
			best, isBMC = localPath(m.ID), m.ManagerType == "BMC"
		}
	}
	if r.err != nil {
		return "", r.err
	}
	if best == "" {
		return "", fmt.Errorf("%w: it shows no manager", ErrUnsupported)
	}
	d.mu.Lock()
	d.mgrPath = best
	d.mu.Unlock()
	return best, nil
}

// managerResource is what we use of Manager beyond its name.
type managerResource struct {
	DateTime            text
	DateTimeLocalOffset text
	EthernetInterfaces  ref
	Actions             struct {
		Reset *resetAction `json:"#Manager.Reset"`
	}
}

func (d *redfishDriver) manager(ctx context.Context) (string, managerResource, error) {
	var m managerResource
	p, err := d.managerPath(ctx)
	if err != nil {
		return "", m, err
	}
	_, err = d.get(ctx, p, &m)
	return p, m, err
}

func (d *redfishDriver) networks(ctx context.Context) ([]Network, error) {
	_, m, err := d.manager(ctx)
	if err != nil {
		return nil, err
	}
	if m.EthernetInterfaces.path() == "" {
		return nil, fmt.Errorf("%w: its manager shows no network interfaces", ErrUnsupported)
	}
	raw, missing, err := d.members(ctx, m.EthernetInterfaces.path())
	if err != nil {
		return nil, err
	}
	if len(raw) == 0 && len(missing) > 0 {
		return nil, fmt.Errorf("none of its network interfaces can be read: %s", missing[0])
	}
	type address struct{ Address, SubnetMask, Gateway, AddressOrigin text }
	out := []Network{}
	for _, b := range raw {
		var e struct {
			ID                             text `json:"Id"`
			Path                           text `json:"@odata.id"`
			MACAddress, HostName           text
			DHCPv4                         struct{ DHCPEnabled flag }
			IPv4Addresses                  []address
			IPv4StaticAddresses            []address
			NameServers, StaticNameServers texts
			VLAN                           struct {
				VLANEnable flag
				VLANID     number `json:"VLANId"`
			}
		}
		if unmarshal(b, &e) != nil {
			continue
		}
		n := Network{ID: string(e.ID), MAC: e.MACAddress.known(), HostName: e.HostName.known(), DHCP: e.DHCPv4.DHCPEnabled.on, path: localPath(string(e.Path))}
		for _, a := range append(e.IPv4Addresses, e.IPv4StaticAddresses...) {
			ip, err := netip.ParseAddr(string(a.Address))
			if err != nil || !ip.Is4() || ip.IsUnspecified() || n.Address.IsValid() {
				continue
			}
			bits := 32 // a mask that is unsaid tells of no network
			if m := net.ParseIP(string(a.SubnetMask)).To4(); m != nil {
				bits, _ = net.IPMask(m).Size()
			}
			n.Address = netip.PrefixFrom(ip, bits)
			if gw, err := netip.ParseAddr(string(a.Gateway)); err == nil && !gw.IsUnspecified() {
				n.Gateway = gw
			}
			n.DHCP = n.DHCP || a.AddressOrigin == "DHCP"
		}
		for _, s := range append(e.NameServers, e.StaticNameServers...) {
			if ip, err := netip.ParseAddr(s); err == nil && !ip.IsUnspecified() && !slices.Contains(n.DNS, ip) {
				n.DNS = append(n.DNS, ip)
			}
		}
		if e.VLAN.VLANEnable.on {
			n.VLAN = int(e.VLAN.VLANID)
		}
		out = append(out, n)
	}
	return out, nil
}

func (d *redfishDriver) clock(ctx context.Context) (time.Time, error) {
	_, m, err := d.manager(ctx)
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339, string(m.DateTime))
	if err != nil {
		t, ok := parseTime(string(m.DateTime) + string(m.DateTimeLocalOffset))
		if !ok {
			t, ok = parseTime(string(m.DateTime))
		}
		if ok {
			return t, nil
		}
		return t, fmt.Errorf("%w: its manager shows the time %q", ErrUnsupported, m.DateTime)
	}
	return t, nil
}

func (d *redfishDriver) setClock(ctx context.Context, t time.Time) error {
	p, err := d.managerPath(ctx)
	if err != nil {
		return err
	}
	return d.change(ctx, p, map[string]any{"DateTime": t.UTC().Format(time.RFC3339)})
}

func (d *redfishDriver) resetBMC(ctx context.Context) error {
	_, m, err := d.manager(ctx)
	if err != nil {
		return err
	}
	if m.Actions.Reset == nil || localPath(m.Actions.Reset.Target) == "" {
		return fmt.Errorf("%w: its manager has no reset action", ErrUnsupported)
	}
	allowed, err := d.resetTypes(ctx, m.Actions.Reset)
	if err != nil {
		return err
	}
	for _, t := range []string{"GracefulRestart", "ForceRestart"} {
		if len(allowed) == 0 || slices.Contains(allowed, t) {
			_, err := d.post(ctx, localPath(m.Actions.Reset.Target), map[string]string{"ResetType": t})
			return err
		}
	}
	return fmt.Errorf("%w: it offers only %v", ErrUnsupported, allowed)
}

// LAN configuration parameters (IPMI 2.0 table 23-4).
const (
	netTransport = 0x0c
	cmdLANGet    = 0x02
	lanAddress   = 3
	lanSource    = 4
	lanMAC       = 5
	lanMask      = 6
	lanGateway   = 12
)

func (d *ipmiDriver) networks(ctx context.Context) ([]Network, error) {
	const doing = "reading the BMC's network interfaces"
	n := Network{ID: "LAN"}
	four := func(parameter byte) (netip.Addr, error) {
		b, err := d.command(ctx, doing, netTransport, cmdLANGet, 5, thisChannel, parameter, 0, 0)
		if err != nil {
			return netip.Addr{}, err
		}
		return netip.AddrFrom4([4]byte(b[1:5])), nil
	}
	ip, err := four(lanAddress)
	if err != nil {
		return nil, err
	}
	mask, err := four(lanMask)
	if err != nil {
		return nil, err
	}
	m := mask.As4()
	bits, _ := net.IPMask(m[:]).Size()
	n.Address = netip.PrefixFrom(ip, bits)
	if gw, err := four(lanGateway); err == nil && !gw.IsUnspecified() {
		n.Gateway = gw
	}
	if b, err := d.command(ctx, doing, netTransport, cmdLANGet, 2, thisChannel, lanSource, 0, 0); err == nil {
		n.DHCP = b[1]&0x0f == 2
	}
	if b, err := d.command(ctx, doing, netTransport, cmdLANGet, 7, thisChannel, lanMAC, 0, 0); err == nil {
		n.MAC = net.HardwareAddr(b[1:7]).String()
	}
	return []Network{n}, nil
}

// Commands for the clock of the event log (IPMI 2.0 §31.10, §31.11), and
// resets (§20.2).
const (
	cmdSELTime    = 0x48
	cmdSetSELTime = 0x49
	cmdColdReset  = 0x02
)

func (d *ipmiDriver) clock(ctx context.Context) (time.Time, error) {
	b, err := d.command(ctx, "reading the BMC's clock", netStorage, cmdSELTime, 4)
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(int64(binary.LittleEndian.Uint32(b)), 0), nil
}

func (d *ipmiDriver) setClock(ctx context.Context, t time.Time) error {
	_, err := d.command(ctx, "setting the BMC's clock", netStorage, cmdSetSELTime, 0, binary.LittleEndian.AppendUint32(nil, uint32(t.Unix()))...)
	return err
}

func (d *ipmiDriver) resetBMC(ctx context.Context) error {
	_, err := d.command(ctx, "restarting the BMC", netApp, cmdColdReset, 0)
	return err
}

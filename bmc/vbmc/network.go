package vbmc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"time"
)

// LAN is the BMC's own network interface.
type LAN struct {
	MAC      string // lower case, colons
	HostName string
	DHCP     bool
	Address  netip.Prefix // IPv4, with its network's length
	Gateway  netip.Addr
	DNS      []netip.Addr
	VLAN     int // 0: none
	IPv6     LAN6
}

// LANHolder is a Chassis that knows the BMC's own network interface. SetLAN
// may refuse with [ErrUnsupported].
type LANHolder interface {
	LAN(ctx context.Context) (LAN, error)
	SetLAN(ctx context.Context, l LAN) error
}

const (
	ethernetPath = managerPath + "/EthernetInterfaces"
	protocolPath = managerPath + "/NetworkProtocol"
	serialPath   = managerPath + "/SerialInterfaces"
)

func (s *Server) networkRoutes() []*resource {
	rs := []*resource{
		{pattern: protocolPath, priv: privManager, get: s.networkProtocol, patch: s.patchNetworkProtocol},
		{pattern: serialPath, get: func(*call) (obj, error) {
			return collection(serialPath, "SerialInterfaceCollection", "Serial Interfaces", serialPath+"/1"), nil
		}},
		{pattern: serialPath + "/1", get: func(c *call) (obj, error) {
			return obj{"@odata.id": c.path, "@odata.type": "#SerialInterface.v1_2_0.SerialInterface", "Id": "1", "Name": "Serial Interface",
				"InterfaceEnabled": true, "SignalType": "Rs232", "BitRate": "115200", "Parity": "None", "DataBits": "8", "StopBits": "1", "FlowControl": "None"}, nil
		}},
	}
	if _, ok := s.chassis.(LANHolder); ok {
		rs = append(rs,
			&resource{pattern: ethernetPath, get: func(*call) (obj, error) {
				return collection(ethernetPath, "EthernetInterfaceCollection", "Ethernet Interfaces", ethernetPath+"/1"), nil
			}},
			&resource{pattern: ethernetPath + "/1", priv: privManager, get: s.lanResource, patch: s.patchLAN})
	}
	return rs
}

// lan is the BMC's own interface; the zero LAN where the chassis knows none.
func (s *Server) lan(ctx context.Context) (LAN, error) {
	h, ok := s.chassis.(LANHolder)
	if !ok {
		return LAN{}, nil
	}
	l, err := h.LAN(ctx)
	if err != nil {
		return l, fmt.Errorf("reading the BMC's network interface: %w", err)
	}
	return l, nil
}

func (s *Server) networkProtocol(c *call) (obj, error) {
	l, err := s.lan(c.ctx)
	if err != nil {
		return nil, err
	}
	https := obj{"ProtocolEnabled": true, "Port": 443}
	if s.identity != nil {
		https["Certificates"] = link(httpsCerts)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return obj{"@odata.id": protocolPath, "@odata.type": "#ManagerNetworkProtocol.v1_10_1.ManagerNetworkProtocol",
		"Id": "NetworkProtocol", "Name": "Manager Network Protocol", "Status": statusOK(), "HostName": nullable(l.HostName), "FQDN": nullable(l.HostName),
		"HTTPS": https, "HTTP": obj{"ProtocolEnabled": false, "Port": 80},
		"IPMI": obj{"ProtocolEnabled": len(s.ipmi.lans) > 0 && !s.ipmiOff, "Port": 623}, "SSH": obj{"ProtocolEnabled": false, "Port": 22},
		"SSDP": obj{"ProtocolEnabled": s.ssdp > 0 && !s.ssdpOff, "Port": ssdpPort},
		"NTP":  obj{"ProtocolEnabled": s.ntp.enabled, "NTPServers": slices.Clone(s.ntp.servers), "Port": 123}}, nil
}

func (s *Server) patchNetworkProtocol(c *call) ([]*message, error) {
	set := s.ntpSetters(c, s.networkProtocol)
	set["IPMI/ProtocolEnabled"] = func(v any) (func() error, error) {
		on, err := boolOf("IPMI/ProtocolEnabled", v)
		if err != nil {
			return nil, err
		}
		return func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if on && len(s.ipmi.lans) == 0 {
				return msgNotInList("IPMI/ProtocolEnabled", on)
			}
			s.ipmiOff = !on
			s.record("manager", "OK", fmt.Sprintf("IPMI over LAN enabled: %v, by %s.", on, c.who.name))
			return nil
		}, nil
	}
	set["SSDP/ProtocolEnabled"] = func(v any) (func() error, error) {
		on, err := boolOf("SSDP/ProtocolEnabled", v)
		if err != nil {
			return nil, err
		}
		return func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if on && s.ssdp == 0 {
				return msgNotInList("SSDP/ProtocolEnabled", on)
			}
			s.ssdpOff = !on
			return nil
		}, nil
	}
	return patch(c, s.networkProtocol, set)
}

// boolOf is a value that must be true or false.
func boolOf(full string, v any) (bool, error) {
	b, ok := v.(bool)
	if !ok {
		return false, msgPropertyType(full, v)
	}
	return b, nil
}

func (s *Server) lanResource(c *call) (obj, error) {
	l, err := s.lan(c.ctx)
	if err != nil {
		return nil, err
	}
	addr, static := []obj{}, []obj{}
	if l.Address.IsValid() {
		a := staticOf(l)
		if !l.DHCP {
			static = append(static, a)
		}
		full := obj{"AddressOrigin": "Static"}
		for k, v := range a {
			full[k] = v
		}
		if l.DHCP {
			full["AddressOrigin"] = "DHCP"
		}
		addr = append(addr, full)
	}
	dns := []string{}
	for _, d := range l.DNS {
		dns = append(dns, d.String())
	}
	o := obj{"@odata.id": c.path, "@odata.type": "#EthernetInterface.v1_12_1.EthernetInterface", "Id": "1", "Name": "Manager Ethernet Interface",
		"InterfaceEnabled": true, "LinkStatus": "LinkUp", "Status": statusOK(), "HostName": l.HostName,
		"DHCPv4": obj{"DHCPEnabled": l.DHCP}, "IPv4Addresses": addr, "IPv4StaticAddresses": static,
		"NameServers": dns, "StaticNameServers": dns, "VLAN": obj{"VLANEnable": l.VLAN > 0, "VLANId": l.VLAN}}
	if l.MAC != "" {
		o["MACAddress"], o["PermanentMACAddress"] = l.MAC, l.MAC
	}
	lan6Resource(o, l)
	return o, nil
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`) // RFC 1123 §2.1, one label

// lanWriter makes setters of what changes l; the first that stores writes all
// of it, once.
func (s *Server) lanWriter(c *call, l *LAN) func(func(v any) error) setter {
	stored := false
	return func(f func(v any) error) setter {
		return func(v any) (func() error, error) {
			if err := f(v); err != nil {
				return nil, err
			}
			return func() error {
				if stored {
					return nil
				}
				stored = true
				err := s.chassis.(LANHolder).SetLAN(c.ctx, *l)
				if errors.Is(err, ErrUnsupported) {
					m := msgPrivilege()
					m.Resolution = "The network interface of this virtual BMC belongs to its lab and cannot be changed here."
					return m
				}
				if err != nil {
					return fmt.Errorf("setting the BMC's network interface: %w", err)
				}
				s.logEvent("manager", "OK", fmt.Sprintf("Network settings changed by %s.", c.who.name))
				return nil
			}, nil
		}
	}
}

func hostNameOf(l *LAN) func(v any) error {
	return func(v any) error {
		t, ok := v.(string)
		if !ok {
			return msgPropertyType("HostName", v)
		}
		if !hostName.MatchString(t) {
			return msgPropertyFormat("HostName", v)
		}
		l.HostName = t
		return nil
	}
}

// patchLAN writes the interface; all that is given is stored at once.
func (s *Server) patchLAN(c *call) ([]*message, error) {
	l, err := s.lan(c.ctx)
	if err != nil {
		return nil, err
	}
	with := s.lanWriter(c, &l)
	_, dhcpGiven := c.body["DHCPv4"]
	vlan, vlanID := l.VLAN > 0, l.VLAN
	tag := func() error {
		if l.VLAN = 0; vlan {
			l.VLAN = vlanID
		}
		return nil
	}
	set := lan6Setters(&l, with)
	for name, f := range map[string]func(v any) error{
		"HostName":           hostNameOf(&l),
		"DHCPv4/DHCPEnabled": func(v any) (err error) { l.DHCP, err = boolOf("DHCPv4/DHCPEnabled", v); return err },
		"IPv4StaticAddresses": func(v any) error {
			now := []obj{}
			if l.Address.IsValid() && (!l.DHCP || dhcpGiven) {
				now = append(now, staticOf(l))
			}
			list, err := patchedObjects("IPv4StaticAddresses", now, v, 1)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				if !l.DHCP {
					l.Address, l.Gateway = netip.Prefix{}, netip.Addr{}
				}
				return nil
			}
			p, gw, err := parseStatic(list[0])
			if err != nil {
				return err
			}
			if l.Address, l.Gateway = p, gw; !dhcpGiven { // as iDRAC has it: who gives an address wants it
				l.DHCP = false
			}
			return nil
		},
		"StaticNameServers": func(v any) error {
			list, ok := v.([]any)
			if !ok {
				return msgPropertyType("StaticNameServers", v)
			}
			var now []string
			for _, a := range l.DNS {
				now = append(now, a.String())
			}
			names, err := patchedArray("StaticNameServers", now, list)
			if err != nil {
				return err
			}
			l.DNS = nil
			for _, t := range names {
				a, err := netip.ParseAddr(t)
				if err != nil {
					return msgPropertyFormat("StaticNameServers", t)
				}
				l.DNS = append(l.DNS, a)
			}
			return nil
		},
		"VLAN/VLANEnable": func(v any) (err error) {
			if vlan, err = boolOf("VLAN/VLANEnable", v); err != nil {
				return err
			}
			return tag()
		},
		"VLAN/VLANId": func(v any) error {
			n, ok := v.(float64)
			if !ok || n != float64(int(n)) {
				return msgPropertyType("VLAN/VLANId", v)
			}
			if n < 0 || n > 4094 {
				return msgOutOfRange("VLAN/VLANId", v)
			}
			vlanID = int(n)
			return tag()
		},
	} {
		set[name] = with(f)
	}
	return patch(c, s.lanResource, set)
}

// staticOf is the interface's address, as IPv4StaticAddresses has it.
func staticOf(l LAN) obj {
	a := obj{"Address": l.Address.Addr().String(), "SubnetMask": net.IP(net.CIDRMask(l.Address.Bits(), 32)).String(), "Gateway": nil}
	if l.Gateway.IsValid() {
		a["Gateway"] = l.Gateway.String()
	}
	return a
}

// parseStatic reads an IPv4 address, its mask and its gateway.
func parseStatic(in obj) (netip.Prefix, netip.Addr, error) {
	for k := range in {
		if k != "Address" && k != "SubnetMask" && k != "Gateway" {
			return netip.Prefix{}, netip.Addr{}, msgUnknownProperty("IPv4StaticAddresses/" + k)
		}
	}
	var part [3]string
	for i, k := range []string{"Address", "SubnetMask", "Gateway"} {
		t, ok := in[k].(string)
		if !ok && (i < 2 || in[k] != nil) {
			return netip.Prefix{}, netip.Addr{}, msgPropertyType("IPv4StaticAddresses/"+k, in[k])
		}
		part[i] = t
	}
	a, err := netip.ParseAddr(part[0])
	mask := net.ParseIP(part[1]).To4()
	ones, bits := net.IPMask(mask).Size()
	if err != nil || !a.Is4() {
		return netip.Prefix{}, netip.Addr{}, msgPropertyFormat("IPv4StaticAddresses/Address", part[0])
	}
	if mask == nil || bits != 32 {
		return netip.Prefix{}, netip.Addr{}, msgPropertyFormat("IPv4StaticAddresses/SubnetMask", part[1])
	}
	var gw netip.Addr
	if part[2] != "" {
		if gw, err = netip.ParseAddr(part[2]); err != nil || !gw.Is4() {
			return netip.Prefix{}, netip.Addr{}, msgPropertyFormat("IPv4StaticAddresses/Gateway", part[2])
		}
	}
	return netip.PrefixFrom(a, ones), gw, nil
}

// clock is the BMC's: the host's, and what was set.
func (s *Server) clock() time.Time { return s.now().Add(time.Duration(s.clockSkew.Load())).UTC() }

// setClock is a PATCH of Manager.DateTime.
func (s *Server) setClock(v any) (func() error, error) {
	t, ok := v.(string)
	if !ok {
		return nil, msgPropertyType("DateTime", v)
	}
	at, err := time.Parse(time.RFC3339, t)
	if err != nil {
		return nil, msgPropertyFormat("DateTime", v)
	}
	return func() error { s.clockSkew.Store(int64(at.Sub(s.now()))); return nil }, nil
}

// resetManager is Manager.Reset: its sessions end, settings stay.
func (s *Server) resetManager(c *call) (reply, error) {
	v, ok := c.body["ResetType"]
	if !ok {
		return reply{}, msgActionParamMissing("Manager.Reset", "ResetType")
	}
	if v != "GracefulRestart" && v != "ForceRestart" {
		return reply{}, msgActionParam("Manager.Reset", "ResetType", v)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.sessions)
	s.record("manager", "OK", fmt.Sprintf("The BMC was reset (%s) by %s.", v, c.who.name))
	return reply{status: http.StatusNoContent}, nil
}

// LAN is the BMC's own network interface.
func (m *Memory) LAN(ctx context.Context) (LAN, error) {
	if err := m.enter(ctx); err != nil {
		return LAN{}, err
	}
	defer m.mu.Unlock()
	l := m.lan
	l.DNS, l.IPv6 = slices.Clone(l.DNS), l.IPv6.clone()
	return l, nil
}

// SetLAN writes it; nothing else follows: a Memory has no network.
func (m *Memory) SetLAN(ctx context.Context, l LAN) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if !m.fault.Lie {
		m.lan = l
	}
	return nil
}

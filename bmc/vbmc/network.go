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
		"NTP": obj{"ProtocolEnabled": s.ntp.enabled, "NTPServers": slices.Clone(s.ntp.servers), "Port": 123}}, nil
}

func (s *Server) patchNetworkProtocol(c *call) ([]*message, error) {
	enabled := func(full string, v any) (bool, error) {
		b, ok := v.(bool)
		if !ok {
			return false, msgPropertyType(full, v)
		}
		return b, nil
	}
	return patch(c, s.networkProtocol, map[string]setter{
		"IPMI": func(v any) (func() error, error) {
			in, ok := v.(obj)
			if !ok {
				return nil, msgPropertyType("IPMI", v)
			}
			for k := range in {
				if k != "ProtocolEnabled" {
					return nil, msgReadOnly("IPMI/" + k)
				}
			}
			on, err := enabled("IPMI/ProtocolEnabled", in["ProtocolEnabled"])
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
		},
		"NTP": s.ntpSetter(c, s.networkProtocol),
	})
}

func (s *Server) lanResource(c *call) (obj, error) {
	l, err := s.lan(c.ctx)
	if err != nil {
		return nil, err
	}
	addr, static := []obj{}, []obj{}
	if l.Address.IsValid() {
		a := obj{"Address": l.Address.Addr().String(), "SubnetMask": net.IP(net.CIDRMask(l.Address.Bits(), 32)).String(), "Gateway": nil}
		if l.Gateway.IsValid() {
			a["Gateway"] = l.Gateway.String()
		}
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
	return o, nil
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`) // RFC 1123 §2.1, one label

// patchLAN writes the interface; all that is given is stored at once.
func (s *Server) patchLAN(c *call) ([]*message, error) {
	l, err := s.lan(c.ctx)
	if err != nil {
		return nil, err
	}
	stored := false
	// Every property changes l; the first store writes all of it.
	with := func(f func(v any) error) setter {
		return func(v any) (func() error, error) {
			if err := f(v); err != nil {
				return nil, err
			}
			return func() error {
				if stored {
					return nil
				}
				stored = true
				err := s.chassis.(LANHolder).SetLAN(c.ctx, l)
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
	return patch(c, s.lanResource, map[string]setter{
		"HostName": with(func(v any) error {
			t, ok := v.(string)
			if !ok {
				return msgPropertyType("HostName", v)
			}
			if !hostName.MatchString(t) {
				return msgPropertyFormat("HostName", v)
			}
			l.HostName = t
			return nil
		}),
		"DHCPv4": with(func(v any) error {
			in, _ := v.(obj)
			b, ok := in["DHCPEnabled"].(bool)
			if !ok {
				return msgPropertyType("DHCPv4/DHCPEnabled", v)
			}
			l.DHCP = b
			return nil
		}),
		"IPv4StaticAddresses": with(func(v any) error {
			list, ok := v.([]any)
			if !ok || len(list) != 1 {
				return msgPropertyType("IPv4StaticAddresses", v)
			}
			in, ok := list[0].(obj)
			if !ok {
				return msgPropertyType("IPv4StaticAddresses", v)
			}
			p, gw, err := parseStatic(in)
			if err != nil {
				return err
			}
			l.Address, l.Gateway, l.DHCP = p, gw, false
			return nil
		}),
		"StaticNameServers": with(func(v any) error {
			list, ok := v.([]any)
			if !ok {
				return msgPropertyType("StaticNameServers", v)
			}
			l.DNS = nil
			for _, x := range list {
				t, _ := x.(string)
				a, err := netip.ParseAddr(t)
				if err != nil {
					return msgPropertyFormat("StaticNameServers", x)
				}
				l.DNS = append(l.DNS, a)
			}
			return nil
		}),
		"VLAN": with(func(v any) error {
			in, _ := v.(obj)
			on, id := l.VLAN > 0, float64(l.VLAN)
			if b, given := in["VLANEnable"]; given {
				var ok bool
				if on, ok = b.(bool); !ok {
					return msgPropertyType("VLAN/VLANEnable", b)
				}
			}
			if n, given := in["VLANId"]; given {
				var ok bool
				if id, ok = n.(float64); !ok || id < 0 || id > 4094 || id != float64(int(id)) {
					return msgPropertyType("VLAN/VLANId", n)
				}
			}
			if l.VLAN = 0; on {
				l.VLAN = int(id)
			}
			return nil
		}),
	})
}

// parseStatic reads an IPv4 address, its mask and its gateway.
func parseStatic(in obj) (netip.Prefix, netip.Addr, error) {
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
	l.DNS = slices.Clone(l.DNS)
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

package vbmc

// ntpSettings are kept and shown; the clock is the host's.
type ntpSettings struct {
	enabled bool
	servers []string
	set     bool // by a client: a twin shows them in place of its tree's
}

// ntpSetter writes ManagerNetworkProtocol.NTP, beginning with what get shows.
func (s *Server) ntpSetter(c *call, get func(*call) (obj, error)) setter {
	return func(v any) (func() error, error) {
		in, ok := v.(obj)
		if !ok {
			return nil, msgPropertyType("NTP", v)
		}
		body, err := get(c)
		if err != nil {
			return nil, err
		}
		if body, err = plain(body); err != nil {
			return nil, err
		}
		now, _ := body["NTP"].(obj)
		n := ntpSettings{set: true, servers: []string{}}
		n.enabled, _ = now["ProtocolEnabled"].(bool)
		list, _ := now["NTPServers"].([]any)
		for _, x := range list {
			if t, ok := x.(string); ok {
				n.servers = append(n.servers, t)
			}
		}
		for k, v := range in {
			full := "NTP/" + k
			switch k {
			case "ProtocolEnabled":
				b, ok := v.(bool)
				if !ok {
					return nil, msgPropertyType(full, v)
				}
				n.enabled = b
			case "NTPServers":
				l, ok := v.([]any)
				if !ok {
					return nil, msgPropertyType(full, v)
				}
				if n.servers, err = patchedArray(full, n.servers, l); err != nil {
					return nil, err
				}
			default:
				return nil, msgUnknownProperty(full)
			}
		}
		return func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ntp = n
			return nil
		}, nil
	}
}

// twinProtocol is a manager's network protocols as the tree has them, with the
// time servers that were set.
func (s *Server) twinProtocol(c *call) (obj, error) {
	o, err := s.twinGet(c)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ntp, ok := o["NTP"].(obj); ok && s.ntp.set {
		ntp["NTPServers"] = s.ntp.servers
		if _, ok := ntp["ProtocolEnabled"]; ok {
			ntp["ProtocolEnabled"] = s.ntp.enabled
		}
	}
	return o, nil
}

// patchedArray is an array of texts after a PATCH (DSP0266 §7.6.2): null removes
// an element, {} leaves it as it is, and what lies beyond the end goes.
func patchedArray(full string, now []string, l []any) ([]string, error) {
	out := []string{}
	for i, x := range l {
		switch x := x.(type) {
		case nil:
		case obj:
			if len(x) > 0 || i >= len(now) {
				return nil, msgPropertyType(full, x)
			}
			out = append(out, now[i])
		case string:
			if len(x) > 253 {
				return nil, msgPropertyFormat(full, x)
			}
			if x != "" {
				out = append(out, x)
			}
		default:
			return nil, msgPropertyType(full, x)
		}
	}
	return out, nil
}

package vbmc

// ntpSettings are kept and shown; the clock is the host's.
type ntpSettings struct {
	enabled bool
	servers []string
	set     bool // by a client: a twin shows them in place of its tree's
}

// ntpSetters write ManagerNetworkProtocol.NTP, beginning with what get shows.
func (s *Server) ntpSetters(c *call, get func(*call) (obj, error)) map[string]setter {
	var n *ntpSettings
	begin := func() error { // once: both properties change the same settings
		if n != nil {
			return nil
		}
		body, err := get(c)
		if err != nil {
			return err
		}
		if body, err = plain(body); err != nil {
			return err
		}
		now, _ := body["NTP"].(obj)
		n = &ntpSettings{set: true, servers: []string{}}
		n.enabled, _ = now["ProtocolEnabled"].(bool)
		list, _ := now["NTPServers"].([]any)
		for _, x := range list {
			if t, ok := x.(string); ok {
				n.servers = append(n.servers, t)
			}
		}
		return nil
	}
	with := func(f func(v any) error) setter {
		return func(v any) (func() error, error) {
			if err := begin(); err != nil {
				return nil, err
			}
			if err := f(v); err != nil {
				return nil, err
			}
			return func() error {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.ntp = *n
				return nil
			}, nil
		}
	}
	return map[string]setter{
		"NTP/ProtocolEnabled": with(func(v any) (err error) { n.enabled, err = boolOf("NTP/ProtocolEnabled", v); return err }),
		"NTP/NTPServers": with(func(v any) (err error) {
			l, ok := v.([]any)
			if !ok {
				return msgPropertyType("NTP/NTPServers", v)
			}
			n.servers, err = patchedArray("NTP/NTPServers", n.servers, l)
			return err
		}),
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

package vbmc

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// twinRoutes are the resources of a Server that wears a Tree: who may log in,
// tasks and events are the Server's own; the rest is the tree's, with the power,
// the boot override, the light and the BIOS settings of the Chassis in it.
func (s *Server) twinRoutes() []*resource {
	t := s.tree
	rs := []*resource{
		{pattern: "/redfish", open: true, get: func(*call) (obj, error) { return obj{"v1": root + "/"}, nil }},
		{pattern: root, open: true, get: s.twinRoot},
		{pattern: t.system, priv: privComponents, get: s.twinSystem, patch: func(c *call) ([]*message, error) {
			set := s.identifySetters(c)
			boot, agree, err := s.bootSetters(c)
			if err != nil {
				return nil, err
			}
			maps.Copy(set, boot)
			return patch(c, s.twinSystem, set, agree)
		}},
		{pattern: t.reset, priv: privComponents, post: s.reset},
	}
	rs = append(rs, &resource{pattern: root + "/odata", open: true, get: s.twinOData})
	for _, uri := range t.protocols {
		rs = append(rs, &resource{pattern: uri, priv: privManager, get: s.twinProtocol, patch: func(c *call) ([]*message, error) {
			return patch(c, s.twinProtocol, s.ntpSetters(c, s.twinProtocol))
		}})
	}
	rs = append(rs, &resource{pattern: root + "/$metadata", open: true, raw: func(*call) (string, string) {
		const ct = "application/xml;charset=utf-8"
		if meta := t.documents[root+"/$metadata"]; len(meta) > 0 {
			return ct, string(meta)
		}
		return ct, metadata()
	}})
	for _, uri := range t.chassis {
		rs = append(rs, &resource{pattern: uri, priv: privComponents, get: s.twinChassis, patch: func(c *call) ([]*message, error) {
			return patch(c, s.twinChassis, s.identifySetters(c))
		}})
	}
	for i, uri := range t.nics {
		rs = append(rs, &resource{pattern: uri, get: func(c *call) (obj, error) { return s.twinNIC(c, i) }})
	}
	if t.settings != "" {
		rs = append(rs, &resource{pattern: t.bios, get: s.twinBIOS}, &resource{pattern: t.settings, priv: privComponents, get: s.twinSettings,
			patch: func(c *call) ([]*message, error) {
				return patch(c, s.twinSettings, map[string]setter{
					"Attributes":                 func(v any) (func() error, error) { return s.setBIOS(c, v) },
					"@Redfish.SettingsApplyTime": func(any) (func() error, error) { return func() error { return nil }, nil },
				})
			}})
	}
	for _, own := range [][]*resource{s.sessionRoutes(), s.accountRoutes(), s.taskRoutes(), s.eventRoutes()} {
		rs = append(rs, own...)
	}
	return rs
}

// ours tells whether a URI belongs to the services that a twin does not take
// from its tree.
func ours(uri string) bool {
	for _, name := range []string{"SessionService", "AccountService", "TaskService", "EventService"} {
		if rest, ok := strings.CutPrefix(uri, root+"/"+name); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// twinFind is a resource of the tree that nothing is done to.
func (s *Server) twinFind(uri string) *resource {
	if _, ok := s.tree.resources[uri]; !ok || ours(uri) {
		return nil
	}
	return &resource{pattern: uri, get: s.twinGet}
}

func (s *Server) twinGet(c *call) (obj, error) {
	o := s.tree.body(c.path)
	if o == nil {
		return nil, msgNotFound(c.path)
	}
	delete(o, "@odata.etag") // it is made anew
	return o, nil
}

func (s *Server) twinRoot(c *call) (obj, error) {
	o, err := s.twinGet(c)
	if err != nil {
		o = obj{"@odata.id": root + "/", "@odata.type": rootType, "Id": "RootService", "Name": "Root Service", "RedfishVersion": "1.18.0",
			"Systems": link(root + "/Systems"), "Chassis": link(root + "/Chassis"), "Managers": link(root + "/Managers")}
	}
	o["SessionService"], o["AccountService"] = link(root+"/SessionService"), link(root+"/AccountService")
	o["Tasks"], o["EventService"] = link(root+"/TaskService"), link(eventsPath)
	ln, _ := o["Links"].(obj)
	if ln == nil {
		ln = obj{}
	}
	ln["Sessions"] = link(sessionsPath)
	o["Links"] = ln
	typ, _ := o["@odata.type"].(string)
	o["ProtocolFeaturesSupported"] = features(typ) // the queries are the Server's own
	return o, nil
}

// twinOData is the service document: the tree's, and what the service root
// leads to besides.
func (s *Server) twinOData(c *call) (obj, error) {
	o := s.tree.body(c.path)
	if o == nil {
		o = obj{"@odata.context": root + "/$metadata"}
	}
	top, err := s.twinRoot(&call{ctx: c.ctx, r: c.r, path: root})
	if err != nil {
		return nil, err
	}
	value, _ := o["value"].([]any)
	listed := map[string]bool{}
	for _, v := range value {
		in, _ := v.(obj)
		uri, _ := in["url"].(string)
		listed[strings.TrimRight(uri, "/")] = true
	}
	add := func(name, uri string) {
		if !listed[strings.TrimRight(uri, "/")] {
			value = append(value, obj{"name": name, "kind": "Singleton", "url": uri})
		}
	}
	add("Service", root+"/")
	for _, name := range slices.Sorted(maps.Keys(top)) {
		if uri := linkURI(top[name]); uri != "" {
			add(name, uri)
		}
	}
	o["value"] = value
	return o, nil
}

// twinSystem is the host: the tree's, as alive as the Chassis is.
func (s *Server) twinSystem(c *call) (obj, error) {
	o, err := s.twinGet(c)
	if err != nil {
		return nil, err
	}
	in, err := s.info(c)
	if err != nil {
		return nil, err
	}
	power, err := s.chassis.Power(c.ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the power state: %w", err)
	}
	b, err := s.boot(c.ctx)
	if err != nil {
		return nil, err
	}
	o["PowerState"] = power
	for name, v := range map[string]string{"SerialNumber": in.Serial, "UUID": in.UUID, "HostName": in.Name} {
		if v != "" {
			o[name] = v
		}
	}
	boot, _ := o["Boot"].(obj)
	if boot == nil {
		boot = obj{}
	}
	boot["BootSourceOverrideEnabled"], boot["BootSourceOverrideTarget"] = b.Enabled, b.Target
	if _, ok := boot["BootSourceOverrideMode"]; ok {
		boot["BootSourceOverrideMode"] = b.Mode
	}
	o["Boot"] = boot
	if _, ok := o["LastResetTime"]; ok {
		if lr, ok := s.chassis.(LastResetter); ok {
			if t, err := lr.LastReset(c.ctx); err == nil && !t.IsZero() {
				o["LastResetTime"] = t.UTC().Format(time.RFC3339Nano)
			}
		}
	}
	return o, s.twinLight(c, o)
}

// twinLight writes the identify light over what the tree says of it.
func (s *Server) twinLight(c *call, o obj) error {
	led, err := s.chassis.Identify(c.ctx)
	if errors.Is(err, ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the identify light: %w", err)
	}
	if _, ok := o["LocationIndicatorActive"]; ok {
		o["LocationIndicatorActive"] = led
	}
	if _, ok := o["IndicatorLED"]; ok {
		o["IndicatorLED"] = indicator(led)
	}
	return nil
}

func (s *Server) twinChassis(c *call) (obj, error) {
	o, err := s.twinGet(c)
	if err != nil {
		return nil, err
	}
	if _, ok := o["PowerState"]; ok {
		power, err := s.chassis.Power(c.ctx)
		if err != nil {
			return nil, fmt.Errorf("reading the power state: %w", err)
		}
		o["PowerState"] = power
	}
	return o, s.twinLight(c, o)
}

// twinNIC gives the host's interfaces the MACs of the Chassis, in their order.
func (s *Server) twinNIC(c *call, i int) (obj, error) {
	o, err := s.twinGet(c)
	if err != nil {
		return nil, err
	}
	in, err := s.info(c)
	if err != nil {
		return nil, err
	}
	if i < len(in.NICs) {
		for _, name := range []string{"MACAddress", "PermanentMACAddress"} {
			if _, ok := o[name]; ok {
				o[name] = strings.ToLower(in.NICs[i].MAC)
			}
		}
	}
	return o, nil
}

func (s *Server) twinBIOS(c *call) (obj, error) {
	if err := s.settle(c.ctx); err != nil {
		return nil, err
	}
	o, err := s.twinGet(c)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := obj{}
	for _, a := range s.bios.attributes {
		now[a.Name] = a.Value
	}
	o["Attributes"] = now
	return o, nil
}

func (s *Server) twinSettings(c *call) (obj, error) {
	if err := s.settle(c.ctx); err != nil {
		return nil, err
	}
	o, err := s.twinGet(c)
	if err != nil { // the settings object was empty, and was not crawled
		o = obj{"@odata.id": c.path, "@odata.type": "#Bios.v1_2_1.Bios", "Id": "Settings", "Name": "BIOS Configuration Pending Settings"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o["Attributes"] = obj(maps.Clone(s.bios.pending))
	return o, nil
}

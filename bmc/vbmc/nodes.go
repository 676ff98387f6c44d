package vbmc

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Node is one of several machines behind one BMC, as in a chassis whose nodes
// share a controller: a ComputerSystem and a Chassis of its own, under one
// service root.
type Node struct {
	ID      string // last part of the URIs of its system and its chassis
	Chassis Chassis
	Console Console         // see Config
	BIOS    []BIOSAttribute // see Config
}

// nodeServer is a Node with the Server that answers for its system and chassis: to
// itself it is the only one, Systems/1, and its resources are renamed on their
// way in and out. Of a Server with nodes the first one is the Server itself.
type nodeServer struct {
	id string
	s  *Server
}

// NodeID makes an id of a Node of any text.
func NodeID(text string) string { return idOf(text, 0) }

// addNodes makes the Servers of the other nodes. Accounts, sessions, tasks and
// subscriptions are the first one's, under its lock.
func (s *Server) addNodes(c Config) error {
	if len(c.Nodes) == 0 && c.Node == "" {
		return nil
	}
	if c.Tree != nil {
		return errors.New("a virtual BMC with several nodes cannot wear a tree: leave Config.Tree or Config.Nodes out")
	}
	s.nodes = []*nodeServer{{c.Node, s}}
	s.front = s
	for _, n := range c.Nodes {
		if n.Chassis == nil {
			return fmt.Errorf("node %s has no chassis", n.ID)
		}
		sub := c
		sub.Chassis, sub.Console, sub.BIOS, sub.Keep, sub.Identity = n.Chassis, n.Console, n.BIOS, nil, nil
		sub.Node, sub.Nodes = "", nil
		x, err := New(sub)
		if err != nil {
			return fmt.Errorf("node %s: %w", n.ID, err)
		}
		x.front, x.mu, x.accounts, x.sessions = s, s.mu, s.accounts, s.sessions
		s.nodes = append(s.nodes, &nodeServer{n.ID, x})
	}
	for i, n := range s.nodes {
		if n.id == "" || idOf(n.id, 0) != n.id {
			return fmt.Errorf("node %q: its id is to stand in a URI: use letters, digits, dots and dashes", n.id)
		}
		if slices.ContainsFunc(s.nodes[:i], func(o *nodeServer) bool { return o.id == n.id }) {
			return fmt.Errorf("two nodes have the id %q: give each its own", n.id)
		}
		n.s.node = n
	}
	return nil
}

// Node is the Server of a node: for its own interface (ServeSystemInterface),
// its trouble and its plug. nil if there is none of that id. Redfish and IPMI
// over LAN are served by the Server that Config.Nodes was given to: IPMI has no
// word for which of several systems is meant, so there it is the first one.
func (s *Server) Node(id string) *Server {
	for _, n := range s.nodes {
		if n.id == id {
			return n.s
		}
	}
	return nil
}

// Places that a node has of its own.
var nodePlaces = []struct{ all, own string }{{root + "/Systems", systemPath}, {root + "/Chassis", chassisPath}}

// findShared is the resource of a service with several nodes.
func (s *Server) findShared(path string) (*resource, map[string]string) {
	for _, p := range nodePlaces {
		if path == p.all {
			r, vars := s.findOwn(path)
			all := *r
			all.get = func(c *call) (obj, error) {
				o, err := r.get(c)
				if err == nil {
					uris := s.nodeURIs(p.all)
					o["Members"], o["Members@odata.count"] = links(uris...), len(uris)
				}
				return o, err
			}
			return &all, vars
		}
		rest, ok := strings.CutPrefix(path, p.all+"/")
		if !ok {
			continue
		}
		id, below, _ := strings.Cut(rest, "/")
		for _, n := range s.nodes {
			if n.id == id {
				r, vars := n.s.findOwn(strings.TrimSuffix(p.own+"/"+below, "/"))
				return n.rename(r), vars
			}
		}
		return nil, nil
	}
	if path == firmwarePath {
		return s.nodesFirmware(), nil
	}
	for _, n := range s.nodes[1:] {
		if path == firmwarePath+"/"+biosOf(n) {
			return n.bios(path), map[string]string{"id": "BIOS"}
		}
	}
	r, vars := s.findOwn(path)
	r = s.nodes[0].rename(r)
	if r != nil && path == managerPath {
		get := r.get
		r.get = func(c *call) (obj, error) {
			o, err := get(c)
			if ln, ok := o["Links"].(obj); err == nil && ok {
				ln["ManagerForServers"], ln["ManagerForChassis"] = links(s.nodeURIs(root+"/Systems")...), links(s.nodeURIs(root+"/Chassis")...)
			}
			return o, err
		}
	}
	return r, vars
}

// biosOf is the id of a node's firmware among that of all; the first one's is
// BIOS, as where there is one.
func biosOf(n *nodeServer) string { return "BIOS-" + n.id }

// nodesFirmware is the FirmwareInventory of all nodes.
func (s *Server) nodesFirmware() *resource {
	return &resource{pattern: firmwarePath, get: func(*call) (obj, error) {
		paths := []string{firmwarePath + "/BIOS", firmwarePath + "/BMC"}
		for _, n := range s.nodes[1:] {
			paths = append(paths, firmwarePath+"/"+biosOf(n))
		}
		return collection(firmwarePath, "SoftwareInventoryCollection", "Firmware Inventory", paths...), nil
	}}
}

// bios is a node's BIOS among all firmware. It cannot be updated here: there is
// one UpdateService, the first node's.
func (n *nodeServer) bios(path string) *resource {
	r, _ := n.s.findOwn(firmwarePath + "/BIOS")
	r = n.rename(r)
	get := r.get
	return &resource{pattern: path, get: func(c *call) (obj, error) {
		o, err := get(c)
		if err != nil {
			return nil, err
		}
		o["@odata.id"], o["Id"], o["Name"], o["Updateable"] = path, biosOf(n), biosOf(n), false
		return o, nil
	}}
}

// nodeURIs are those of all nodes in a collection.
func (s *Server) nodeURIs(all string) []string {
	out := make([]string, len(s.nodes))
	for i, n := range s.nodes {
		out[i] = all + "/" + n.id
	}
	return out
}

// rename is r for those outside, who know the node by its id.
func (n *nodeServer) rename(r *resource) *resource {
	if r == nil {
		return nil
	}
	in := func(c *call) *call {
		d := *c
		d.path = n.inner(c.path)
		if c.body != nil {
			d.body, _ = renamed(c.body, n.inner).(obj)
		}
		return &d
	}
	out := *r
	if r.get != nil {
		out.get = func(c *call) (obj, error) {
			o, err := r.get(in(c))
			return n.told(o), n.refused(err)
		}
	}
	if r.patch != nil {
		out.patch = func(c *call) ([]*message, error) {
			notes, err := r.patch(in(c))
			return notes, n.refused(err)
		}
	}
	act := func(f func(*call) (reply, error)) func(*call) (reply, error) {
		if f == nil {
			return nil
		}
		return func(c *call) (reply, error) {
			rep, err := f(in(c))
			rep.body = n.told(rep.body)
			if at, ok := rep.header["Location"]; ok {
				rep.header = maps.Clone(rep.header)
				rep.header["Location"] = n.outer(at)
			}
			return rep, n.refused(err)
		}
	}
	out.post, out.del, out.monitor = act(r.post), act(r.del), act(r.monitor)
	return &out
}

// told is a body as those outside read it.
func (n *nodeServer) told(o obj) obj {
	if o == nil {
		return nil
	}
	at := o["@odata.id"]
	out, _ := renamed(o, n.outer).(obj)
	if at == systemPath || at == chassisPath {
		out["Id"] = n.id
	}
	return out
}

// refused is an error whose message names resources.
func (n *nodeServer) refused(err error) error {
	var m *message
	if !errors.As(err, &m) {
		return err
	}
	out := *m
	out.Args = slices.Clone(m.Args)
	for i, a := range out.Args {
		out.Args[i] = n.outer(a)
	}
	return &out
}

// outer is a URI of the node's own as others know it; inner is the inverse.
func (n *nodeServer) outer(uri string) string {
	for _, p := range nodePlaces {
		if rest, ok := below(uri, p.own); ok {
			return p.all + "/" + n.id + rest
		}
	}
	return uri
}

func (n *nodeServer) inner(uri string) string {
	for _, p := range nodePlaces {
		if rest, ok := below(uri, p.all+"/"+n.id); ok {
			return p.own + rest
		}
	}
	return uri
}

// below is what follows of a URI behind another that it is, or is below.
func below(uri, top string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(uri, top)
	return rest, ok && (rest == "" || strings.ContainsRune("/#?", rune(rest[0])))
}

// renamed is a copy of a JSON value with all its texts through f.
func renamed(v any, f func(string) string) any {
	switch v := v.(type) {
	case string:
		return f(v)
	case obj:
		out := make(obj, len(v))
		for k, x := range v {
			out[k] = renamed(x, f)
		}
		return out
	case []obj:
		out := make([]obj, len(v))
		for i, x := range v {
			out[i], _ = renamed(x, f).(obj)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = renamed(x, f)
		}
		return out
	case []string:
		out := make([]string, len(v))
		for i, x := range v {
			out[i] = f(x)
		}
		return out
	}
	return v
}

// outward is a URI or a URI's pattern of this Server as clients know it.
func (s *Server) outward(uri string) string {
	if s.node == nil {
		return uri
	}
	return s.node.outer(uri)
}

// shared is the Server whose accounts, sessions, tasks and subscriptions count.
func (s *Server) shared() *Server {
	if s.front != nil {
		return s.front
	}
	return s
}

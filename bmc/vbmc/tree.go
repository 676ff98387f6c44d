package vbmc

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Tree is a Redfish service as it was crawled from a real BMC, or written as a
// personality: resources by URI. A Server wears it: what it shows is the
// tree's, what is done to it happens to the Server's Chassis. A Tree is never
// changed, and many Servers may share one.
type Tree struct {
	resources map[string]json.RawMessage
	documents map[string][]byte // $metadata
	system    string            // the host's ComputerSystem
	chassis   []string          // those whose power follows the host's
	reset     string            // target of the host's ComputerSystem.Reset
	bios      string
	settings  string // where BIOS settings wait
	nics      []string
	protocols []string                   // ManagerNetworkProtocols with time servers
	registry  map[string]json.RawMessage // attribute entries by name
}

// Bounds of a tree that is read.
const (
	maxTreeFiles = 20_000
	maxTreeBytes = 256 << 20
)

// ReadTree reads a tar archive, packed with zstd, gzip or not, that holds one
// index.json a resource, in folders named as the URIs (the layout of the DMTF's
// mock-ups, with redfish/v1 or, in their short form, without), under any folders.
func ReadTree(r io.Reader) (*Tree, error) {
	head := make([]byte, 4)
	n, err := io.ReadFull(r, head)
	if err != nil {
		return nil, fmt.Errorf("the archive has %d bytes: %w", n, err)
	}
	r = io.MultiReader(strings.NewReader(string(head)), r)
	switch {
	case string(head[:2]) == "\x1f\x8b": // RFC 1952 §2.3.1
		g, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		defer g.Close()
		r = g
	case string(head) == "\x28\xb5\x2f\xfd": // RFC 8878 §3.1.1
		z, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	}
	res, docs := map[string]json.RawMessage{}, map[string][]byte{}
	var total int64
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading the archive: %w", err)
		}
		dir, base := path.Split("/" + h.Name)
		i := strings.Index(dir, "/redfish/")
		if h.Typeflag != tar.TypeReg || base != "index.json" && (i < 0 || base != "index.xml") {
			continue
		}
		uri := ""
		if i >= 0 {
			uri = strings.TrimSuffix(dir[i:], "/")
		}
		if total += h.Size; total > maxTreeBytes || len(res) >= maxTreeFiles {
			return nil, fmt.Errorf("the archive holds more than %d files or %d MiB: is it a crawled BMC?", maxTreeFiles, maxTreeBytes>>20)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", h.Name, err)
		}
		if base == "index.xml" {
			if strings.HasSuffix(uri, "$metadata") {
				docs[uri] = b
			}
			continue
		}
		if !json.Valid(b) { // real BMCs have resources that are not: one of Lenovo's reports
			continue
		}
		if uri == "" { // the short form of mock-ups, without redfish/v1: each says where it is
			var is struct {
				ID string `json:"@odata.id"`
			}
			if json.Unmarshal(b, &is) != nil || !strings.HasPrefix(is.ID, "/redfish/") {
				continue
			}
			uri = strings.TrimRight(is.ID, "/")
		}
		res[uri] = b
	}
	return newTree(res, docs)
}

// body is a resource as an object of its own.
func (t *Tree) body(uri string) obj {
	raw, ok := t.resources[uri]
	if !ok {
		return nil
	}
	var o obj
	if json.Unmarshal(raw, &o) != nil { // checked when it was read
		return nil
	}
	return o
}

// Len is the number of resources.
func (t *Tree) Len() int { return len(t.resources) }

// memberURIs are the members of a collection.
func memberURIs(o obj) []string {
	var out []string
	list, _ := o["Members"].([]any)
	for _, m := range list {
		out = append(out, linkURI(m))
	}
	return out
}

func linkURI(v any) string {
	o, _ := v.(obj)
	s, _ := o["@odata.id"].(string)
	return strings.TrimRight(s, "/")
}

// newTree finds the host, its chassis, its settings and its interfaces.
func newTree(res map[string]json.RawMessage, docs map[string][]byte) (*Tree, error) {
	t := &Tree{resources: res, documents: docs, registry: map[string]json.RawMessage{}}
	systems := memberURIs(t.body(root + "/Systems"))
	for _, uri := range systems {
		o := t.body(uri)
		if o == nil {
			continue
		}
		// A GPU baseboard is a System too; the host is the one that has a BIOS, or the first.
		_, hasBIOS := o["Bios"]
		if t.system == "" || hasBIOS && t.body(t.system)["Bios"] == nil {
			t.system = uri
		}
	}
	if t.system == "" {
		return nil, fmt.Errorf("the tree has no ComputerSystem at %s/Systems", root)
	}
	sys := t.body(t.system)
	acts, _ := sys["Actions"].(obj)
	rst, _ := acts["#ComputerSystem.Reset"].(obj)
	if t.reset, _ = rst["target"].(string); t.reset == "" {
		t.reset = t.system + "/Actions/ComputerSystem.Reset"
	}
	t.reset = strings.TrimRight(t.reset, "/")
	ln, _ := sys["Links"].(obj)
	list, _ := ln["Chassis"].([]any)
	for _, c := range list {
		if uri := linkURI(c); t.body(uri) != nil {
			t.chassis = append(t.chassis, uri)
		}
	}
	if t.bios = linkURI(sys["Bios"]); t.body(t.bios) != nil {
		st, _ := t.body(t.bios)["@Redfish.Settings"].(obj)
		t.settings = linkURI(st["SettingsObject"])
		t.readRegistry()
	}
	t.nics = memberURIs(t.body(linkURI(sys["EthernetInterfaces"])))
	slices.Sort(t.nics)
	for _, m := range memberURIs(t.body(root + "/Managers")) {
		uri := linkURI(t.body(m)["NetworkProtocol"])
		if ntp, ok := t.body(uri)["NTP"].(obj); ok && ntp["NTPServers"] != nil {
			t.protocols = append(t.protocols, uri)
		}
	}
	return t, nil
}

// readRegistry finds the attribute registry of the BIOS, where the tree has it.
func (t *Tree) readRegistry() {
	want, _ := t.body(t.bios)["AttributeRegistry"].(string)
	for uri := range t.resources {
		if want == "" || !strings.Contains(uri, want) && !strings.Contains(uri, "BiosRegistry") && !strings.Contains(uri, "BiosAttributeRegistry") {
			continue
		}
		entries, _ := t.body(uri)["RegistryEntries"].(obj)
		list, _ := entries["Attributes"].([]any)
		for _, e := range list {
			o, _ := e.(obj)
			if name, ok := o["AttributeName"].(string); ok {
				if b, err := json.Marshal(o); err == nil { // was JSON before
					t.registry[name] = b
				}
			}
		}
	}
}

// attributes are the settings of the tree's BIOS, with what the registry says
// of them, or else by the type of their values.
func (t *Tree) attributes() []BIOSAttribute {
	now, _ := t.body(t.bios)["Attributes"].(obj)
	var out []BIOSAttribute
	for name, v := range now {
		a := BIOSAttribute{Name: name, Title: name, Type: "String", Value: v}
		switch x := v.(type) {
		case bool:
			a.Type = "Boolean"
		case float64:
			a.Type, a.Value, a.Low, a.High = "Integer", int(x), -1<<31, 1<<31-1
		}
		var e struct {
			Type                   string
			ReadOnly               bool
			LowerBound, UpperBound *float64
			Value                  []struct{ ValueName string }
		}
		if raw, ok := t.registry[name]; ok && json.Unmarshal(raw, &e) == nil {
			a.ReadOnly = e.ReadOnly
			_, isText := v.(string)
			if e.Type == "Enumeration" && isText {
				a.Type = "Enumeration"
				for _, x := range e.Value {
					a.Allowed = append(a.Allowed, x.ValueName)
				}
			}
			if a.Type == "Integer" && e.LowerBound != nil && e.UpperBound != nil {
				a.Low, a.High = int(*e.LowerBound), int(*e.UpperBound)
			}
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b BIOSAttribute) int { return strings.Compare(a.Name, b.Name) })
	return out
}

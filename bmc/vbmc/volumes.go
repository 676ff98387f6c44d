package vbmc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Volume is a volume of the storage controller.
type Volume struct {
	ID     string
	Name   string
	RAID   string // Redfish RAIDType: "None", "RAID0", "RAID1", "RAID5", "RAID6", "RAID10"
	Bytes  int64
	Drives []string // ids of drives
}

// VolumeHolder is a Chassis whose drives can be joined. AddVolume gives the
// volume an id; DeleteVolume destroys what is on it.
type VolumeHolder interface {
	Volumes(ctx context.Context) ([]Volume, error)
	AddVolume(ctx context.Context, v Volume) (Volume, error)
	DeleteVolume(ctx context.Context, id string) error
}

const (
	storagePath = systemPath + "/Storage/1"
	volumesPath = storagePath + "/Volumes"
)

// raidLevel is a kind of volume: the fewest drives, and how many drives' worth
// of data n of them hold.
type raidLevel struct {
	name string
	min  int
	even bool
	data func(n int) int
}

var raidLevels = []raidLevel{
	{"RAID0", 1, false, func(n int) int { return n }},
	{"RAID1", 2, false, func(int) int { return 1 }},
	{"RAID5", 3, false, func(n int) int { return n - 1 }},
	{"RAID6", 4, false, func(n int) int { return n - 2 }},
	{"RAID10", 4, true, func(n int) int { return n / 2 }},
}

func (s *Server) volumes(ctx context.Context) ([]Volume, error) {
	h, ok := s.chassis.(VolumeHolder)
	if !ok {
		return nil, nil
	}
	v, err := h.Volumes(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the volumes: %w", err)
	}
	return v, nil
}

func (s *Server) volumeRoutes() []*resource {
	list := func(c *call) (obj, error) {
		all, err := s.volumes(c.ctx)
		if err != nil {
			return nil, err
		}
		paths := make([]string, len(all))
		for i, v := range all {
			paths[i] = volumesPath + "/" + v.ID
		}
		o := collection(volumesPath, "VolumeCollection", "Volumes", paths...)
		if _, ok := s.chassis.(VolumeHolder); ok {
			o["@Redfish.OperationApplyTimeSupport"] = obj{"@odata.type": "#Settings.v1_3_5.OperationApplyTimeSupport", "SupportedValues": []string{"Immediate"}}
		}
		return o, nil
	}
	coll := &resource{pattern: volumesPath, priv: privComponents, get: list}
	one := &resource{pattern: volumesPath + "/{id}", priv: privComponents, get: func(c *call) (obj, error) {
		all, err := s.volumes(c.ctx)
		if err != nil {
			return nil, err
		}
		for _, v := range all {
			if v.ID == c.vars["id"] {
				return v.resource(), nil
			}
		}
		return nil, msgNotFound(c.path)
	}}
	if h, ok := s.chassis.(VolumeHolder); ok {
		coll.post = func(c *call) (reply, error) { return s.addVolume(c, h) }
		one.del = func(c *call) (reply, error) {
			err := h.DeleteVolume(c.ctx, c.vars["id"])
			if errors.Is(err, ErrUnsupported) {
				return reply{}, msgNotFound(c.path)
			}
			if err != nil {
				return reply{}, fmt.Errorf("deleting a volume: %w", err)
			}
			s.logEvent("system", "Warning", fmt.Sprintf("Volume %s deleted by %s.", c.vars["id"], c.who.name))
			return reply{status: http.StatusNoContent}, nil
		}
	}
	return []*resource{coll, one}
}

func (v Volume) resource() obj {
	drives := make([]string, len(v.Drives))
	for i, d := range v.Drives {
		drives[i] = storagePath + "/Drives/" + d
	}
	return obj{"@odata.id": volumesPath + "/" + v.ID, "@odata.type": "#Volume.v1_10_0.Volume", "Id": v.ID, "Name": v.Name, "RAIDType": v.RAID,
		"CapacityBytes": v.Bytes, "Encrypted": false, "Status": statusOK(), "Links": obj{"Drives": links(drives...)}}
}

// addVolume is a POST to the collection: RAIDType and Links.Drives, and
// optionally Name and CapacityBytes.
func (s *Server) addVolume(c *call, h VolumeHolder) (reply, error) {
	v := Volume{RAID: "RAID0"}
	for k, x := range c.body {
		t, isText := x.(string)
		switch k {
		case "Name", "DisplayName":
			if !isText {
				return reply{}, msgPropertyType(k, x)
			}
			v.Name = t
		case "RAIDType":
			if !isText {
				return reply{}, msgPropertyType(k, x)
			}
			v.RAID = t
		case "CapacityBytes":
			n, ok := x.(float64)
			if !ok || n < 1 || n > 1<<60 {
				return reply{}, msgPropertyType(k, x)
			}
			v.Bytes = int64(n)
		case "Links", "Drives":
			if k == "Links" {
				l, _ := x.(obj)
				x = l["Drives"]
			}
			l, ok := x.([]any)
			if !ok {
				return reply{}, msgPropertyType("Links/Drives", x)
			}
			for _, d := range l {
				o, _ := d.(obj)
				p, _ := o["@odata.id"].(string)
				id, ok := strings.CutPrefix(p, storagePath+"/Drives/")
				if !ok || slices.Contains(v.Drives, id) {
					return reply{}, msgNotInList("Links/Drives", d)
				}
				v.Drives = append(v.Drives, id)
			}
		case "@Redfish.OperationApplyTime":
			if t != "Immediate" {
				return reply{}, msgNotInList(k, x)
			}
		default:
			return reply{}, msgUnknownProperty(k)
		}
	}
	in, err := s.info(c)
	if err != nil {
		return reply{}, err
	}
	all, err := s.volumes(c.ctx)
	if err != nil {
		return reply{}, err
	}
	if v, err = planVolume(v, in, all); err != nil {
		return reply{}, err
	}
	if v, err = h.AddVolume(c.ctx, v); err != nil {
		return reply{}, fmt.Errorf("adding a volume: %w", err)
	}
	s.logEvent("system", "OK", fmt.Sprintf("Volume %s (%s) made by %s.", v.ID, v.RAID, c.who.name))
	body := v.resource()
	return created(volumesPath+"/"+v.ID, body), nil
}

// planVolume checks a volume against the drives and the volumes that there are.
func planVolume(v Volume, in Info, all []Volume) (Volume, error) {
	i := slices.IndexFunc(raidLevels, func(l raidLevel) bool { return l.name == v.RAID })
	if i < 0 {
		return v, msgNotInList("RAIDType", v.RAID)
	}
	level := raidLevels[i]
	smallest := int64(0)
	for _, id := range v.Drives {
		found := false
		for j, d := range in.Drives {
			if idOf(d.ID, j) == id {
				found = true
				if smallest == 0 || d.Bytes < smallest {
					smallest = d.Bytes
				}
			}
		}
		used := slices.ContainsFunc(all, func(o Volume) bool { return slices.Contains(o.Drives, id) })
		if !found || used {
			return v, msgNotInList("Links/Drives", storagePath+"/Drives/"+id)
		}
	}
	if n := len(v.Drives); n < level.min || level.even && n%2 != 0 {
		return v, msgConflict("Links/Drives", "RAIDType")
	}
	room := smallest * int64(level.data(len(v.Drives)))
	if v.Bytes == 0 {
		v.Bytes = room
	}
	if v.Bytes > room {
		return v, msgOutOfRange("CapacityBytes", v.Bytes)
	}
	return v, nil
}

// Volumes are those that were added.
func (m *Memory) Volumes(ctx context.Context) ([]Volume, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	out := slices.Clone(m.volumes)
	for i := range out {
		out[i].Drives = slices.Clone(out[i].Drives)
	}
	return out, nil
}

// AddVolume adds a volume.
func (m *Memory) AddVolume(ctx context.Context, v Volume) (Volume, error) {
	if err := m.enter(ctx); err != nil {
		return v, err
	}
	defer m.mu.Unlock()
	m.volumeSeq++
	v.ID = strconv.Itoa(m.volumeSeq)
	if v.Name == "" {
		v.Name = "Volume " + v.ID
	}
	m.volumes = append(m.volumes, v)
	return v, nil
}

// DeleteVolume deletes it; one that is not there is unsupported.
func (m *Memory) DeleteVolume(ctx context.Context, id string) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	n := len(m.volumes)
	m.volumes = slices.DeleteFunc(m.volumes, func(v Volume) bool { return v.ID == id })
	if len(m.volumes) == n {
		return fmt.Errorf("no volume %q: %w", id, ErrUnsupported)
	}
	return nil
}

package vbmc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Media is what a virtual drive holds. An empty Image is nothing.
type Media struct {
	Image          string // URI
	WriteProtected bool
}

// MediaHolder is a Chassis with a virtual CD drive (DSP0268, VirtualMedia).
// SetMedia returns when the machine can read the image; [ErrMedia] says that
// there is none to be had at the URI.
type MediaHolder interface {
	Media(ctx context.Context) (Media, error)
	SetMedia(ctx context.Context, m Media) error
}

// ErrMedia means that the image of a Media cannot be read.
var ErrMedia = errors.New("the image cannot be read")

// mediaSchemes are the transfer protocols of an image.
var mediaSchemes = map[string]string{"http": "HTTP", "https": "HTTPS", "nfs": "NFS", "cifs": "CIFS", "ftp": "FTP", "sftp": "SFTP"}

const mediaSlot = "Cd"

// mediaRoutes are VirtualMedia of the Manager and of the System: one drive.
func (s *Server) mediaRoutes() []*resource {
	if _, ok := s.chassis.(MediaHolder); !ok {
		return nil
	}
	var rs []*resource
	for _, owner := range []string{managerPath, systemPath} {
		base := owner + "/VirtualMedia"
		slot := base + "/" + mediaSlot
		rs = append(rs,
			&resource{pattern: base, get: func(*call) (obj, error) {
				return collection(base, "VirtualMediaCollection", "Virtual Media", slot), nil
			}},
			&resource{pattern: slot, priv: privComponents, get: s.mediaResource, patch: s.patchMedia},
			&resource{pattern: slot + "/Actions/VirtualMedia.InsertMedia", priv: privComponents, post: s.insertMedia},
			&resource{pattern: slot + "/Actions/VirtualMedia.EjectMedia", priv: privComponents, post: func(c *call) (reply, error) {
				return reply{status: http.StatusNoContent}, s.setMedia(c, Media{})
			}},
		)
	}
	return rs
}

func (s *Server) media(ctx context.Context) (Media, error) {
	m, err := s.chassis.(MediaHolder).Media(ctx)
	if err != nil {
		return m, fmt.Errorf("reading the virtual drive: %w", err)
	}
	return m, nil
}

func (s *Server) mediaResource(c *call) (obj, error) {
	m, err := s.media(c.ctx)
	if err != nil {
		return nil, err
	}
	slot := c.path
	o := obj{
		"@odata.id": slot, "@odata.type": "#VirtualMedia.v1_6_4.VirtualMedia", "Id": mediaSlot, "Name": "Virtual CD", "MediaTypes": []string{"CD", "DVD"},
		"Image": nullable(m.Image), "ImageName": nil, "Inserted": m.Image != "", "WriteProtected": m.WriteProtected || m.Image == "",
		"ConnectedVia": "NotConnected", "TransferMethod": nil, "TransferProtocolType": nil, "UserName": nil, "Password": nil, "Status": statusOK(),
		"Actions": obj{
			"#VirtualMedia.InsertMedia": obj{"target": slot + "/Actions/VirtualMedia.InsertMedia",
				"MediaType@Redfish.AllowableValues": []string{"CD", "DVD"}, "TransferMethod@Redfish.AllowableValues": []string{"Stream", "Upload"},
				"TransferProtocolType@Redfish.AllowableValues": mediaProtocols()},
			"#VirtualMedia.EjectMedia": obj{"target": slot + "/Actions/VirtualMedia.EjectMedia"},
		},
	}
	if u, err := url.Parse(m.Image); err == nil && m.Image != "" {
		o["ImageName"], o["ConnectedVia"] = path.Base(u.Path), "URI"
		o["TransferMethod"], o["TransferProtocolType"] = "Stream", nullable(mediaSchemes[u.Scheme])
	}
	return o, nil
}

func mediaProtocols() []string {
	var out []string
	for _, p := range mediaSchemes {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// insertMedia is VirtualMedia.InsertMedia (DSP0268).
func (s *Server) insertMedia(c *call) (reply, error) {
	const action = "VirtualMedia.InsertMedia"
	image, ok := c.body["Image"]
	if !ok {
		return reply{}, msgActionParamMissing(action, "Image")
	}
	m := Media{WriteProtected: true}
	for k, v := range c.body {
		t, isText := v.(string)
		b, isBool := v.(bool)
		switch k {
		case "Image":
			scheme, rest, found := strings.Cut(t, "://")
			if !isText || !found || rest == "" || mediaSchemes[strings.ToLower(scheme)] == "" {
				return reply{}, msgActionParamFormat(action, k, image)
			}
			m.Image = t
		case "WriteProtected", "Inserted":
			if !isBool {
				return reply{}, msgActionParamType(action, k, v)
			}
			if k == "WriteProtected" {
				m.WriteProtected = b
			} else if !b {
				return reply{}, msgActionParam(action, k, v)
			}
		case "MediaType":
			if t != "CD" && t != "DVD" {
				return reply{}, msgActionParam(action, k, v)
			}
		case "TransferMethod":
			if t != "Stream" && t != "Upload" {
				return reply{}, msgActionParam(action, k, v)
			}
		case "TransferProtocolType":
			if !slices.Contains(mediaProtocols(), t) {
				return reply{}, msgActionParam(action, k, v)
			}
		case "UserName", "Password":
			if !isText {
				return reply{}, msgActionParamType(action, k, "(a value that is no string)")
			}
		default:
			return reply{}, msgActionParamUnknown(action, k)
		}
	}
	return reply{status: http.StatusNoContent}, s.setMedia(c, m)
}

func (s *Server) setMedia(c *call, m Media) error {
	err := s.chassis.(MediaHolder).SetMedia(c.ctx, m)
	switch {
	case errors.Is(err, ErrMedia):
		return msgConnection(m.Image, "")
	case err != nil:
		return fmt.Errorf("the virtual drive: %w", err)
	}
	what := "ejected"
	if m.Image != "" {
		what = "inserted"
		if u, err := url.Parse(m.Image); err == nil {
			what += ": " + u.Redacted() // logs are read by whoever may log in
		}
	}
	s.logEvent("system", "OK", fmt.Sprintf("Virtual media %s, by %s.", what, c.who.name))
	return nil
}

// patchMedia inserts and ejects by PATCH of Image or Inserted, as services
// without the actions have it.
func (s *Server) patchMedia(c *call) ([]*message, error) {
	m, err := s.media(c.ctx)
	if err != nil {
		return nil, err
	}
	if v, ok := c.body["WriteProtected"].(bool); ok {
		m.WriteProtected = v
	}
	return patch(c, s.mediaResource, map[string]setter{
		"Image": func(v any) (func() error, error) {
			if v == nil {
				return func() error { return s.setMedia(c, Media{}) }, nil
			}
			t, ok := v.(string)
			scheme, rest, found := strings.Cut(t, "://")
			if !ok || t != "" && (!found || rest == "" || mediaSchemes[strings.ToLower(scheme)] == "") {
				return nil, msgPropertyFormat("Image", v)
			}
			return func() error { return s.setMedia(c, Media{Image: t, WriteProtected: m.WriteProtected}) }, nil
		},
		"Inserted": func(v any) (func() error, error) {
			b, ok := v.(bool)
			if !ok {
				return nil, msgPropertyType("Inserted", v)
			}
			if _, given := c.body["Image"]; b || given {
				return func() error { return nil }, nil // Image says it
			}
			return func() error { return s.setMedia(c, Media{}) }, nil
		},
		"WriteProtected": func(v any) (func() error, error) {
			b, ok := v.(bool)
			if !ok {
				return nil, msgPropertyType("WriteProtected", v)
			}
			if _, given := c.body["Image"]; given {
				return func() error { return nil }, nil
			}
			return func() error { return s.setMedia(c, Media{Image: m.Image, WriteProtected: b}) }, nil
		},
	})
}

// Media is what the virtual drive holds.
func (m *Memory) Media(ctx context.Context) (Media, error) {
	if err := m.enter(ctx); err != nil {
		return Media{}, err
	}
	defer m.mu.Unlock()
	return m.media, nil
}

// SetMedia inserts an image, or ejects. Images whose host is "unreachable"
// cannot be read.
func (m *Memory) SetMedia(ctx context.Context, x Media) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if u, err := url.Parse(x.Image); err != nil || u.Hostname() == "unreachable" {
		return fmt.Errorf("%s: %w", x.Image, ErrMedia)
	}
	if !m.fault.Lie {
		m.media = x
	}
	return nil
}

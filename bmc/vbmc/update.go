package vbmc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	updatePath   = root + "/UpdateService"
	firmwarePath = updatePath + "/FirmwareInventory"
	// maxFirmware bounds an image.
	maxFirmware = 256 << 20
)

// firmwareMagic begins the first line of a firmware image of the virtual BMC.
const firmwareMagic = "fettle-virtual-firmware"

// FirmwareImage is an image that UpdateService takes: component is "BIOS" or
// "BMC". Anything may follow it in a file.
func FirmwareImage(component, version string) []byte {
	return fmt.Appendf(nil, "%s %s %s\n", firmwareMagic, component, version)
}

// parseFirmware reads an image to its end and tells what it holds.
func parseFirmware(r io.Reader) (component, version string, err error) {
	br := bufio.NewReaderSize(io.LimitReader(r, maxFirmware+1), 4096)
	line, lerr := br.ReadSlice('\n')
	f := strings.Fields(string(line)) // before br reads on
	n, err := io.Copy(io.Discard, br)
	switch {
	case err != nil:
		return "", "", fmt.Errorf("reading the image: %w", err)
	case n+int64(len(line)) > maxFirmware:
		return "", "", fmt.Errorf("the image is larger than %d bytes", maxFirmware)
	case lerr != nil || len(f) != 3 || f[0] != firmwareMagic || f[1] != "BIOS" && f[1] != "BMC":
		return "", "", errors.New("the image is not one of this BMC's: it wants a first line \"" + firmwareMagic + " BIOS|BMC VERSION\"")
	}
	return f[1], f[2], nil
}

// versions are those of the firmware. s.mu is held.
func (s *Server) version(component string, in Info) string {
	if v := s.flashed[component]; v != "" {
		return v
	}
	if component == "BIOS" {
		return in.BIOSVersion
	}
	return firmwareVersion
}

func (s *Server) updateRoutes() []*resource {
	return []*resource{
		{pattern: updatePath, get: s.updateService},
		{pattern: updatePath + "/Actions/UpdateService.SimpleUpdate", priv: privComponents, post: s.simpleUpdate},
		{pattern: updatePath + "/push", priv: privComponents, stream: true, post: func(c *call) (reply, error) { return s.flash(c.r.Body, nil) }},
		{pattern: updatePath + "/upload", priv: privComponents, stream: true, post: s.upload},
		{pattern: firmwarePath, get: func(*call) (obj, error) {
			return collection(firmwarePath, "SoftwareInventoryCollection", "Firmware Inventory", firmwarePath+"/BIOS", firmwarePath+"/BMC"), nil
		}},
		{pattern: firmwarePath + "/{id}", get: func(c *call) (obj, error) {
			in, err := s.info(c)
			if err != nil {
				return nil, err
			}
			id := c.vars["id"]
			related := map[string]string{"BIOS": systemPath + "/Bios", "BMC": managerPath}[id]
			if related == "" {
				return nil, msgNotFound(c.path)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.settleTasks()
			return obj{"@odata.id": c.path, "@odata.type": "#SoftwareInventory.v1_10_2.SoftwareInventory", "Id": id, "Name": id,
				"Version": s.version(id, in), "Updateable": true, "RelatedItem": links(related), "RelatedItem@odata.count": 1, "Status": statusOK()}, nil
		}},
	}
}

func (s *Server) updateService(*call) (obj, error) {
	simple := obj{"target": updatePath + "/Actions/UpdateService.SimpleUpdate", "TransferProtocol@Redfish.AllowableValues": []string{"HTTP", "HTTPS"}}
	return obj{"@odata.id": updatePath, "@odata.type": "#UpdateService.v1_14_0.UpdateService", "Id": "UpdateService", "Name": "Update Service",
		"ServiceEnabled": true, "Status": statusOK(), "FirmwareInventory": link(firmwarePath), "MaxImageSizeBytes": maxFirmware,
		"HttpPushUri": updatePath + "/push", "MultipartHttpPushUri": updatePath + "/upload",
		"Actions": obj{"#UpdateService.SimpleUpdate": simple}}, nil
}

// simpleUpdate is UpdateService.SimpleUpdate: the BMC fetches the image.
func (s *Server) simpleUpdate(c *call) (reply, error) {
	const action = "UpdateService.SimpleUpdate"
	v, ok := c.body["ImageURI"]
	if !ok {
		return reply{}, msgActionParamMissing(action, "ImageURI")
	}
	uri, ok := v.(string)
	if !ok {
		return reply{}, msgActionParamType(action, "ImageURI", v)
	}
	if p, ok := c.body["TransferProtocol"].(string); ok && !strings.Contains(uri, "://") {
		uri = strings.ToLower(p) + "://" + strings.TrimPrefix(uri, "//")
	}
	u, err := url.Parse(uri)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return reply{}, msgActionParamFormat(action, "ImageURI", v)
	}
	var targets []string
	if list, given := c.body["Targets"]; given {
		l, ok := list.([]any)
		if !ok {
			return reply{}, msgActionParamType(action, "Targets", list)
		}
		for _, t := range l {
			t, _ := t.(string)
			if t != firmwarePath+"/BIOS" && t != firmwarePath+"/BMC" {
				return reply{}, msgActionParam(action, "Targets", list)
			}
			targets = append(targets, t)
		}
	}
	if s.fetchImage == nil {
		return reply{}, msgConnection(uri, "This virtual BMC fetches nothing: push the image to HttpPushUri or MultipartHttpPushUri.")
	}
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	body, err := s.fetchImage(ctx, uri)
	if err != nil {
		return reply{}, bad("ImageNotFetched", uri, err.Error())
	}
	defer body.Close()
	return s.flash(body, targets)
}

// upload is a multipart push (DSP0266 §12.6.2): UpdateParameters, then UpdateFile.
func (s *Server) upload(c *call) (reply, error) {
	mt, params, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || mt != "multipart/form-data" {
		return reply{}, msgMediaType(c.r.Header.Get("Content-Type"))
	}
	mr := multipart.NewReader(c.r.Body, params["boundary"])
	var targets []string
	for {
		p, err := mr.NextPart()
		if err != nil {
			return reply{}, msgMissing("UpdateFile")
		}
		switch p.FormName() {
		case "UpdateParameters":
			sub := *c
			if sub.body, err = parseObject(p, maxBody); err != nil {
				return reply{}, err
			}
			if list, ok := sub.body["Targets"].([]any); ok {
				for _, t := range list {
					if t, ok := t.(string); ok {
						targets = append(targets, t)
					}
				}
			}
		case "UpdateFile":
			return s.flash(p, targets)
		}
	}
}

// flash reads an image and starts its task. What it holds runs when the task has
// ended: a real server's BIOS would wait for its next boot.
func (s *Server) flash(r io.Reader, targets []string) (reply, error) {
	component, version, err := parseFirmware(r)
	if err == nil && len(targets) > 0 && !slices.Contains(targets, firmwarePath+"/"+component) {
		err = fmt.Errorf("the image is for %s, and the targets are %s", component, strings.Join(targets, ", "))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	const name = "Firmware Update"
	if s.running(name) {
		return reply{}, msgInUse()
	}
	return s.accepted(s.newTask(name, s.updateTime, func() error {
		if err != nil {
			return err
		}
		s.flashed[component] = version
		if component == "BMC" { // it starts anew
			clear(s.sessions)
		}
		return nil
	})), nil
}

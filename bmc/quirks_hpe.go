package bmc

// HPE's own resources, for what iLO does not show where the schemas have it.

// hpeVersion is how iLO writes versions of firmware.
type hpeVersion struct {
	Current struct{ VersionString text }
}

// smartStorage reads the disks behind Smart Array controllers and HBAs, which
// iLO 4 and 5 show in a tree of their own (HpeSmartStorage).
func (r *reader) smartStorage(inv *Inventory, s computerSystem) {
	at := s.Oem.link("SmartStorage")
	if at.path() == "" {
		return
	}
	type links struct{ Links map[string]ref } // iLO 4 writes "links", which is the same to encoding/json
	var top links
	if !r.one(at, &top) {
		return
	}
	for _, kind := range []string{"ArrayControllers", "HostBusAdapters"} {
		for _, c := range list[links](r, top.Links[kind]) {
			for _, d := range list[struct {
				drive
				Version hpeVersion `json:"FirmwareVersion"`
			}](r, c.Links["PhysicalDrives"]) {
				d.drive.FirmwareVersion = d.Version.Current.VersionString
				inv.addDrive(d.drive)
			}
		}
	}
}

// hpeGPUs reads the devices of the chassis (HpeServerDevice), where iLO 5 shows
// GPUs that are no processors and no PCIeDevices to it.
func (r *reader) hpeGPUs(inv *Inventory, s computerSystem) {
	if len(inv.GPUs) > 0 {
		return
	}
	for _, c := range r.around(s) {
		for _, d := range list[struct {
			ID                                  text `json:"Id"`
			Name, DeviceType, Manufacturer      text
			ProductName, SerialNumber, Location text
			Version                             hpeVersion `json:"FirmwareVersion"`
			Status                              health
		}](r, c.Oem.link("Devices")) {
			if d.DeviceType != "GPU" || d.Status.absent() {
				continue
			}
			inv.GPUs = append(inv.GPUs, GPU{ID: string(d.ID), Vendor: d.Manufacturer.known(), Model: d.Name.known(), Serial: d.SerialNumber.known(),
				Firmware: d.Version.Current.VersionString.known(), Health: d.Status.text()})
		}
	}
}

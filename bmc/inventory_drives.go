package bmc

import "slices"

// drive is what we use of Drive (DSP0268), and of HPE's disks that came before it.
type drive struct {
	ID                                          text `json:"Id"`
	SerialNumber, Manufacturer, Model, Protocol text
	Revision, FirmwareVersion                   text
	Name, MediaType, InterfaceType              text
	CapacityBytes, CapacityMiB, CapacityGB      number
	Status                                      health
}

func (d drive) bytes() int64 {
	switch {
	case d.CapacityBytes > 0:
		return int64(d.CapacityBytes)
	case d.CapacityMiB > 0:
		return int64(d.CapacityMiB) << 20
	}
	return int64(d.CapacityGB) * 1e9
}

// add keeps a drive that is there; an empty bay says neither what is in it nor
// how large it is.
func (inv *Inventory) addDrive(d drive) {
	out := Drive{ID: string(d.ID), Serial: d.SerialNumber.known(), Vendor: d.Manufacturer.known(), Model: d.Model.known(),
		Bytes: max(0, d.bytes()), Protocol: d.Protocol.known(), Firmware: d.FirmwareVersion.known(), Health: d.Status.text()}
	if out.Firmware == "" {
		out.Firmware = d.Revision.known()
	}
	if out.Protocol == "" {
		out.Protocol = d.InterfaceType.known()
	}
	if d.Status.absent() || out.Serial == "" && out.Model == "" && out.Bytes == 0 ||
		slices.ContainsFunc(inv.Drives, func(x Drive) bool { return x.Serial != "" && x.Serial == out.Serial }) {
		return
	}
	inv.Drives = append(inv.Drives, out)
}

// drives are those of the system's storage, of HPE's SmartStorage, of its
// chassis where storage shows none, and of SimpleStorage at last.
func (r *reader) drives(inv *Inventory, s computerSystem) {
	for _, st := range list[struct{ Drives refs }](r, s.Storage) {
		for _, d := range linked[drive](r, st.Drives) {
			inv.addDrive(d)
		}
	}
	r.smartStorage(inv, s)
	if len(inv.Drives) > 0 || r.err != nil {
		return
	}
	for _, c := range r.around(s) {
		for _, d := range linked[drive](r, slices.Concat(c.Links.Drives, c.Drives)) {
			inv.addDrive(d)
		}
	}
	if len(inv.Drives) > 0 {
		return
	}
	for _, st := range list[struct{ Devices []drive }](r, s.SimpleStorage) {
		for _, d := range st.Devices {
			if d.ID == "" {
				d.ID = d.Name
			}
			if d.CapacityBytes <= 0 && d.Status.State == "" {
				continue // a bay
			}
			inv.addDrive(d)
		}
	}
}

package state

import (
	"net/netip"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/site"
)

// Kinds of events about what the site does not know.
const (
	KindSeen    Kind = "discover.seen"    // a MAC address, or a BMC, for the first time; Data: Sighting
	KindChanged Kind = "discover.changed" // it came by another network or port, or told more of itself; Data: Sighting
)

// NameOf names a machine that the site does not know by the MAC address that
// it asked with: "mac-525400aabbcc". Its events are under that name.
func NameOf(mac site.MAC) string {
	return "mac-" + strings.ReplaceAll(mac.String(), ":", "")
}

// Sort is what was seen.
type Sort string

// Sorts of what is seen.
const (
	SortMachine Sort = "machine"
	SortBMC     Sort = "bmc"
)

// Sighting is what is known of one MAC address, or of a BMC that answered a
// scan at an address, beyond what the site says.
type Sighting struct {
	Sort        Sort       `json:"sort"`
	MAC         site.MAC   `json:"mac,omitzero"` // zero: a BMC that was found by its address
	Network     string     `json:"network,omitempty"`
	Addr        netip.Addr `json:"addr,omitzero"`
	Relay       netip.Addr `json:"relay,omitzero"`         // DHCP relay agent (giaddr)
	Port        string     `json:"port,omitempty"`         // option 82.1: the switch port, as the relay calls it
	Switch      string     `json:"switch,omitempty"`       // option 82.2
	VendorClass string     `json:"vendor_class,omitempty"` // option 60
	Client      string     `json:"client,omitempty"`       // what that means, in words
	Hostname    string     `json:"hostname,omitempty"`     // option 12
	UUID        string     `json:"uuid,omitempty"`         // option 97: may be wrong
	First       time.Time  `json:"first"`
	Last        time.Time  `json:"last"`
	BMC         *BMCFacts  `json:"bmc,omitempty"`
}

// Name is the name of s's timeline.
func (s Sighting) Name() string {
	if s.MAC.IsZero() {
		return "bmc-" + strings.ReplaceAll(s.Addr.String(), ".", "-")
	}
	return NameOf(s.MAC)
}

// BMCFacts are what a BMC tells without a login.
type BMCFacts struct {
	Vendor      string `json:"vendor,omitempty"`
	Model       string `json:"model,omitempty"`    // of the machine or of the BMC, as it calls it
	Serial      string `json:"serial,omitempty"`   // of the machine
	Firmware    string `json:"firmware,omitempty"` // of the BMC
	UUID        string `json:"uuid,omitempty"`
	Redfish     string `json:"redfish,omitempty"`     // its version; "" = it does not speak it
	IPMI        bool   `json:"ipmi,omitempty"`        // it answered an RMCP presence ping
	Plain       bool   `json:"plain,omitempty"`       // Redfish without TLS
	Fingerprint string `json:"fingerprint,omitempty"` // SHA-256 of its certificate
	Certificate string `json:"certificate,omitempty"` // its subject
}

// DiscoveredState is how far what was seen has come.
type DiscoveredState string

// States of what was discovered.
const (
	Seen           DiscoveredState = "seen"       // it asked for an address, or answered
	Inspecting     DiscoveredState = "inspecting" // the agent was given to it
	WasInspected   DiscoveredState = "inspected"
	InspectFailed  DiscoveredState = "failed"
	IgnoredBySite  DiscoveredState = "ignored"
	EnrolledInSite DiscoveredState = "enrolled" // the site has it now
)

// Discovery is a machine or a BMC that was seen, with all that is known of it:
// its sightings, one for each port that asked, and its inventory.
type Discovery struct {
	Name      string          `json:"name"` // of its timeline; of the machine when the site has it
	Sort      Sort            `json:"sort"`
	State     DiscoveredState `json:"state"`
	Reason    string          `json:"reason,omitempty"`
	Sightings []Sighting      `json:"sightings"` // the first to be seen first
	First     time.Time       `json:"first"`
	Last      time.Time       `json:"last"`

	Serial   string           `json:"serial,omitempty"`
	Vendor   string           `json:"vendor,omitempty"`
	Model    string           `json:"model,omitempty"`
	UUID     string           `json:"uuid,omitempty"`
	Firmware string           `json:"firmware,omitempty"` // "bios", "uefi"; of a BMC its version
	Arch     string           `json:"arch,omitempty"`     // "amd64", "arm64"
	CPUModel string           `json:"cpu_model,omitempty"`
	CPUs     int              `json:"cpus,omitempty"`
	Memory   int64            `json:"memory,omitempty"`
	NICs     []DiscoveredNIC  `json:"nics,omitempty"`
	Disks    []DiscoveredDisk `json:"disks,omitempty"`
	GPUs     []DiscoveredGPU  `json:"gpus,omitempty"`
	// BMC is that of a machine as its IPMI driver tells, joined with what the
	// BMC's own sighting says.
	BMC *DiscoveredBMC `json:"bmc,omitempty"`
}

// DiscoveredNIC is a port of a machine.
type DiscoveredNIC struct {
	MAC     site.MAC `json:"mac"`
	Network string   `json:"network,omitempty"` // that it asked on
	Port    string   `json:"port,omitempty"`    // of the switch, where a relay told
	Link    bool     `json:"link"`
	Mbps    int      `json:"mbps,omitempty"`
	Boot    bool     `json:"boot,omitempty"` // it network-booted
}

// DiscoveredDisk is a disk of a machine.
type DiscoveredDisk struct {
	Serial     string `json:"serial"`
	Model      string `json:"model,omitempty"`
	Bytes      int64  `json:"bytes"`
	SectorSize int    `json:"sector_size,omitempty"` // bytes of a logical sector
	Transport  string `json:"transport,omitempty"`
	Removable  bool   `json:"removable,omitempty"`
}

// DiscoveredGPU is a group of like GPUs.
type DiscoveredGPU struct {
	PCI   string `json:"pci"`
	Model string `json:"model,omitempty"`
	Count int    `json:"count"`
}

// DiscoveredBMC is a BMC: where it is and what it tells without a login.
type DiscoveredBMC struct {
	Addr    netip.Addr `json:"addr,omitzero"`
	MAC     site.MAC   `json:"mac,omitzero"`
	Network string     `json:"network,omitempty"`
	BMCFacts
}

// Scan names what a search for BMCs looks at.
type Scan struct {
	Prefixes []netip.Prefix `json:"prefixes"`
	Parallel int            `json:"parallel,omitempty"` // addresses at once
	Rate     int            `json:"rate,omitempty"`     // addresses begun in a second
	// Timeout is how long one address may take, in milliseconds.
	Timeout int `json:"timeout_ms,omitempty"`
	// SSDP asks the networks of BMCs who has Redfish there, and then only those
	// that answer.
	SSDP bool `json:"ssdp,omitempty"`
}

// ScanStep is a step of a scan: progress, and a BMC if one was found.
type ScanStep struct {
	Done  int        `json:"done"`
	Total int        `json:"total"`
	Found *Discovery `json:"found,omitempty"`
}

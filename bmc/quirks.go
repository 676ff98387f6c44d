package bmc

import (
	"regexp"
	"strings"
)

// What BMCs do otherwise than the schemas say, each with where it was seen.

// isDell: iDRAC's IndicatorLED is Blinking for identify and Lit at rest; it
// knows no Off. Observed: ../shared/bmc-trees/dell, System.Embedded.1 reads
// Lit although nobody asked for it.
func isDell(vendor string) bool { return strings.HasPrefix(strings.ToLower(vendor), "dell") }

// lit tells whether the identify light is on.
func lit(indicator, vendor string) bool {
	return indicator == "Blinking" || indicator == "Lit" && !isDell(vendor)
}

// indicatorFor is the value that switches the light.
func indicatorFor(on bool, vendor string) string {
	switch {
	case on:
		return "Blinking"
	case isDell(vendor):
		return "Lit"
	}
	return "Off"
}

// resetTimeFollowsRestart: OpenBMC's bmcweb takes LastResetTime from the
// chassis state, which a warm restart of the host does not change
// (redfish-core, systems.hpp, LastStateChangeTime of the chassis).
func resetTimeFollowsRestart(managerModel string) bool {
	return !strings.Contains(strings.ToLower(managerModel), "openbmc")
}

// toManager tells that an interface of the host leads to its own BMC, over USB
// inside the machine. Observed: ../shared/bmc-trees/lenovo,
// Systems/1/EthernetInterfaces/ToManager; AMI and Supermicro call it ToHost,
// Host Interface, or by its USB.
func toManager(id, words string) bool {
	return id == "ToManager" || innerPort.MatchString(id) || innerPort.MatchString(words)
}

var innerPort = regexp.MustCompile(`(?i)^tohost|\busb\d*\b|host interface|ethernet over usb|rndis|usbnet`)

// registryPlaces are where BMCs keep the registry of their BIOS attributes when
// their Registries do not lead to it: iDRAC 6.00 below Bios, XCC (SR670 V2)
// among its schemas; both seen in the crawled trees.
func registryPlaces(biosPath, name string) []string {
	return []string{biosPath + "/BiosRegistry", "/redfish/v1/schemas/registries/" + name + ".json"}
}

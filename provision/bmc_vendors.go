package provision

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
)

// bmcVendorsFile says how BMCs of each vendor are told from others, and with
// which user and password they leave the factory, each with its source.
//
//go:embed bmc_vendors.json
var bmcVendorsFile []byte

// vendor is one entry of it.
type vendor struct {
	Vendor  string   `json:"vendor"`
	Aliases []string `json:"aliases,omitempty"` // other spellings in ServiceRoot.Vendor, Manufacturer, certificates
	// Classes are beginnings of DHCP option 60 that only its BMCs send.
	Classes []string `json:"classes,omitempty"`
	// OUIs are MAC prefixes of the vendor; its NICs have them too, so that they
	// name the vendor of what is known to be a BMC, and never make one of it.
	OUIs string   `json:"ouis,omitempty"` // "aa:bb:cc aa:bb:cd"
	IANA []uint32 `json:"iana,omitempty"` // enterprise numbers in IPMI
	// Factory is the user and password that every one leaves the factory with;
	// nil where each has its own, on a label.
	Factory *factory `json:"factory,omitempty"`
	Note    string   `json:"note,omitempty"`
	Sources []string `json:"sources"`
}

type factory struct {
	User     string       `json:"user"`
	Password bmc.Password `json:"-"`
	Known    string       `json:"password"` // public: it is in the vendor's manual
}

// vendors parses the table once: it never changes.
var vendors = sync.OnceValues(func() ([]vendor, error) {
	var out []vendor
	if err := json.Unmarshal(bmcVendorsFile, &out); err != nil {
		return nil, fmt.Errorf("bmc_vendors.json: %w", err)
	}
	for i := range out {
		if f := out[i].Factory; f != nil {
			f.Password = bmc.Password(f.Known)
		}
	}
	return out, nil
})

// bmcVendor names the vendor of a BMC by the vendor class that it sends, or,
// failing that, by its MAC address. sure: only a BMC sends that class.
func bmcVendor(class string, mac site.MAC) (name string, sure bool) {
	all, err := vendors()
	if err != nil {
		return "", false // a test parses the table
	}
	for _, v := range all {
		for _, c := range v.Classes {
			if class != "" && len(class) >= len(c) && strings.EqualFold(class[:len(c)], c) {
				return v.Vendor, true
			}
		}
	}
	prefix := mac.String()[:8]
	for _, v := range all {
		if strings.Contains(v.OUIs, prefix) {
			return v.Vendor, false
		}
	}
	return "", false
}

// vendorOf finds a vendor by a name that a BMC gives.
func vendorOf(name string) (vendor, bool) {
	all, err := vendors()
	if err != nil || name == "" {
		return vendor{}, false
	}
	for _, v := range all {
		for _, n := range append([]string{v.Vendor}, v.Aliases...) {
			if strings.EqualFold(n, name) || strings.HasPrefix(strings.ToLower(name), strings.ToLower(n)+" ") {
				return v, true
			}
		}
	}
	return vendor{}, false
}

// FactoryLogin is the user and password with which every BMC of a vendor
// leaves the factory; ok is false where each has its own, and where the vendor
// is not known: then a person must say it.
func FactoryLogin(vendorName string) (user string, pw bmc.Password, ok bool) {
	v, known := vendorOf(vendorName)
	if !known || v.Factory == nil {
		return "", "", false
	}
	return v.Factory.User, v.Factory.Password, true
}

package papers

import (
	"bytes"
	"crypto/sha1"
	"fmt"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"github.com/fettle-dev/fettle/airgap"
)

// CycloneDX is the list of components as CycloneDX 1.6 in JSON.
func CycloneDX(c airgap.Carried, all []Component, tool string) ([]byte, error) {
	bom := cdx.NewBOM()
	bom.SerialNumber = "urn:uuid:" + uuid5("fettle snapshot "+string(c.Bundle.Snapshot.SHA256))
	name, version, _ := strings.Cut(tool, "-")
	bom.Metadata = &cdx.Metadata{
		Timestamp: c.Snapshot.Created.UTC().Format("2006-01-02T15:04:05Z"),
		Tools:     &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: name, Version: version}}},
		Component: &cdx.Component{BOMRef: "snapshot", Type: cdx.ComponentTypePlatform, Name: c.Bundle.Site, Version: c.Snapshot.Name},
	}
	var out []cdx.Component
	refs := map[string]string{}
	for i, x := range all {
		kind := cdx.ComponentTypeLibrary
		switch {
		case x.Format == "oci" || x.Format == "helm":
			kind = cdx.ComponentTypeContainer
		case x.Kind == airgap.KindFile:
			kind = cdx.ComponentTypeFile
		}
		props := []cdx.Property{{Name: "fettle:mirror", Value: x.Mirror}, {Name: "fettle:bytes", Value: fmt.Sprint(x.Size)}, {Name: "fettle:inThisBundle", Value: fmt.Sprint(x.New)}}
		if x.Why != "" {
			props = append(props, cdx.Property{Name: "fettle:why", Value: x.Why})
		}
		p := cdx.Component{BOMRef: fmt.Sprintf("component-%d", i+1), Type: kind, Name: x.Name, Version: x.Version, PackageURL: x.PURL,
			Hashes:             &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: x.SHA256.Hex()}},
			ExternalReferences: &[]cdx.ExternalReference{{Type: cdx.ERTypeDistribution, URL: x.URL}},
			Properties:         &props}
		if ids := licenceIDs(x.Licences, refs); len(ids) > 0 {
			var ls cdx.Licenses
			for _, id := range ids {
				if named, ok := refs[id]; ok {
					ls = append(ls, cdx.LicenseChoice{License: &cdx.License{Name: named}})
				} else {
					ls = append(ls, cdx.LicenseChoice{License: &cdx.License{ID: id}})
				}
			}
			if slices.ContainsFunc(ids, func(id string) bool { return strings.Contains(id, " ") }) {
				ls = cdx.Licenses{{Expression: expression(ids)}} // it may stand only alone
			}
			p.Licenses = &ls
		}
		out = append(out, p)
	}
	bom.Components = &out
	var b bytes.Buffer
	enc := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON)
	enc.SetPretty(true)
	enc.SetEscapeHTML(false)
	if err := enc.EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return nil, fmt.Errorf("writing CycloneDX: %w", err)
	}
	return b.Bytes(), nil
}

// uuid5 is a UUID of a name: RFC 9562 §5.5, in a name space of our own.
func uuid5(name string) string {
	h := sha1.Sum(append([]byte("fettle.airgap.v1"), name...)) //nolint:gosec // a name, not a secret
	h[6], h[8] = h[6]&0x0f|0x50, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

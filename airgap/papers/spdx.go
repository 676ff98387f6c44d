package papers

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/fettle-dev/fettle/airgap"
)

// SPDX is the list of components as SPDX 2.3 in JSON.
func SPDX(c airgap.Carried, all []Component, tool string) ([]byte, error) {
	const none = "NOASSERTION"
	title := fmt.Sprintf("%s %s", c.Bundle.Site, c.Snapshot.Name)
	doc := v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: title,
		DocumentNamespace: "https://spdx.org/spdxdocs/fettle-" + c.Bundle.Snapshot.SHA256.Hex(),
		CreationInfo: &v2_3.CreationInfo{Created: c.Snapshot.Created.UTC().Format("2006-01-02T15:04:05Z"),
			Creators: []common.Creator{{CreatorType: "Tool", Creator: tool}}},
	}
	root := &v2_3.Package{PackageName: title, PackageSPDXIdentifier: "Snapshot", PackageVersion: c.Snapshot.Name, PackageDownloadLocation: none,
		PackageLicenseConcluded: none, PackageLicenseDeclared: none, PackageCopyrightText: none, PrimaryPackagePurpose: "OTHER"}
	doc.Packages = append(doc.Packages, root)
	relate := func(a common.ElementID, b common.ElementID, how string) {
		doc.Relationships = append(doc.Relationships, &v2_3.Relationship{RefA: common.DocElementID{ElementRefID: a}, RefB: common.DocElementID{ElementRefID: b}, Relationship: how})
	}
	relate("DOCUMENT", "Snapshot", common.TypeRelationshipDescribe)
	refs := map[string]string{}
	for i, x := range all {
		id := common.ElementID(fmt.Sprintf("Package-%d", i+1))
		p := &v2_3.Package{PackageName: x.Name, PackageSPDXIdentifier: id, PackageVersion: x.Version, PackageDownloadLocation: x.URL,
			PackageChecksums:        []common.Checksum{{Algorithm: common.SHA256, Value: x.SHA256.Hex()}},
			PackageLicenseConcluded: none, PackageLicenseDeclared: none, PackageCopyrightText: none, PackageComment: "mirror " + x.Mirror,
			PackageExternalReferences: []*v2_3.PackageExternalReference{{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: x.PURL}}}
		if ids := licenceIDs(x.Licences, refs); len(ids) > 0 {
			p.PackageLicenseDeclared = expression(ids)
		}
		doc.Packages = append(doc.Packages, p)
		relate("Snapshot", id, common.TypeRelationshipContains)
	}
	for _, id := range slices.Sorted(maps.Keys(refs)) {
		doc.OtherLicenses = append(doc.OtherLicenses, &v2_3.OtherLicense{LicenseIdentifier: id, LicenseName: refs[id],
			ExtractedText: "The package's metadata names this licence: " + refs[id]})
	}
	var b bytes.Buffer
	if err := json.Write(doc, &b, json.Indent(" ")); err != nil {
		return nil, fmt.Errorf("writing SPDX: %w", err)
	}
	return b.Bytes(), nil
}

package rpm

import (
	"encoding/xml"
	"fmt"
	"io"
)

// group is a group of comps, or an environment, which is a group of groups.
type group struct {
	packages []string // mandatory and default ones
	groups   []string
}

// parseComps reads the groups of a repository by their ids; environments have
// "^" before theirs, as dnf writes them.
func parseComps(r io.Reader) (map[string]group, error) {
	var doc struct {
		Groups []struct {
			ID       string `xml:"id"`
			Packages []struct {
				Type string `xml:"type,attr"`
				Name string `xml:",chardata"`
			} `xml:"packagelist>packagereq"`
		} `xml:"group"`
		Environments []struct {
			ID     string   `xml:"id"`
			Groups []string `xml:"grouplist>groupid"`
		} `xml:"environment"`
	}
	if err := xml.NewDecoder(r).Decode(&doc); err != nil {
		return nil, fmt.Errorf("reading groups: %w", err)
	}
	out := map[string]group{}
	for _, g := range doc.Groups {
		x := out[g.ID]
		for _, p := range g.Packages {
			if p.Type != "optional" && p.Type != "conditional" {
				x.packages = append(x.packages, p.Name)
			}
		}
		out[g.ID] = x
	}
	for _, e := range doc.Environments {
		out["^"+e.ID] = group{groups: e.Groups}
	}
	return out, nil
}

package labs

import (
	"context"
	"time"

	"github.com/fettle-dev/fettle/site"
)

// Check finds, before anything is made, what this machine lacks for a lab: it
// looks for a libvirt daemon that answers at o.URI, and for QEMU.
func Check(ctx context.Context, o Options) error {
	if o.URI == "" {
		o.URI = DefaultURI()
	}
	var r realization
	if err := r.findTools(ctx, &Plan{Machines: []MachinePlan{{}}}); err != nil {
		return err
	}
	hv, err := dial(ctx, o.URI)
	if err != nil {
		return err
	}
	return hv.close()
}

// Claim makes o.Dir the lab's folder, or finds that it is already, so that a
// lab's options and keys can be kept in it before the lab is opened.
func Claim(o Options, now time.Time) error {
	if err := checkName(o.Name); err != nil {
		return err
	}
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	return folder(o.Dir).claim(o.Name, o.URI, now)
}

// labUser is the account that a lab adds when a profile has none that may log
// in.
const labUser = "fettle"

// LoginUser is the account of a profile's installed system that a lab's own
// key opens: the first that may become root, else the first, else the lab's.
func LoginUser(p site.Profile) string {
	for _, u := range p.Users {
		if u.Sudo {
			return u.Name
		}
	}
	if len(p.Users) > 0 {
		return p.Users[0].Name
	}
	return labUser
}

// addSSHKey lets a key log in to every machine of a lab.
func addSSHKey(s *site.Site, key string) {
	for i := range s.Profiles {
		p := &s.Profiles[i]
		name := LoginUser(*p)
		if len(p.Users) == 0 {
			p.Users = []site.User{{Name: name, Sudo: true}}
		}
		for j := range p.Users {
			if p.Users[j].Name == name {
				p.Users[j].SSHKeys = append(p.Users[j].SSHKeys, key)
			}
		}
	}
}

// Package apt mirrors Debian archives: https://wiki.debian.org/DebianRepository/Format.
//
// A source is one suite of one archive. Its Release is signed and names the
// indexes (Packages) by digest, which name the packages by digest. A mirror is
// whole, and served as upstream made it, or filtered: the packages that the
// site names with everything that they depend on, under a Release of the
// site's own, signed with a key that is derived from the site key.
package apt

// Format is airgap.Format for apt.
type Format struct {
	// Etc is apt's configuration folder, for mirrors without URLs; "": /etc/apt.
	Etc string
	// Dir is what keyrings of mirrors are relative to.
	Dir string
}

// Name implements airgap.Format.
func (*Format) Name() string { return "apt" }

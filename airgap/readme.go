package airgap

import (
	"bytes"
	"encoding/base64"
	"fmt"
)

// readme says how to verify a bundle with nothing but the site's public key
// and the tools of any Linux. A test runs its commands.
func readme(key PublicKey, b Bundle, o CreateOptions) []byte {
	var w bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&w, format+"\n", args...) }
	line("This is a fettle bundle: packages for a site behind a gap.")
	line("")
	line("site      %s", b.Site)
	line("snapshot  %s (serial %d, %s)", b.Snapshot.Name, b.Serial, b.Created.Format("2006-01-02 15:04:05 UTC"))
	if b.Base == nil {
		line("base      none: the bundle is full")
	} else {
		line("base      %s: the other side must have it", b.Base.Name)
	}
	line("volumes   %d", len(b.Volumes))
	if b.Parity != nil {
		line("parity    %d: so many volumes may be lost or damaged", len(b.Parity.Files))
	}
	if b.Encrypted() {
		line("encrypted to")
		for _, r := range b.Recipients {
			line("          %s", r)
		}
	}
	line("")
	line("TRUST NOTHING ON THIS MEDIUM YET, this file included. You need the site's public")
	line("key from another way than this medium, as fettle bundle key printed it:")
	line("")
	line("  fettle-public-key-1:...                       (key id %s, if it is the right one)", key.ID())
	line("")
	line("1. Make the key readable for openssl: put what stands behind the colon for KEY.")
	line("")
	line("     KEY=%s", base64.StdEncoding.EncodeToString(make([]byte, 32)))
	line(`     { printf '\060\052\060\005\006\003\053\145\160\003\041\000'; echo "$KEY" | base64 -d; } > /tmp/site.der`)
	line("")
	line("2. Is the list of files the site's own? It must say: Signature Verified Successfully")
	line("")
	line("     openssl pkeyutl -verify -rawin -pubin -keyform DER -inkey /tmp/site.der -in SHA256SUMS -sigfile SHA256SUMS.sig")
	line("")
	line("   openssl 3 or newer. The signature is ed25519 (RFC 8032) over the file as it is.")
	if o.Cosign {
		line("   Or: openssl pkey -pubin -inform DER -in /tmp/site.der -out /tmp/site.pub")
		line("       cosign verify-blob --insecure-ignore-tlog --key /tmp/site.pub --signature SHA256SUMS.cosign SHA256SUMS")
	}
	if o.Sign["SHA256SUMS.asc"] != nil {
		line("   Or, with what fettle bundle key --openpgp printed, through gpg --dearmor, in /tmp/site.gpg:")
		line("       gpgv --keyring /tmp/site.gpg SHA256SUMS.asc SHA256SUMS")
	}
	line("")
	line("3. Are the files those of the list? On a medium with only some volumes this looks")
	line("   at those that are there.")
	line("")
	line("     sha256sum --check --ignore-missing SHA256SUMS")
	line("")
	line("4. Now the program of this medium may be trusted, and does the rest. Never run it")
	line("   before steps 2 and 3.")
	line("")
	name := "fettle"
	if len(b.Programs) > 0 {
		name = "./" + b.Programs[0].File
	}
	identity := ""
	if b.Encrypted() {
		identity = " --identity FILE"
	}
	line("     %s bundle verify . --public-key fettle-public-key-1:...%s", name, identity)
	line("     %s bundle import . --public-key fettle-public-key-1:...%s", name, identity)
	line("     %s mirror serve", name)
	line("")
	line("A volume that cannot be read: run the same command on the folders of all media that")
	line("you have; it says which volumes it needs.")
	return w.Bytes()
}

package bmc

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// redaction replaces what tells one machine from another.
type redaction struct {
	key    []byte
	secret map[string]string // value to its replacement, in all its notations
	values int               // distinct ones
	words  *strings.Replacer // made when everything was collected
}

func newRedaction(key []byte) *redaction { return &redaction{key: key, secret: map[string]string{}} }

// secretNames are properties whose values identify a machine, a place or a
// person. Of names with dots (iDRAC's attributes: NIC.1.DNSRacName) the last part
// counts.
var secretNames = regexp.MustCompile(`(?i)^(.*serialnumber|serial|serialno|.*uuid|.*guids?|(permanent|associated)?(mac|network)_?address(es)?|.*mac_?address(es)?|.*servicetag|expressservicecode|nodeid|.*assettag|` +
	`.*hostname|fqdn|.*racname|.*domainname|.*searchdomains?|servername|systemname|chassisname|username|` +
	`.*certificatestring|destination|ntpservers|nameservers|staticnameservers|.*ntp\d?server.*|.*syslogservers?|smtpserver.*|serviceaddresses|wwn|wwpn|wwnn|.*worldwidename|address|gateway|.*ipaddress|.*ipv[46]address|clientoriginipaddress|` +
	`.*email.*|.*phone.*|contactperson|.*contact(info)?|adminname|adminotherinfo|serverotherinfo|sku|evgroupid|systemid|rack|rackname|room|roomname|building|street|city|postalcode|datacenter(name)?|aisle|aislename|` +
	`binddn|basedn|.*searchbase.*|userdomain|remotegroup|remoteuser|commonname|organization|organizationalunit|entitlementid|fingerprint|.*thumbprint)$`)

// emptied are properties whose values nobody may see and nobody needs: passwords,
// keys, licences.
var emptied = regexp.MustCompile(`(?i)(password|passphrase|passwd|passcode|secret|community(string|name)?|licen[sc]e(key|string|text)|activationkey|(private|public|ssh|api|auth|priv|authentication|encryption|v3)key|token)$`)

// notSecret are values that say nothing, or that clients depend on: fillers, and
// the users that makers give every BMC.
var notSecret = map[string]bool{"": true, "n/a": true, "na": true, "none": true, "unknown": true, "null": true, "not specified": true, "default string": true,
	"to be filled by o.e.m.": true, "0.0.0.0": true, "::": true, "127.0.0.1": true, "00:00:00:00:00:00": true, "not available": true, "not present": true, "empty": true,
	"root": true, "admin": true, "administrator": true, "operator": true, "user": true, "userid": true, "readonly": true, "anonymous": true, "system": true, "self": true, "localhost": true, "enabled": true, "disabled": true}

var (
	macText   = regexp.MustCompile(`^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$`)
	macBare   = regexp.MustCompile(`^[0-9A-Fa-f]{12}$`)
	macWithin = regexp.MustCompile(`\b([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b`)
	uuidText  = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	ipWithin  = regexp.MustCompile(`\b\d{1,3}(\.\d{1,3}){3}\b`)
	pciText   = regexp.MustCompile(`(?i)^(0x[0-9a-f]+|([0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])$`)
	// addressName is a property that may hold an address.
	addressName = regexp.MustCompile(`(?i)addr|ip|host|server|gateway|dns|ntp|origin|dest|client|peer|args|target|from|router`)

	userInfo = regexp.MustCompile(`://[^/?#\s"'<>]*@`) // up to the last @: a password may have one
)

// last is the part of a property's name that tells what it is.
func last(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// collect notes the secrets of a resource. name is the property it stands in.
func (r *redaction) collect(name string, v any) {
	switch x := v.(type) {
	case map[string]any:
		for k, y := range x {
			r.collect(k, y)
		}
	case []any:
		for _, y := range x {
			r.collect(name, y)
		}
	case string:
		if notSecret[strings.ToLower(x)] || strings.HasPrefix(x, "/redfish") {
			return
		}
		ip, ipErr := netip.ParseAddr(x)
		// 222.0.2.1 is a version too, in whatever property.
		address := ipErr == nil && (strings.Contains(x, ":") || ip.IsPrivate() || ip.IsLinkLocalUnicast() || addressName.MatchString(name)) &&
			!strings.HasPrefix(x, "255.") && !isVersion(name)
		switch {
		case macText.MatchString(x), macBare.MatchString(x) && strings.Contains(strings.ToLower(name), "address"):
			r.noteMAC(x)
		case strings.EqualFold(last(name), "address") && pciText.MatchString(x):
		case secretNames.MatchString(last(name)) || address:
			r.note(x)
		default:
			for _, m := range macWithin.FindAllString(x, -1) {
				r.noteMAC(m)
			}
			for _, a := range ipWithin.FindAllString(x, -1) {
				if ip, err := netip.ParseAddr(a); err == nil && !isVersion(name) && (ip.IsPrivate() || strings.Contains(x, "://"+a)) {
					r.note(a)
				}
			}
		}
	}
}

// note keeps a value with what replaces it; a UUID in its other notations too.
func (r *redaction) note(x string) {
	if _, ok := r.secret[x]; ok {
		return
	}
	to := r.replacement(x)
	r.secret[x] = to
	r.values++
	if uuidText.MatchString(x) {
		for _, change := range []func(string) string{strings.ToLower, strings.ToUpper} {
			for _, cut := range []string{"-", "\n"} {
				r.other(strings.ReplaceAll(change(x), cut, ""), strings.ReplaceAll(change(to), cut, ""))
			}
		}
	}
}

// noteMAC keeps an Ethernet address in all notations: a boot option has it
// without separators, a GUID is made of it.
func (r *redaction) noteMAC(x string) {
	plain := strings.ToLower(strings.NewReplacer(":", "", "-", "").Replace(x))
	if strings.Trim(plain, "0") == "" || strings.Trim(plain, "f") == "" {
		return
	}
	if _, ok := r.secret[plain]; ok {
		return
	}
	to := strings.ToLower(strings.ReplaceAll(r.replacement(spaced(plain, ":")), ":", ""))
	r.values++
	for _, change := range []func(string) string{strings.ToLower, strings.ToUpper} {
		for _, sep := range []string{"", ":", "-"} {
			r.other(change(spaced(plain, sep)), change(spaced(to, sep)))
		}
	}
}

func (r *redaction) other(x, to string) {
	if _, ok := r.secret[x]; !ok {
		r.secret[x] = to
	}
}

// spaced writes twelve hex digits with a separator between the bytes.
func spaced(plain, sep string) string {
	var b []string
	for i := 0; i+2 <= len(plain); i += 2 {
		b = append(b, plain[i:i+2])
	}
	return strings.Join(b, sep)
}

// isVersion: 1.2.3.4 may be a firmware's version, not an address.
func isVersion(name string) bool { return strings.Contains(strings.ToLower(name), "version") }

// replacement is something of the same form, by the key.
func (r *redaction) replacement(s string) string {
	h := hmac.New(sha256.New, r.key)
	h.Write([]byte(strings.ToLower(s)))
	sum := h.Sum(nil)
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Is4() {
			return netip.AddrFrom4([4]byte{192, 0, 2, 1 + sum[0]%254}).String() // RFC 5737
		}
		b := [16]byte{0x20, 0x01, 0x0d, 0xb8} // RFC 3849
		copy(b[8:], sum[:8])
		return netip.AddrFrom16(b).String()
	}
	if macText.MatchString(s) {
		sum[0] = 0x02 // locally administered
		out := []byte(s)
		digits := hex.EncodeToString(sum)
		n := 0
		for i := range out {
			if out[i] != ':' && out[i] != '-' {
				out[i] = digits[n]
				n++
			}
		}
		if s == strings.ToUpper(s) {
			return strings.ToUpper(string(out))
		}
		return string(out)
	}
	isHex := uuidText.MatchString(s)
	out := []byte(s)
	for i, c := range out {
		b := sum[i%len(sum)] + byte(i/len(sum))
		switch {
		case c >= '0' && c <= '9':
			out[i] = '0' + b%10
		case isHex && c >= 'a' && c <= 'f', isHex && c >= 'A' && c <= 'F':
			out[i] = c - (c | 0x20 - 'a') + b%6
		case c >= 'a' && c <= 'z':
			out[i] = 'a' + b%26
		case c >= 'A' && c <= 'Z':
			out[i] = 'A' + b%26
		}
	}
	return string(out)
}

// telling tells that a value is no word that may stand anywhere: what is named 1
// or rack must not change every 1 and every rack.
func telling(s string) bool { return len(s) >= 6 && strings.ContainsAny(s, "0123456789-.") }

// text replaces the secrets that stand within other text: names, messages and
// URIs. Those that are no telling values are replaced only in the properties
// that they come from, and as arguments of messages.
func (r *redaction) text(s string) string {
	if r.words == nil {
		var pairs []string
		var long []string
		for k := range r.secret {
			if telling(k) {
				long = append(long, k)
			}
		}
		// The longest first: one may be within another.
		slices.SortFunc(long, func(a, b string) int {
			if len(a) != len(b) {
				return len(b) - len(a)
			}
			return strings.Compare(a, b)
		})
		for _, k := range long {
			pairs = append(pairs, k, r.secret[k])
		}
		r.words = strings.NewReplacer(pairs...)
	}
	return userInfo.ReplaceAllString(r.words.Replace(s), "://")
}

// apply is a copy of a resource without its secrets.
func (r *redaction) apply(name string, v any) any {
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, y := range x {
			out[r.text(k)] = r.apply(k, y) // XCC's BIOS settings have MACs in their names
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, y := range x {
			out[i] = r.apply(name, y)
		}
		return out
	case string:
		if strings.Contains(x, "-----BEGIN ") || emptied.MatchString(last(name)) {
			return ""
		}
		if to, ok := r.secret[x]; ok && (secretNames.MatchString(last(name)) || last(name) == "MessageArgs") {
			return to
		}
		return r.text(x)
	case json.Number:
		if secretNames.MatchString(last(name)) && len(x) > 4 {
			return json.Number("0")
		}
	}
	return v
}

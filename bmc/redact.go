package bmc

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// redaction replaces what tells one machine from another.
type redaction struct {
	key    []byte
	secret map[string]string // value to its replacement
	words  *strings.Replacer // made when everything was collected
}

func newRedaction(key []byte) *redaction { return &redaction{key: key, secret: map[string]string{}} }

// secretNames are properties whose values identify a machine or a person.
var secretNames = regexp.MustCompile(`(?i)^(.*serialnumber|serial|.*uuid|.*guid|(permanent)?mac_?address(es)?|.*servicetag|expressservicecode|nodeid|assettag|hostname|fqdn|username|` +
	`password|.*certificatestring|destination|ntpservers|nameservers|staticnameservers|wwn|wwpn|wwnn|.*worldwidename|address|gateway|.*ipaddress|clientoriginipaddress|email.*|phone.*|` +
	`contactperson|contact|sku|evgroupid|systemid|rack|rackname|room|building|street|city|postalcode|datacenter|aisle)$`)

// notSecret are values that say nothing, or that clients depend on.
var notSecret = map[string]bool{"": true, "n/a": true, "na": true, "none": true, "unknown": true, "null": true, "not specified": true, "default string": true,
	"to be filled by o.e.m.": true, "0.0.0.0": true, "::": true, "127.0.0.1": true, "00:00:00:00:00:00": true}

var (
	macText  = regexp.MustCompile(`^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$`)
	uuidText = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
)

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
		_, ipErr := netip.ParseAddr(x)
		if notSecret[strings.ToLower(x)] || strings.HasPrefix(x, "/redfish") {
			return
		}
		if secretNames.MatchString(name) || macText.MatchString(x) || ipErr == nil && strings.ContainsAny(x, ".:") && !strings.HasPrefix(x, "255.") && !isVersion(name) {
			r.secret[x] = r.replacement(x)
		}
	}
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

// text replaces the secrets that stand within other text: names, messages and
// URIs. Short ones are replaced only where they stand alone.
func (r *redaction) text(s string) string {
	if t, ok := r.secret[s]; ok {
		return t
	}
	if r.words == nil {
		var pairs []string
		var long []string
		for k := range r.secret {
			if len(k) >= 6 && strings.ContainsAny(k, "0123456789") {
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
	return r.words.Replace(s)
}

// apply is a copy of a resource without its secrets.
func (r *redaction) apply(name string, v any) any {
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, y := range x {
			out[k] = r.apply(k, y)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, y := range x {
			out[i] = r.apply(name, y)
		}
		return out
	case string:
		if strings.Contains(x, "-----BEGIN ") {
			return ""
		}
		return r.text(x)
	}
	return v
}

package site

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

// matching is text of at most n characters that must match a pattern; JSON
// Schema knows both.
func matching(name, pattern string, n int, want string) *scalar {
	re := regexp.MustCompile(pattern)
	return word(name, func(s string) (string, error) {
		if !re.MatchString(s) || utf8.RuneCountInString(s) > n {
			return "", fmt.Errorf("%q is not a %s; %s", s, name, want)
		}
		return s, nil
	}, func(s string) string { return s }, map[string]any{"pattern": pattern, "maxLength": n})
}

// kindURL is a web address. One with a password is refused, and not repeated:
// site files are in git.
func kindURL() *scalar {
	k := matching("address", `^https?://[^\s/?#@]+(/\S*)?$`, 1024, "write an http or https address")
	parse := k.parse
	k.parse = func(s string) (reflect.Value, error) {
		if host, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://"), "/"); strings.Contains(host, "@") {
			return reflect.Value{}, errors.New("it has a user or password in it; take that out, and name a secret that has it with secret:")
		}
		return parse(s)
	}
	return k
}

// numeric lets a bare number stand for its own text: serial: 12345.
func numeric(k *scalar) *scalar {
	k.numbers = true
	return k
}

func kindText(name string) *scalar {
	return matching(name, `^[^\x00-\x1f\x7f]+$`, 256, "write at most 256 characters on one line")
}

// RFC 1123 section 2.1: a label is letters, digits and inner hyphens, at most
// 63; fettle wants lower case so that names compare as they read.
func kindName() *scalar {
	return matching("name", `^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`, 63, "use lower-case letters, digits and inner hyphens, at most 63 (RFC 1123)")
}

func kindReference(to string) *scalar {
	k := kindName()
	k.name = "name of a " + to
	return k
}

func kindDomain() *scalar {
	k := matching("DNS domain", `^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`, 253,
		"use lower-case labels joined by dots, such as dc1.example.org, without a dot at the end")
	whole := k.parse
	k.parse = func(s string) (reflect.Value, error) {
		for label := range strings.SplitSeq(s, ".") {
			if len(label) > 63 { // RFC 1035 section 2.3.4
				return reflect.Value{}, fmt.Errorf("%q has a label of more than 63 characters; shorten it", s)
			}
		}
		return whole(s)
	}
	return k
}

func kindMAC() *scalar {
	return word("MAC address", func(s string) (MAC, error) {
		m, err := ParseMAC(s)
		if err == nil && (m.IsZero() || m[0]&1 == 1) {
			err = fmt.Errorf("%s is not the address of one port (all zero, broadcast or multicast); read it from the label or the BMC", s)
		}
		return m, err
	}, MAC.String, map[string]any{"pattern": `^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$`})
}

func kindAddr() *scalar {
	return word("IPv4 address", func(s string) (netip.Addr, error) {
		a, err := netip.ParseAddr(s)
		if err != nil || !a.Is4() {
			return a, fmt.Errorf("%q is not an IPv4 address; write four numbers, such as 10.0.0.11", s)
		}
		return a, nil
	}, netip.Addr.String, map[string]any{"pattern": `^[0-9]{1,3}(\.[0-9]{1,3}){3}$`})
}

func kindAddr6() *scalar {
	return word("IPv6 address", func(s string) (netip.Addr, error) {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "":
			return a, fmt.Errorf("%q is not an IPv6 address; write such as 2001:db8::11", s)
		case a.IsMulticast() || a.IsUnspecified() || a.IsLoopback():
			return a, fmt.Errorf("%s is not the address of one machine; write such as 2001:db8::11", a)
		}
		return a, nil
	}, netip.Addr.String, map[string]any{"pattern": `^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$`})
}

func kindPrefix6() *scalar {
	return word("IPv6 prefix", func(s string) (netip.Prefix, error) {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil || !p.Addr().Is6() || p.Addr().Is4In6():
			return p, fmt.Errorf("%q is not an IPv6 prefix; write such as 2001:db8::/64", s)
		case p != p.Masked():
			return p, fmt.Errorf("%s has host bits; did you mean %q?", s, p.Masked())
		case p.Bits() < 32 || p.Bits() > 126:
			return p, fmt.Errorf("%s is too large or too small for a network of machines; use /64, or from /32 to /126", s)
		case p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast() || p.Overlaps(netip.MustParsePrefix("::/8")):
			return p, fmt.Errorf("%s is reserved (RFC 4291) and cannot be a network of machines; use your own, such as fd12:3456:789a::/64", s)
		}
		return p, nil
	}, netip.Prefix.String, map[string]any{"pattern": `^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*/[0-9]{2,3}$`})
}

func kindPrefix() *scalar {
	return word("IPv4 prefix", func(s string) (netip.Prefix, error) {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil || !p.Addr().Is4():
			return p, fmt.Errorf("%q is not an IPv4 prefix; write such as 10.0.0.0/24", s)
		case p != p.Masked():
			return p, fmt.Errorf("%s has host bits; did you mean %q?", s, p.Masked())
		case p.Bits() < 8 || p.Bits() > 30:
			return p, fmt.Errorf("%s is too large or too small for a network of machines; use /8 to /30", s)
		case p.Addr().IsMulticast() || p.Overlaps(netip.MustParsePrefix("127.0.0.0/8")) || p.Overlaps(netip.MustParsePrefix("0.0.0.0/8")) || p.Overlaps(netip.MustParsePrefix("240.0.0.0/4")):
			return p, fmt.Errorf("%s is reserved (RFC 6890) and cannot be a network of machines; use your own, such as 10.0.0.0/24", s)
		}
		return p, nil
	}, netip.Prefix.String, map[string]any{"pattern": `^[0-9]{1,3}(\.[0-9]{1,3}){3}/([89]|[12][0-9]|30)$`})
}

func kindDuration() *scalar {
	return word("duration", func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d < 10*time.Second || d > 366*24*time.Hour {
			return d, fmt.Errorf("%q is not a lease time; write from 10s to a year, such as 10m or 12h", s)
		}
		return d, nil
	}, time.Duration.String, map[string]any{"pattern": `^([0-9]+(\.[0-9]+)?(s|m|h|ms|us|ns))+$`})
}

// kindAge is a duration that may be written in days.
func kindAge() *scalar {
	return word("age", func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if n, ok := strings.CutSuffix(s, "d"); ok {
			var days int
			days, err = strconv.Atoi(n)
			d = time.Duration(days) * 24 * time.Hour
		}
		if err != nil || d < time.Hour || d > 20*366*24*time.Hour {
			return d, fmt.Errorf("%q is not an age; write from 1h to 20 years, such as 36h or 14d", s)
		}
		return d, nil
	}, func(d time.Duration) string {
		if d%(24*time.Hour) == 0 {
			return strconv.Itoa(int(d/(24*time.Hour))) + "d"
		}
		return d.String()
	}, map[string]any{"pattern": `^[0-9]+(d|(\.[0-9]+)?h([0-9]+m)?([0-9]+s)?)$`})
}

// kindDelay bounds a delay well below the 4 s after which clients ask again.
func kindDelay() *scalar {
	return word("delay", func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d < time.Millisecond || d > 2*time.Second {
			return d, fmt.Errorf("%q is not a delay; write from 1ms to 2s, such as 300ms", s)
		}
		return d, nil
	}, time.Duration.String, map[string]any{"pattern": `^([0-9]+(\.[0-9]+)?(s|ms|us|µs|ns))+$`})
}

// kindDestination is a prefix of any length.
func kindDestination() *scalar {
	return word("IPv4 destination", func(s string) (netip.Prefix, error) {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil || !p.Addr().Is4():
			return p, fmt.Errorf("%q is not an IPv4 prefix; write such as 10.8.0.0/16, or 0.0.0.0/0", s)
		case p != p.Masked():
			return p, fmt.Errorf("%s has host bits; did you mean %q?", s, p.Masked())
		}
		return p, nil
	}, netip.Prefix.String, map[string]any{"pattern": `^[0-9]{1,3}(\.[0-9]{1,3}){3}/([0-9]|[12][0-9]|3[0-2])$`})
}

func kindBytes() *scalar {
	k := word("size", func(s string) (Bytes, error) {
		b, err := ParseBytes(s)
		if err == nil && b == 0 {
			err = fmt.Errorf("a size of 0 says nothing; leave the key out")
		}
		return b, err
	}, Bytes.String, map[string]any{"pattern": `^[0-9.]+ ?([KMGTPkmgtp]([Ii]?[Bb])?|[Bb])?$`})
	return numeric(k)
}

func kindUUID() *scalar {
	return word("UUID", canonicalUUID, func(s string) string { return s },
		map[string]any{"pattern": `^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`})
}

// An authorized_keys line (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
func kindSSHKey() *scalar {
	return word("ssh public key", func(s string) (string, error) {
		_, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(s))
		if err != nil || len(strings.TrimSpace(string(rest))) > 0 || strings.ContainsAny(s, "\r\n") {
			if len(s) > 40 {
				s = s[:40] + "..."
			}
			return "", fmt.Errorf("%q is not an ssh public key; paste one whole line of an id_*.pub file, such as ssh-ed25519 AAAA... name", s)
		}
		return s, nil
	}, func(s string) string { return s }, map[string]any{"pattern": `^[^\n]*(ssh-|ecdsa-|sk-)[^ \n]+ [A-Za-z0-9+/=]+[^\n]*$`})
}

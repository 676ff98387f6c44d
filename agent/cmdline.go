package agent

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/fettle-dev/fettle/agent/wire"
)

// Token is a run's bearer token. It prints as [secret].
type Token string

// String hides the token from logs.
func (t Token) String() string { return "[secret]" }

// GoString hides the token from %#v.
func (t Token) GoString() string { return "[secret]" }

// LogValue would be found by slog through String; MarshalText covers JSON.
func (t Token) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// argRescue asks for a shell on the console.
const argRescue = "fettle.rescue"

// Boot is what the kernel command line says to the agent.
type Boot struct {
	Server   *url.URL // nil when it is not said
	Token    Token
	MAC      net.HardwareAddr // nil: try each port with a link
	Rescue   bool             // a shell on the console
	Consoles []string         // console= devices, in order, without options
}

// ServerAddr is the server's address; the zero value when the command line has
// no address, or a name.
func (b Boot) ServerAddr() netip.Addr {
	if b.Server == nil {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(b.Server.Hostname())
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}

// ParseCmdline reads a kernel command line. Words are separated by spaces;
// double quotes hold words together (Documentation/admin-guide/
// kernel-parameters.rst); the last value of a key counts; other keys are the
// kernel's business.
func ParseCmdline(s string) (Boot, error) {
	var b Boot
	for _, word := range splitCmdline(s) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case wire.ArgServer:
			u, err := url.Parse(value)
			if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
				return Boot{}, fmt.Errorf("kernel argument %s=%s is no http or https address: boot with %s=https://ADDRESS:PORT", wire.ArgServer, value, wire.ArgServer)
			}
			u.Path = strings.TrimSuffix(u.Path, "/")
			b.Server = u
		case wire.ArgToken:
			if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
				return Boot{}, fmt.Errorf("kernel argument %s holds characters that no token has: boot the machine through fettle again", wire.ArgToken)
			}
			b.Token = Token(value)
		case wire.ArgMAC:
			mac, err := net.ParseMAC(value)
			if err != nil || len(mac) != 6 {
				return Boot{}, fmt.Errorf("kernel argument %s=%s is no Ethernet address: want 02:00:00:00:00:01", wire.ArgMAC, value)
			}
			b.MAC = mac
		case argRescue:
			b.Rescue = value != "0"
		case "console":
			if dev, _, _ := strings.Cut(value, ","); dev != "" && !strings.ContainsAny(dev, "/.") {
				b.Consoles = append(b.Consoles, dev)
			}
		}
	}
	return b, nil
}

func splitCmdline(s string) []string {
	var words []string
	var word strings.Builder
	quoted, open := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted, open = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			if open {
				words = append(words, word.String())
			}
			word.Reset()
			open = false
		default:
			word.WriteByte(c)
			open = true
		}
	}
	if open {
		words = append(words, word.String())
	}
	return words
}

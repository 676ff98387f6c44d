package main

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

func TestLeaseOf(t *testing.T) {
	addr := func(lifetime time.Duration) *dhcpv6.OptIAAddress {
		return &dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP("2001:db8::5"), PreferredLifetime: lifetime, ValidLifetime: lifetime}
	}
	na := func(o ...dhcpv6.Option) dhcpv6.Option {
		return &dhcpv6.OptIANA{T1: time.Minute, Options: dhcpv6.IdentityOptions{Options: o}}
	}
	status := func(c iana.StatusCode, text string) dhcpv6.Option {
		return &dhcpv6.OptStatusCode{StatusCode: c, StatusMessage: text}
	}
	for _, tc := range []struct {
		name    string
		options []dhcpv6.Option
		want    string // of the error; "" is an address
	}{
		{"an address", []dhcpv6.Option{na(addr(time.Hour))}, ""},
		{"with success said", []dhcpv6.Option{status(iana.StatusSuccess, ""), na(addr(time.Hour), status(iana.StatusSuccess, ""))}, ""},
		{"no association", nil, "gave no address"},
		{"an empty one", []dhcpv6.Option{na()}, "gave no address"},
		{"a pool that ran out", []dhcpv6.Option{na(status(iana.StatusNoAddrsAvail, "pool prov is full"))}, "pool prov is full"},
		{"a refusal of all", []dhcpv6.Option{status(iana.StatusUnspecFail, "not here"), na(addr(time.Hour))}, "not here"},
		{"an address that is over", []dhcpv6.Option{na(addr(0))}, "gave no address"}, // RFC 8415 §18.2.10.1
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply}
			for _, o := range tc.options {
				m.AddOption(o)
			}
			l, err := leaseOf(m)
			switch {
			case tc.want == "" && (err != nil || l.addr.IPv6Addr.String() != "2001:db8::5" || l.na.T1 != time.Minute):
				t.Errorf("leaseOf = %+v, %v; want 2001:db8::5", l, err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("leaseOf = %+v, %v; want an error with %q", l, err, tc.want)
			}
		})
	}
}

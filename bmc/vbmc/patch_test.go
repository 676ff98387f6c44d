package vbmc

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestPatchDeep: what stands in objects and in arrays of objects is written, and
// what cannot be is named by its path.
func TestPatchDeep(t *testing.T) {
	const lan, protocol, accountService = ethernetPath + "/1", protocolPath, root + "/AccountService"
	for _, tc := range []struct {
		name, path, body string
		status           int
		message, prop    string // of the first entry of ExtendedInfo
		see              string // in the resource afterwards
	}{
		{"lockout", accountService, `{"AccountLockoutThreshold":3,"AccountLockoutDuration":120}`, 200, "", "", `"AccountLockoutDuration":120,"AccountLockoutThreshold":3`},
		{"lockout as text", accountService, `{"AccountLockoutThreshold":"3"}`, 400, "PropertyValueTypeError", "#/AccountLockoutThreshold", ""},
		{"lockout out of range", accountService, `{"AccountLockoutThreshold":-1}`, 400, "PropertyValueOutOfRange", "#/AccountLockoutThreshold", ""},
		{"service", accountService, `{"ServiceEnabled":false}`, 400, "PropertyNotWritable", "#/ServiceEnabled", ""},
		{"basic", accountService, `{"HTTPBasicAuth":"Sometimes"}`, 400, "PropertyValueNotInList", "#/HTTPBasicAuth", ""},
		{"only OData", accountService, `{"@odata.id":"/redfish/v1/AccountService"}`, 400, "NoOperation", "", ""},
		{"DHCP", lan, `{"DHCPv4":{"DHCPEnabled":true}}`, 200, "", "", `"DHCPv4":{"DHCPEnabled":true}`},
		{"DHCP as text", lan, `{"DHCPv4":{"DHCPEnabled":"yes"}}`, 400, "PropertyValueTypeError", "#/DHCPv4/DHCPEnabled", ""},
		{"DHCP is no object", lan, `{"DHCPv4":true}`, 400, "PropertyValueTypeError", "#/DHCPv4", ""},
		{"in DHCP", lan, `{"DHCPv4":{"Nope":true}}`, 400, "PropertyUnknown", "#/DHCPv4/Nope", ""},
		{"known beside unknown", lan, `{"DHCPv4":{"DHCPEnabled":true,"Nope":true}}`, 200, "PropertyUnknown", "#/DHCPv4/Nope", `"DHCPv4":{"DHCPEnabled":true}`},
		{"address", lan, `{"IPv4StaticAddresses":[{"Address":"192.0.2.7","SubnetMask":"255.255.255.0","Gateway":"192.0.2.1"}]}`, 200, "", "", `"IPv4StaticAddresses":[{"Address":"192.0.2.7","Gateway":"192.0.2.1","SubnetMask":"255.255.255.0"}]`},
		{"no address", lan, `{"IPv4StaticAddresses":[null]}`, 200, "", "", `"IPv4StaticAddresses":[]`},
		{"address of nothing", lan, `{"IPv4StaticAddresses":[{}]}`, 400, "PropertyValueTypeError", "#/IPv4StaticAddresses", ""},
		{"in an address", lan, `{"IPv4StaticAddresses":[{"Adress":"192.0.2.7"}]}`, 400, "PropertyUnknown", "#/IPv4StaticAddresses/Adress", ""},
		{"two addresses", lan, `{"IPv4StaticAddresses":[{"Address":"192.0.2.7"},{"Address":"192.0.2.8"}]}`, 400, "ArraySizeTooLong", "#/IPv4StaticAddresses", ""},
		{"no mask", lan, `{"IPv4StaticAddresses":[{"Address":"192.0.2.7","SubnetMask":"255.0.255.0"}]}`, 400, "PropertyValueFormatError", "#/IPv4StaticAddresses/SubnetMask", ""},
		{"addresses in use", lan, `{"IPv4Addresses":[]}`, 400, "PropertyNotWritable", "#/IPv4Addresses", ""},
		{"name servers in use", lan, `{"NameServers":["192.0.2.53"]}`, 400, "PropertyNotWritable", "#/NameServers", ""},
		{"name servers", lan, `{"StaticNameServers":["192.0.2.53","2001:db8::53"]}`, 200, "", "", `"StaticNameServers":["192.0.2.53","2001:db8::53"]`},
		{"VLAN", lan, `{"VLAN":{"VLANId":7,"VLANEnable":true}}`, 200, "", "", `"VLAN":{"VLANEnable":true,"VLANId":7}`},
		{"VLAN too high", lan, `{"VLAN":{"VLANId":4095}}`, 400, "PropertyValueOutOfRange", "#/VLAN/VLANId", ""},
		{"IPv6", lan, `{"IPv6Enabled":false}`, 200, "", "", `"IPv6Addresses":[]`},
		{"IPv6 address", lan, `{"IPv6StaticAddresses":[{"Address":"2001:db8::7","PrefixLength":56}]}`, 200, "", "", `{"Address":"2001:db8::7","AddressOrigin":"Static","AddressState":"Preferred","PrefixLength":56}`},
		{"IPv6 multicast", lan, `{"IPv6StaticAddresses":[{"Address":"ff02::1"}]}`, 400, "PropertyValueFormatError", "#/IPv6StaticAddresses/Address", ""},
		{"IPv6 length", lan, `{"IPv6StaticAddresses":[{"Address":"2001:db8::7","PrefixLength":129}]}`, 400, "PropertyValueOutOfRange", "#/IPv6StaticAddresses/PrefixLength", ""},
		{"IPv6 too many", lan, `{"IPv6StaticAddresses":[{"Address":"2001:db8::1"},{"Address":"2001:db8::2"},{"Address":"2001:db8::3"},{"Address":"2001:db8::4"},{"Address":"2001:db8::5"}]}`, 400, "ArraySizeTooLong", "#/IPv6StaticAddresses", ""},
		{"IPv6 gateway", lan, `{"IPv6StaticDefaultGateways":[{"Address":"fe80::1"}]}`, 200, "", "", `"IPv6DefaultGateway":"fe80::1"`},
		{"DHCPv6", lan, `{"DHCPv6":{"OperatingMode":"Enabled"}}`, 200, "", "", `"DHCPv6":{"OperatingMode":"Enabled"}`},
		{"DHCPv6 as they please", lan, `{"DHCPv6":{"OperatingMode":"Maybe"}}`, 400, "PropertyValueNotInList", "#/DHCPv6/OperatingMode", ""},
		{"NTP", protocol, `{"NTP":{"NTPServers":["a.example.org"],"ProtocolEnabled":true}}`, 200, "", "", `"NTPServers":["a.example.org"]`},
		{"NTP port", protocol, `{"NTP":{"Port":1}}`, 400, "PropertyNotWritable", "#/NTP/Port", ""},
		{"NTP server as a number", protocol, `{"NTP":{"NTPServers":[1]}}`, 400, "PropertyValueTypeError", "#/NTP/NTPServers", ""},
		{"host name of the protocols", protocol, `{"HostName":"x"}`, 400, "PropertyNotWritable", "#/HostName", ""},
		{"boot order", systemPath, `{"Boot":{"BootOrder":["Boot0002","Boot0001"],"BootSourceOverrideTarget":"Pxe"}}`, 200, "", "", `"BootSourceOverrideTarget":"Pxe"`},
		{"boot options", systemPath, `{"Boot":{"BootOptions":{}}}`, 400, "PropertyNotWritable", "#/Boot/BootOptions", ""},
		{"boot target", systemPath, `{"Boot":{"BootSourceOverrideTarget":"Floppy"}}`, 400, "PropertyValueNotInList", "#/Boot/BootSourceOverrideTarget", ""},
		{"boot mode beside", systemPath, `{"Boot":{"BootSourceOverrideTarget":"UefiHttp","BootSourceOverrideMode":"Legacy"}}`, 400, "PropertyValueConflict", "#/Boot/BootSourceOverrideTarget", ""},
		{"set point", limitPath, `{"SetPoint":800,"ControlMode":"Automatic"}`, 200, "", "", `"SetPoint":800`},
		{"set point as text", limitPath, `{"SetPoint":"800"}`, 400, "PropertyValueTypeError", "#/SetPoint", ""},
		{"set point too low", limitPath, `{"SetPoint":1}`, 400, "PropertyValueOutOfRange", "#/SetPoint", ""},
		{"limit in the metrics", chassisPath + "/EnvironmentMetrics", `{"PowerLimitWatts":{"SetPoint":700,"Nope":1}}`, 200, "PropertyUnknown", "#/PowerLimitWatts/Nope", `"SetPoint":700`},
		{"limit in Power", chassisPath + "/Power", `{"PowerControl":[{"PowerLimit":{"LimitInWatts":600}}]}`, 200, "", "", `"LimitInWatts":600`},
		{"another limit in Power", chassisPath + "/Power", `{"PowerControl":[{},{"PowerLimit":{"LimitInWatts":600}}]}`, 400, "ArraySizeTooLong", "#/PowerControl", ""},
		{"drawn in Power", chassisPath + "/Power", `{"PowerControl":[{"PowerConsumedWatts":6}]}`, 400, "PropertyNotWritable", "#/PowerControl/0/PowerConsumedWatts", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newService(t, nil)
			r := s.do("PATCH", tc.path, admin, tc.body)
			infos, _ := r.body["@Message.ExtendedInfo"].([]any)
			if e, ok := r.body["error"].(obj); ok {
				infos, _ = e["@Message.ExtendedInfo"].([]any)
			}
			message, prop := "", ""
			if len(infos) > 0 {
				first, _ := infos[0].(obj)
				id, _ := first["MessageId"].(string)
				_, message = keyOf(id)
				if l, _ := first["RelatedProperties"].([]any); len(l) > 0 {
					prop, _ = l[0].(string)
				}
			}
			if r.StatusCode != tc.status || message != tc.message || prop != tc.prop {
				t.Errorf("PATCH %s = %d %s %s\n%s\nwant %d %s %s", tc.body, r.StatusCode, message, prop, r.text, tc.status, tc.message, tc.prop)
			}
			if got := s.do("GET", tc.path, admin, "").text; !strings.Contains(got, tc.see) {
				t.Errorf("after PATCH %s: %s; want %s", tc.body, got, tc.see)
			}
		})
	}
}

// TestBasicOff: without basic authentication a session is asked for.
func TestBasicOff(t *testing.T) {
	s := newService(t, nil)
	s.run(t, []step{
		{"off", "PATCH", root + "/AccountService", `{"HTTPBasicAuth":"Disabled"}`, 200, nil},
		{"refused", "GET", systemPath, "", 401, nil},
		{"a session", "POST", sessionsPath, `{"UserName":"root","Password":"s3cret"}`, 201, nil},
	})
}

// TestPatchSubscription: a subscription's context and headers, and not where it
// goes.
func TestPatchSubscription(t *testing.T) {
	s := newService(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.DeliverEvents(ctx, func(context.Context, Subscription, []byte) error { return nil }) }()
	defer func() { cancel(); <-done }()
	waitFor(t, "deliveries to run", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.delivering > 0 })
	r := s.do("POST", subscriptionsPath, admin, `{"Destination":"http://listener.example.org/","Protocol":"Redfish","Context":"a"}`)
	at := r.Header.Get("Location")
	s.run(t, []step{
		{"context", "PATCH", at, `{"Context":"b","HttpHeaders":[{"X-Key":"k"}]}`, 200, map[string]any{"Context": "b"}},
		{"destination", "PATCH", at, `{"Destination":"http://other.example.org/"}`, 400, nil},
		{"policy", "PATCH", at, `{"DeliveryRetryPolicy":"SuspendRetries"}`, 400, nil},
		{"another", "PATCH", subscriptionsPath + "/99", `{"Context":"b"}`, 404, nil},
	})
	if len(s.subscriptions) != 1 || s.subscriptions[0].sub.Headers.Get("X-Key") != "k" {
		t.Errorf("subscriptions %+v; want the header kept", s.subscriptions)
	}
}

// keeper keeps in memory, or fails.
type keeper struct {
	data []byte
	err  error
}

func (k *keeper) Load() ([]byte, error) { return k.data, nil }

func (k *keeper) Save(b []byte) error {
	if k.err == nil {
		k.data = b
	}
	return k.err
}

// TestSubscriptionsStay: subscriptions are there after a restart, deliver, and
// can be changed and deleted; one that cannot be kept is not made.
func TestSubscriptionsStay(t *testing.T) {
	k := &keeper{}
	run := func(do func(s service, got chan string)) {
		t.Helper()
		s := newService(t, func(c *Config) { c.Keep = k })
		ctx, cancel := context.WithCancel(t.Context())
		done, got := make(chan error, 1), make(chan string, 10)
		go func() {
			done <- s.DeliverEvents(ctx, func(_ context.Context, to Subscription, b []byte) error {
				got <- to.Destination + " " + to.Headers.Get("X-Key") + " " + string(b)
				return nil
			})
		}()
		defer func() { cancel(); <-done }()
		waitFor(t, "deliveries to run", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.delivering > 0 })
		do(s, got)
	}
	const body = `{"Destination":"http://listener.example.org/","Protocol":"Redfish","Context":"mine","HttpHeaders":[{"X-Key":"k"}],"ResourceTypes":["Manager"]}`
	at := ""
	run(func(s service, _ chan string) {
		k.err = errors.New("the disk is full")
		if r := s.do("POST", subscriptionsPath, admin, body); r.StatusCode != 500 || len(s.subscriptions) != 0 {
			t.Errorf("POST that cannot be kept = %d, %d subscriptions; want 500 and none", r.StatusCode, len(s.subscriptions))
		}
		k.err = nil
		r := s.do("POST", subscriptionsPath, admin, body)
		if at = r.Header.Get("Location"); r.StatusCode != 201 {
			t.Fatalf("POST = %d %s", r.StatusCode, r.text)
		}
		s.run(t, []step{{"context", "PATCH", at, `{"Context":"yours"}`, 200, nil}})
	})
	run(func(s service, got chan string) {
		s.run(t, []step{
			{"it is there", "GET", at, "", 200, map[string]any{"Context": "yours", "Destination": "http://listener.example.org/"}},
			{"event", "POST", eventsPath + "/Actions/EventService.SubmitTestEvent", "", 204, nil},
		})
		select {
		case g := <-got:
			if !strings.HasPrefix(g, "http://listener.example.org/ k ") || !strings.Contains(g, `"Context":"yours"`) {
				t.Errorf("delivered %s", g)
			}
		case <-time.After(10 * time.Second):
			t.Error("no event was delivered after the restart")
		}
		if r := s.do("POST", subscriptionsPath, admin, body); r.Header.Get("Location") == at {
			t.Errorf("a new subscription has the URI of the one that was kept")
		}
		s.run(t, []step{{"gone", "DELETE", at, "", 204, nil}})
	})
	run(func(s service, _ chan string) {
		s.run(t, []step{{"still gone", "GET", at, "", 404, nil}})
	})
	if _, err := New(Config{Chassis: NewMemory(testInfo()), Accounts: []Account{{User: "root", Password: "x"}}, Keep: &keeper{data: []byte("{")}}); err == nil {
		t.Error("New() with something else kept = nil; want an error")
	}
}

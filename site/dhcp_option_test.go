package site

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestDHCPOptionBytes(t *testing.T) {
	for _, tc := range []struct {
		typ   OptionType
		value string
		want  []byte // nil: an error
	}{
		{OptionText, "abc", []byte("abc")},
		{OptionAddress, "10.0.0.1, 10.0.0.2", []byte{10, 0, 0, 1, 10, 0, 0, 2}},
		{OptionAddress, ",", nil},
		{OptionAddress, "2001:db8::1", nil},
		{OptionNumber8, "255", []byte{255}},
		{OptionNumber8, "256", nil},
		{OptionNumber16, "0x0102", []byte{1, 2}},
		{OptionNumber32, "16909060", []byte{1, 2, 3, 4}},
		{OptionNumber32, "-1", nil},
		{OptionHex, "01:a0 ff", []byte{1, 0xa0, 0xff}},
		{OptionHex, "0", nil},
		{"other", "0", nil},
	} {
		got, err := DHCPOption{Type: tc.typ, Value: tc.value}.Bytes()
		if tc.want == nil && err == nil || tc.want != nil && !bytes.Equal(got, tc.want) {
			t.Errorf("DHCPOption{%s %q}.Bytes() = %v, %v; want %v", tc.typ, tc.value, got, err, tc.want)
		}
	}
}

// TestBootKeys reads every key of a network that the boot server needs.
func TestBootKeys(t *testing.T) {
	const keys = `    server: 10.0.0.1
    search: [lab.example.org]
    routes: [{to: 0.0.0.0/0, via: 10.0.0.2}]
    options: [{number: 150, type: address, value: 10.0.0.9, always: true}, {number: 224, type: number8, value: 7}]
    reply-delay: 300ms
    native-drivers: true
    probe: true
`
	s, err := loadText(strings.Replace(base, "    server: 10.0.0.1\n", keys, 1))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := s.Network("prov")
	if n.ReplyDelay != 300*time.Millisecond || !n.NativeDrivers || !n.Probe || len(n.Routes) != 1 || len(n.Options) != 2 || n.Options[1].Value != "7" || !n.Options[0].Always || len(n.Search) != 1 {
		t.Errorf("network = %+v; want every key", n)
	}
	far := strings.Replace(base, "    vlan: 20\n", "    vlan: 20\n  - {name: far, purpose: boot, prefix: 10.2.0.0/24, server: 10.0.0.1, gateway: 10.2.0.1, relays: [10.2.0.1]}\n", 1)
	if _, err := loadText(far); err != nil {
		t.Errorf("a network behind a relay, untagged elsewhere: %v; want no error", err)
	}
	proxy := strings.Replace(base, "    pools:\n      - {from: 10.0.0.100, to: 10.0.0.199}\n", "    proxy: true\n", 1)
	if _, err := loadText(proxy); err != nil {
		t.Errorf("a machine without address on a proxy network: %v; want no error: the other server has one", err)
	}
}

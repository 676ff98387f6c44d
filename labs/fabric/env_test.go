package fabric

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"
)

// need returns the tool's path; without it the test is skipped, or fails in CI.
func need(t testing.TB, tool string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed: %v", tool, err)
		}
		t.Skipf("%s is not installed: %v", tool, err)
	}
	return path
}

// startSwitch runs a switch until the test ends.
func startSwitch(t testing.TB, c Config) *Switch {
	t.Helper()
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s := NewSwitch(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v; want nil", err)
		}
	})
	return s
}

func newHost(t testing.TB, s *Switch, name string, vlan int, addrs ...string) *Host {
	t.Helper()
	c := HostConfig{Name: name, VLAN: vlan}
	for _, a := range addrs {
		c.Addrs = append(c.Addrs, netip.MustParsePrefix(a))
	}
	h, err := s.NewHost(c)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// plug attaches one end of a Pipe and returns the other: a machine's NIC.
func plug(t testing.TB, s *Switch, c PortConfig) Link {
	t.Helper()
	a, b := Pipe()
	if _, err := s.Attach(c, a); err != nil {
		t.Fatal(err)
	}
	return b
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func mac(last byte) net.HardwareAddr { return net.HardwareAddr{0x52, 0x54, 0, 0, 0, last} }

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ether builds a frame with an experimental EtherType; vid 0 means no tag.
func ether(dst, src net.HardwareAddr, vid int, payload string) []byte {
	b := append(append([]byte{}, dst...), src...)
	b = append(append(b, 0x88, 0xb5), payload...)
	b = pad(b, 0)
	if vid != 0 {
		b = appendTagged(nil, b, uint16(vid))
	}
	return b
}

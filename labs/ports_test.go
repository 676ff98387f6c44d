package labs

import (
	"context"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"
)

var testTime = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func claimed(t *testing.T) folder {
	t.Helper()
	f := folder(t.TempDir())
	if err := f.claim("hall", "u", testTime); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestChoosePorts(t *testing.T) {
	p, err := NewPlan(testSite(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := claimed(t)
	first, err := choosePorts(t.Context(), p, f, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint16]bool{}
	for name, pairs := range first {
		for _, pair := range pairs {
			for _, port := range []uint16{pair.Fabric, pair.Guest} {
				if seen[port] || port < firstPort {
					t.Errorf("port %d of %s: used twice or outside the range", port, name)
				}
				seen[port] = true
			}
		}
	}
	if len(seen) != 8 {
		t.Fatalf("%d ports for 4 NICs; want 8", len(seen))
	}
	again, err := choosePorts(t.Context(), p, f, false, nil)
	if err != nil || !reflect.DeepEqual(again, first) {
		t.Errorf("choosePorts again = %v, %v; want %v as remembered", again, err, first)
	}
	t.Run("another lab's domain has one", func(t *testing.T) {
		taken := first["gpu-01"][0].Guest
		got, err := choosePorts(t.Context(), p, f, false, map[uint16]bool{taken: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, pairs := range got {
			for _, pair := range pairs {
				if pair.Fabric == taken || pair.Guest == taken {
					t.Errorf("choosePorts = %v; want none to be %d", got, taken)
				}
			}
		}
		first = got
	})
	t.Run("somebody is bound to one", func(t *testing.T) {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(first["gpu-02"][0].Fabric)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got, err := choosePorts(t.Context(), p, f, false, nil)
		if err != nil || got["gpu-02"][0].Fabric == first["gpu-02"][0].Fabric {
			t.Errorf("choosePorts = %v, %v; want other ports than %v", got, err, first)
		}
		first = got
	})
	t.Run("own guests run", func(t *testing.T) {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(first["gpu-01"][0].Guest)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got, err := choosePorts(t.Context(), p, f, true, nil)
		if err != nil || !reflect.DeepEqual(got, first) {
			t.Errorf("choosePorts = %v, %v; want %v: guests that run keep theirs", got, err, first)
		}
	})
}

func TestLockPortsWaits(t *testing.T) {
	unlock, err := lockPorts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := lockPorts(ctx); err == nil || !strings.Contains(err.Error(), "waiting for other labs") {
		t.Errorf("lockPorts while locked = %v; want an error after the time-out", err)
	}
	unlock()
	if unlock, err = lockPorts(t.Context()); err != nil {
		t.Errorf("lockPorts after unlock = %v; want nil", err)
	} else {
		unlock()
	}
}

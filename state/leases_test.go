package state

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/site"
)

func lease(c *clock, addr string, mac byte, ttl time.Duration) Lease {
	return Lease{
		Network: "boot", Addr: netip.MustParseAddr(addr), MAC: site.MAC{0x52, 0x54, 0, 0, 0, mac},
		Granted: c.now(), Expires: c.now().Add(ttl),
	}
}

func TestLeases(t *testing.T) {
	c := newClock()
	s := openConfig(t, Config{Dir: t.TempDir(), Now: c.now})
	const a, b = "192.0.2.10", "192.0.2.11"
	declined := func(l Lease) Lease { l.Declined = true; return l }
	put := func(l Lease) error { return s.PutLease(t.Context(), l) }
	release := func(mac byte) error {
		return s.ReleaseLease(t.Context(), "boot", netip.MustParseAddr(a), site.MAC{0x52, 0x54, 0, 0, 0, mac})
	}
	// Each step goes on from the one before.
	steps := []struct {
		name  string
		do    func() error
		taken bool
		of1   string // address of MAC 1 afterwards, "" = none
		of2   string
		n     int // leases in all
	}{
		{"a first lease", func() error { return put(lease(c, a, 1, time.Minute)) }, false, a, "", 1},
		{"another MAC asks for it", func() error { return put(lease(c, a, 2, time.Minute)) }, true, a, "", 1},
		{"renewed", func() error { c.add(50 * time.Second); return put(lease(c, a, 1, time.Minute)) }, false, a, "", 1},
		{"another MAC asks after the first term", func() error { c.add(20 * time.Second); return put(lease(c, a, 2, time.Minute)) }, true, a, "", 1},
		{"another MAC declines it", func() error { return put(declined(lease(c, a, 2, time.Minute))) }, true, a, "", 1},
		{"another MAC asks when it is over", func() error { c.add(40 * time.Second); return put(lease(c, a, 2, time.Minute)) }, false, "", a, 1},
		{"a MAC moves to another address", func() error { return put(lease(c, b, 2, time.Minute)) }, false, "", b, 1},
		{"its former address is free", func() error { return put(lease(c, a, 1, time.Minute)) }, false, a, b, 2},
		{"declined by its holder", func() error { return put(declined(lease(c, a, 1, time.Hour))) }, false, "", b, 2},
		{"a quarantine is not released", func() error { return release(1) }, false, "", b, 2},
		{"quarantined for the former holder too", func() error { return put(lease(c, a, 1, time.Minute)) }, true, "", b, 2},
		{"quarantined for everybody", func() error { return put(lease(c, a, 2, time.Minute)) }, true, "", b, 2},
		{"the quarantine ends", func() error { c.add(time.Hour); return put(lease(c, a, 1, time.Minute)) }, false, a, b, 2},
		{"released by another MAC", func() error { return release(2) }, false, a, b, 2},
		{"released by its holder", func() error { return release(1) }, false, "", b, 1},
		{"released again", func() error { return release(1) }, false, "", b, 1},
		{"leased again", func() error { return put(lease(c, a, 1, time.Minute)) }, false, a, b, 2},
		{"dropped", func() error { return s.DropLease(t.Context(), "boot", netip.MustParseAddr(a)) }, false, "", b, 1},
		{"dropped twice", func() error { return s.DropLease(t.Context(), "boot", netip.MustParseAddr(a)) }, false, "", b, 1},
		{"an expired lease is still remembered", func() error { c.add(time.Hour); return nil }, false, "", b, 1},
	}
	for _, st := range steps {
		err := st.do()
		if errors.Is(err, ErrAddressTaken) != st.taken || (err != nil) != st.taken {
			t.Errorf("%s: %v; want ErrAddressTaken %v", st.name, err, st.taken)
		}
		for mac, want := range map[byte]string{1: st.of1, 2: st.of2} {
			l, ok, err := s.LeaseByMAC(t.Context(), "boot", site.MAC{0x52, 0x54, 0, 0, 0, mac})
			if err != nil || ok != (want != "") || ok && l.Addr.String() != want {
				t.Errorf("%s: LeaseByMAC(%d) = %v %v, %v; want %q", st.name, mac, l.Addr, ok, err, want)
			}
			if !ok {
				continue
			}
			if byAddr, ok, err := s.LeaseByAddr(t.Context(), "boot", l.Addr); err != nil || !ok || byAddr != l {
				t.Errorf("%s: LeaseByAddr(%s) = %v %v, %v; want %v", st.name, l.Addr, byAddr, ok, err, l)
			}
		}
		if all, err := s.Leases(t.Context()); err != nil || len(all) != st.n {
			t.Errorf("%s: Leases() = %v, %v; want %d", st.name, all, err, st.n)
		}
	}
	if _, ok, err := s.LeaseByAddr(t.Context(), "bmc", netip.MustParseAddr(b)); ok || err != nil {
		t.Errorf("LeaseByAddr on another network = %v, %v; want none", ok, err)
	}
	for name, l := range map[string]Lease{
		"no network": {Addr: netip.MustParseAddr(a), Expires: c.now()},
		"no address": {Network: "boot", Expires: c.now()},
		"no expiry":  {Network: "boot", Addr: netip.MustParseAddr(a)},
	} {
		if err := put(l); err == nil {
			t.Errorf("PutLease with %s = nil; want an error", name)
		}
	}
}

// Many MACs ask two Stores of one cluster for the same few addresses.
func TestLeaseRace(t *testing.T) {
	endpoint, conf := startCluster(t)
	conf2 := Config{Endpoints: []string{endpoint}, TLS: conf}
	stores := []*Store{openConfig(t, conf2), openConfig(t, conf2)}
	c := newClock()
	c.t = time.Now() // the stores' clock
	const macs, addrs = 24, 5
	var won [addrs]atomic.Int32
	var wg sync.WaitGroup
	for m := range macs {
		wg.Go(func() {
			for a := range addrs {
				addr := fmt.Sprintf("192.0.2.%d", 10+(a+m)%addrs)
				err := stores[m%2].PutLease(t.Context(), lease(c, addr, byte(m), time.Hour))
				switch {
				case err == nil:
					won[(a+m)%addrs].Add(1)
					return
				case !errors.Is(err, ErrAddressTaken):
					t.Errorf("PutLease(%s) = %v; want nil or ErrAddressTaken", addr, err)
				}
			}
		})
	}
	wg.Wait()
	for a := range addrs {
		if n := won[a].Load(); n != 1 {
			t.Errorf("192.0.2.%d was given to %d MACs; want exactly 1", 10+a, n)
		}
	}
	all, err := stores[0].Leases(t.Context())
	if err != nil || len(all) != addrs {
		t.Fatalf("Leases() = %d, %v; want %d", len(all), err, addrs)
	}
	for _, l := range all {
		if got, ok, err := stores[1].LeaseByMAC(t.Context(), "boot", l.MAC); err != nil || !ok || got.Addr != l.Addr {
			t.Errorf("LeaseByMAC(%v) = %v %v, %v; want %v", l.MAC, got.Addr, ok, err, l.Addr)
		}
	}
}

func TestDocuments(t *testing.T) {
	s := openTest(t)
	for _, k := range []string{"runs/a", "runs/b", "runsx"} {
		if err := s.Put(t.Context(), k, []byte("of "+k)); err != nil {
			t.Fatalf("Put(%s) = %v", k, err)
		}
	}
	if err := s.Put(t.Context(), "", nil); err == nil {
		t.Error("Put without a key = nil; want an error")
	}
	if v, ok, err := s.Get(t.Context(), "runs/a"); string(v) != "of runs/a" || !ok || err != nil {
		t.Errorf("Get(runs/a) = %q %v, %v; want of runs/a", v, ok, err)
	}
	if docs, err := s.List(t.Context(), "runs/"); err != nil || len(docs) != 2 || string(docs["runs/b"]) != "of runs/b" {
		t.Errorf("List(runs/) = %q, %v; want two documents", docs, err)
	}
	for range 2 {
		if err := s.Delete(t.Context(), "runs/a"); err != nil {
			t.Errorf("Delete(runs/a) = %v; want nil", err)
		}
	}
	if v, ok, err := s.Get(t.Context(), "runs/a"); ok || err != nil {
		t.Errorf("Get(runs/a) after Delete = %q %v, %v; want none", v, ok, err)
	}
}

func BenchmarkPutLease(b *testing.B) {
	s := openTest(b)
	c := newClock()
	c.t = time.Now()
	l := lease(c, "192.0.2.10", 1, time.Hour)
	for b.Loop() {
		if err := s.PutLease(b.Context(), l); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutLeaseParallel(b *testing.B) {
	s := openTest(b)
	c := newClock()
	c.t = time.Now()
	var n atomic.Int32
	b.SetParallelism(50)
	b.RunParallel(func(pb *testing.PB) {
		m := byte(n.Add(1))
		l := lease(c, fmt.Sprintf("192.0.2.%d", m), m, time.Hour)
		for pb.Next() {
			if err := s.PutLease(b.Context(), l); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkLeaseBurst has 64 machines ask at once, again and again, each for
// an address of its own.
func BenchmarkLeaseBurst(b *testing.B) {
	s := openTest(b)
	var n atomic.Int32
	b.SetParallelism(64 / runtime.GOMAXPROCS(0))
	start := cpuTime(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			now := time.Now()
			l := Lease{Network: "boot", Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}),
				MAC: site.MAC{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}, Granted: now, Expires: now.Add(time.Hour)}
			if err := s.PutLease(b.Context(), l); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64((cpuTime(b)-start).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

func cpuTime(t testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestLeaseFamilies has a machine with an IPv4 and an IPv6 address at once.
func TestLeaseFamilies(t *testing.T) {
	c := newClock()
	s := openConfig(t, Config{Dir: t.TempDir(), Now: c.now})
	four, six, next := lease(c, "192.0.2.10", 1, time.Hour), lease(c, "2001:db8::10", 1, time.Hour), lease(c, "2001:db8::11", 1, time.Hour)
	for _, l := range []Lease{four, six, next} {
		if err := s.PutLease(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	got4, ok4, err4 := s.LeaseByMAC(t.Context(), "boot", four.MAC)
	got6, ok6, err6 := s.LeaseByMAC6(t.Context(), "boot", four.MAC)
	if err := errors.Join(err4, err6); err != nil || !ok4 || !ok6 || got4.Addr != four.Addr || got6.Addr != next.Addr {
		t.Errorf("leases of %v = %v %v, %v %v, %v; want %v and %v", four.MAC, got4.Addr, ok4, got6.Addr, ok6, err, four.Addr, next.Addr)
	}
	if _, ok, err := s.LeaseByAddr(t.Context(), "boot", six.Addr); ok || err != nil {
		t.Errorf("LeaseByAddr(%v) = %v, %v; want none: the machine moved to another", six.Addr, ok, err)
	}
	if err := s.DropLease(t.Context(), "boot", next.Addr); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.LeaseByMAC(t.Context(), "boot", four.MAC); !ok || err != nil {
		t.Errorf("LeaseByMAC after the IPv6 one was dropped = %v, %v; want the IPv4 lease still", ok, err)
	}
}

package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/site"
)

// twoClocks are a wall clock that is set and one that is not. Its methods may
// be called concurrently.
type twoClocks struct{ wall, elapsed atomic.Int64 }

func newTwoClocks() *twoClocks {
	c := &twoClocks{}
	c.wall.Store(newClock().t.UnixNano())
	c.elapsed.Store(int64(time.Hour))
	return c
}
func (c *twoClocks) now() time.Time       { return time.Unix(0, c.wall.Load()).UTC() }
func (c *twoClocks) since() time.Duration { return time.Duration(c.elapsed.Load()) }
func (c *twoClocks) pass(d time.Duration) { c.wall.Add(int64(d)); c.elapsed.Add(int64(d)) }
func (c *twoClocks) set(by time.Duration) { c.wall.Add(int64(by)) }
func (c *twoClocks) lease(a string, m byte) Lease {
	return Lease{Network: "boot", Addr: netip.MustParseAddr(a), MAC: site.MAC{2, 0, 0, 0, 0, m}, Granted: c.now(), Expires: c.now().Add(time.Hour)}
}

// TestClockIsSet sets the wall clock while leases run, with the store open and
// while it is closed: none ends sooner or later for it.
func TestClockIsSet(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, by := range []time.Duration{3 * time.Hour, -3 * time.Hour, year, -year} {
		for _, closed := range []bool{false, true} {
			t.Run(fmt.Sprintf("by %v, closed %v", by, closed), func(t *testing.T) {
				c := newTwoClocks()
				conf := Config{Dir: t.TempDir(), Now: c.now, Elapsed: c.since}
				s := openConfig(t, conf)
				put := func(a string, m byte) error { return s.PutLease(t.Context(), c.lease(a, m)) }
				if err := put("192.0.2.10", 1); err != nil {
					t.Fatal(err)
				}
				c.pass(20 * time.Minute)
				reopen := func() {
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = openConfig(t, conf)
				}
				if closed {
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				}
				c.set(by)
				if closed {
					s = openConfig(t, conf)
				}
				look := func(when string, left time.Duration) {
					t.Helper()
					l, ok, err := s.LeaseByAddr(t.Context(), "boot", netip.MustParseAddr("192.0.2.10"))
					if err != nil || !ok || l.Expires.Sub(c.now()) != left {
						t.Errorf("%s: the lease has %v left, %v, %v; want %v", when, l.Expires.Sub(c.now()), ok, err, left)
					}
				}
				look("clock set", 40*time.Minute)
				if err := put("192.0.2.10", 2); !errors.Is(err, ErrAddressTaken) {
					t.Errorf("another machine got the address: %v", err)
				}
				// A write makes the new clock the one of the directory.
				if err := put("192.0.2.11", 3); err != nil {
					t.Fatal(err)
				}
				reopen()
				look("opened again", 40*time.Minute)
				c.pass(39 * time.Minute)
				if err := put("192.0.2.10", 2); !errors.Is(err, ErrAddressTaken) {
					t.Errorf("another machine got the address a minute early: %v", err)
				}
				c.pass(2 * time.Minute)
				if err := put("192.0.2.10", 2); err != nil {
					t.Errorf("PutLease after the term = %v; want nil", err)
				}
			})
		}
	}
}

// TestClockIsSetInSteps sets the wall clock under more leases than one
// transaction rewrites, and has the store end in the middle of them: no lease
// ends sooner or later for it, whoever goes on, and when.
func TestClockIsSetInSteps(t *testing.T) {
	const pages = 3 * leaseStep
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 12), byte(i >> 4), byte(i << 4)}) }
	for _, tt := range []struct {
		name  string
		by    time.Duration
		after func(c *twoClocks) // nil: the store stays open
	}{
		{"goes on itself", 3 * time.Hour, nil},
		{"goes on itself, set back", -3 * time.Hour, nil},
		{"opened again", 3 * time.Hour, func(*twoClocks) {}},
		{"opened again, set back", -3 * time.Hour, func(*twoClocks) {}},
		{"set once more before it is opened again", 3 * time.Hour, func(c *twoClocks) { c.set(-5 * time.Hour) }},
		{"opened after another start of the machine", 3 * time.Hour, func(c *twoClocks) { c.elapsed.Store(int64(time.Minute)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTwoClocks()
			conf := Config{Dir: t.TempDir(), Now: c.now, Elapsed: c.since}
			s := openConfig(t, conf)
			var steps atomic.Int64 // that the disk has room for
			steps.Store(1 << 40)
			s.free = func() (uint64, error) { return uint64(min(max(0, steps.Add(-1)), 1)) << 40, nil }
			var wg sync.WaitGroup
			for g := range 32 {
				wg.Go(func() {
					for i := g; i < pages; i += 32 {
						l := Lease{Network: "boot", Addr: at(i), MAC: site.MAC{2, 1, 0, 0, byte(i >> 8), byte(i)}, Granted: c.now(), Expires: c.now().Add(time.Hour)}
						if err := s.PutLease(t.Context(), l); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			look := func(when string) {
				t.Helper()
				for i := range pages {
					l, ok, err := s.LeaseByAddr(t.Context(), "boot", at(i))
					if left := l.Expires.Sub(c.now()); err != nil || !ok || (left-40*time.Minute).Abs() > clockSlack || l.Expires.Sub(l.Granted) != time.Hour {
						t.Fatalf("%s: the lease of %v has %v left of %v, %v, %v; want 40m of 1h", when, l.Addr, left, l.Expires.Sub(l.Granted), ok, err)
					}
				}
			}
			clock := func() (c leaseClock) {
				t.Helper()
				resp, err := s.get(t.Context(), keyLeaseClock)
				if err == nil {
					err = json.Unmarshal(resp.Kvs[0].Value, &c)
				}
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			c.pass(20 * time.Minute)
			c.set(tt.by)
			steps.Store(3) // the last of them finds no room
			if err := s.PutLease(t.Context(), c.lease("192.0.2.10", 1)); !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("PutLease = %v; want ENOSPC after two steps", err)
			}
			if k := clock(); k.Shift != tt.by || k.Done == "" {
				t.Fatalf("the clock on disk is %+v; want it two steps on its way", k)
			}
			look("on its way")
			steps.Store(1 << 40)
			if tt.after != nil {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				tt.after(c)
				s = openConfig(t, conf)
				look("opened again")
			}
			if err := s.PutLease(t.Context(), c.lease("192.0.2.10", 1)); err != nil {
				t.Fatal(err)
			}
			if k := clock(); k.Shift != 0 || k.Done != "" {
				t.Errorf("the clock on disk is %+v; want it at its end", k)
			}
			look("at its end")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openConfig(t, conf)
			look("opened after its end")
		})
	}
}

// TestMachineStartedInThePast opens a directory on a machine whose clock has
// lost the date: a lease is held for as long as it was given for, and not for
// years.
func TestMachineStartedInThePast(t *testing.T) {
	c := newTwoClocks()
	conf := Config{Dir: t.TempDir(), Now: c.now, Elapsed: c.since}
	s := openConfig(t, conf)
	if err := s.PutLease(t.Context(), c.lease("192.0.2.10", 1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	c.wall.Store(0)
	c.elapsed.Store(int64(time.Minute)) // less than before: another start
	s = openConfig(t, conf)
	if err := s.PutLease(t.Context(), c.lease("192.0.2.10", 2)); !errors.Is(err, ErrAddressTaken) {
		t.Errorf("PutLease of another machine = %v; want ErrAddressTaken", err)
	}
	c.set(50 * 365 * 24 * time.Hour) // the network's time arrives
	if err := s.PutLease(t.Context(), c.lease("192.0.2.10", 2)); !errors.Is(err, ErrAddressTaken) {
		t.Errorf("PutLease of another machine once the time is known = %v; want ErrAddressTaken", err)
	}
	c.pass(time.Hour)
	if err := s.PutLease(t.Context(), c.lease("192.0.2.10", 2)); err != nil {
		t.Errorf("PutLease after the term = %v; want nil", err)
	}
}

// TestLeasesWaitForSpace fills the disk: no lease is acknowledged, and all is
// well again when there is space, without opening the store anew.
func TestLeasesWaitForSpace(t *testing.T) {
	s := openTest(t)
	var free atomic.Uint64
	s.free = func() (uint64, error) { return free.Load(), nil } // before the first request: nobody reads it yet
	c := newTwoClocks()
	c.wall.Store(time.Now().UnixNano())
	l := c.lease("192.0.2.10", 1)
	if err := s.PutLease(t.Context(), l); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("PutLease on a full disk = %v; want ENOSPC", err)
	}
	if _, ok, err := s.LeaseByAddr(t.Context(), "boot", l.Addr); ok || err != nil {
		t.Errorf("LeaseByAddr = %v, %v; want none: it is not on disk", ok, err)
	}
	free.Store(1 << 30)
	if err := s.PutLease(t.Context(), l); err != nil {
		t.Errorf("PutLease with space again = %v; want nil", err)
	}
}

// TestLostWrite has a write fail whose outcome nobody knows: the store looks
// before it decides again.
func TestLostWrite(t *testing.T) {
	s := openTest(t)
	c := newTwoClocks()
	c.wall.Store(time.Now().UnixNano())
	l := c.lease("192.0.2.10", 1)
	v, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	// As if this had been given up by the committer and had arrived after all.
	if _, err := s.txn(t.Context(), nil, clientv3.OpPut(leaseKey(l.Network, l.Addr), string(v)), clientv3.OpPut(keyLeaseSeq, "7")); err != nil {
		t.Fatal(err)
	}
	if err := s.PutLease(t.Context(), c.lease("192.0.2.10", 2)); !errors.Is(err, ErrAddressTaken) {
		t.Errorf("PutLease of another machine = %v; want ErrAddressTaken", err)
	}
	if got, ok, err := s.LeaseByMAC(t.Context(), "boot", l.MAC); err != nil || !ok || got.Addr != l.Addr {
		t.Errorf("LeaseByMAC = %+v, %v, %v; want %v", got, ok, err, l.Addr)
	}
}

// TestLeaseBurst has many machines ask at once: each gets its address, few
// transactions are made, and all is there when the store is opened again.
func TestLeaseBurst(t *testing.T) {
	dir := t.TempDir()
	s := openConfig(t, Config{Dir: dir})
	const machines = 400
	c := newTwoClocks()
	c.wall.Store(time.Now().UnixNano())
	var wg sync.WaitGroup
	for i := range machines {
		wg.Go(func() {
			l := c.lease("192.0.2.1", 0)
			l.Addr = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			l.MAC = site.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}
			l.Hostname = `h"ost`
			if err := s.PutLease(t.Context(), l); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := s.committer.seq; got > machines/2 {
		t.Errorf("%d leases took %d transactions; want few", machines, got)
	}
	before, err := s.Leases(t.Context())
	if err != nil || len(before) != machines {
		t.Fatalf("Leases = %d, %v; want %d", len(before), err, machines)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openConfig(t, Config{Dir: dir})
	after, err := s.Leases(t.Context())
	if err != nil || len(after) != machines {
		t.Fatalf("Leases after opening again = %d, %v; want %d", len(after), err, machines)
	}
	for i := range after {
		if after[i] != before[i] {
			t.Fatalf("lease %d = %+v after opening again; want %+v", i, after[i], before[i])
		}
	}
}

// TestMoveToCluster reads the leases of an embedded store from a cluster, in
// the form that they have now and in the one that they had.
func TestMoveToCluster(t *testing.T) {
	endpoint, conf := startCluster(t)
	s := openConfig(t, Config{Endpoints: []string{endpoint}, TLS: conf})
	c := newTwoClocks()
	single, paged := c.lease("192.0.2.10", 1), c.lease("192.0.2.40", 2)
	v, err := json.Marshal(single)
	if err != nil {
		t.Fatal(err)
	}
	page := new(leasePage)
	page.set(8, held{Lease: paged})
	if _, err := s.txn(t.Context(), nil, clientv3.OpPut(leaseKey("boot", single.Addr), string(v)), clientv3.OpPut(pagePrefix("boot")+"192.0.2.32", string(page.encode(netip.MustParseAddr("192.0.2.32"), nil))), clientv3.OpPut(keyLeaseSeq, "1")); err != nil {
		t.Fatal(err)
	}
	s = openConfig(t, Config{Endpoints: []string{endpoint}, TLS: conf})
	for _, l := range []Lease{single, paged} {
		if got, ok, err := s.LeaseByMAC(t.Context(), "boot", l.MAC); err != nil || !ok || got != l {
			t.Errorf("LeaseByMAC(%v) = %+v, %v, %v; want %+v", l.MAC, got, ok, err, l)
		}
	}
	if all, err := s.Leases(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("Leases = %v, %v; want 2", all, err)
	}
	if r, err := s.get(t.Context(), prefixLeasePages, clientv3.WithPrefix()); err != nil || r.Count != 0 {
		t.Errorf("%v pages are left in the cluster, %v; want none", r.Kvs, err)
	}
}

// TestMoveToClusterAgain moves state to a cluster that was in one before: an
// entry of the index from then frees nobody's address.
func TestMoveToClusterAgain(t *testing.T) {
	endpoint, conf := startCluster(t)
	s := openConfig(t, Config{Endpoints: []string{endpoint}, TLS: conf})
	c := newTwoClocks()
	c.wall.Store(time.Now().UnixNano())
	theirs := c.lease("192.0.2.40", 2)
	page := new(leasePage)
	page.set(8, held{Lease: theirs})
	once := site.MAC{2, 0, 0, 0, 0, 1}
	if _, err := s.txn(t.Context(), nil, clientv3.OpPut(leaseMACKey(leaseOf{"boot", once, false}), "192.0.2.40"),
		clientv3.OpPut(pagePrefix("boot")+"192.0.2.32", string(page.encode(netip.MustParseAddr("192.0.2.32"), nil))), clientv3.OpPut(keyLeaseSeq, "1")); err != nil {
		t.Fatal(err)
	}
	s = openConfig(t, Config{Endpoints: []string{endpoint}, TLS: conf})
	if err := s.PutLease(t.Context(), c.lease("192.0.2.41", 1)); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := s.LeaseByAddr(t.Context(), "boot", theirs.Addr); err != nil || !ok || got.MAC != theirs.MAC {
		t.Errorf("LeaseByAddr(%v) = %+v, %v, %v; want that of %v still", theirs.Addr, got, ok, err, theirs.MAC)
	}
	if err := s.ReleaseLease(t.Context(), "boot", theirs.Addr, once); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.LeaseByAddr(t.Context(), "boot", theirs.Addr); err != nil || !ok {
		t.Errorf("another MAC released %v: %v, %v; want it leased still", theirs.Addr, ok, err)
	}
}

// TestTwoForms opens a directory with a lease in a page and, written since by a
// fettle from before pages, one with a key of its own for the same address: the
// newer one holds, and the former holder has none.
func TestTwoForms(t *testing.T) {
	conf := Config{Dir: t.TempDir()}
	s := openConfig(t, conf)
	c := newTwoClocks()
	c.wall.Store(time.Now().UnixNano())
	old, since := c.lease("192.0.2.40", 1), c.lease("192.0.2.40", 2)
	if err := s.PutLease(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	v, err := json.Marshal(since)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.txn(t.Context(), nil, clientv3.OpPut(leaseKey("boot", since.Addr), string(v))); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"as read", "as written again"} {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openConfig(t, conf)
		if got, ok, err := s.LeaseByAddr(t.Context(), "boot", since.Addr); err != nil || !ok || got.MAC != since.MAC {
			t.Errorf("%s: LeaseByAddr = %+v, %v, %v; want that of %v", what, got, ok, err, since.MAC)
		}
		if got, ok, err := s.LeaseByMAC(t.Context(), "boot", old.MAC); err != nil || ok {
			t.Errorf("%s: LeaseByMAC(%v) = %+v, %v, %v; want none", what, old.MAC, got, ok, err)
		}
		if err := s.PutLease(t.Context(), c.lease("192.0.2.99", 9)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOldLeases opens a directory whose leases have a key each: they hold, and
// the next write gives them the form of now.
func TestOldLeases(t *testing.T) {
	conf := Config{Dir: t.TempDir()}
	s := openConfig(t, conf)
	c := newTwoClocks()
	c.wall.Store(time.Now().UnixNano())
	var want []Lease
	for i := range byte(40) {
		l := c.lease("192.0.2.1", i)
		l.Addr = netip.AddrFrom4([4]byte{192, 0, 2, i})
		v, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.txn(t.Context(), nil, clientv3.OpPut(leaseKey(l.Network, l.Addr), string(v))); err != nil {
			t.Fatal(err)
		}
		want = append(want, l)
	}
	reopen := func() {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openConfig(t, conf)
	}
	reopen()
	if err := s.PutLease(t.Context(), c.lease("192.0.2.7", 99)); !errors.Is(err, ErrAddressTaken) {
		t.Errorf("another machine got an address of an old lease: %v", err)
	}
	if err := s.DropLease(t.Context(), "boot", want[3].Addr); err != nil {
		t.Fatal(err)
	}
	if r, err := s.get(t.Context(), prefixLeases, clientv3.WithPrefix()); err != nil || r.Count != 0 {
		t.Errorf("%d leases are left in the old form, %v; want none", r.Count, err)
	}
	want = append(want[:3:3], want[4:]...)
	for range 2 {
		got, err := s.Leases(t.Context())
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("Leases = %v, %v; want %v", got, err, want)
		}
		reopen()
	}
}

//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// memoryWire is a socket with new machines behind a relay: as many as there is
// room for have an exchange under way, until some number is done.
type memoryWire struct {
	net.PacketConn
	mu      sync.Mutex
	some    sync.Cond
	waiting [][]byte
	free    [][]byte
	left    int // exchanges to be begun
	open    int
	next    uint32
	begun   []time.Time     // by number
	took    []time.Duration // from a DISCOVER to its ACK
	closed  bool
	done    chan struct{}
}

const memoryOpen = 64

func newMemoryWire(count int) *memoryWire {
	w := &memoryWire{left: count, done: make(chan struct{}), begun: make([]time.Time, 1, count+1), took: make([]time.Duration, 0, count)}
	w.some.L = &w.mu
	for range memoryOpen {
		w.free = append(w.free, make([]byte, 300))
	}
	w.begin()
	return w
}

// begin sends DISCOVERs of new machines. w.mu is held.
func (w *memoryWire) begin() {
	for ; w.left > 0 && w.open < memoryOpen; w.left-- {
		b := w.free[len(w.free)-1]
		w.free = w.free[:len(w.free)-1]
		w.open++
		w.next++
		w.begun = append(w.begun, time.Now())
		clear(b)
		b[0], b[1], b[2] = 1, 1, 6
		binary.BigEndian.PutUint32(b[4:], w.next)
		copy(b[24:], []byte{10, 255, 0, 2})
		b[28] = 2
		binary.BigEndian.PutUint32(b[30:], w.next)
		copy(b[236:], []byte{99, 130, 83, 99, 53, 1, 1, 255})
		w.waiting = append(w.waiting, b)
	}
	if w.open == 0 && w.left == 0 && !w.closed {
		w.closed = true
		close(w.done)
	}
	w.some.Signal()
}

func (w *memoryWire) LocalAddr() net.Addr { return &net.UDPAddr{Port: 67} }
func (w *memoryWire) SetReadDeadline(time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.some.Signal()
	return nil
}

func (w *memoryWire) ReadBatch(to []pxe.Datagram) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.waiting) == 0 {
		if w.closed && w.open == 0 {
			return 0, os.ErrDeadlineExceeded
		}
		w.some.Wait()
	}
	k := min(len(to), len(w.waiting))
	for i, b := range w.waiting[:k] {
		to[i].Data = to[i].Data[:copy(to[i].Data, b)]
		to[i].Peer = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 255, 0, 2}), 67)
		w.free = append(w.free, b)
	}
	w.waiting = slices.Delete(w.waiting, 0, k)
	return k, nil
}

func (w *memoryWire) WriteBatch(from []pxe.Datagram) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range from {
		if d.Data[242] == 2 {
			b := w.free[len(w.free)-1]
			w.free = w.free[:len(w.free)-1]
			copy(b[4:8], d.Data[4:8])
			copy(b[28:34], d.Data[28:34])
			b[0], b[1], b[2] = 1, 1, 6
			copy(b[24:28], []byte{10, 255, 0, 2})
			copy(b[236:], []byte{99, 130, 83, 99, 53, 1, 3, 54, 4, 198, 18, 0, 1, 50, 4})
			copy(b[251:255], d.Data[16:20])
			b[255] = 255
			w.waiting = append(w.waiting, b)
		} else {
			w.open--
			w.took = append(w.took, time.Since(w.begun[binary.BigEndian.Uint32(d.Data[4:])]))
		}
	}
	w.begin()
	return len(from), nil
}

// BenchmarkExchange is whole DHCP exchanges of new machines, 64 under way, as
// fettle serve has them but for the kernel's part of the network: what an
// exchange allocates, and its processor time, etcd's work and the disk's in it.
func BenchmarkExchange(b *testing.B) {
	dir, err := os.MkdirTemp("", "fb") // not b.TempDir: that must be empty in the end
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "site.yaml"), []byte(benchSiteYAML), 0o600); err != nil {
		b.Fatal(err)
	}
	s, err := site.Load(dir)
	if err != nil {
		b.Fatal(err)
	}
	im, err := images.OpenStore(filepath.Join(dir, "store"))
	if err != nil {
		b.Fatal(err)
	}
	st, err := state.Open(b.Context(), state.Config{Dir: filepath.Join(dir, "state")})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	p, err := provision.New(provision.Config{Site: func() *site.Site { return s }, Store: st, Releases: provision.StoreReleases{Store: im}, CA: []byte("x"), AgentPort: 1,
		OpenBMC: func(context.Context, site.Machine) (provision.BMC, error) { return nil, os.ErrNotExist }})
	if err != nil {
		b.Fatal(err)
	}
	px, err := pxe.New(pxe.Config{Networks: pxeNetworks(s.Networks), Booter: p, Leases: p, Files: p, Recorder: p})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { p.Run(ctx) })
	w := newMemoryWire(b.N)
	b.ReportAllocs()
	b.ResetTimer()
	start := processorTime(b)
	wg.Go(func() { px.ServeDHCP(ctx, "far", w) })
	select { // the pool has a million addresses
	case <-w.done:
	case <-time.After(time.Minute):
		b.Fatalf("%d of %d exchanges in a minute", len(w.took), b.N)
	}
	b.ReportMetric(float64((processorTime(b)-start).Nanoseconds())/float64(b.N), "cpu-ns/op")
	b.StopTimer()
	slices.Sort(w.took)
	for name, at := range map[string]int{"p50-ms": 50, "p99-ms": 99} {
		b.ReportMetric(w.took[len(w.took)*at/100].Seconds()*1e3, name)
	}
}

func processorTime(t testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

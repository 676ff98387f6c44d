//go:build linux

package pxe

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/fettle-dev/fettle/pxe/load"
)

// TestDHCPFlood sends thousands of broken packets a second, and machines that want an
// address among them: at least 99 of 100 are answered at their first try.
// FETTLE_FLOOD=60s makes it as long and as hard as that.
func TestDHCPFlood(t *testing.T) {
	// Machines that run other tests beside cannot play both sides at the full
	// rate.
	last, rate := 2*time.Second, 3_000.0
	if d, err := time.ParseDuration(os.Getenv("FETTLE_FLOOD")); err == nil {
		last, rate = d, 10_000
	}
	server, client := vethPair(t)
	for _, a := range []string{"192.0.2.2/24", "192.0.2.3/24"} {
		client.run(t, "ip", "addr", "add", a, "dev", "cli0")
	}
	n := testNetwork()
	n.Prefix, n.Relays = netip.MustParsePrefix("192.0.2.0/24"), []netip.Addr{netip.MustParseAddr("192.0.2.2")}
	f := newFixture(t, n)
	f.now = time.Now
	f.Server.recorder = discard{} // a timeline in memory would be the test's own flood
	f.Server.leases = &roundLeases{}
	f.Server.booter = booterFunc(func(Client) (Decision, error) { return Decision{Action: Ignore}, nil })
	server.serve(t, f.Server, "srv0")
	var honest, flood net.PacketConn
	if err := client.do(func() (err error) {
		if honest, err = net.ListenPacket("udp4", "192.0.2.2:67"); err != nil {
			return err
		}
		flood, err = net.ListenPacket("udp4", "192.0.2.3:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer honest.Close()
	defer flood.Close()
	to := netip.MustParseAddrPort("192.0.2.1:67")
	// Both sides and the flood share this machine's processors with other tests,
	// whose work must not be taken for a server that drowns: three tries.
	for series := byte(1); ; series++ {
		sent := 0
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			good := ask(dhcpv4.MessageTypeDiscover, uefiOpts)
			rng := rand.New(rand.NewPCG(3, 4))
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for begun := time.Now(); ctx.Err() == nil; <-tick.C {
				for ; float64(sent) < rate*time.Since(begun).Seconds(); sent++ {
					b := append([]byte(nil), good...)
					switch rng.IntN(4) {
					case 0:
						b = b[:rng.IntN(len(b))]
					case 1:
						b = append(b, make([]byte, rng.IntN(1100))...)
						b[0] = byte(rng.Uint32())
					default:
						for range 1 + rng.IntN(8) {
							b[rng.IntN(len(b))] = byte(rng.Uint32())
						}
					}
					if _, err := flood.WriteTo(b, net.UDPAddrFromAddrPort(to)); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
		r, err := load.Exchanges(ctx, load.ExchangeConfig{Conn: honest, Server: to, Relay: netip.MustParseAddr("192.0.2.2"), Open: 8, For: last, Series: series})
		cancel()
		wg.Wait()
		if err != nil || r.Done == 0 {
			t.Fatalf("Exchanges = %+v, %v", r, err)
		}
		bad := r.Lost + r.Refused
		enough := bad*100 <= r.Done
		if !enough {
			say := t.Logf
			if series == 3 {
				say = t.Errorf
			}
			say("%d packets of honest machines got no answer and %d machines got their address; want 1 in 100 at most", bad, r.Done)
		}
		if float64(sent) < 0.5*rate*last.Seconds() {
			t.Logf("this machine sent only %d packets: the flood was half of what was meant, or less", sent)
		}
		t.Logf("%d broken packets in %v; %d machines served, %d packets lost, 99%% within %.0f ms", sent, last, r.Done, r.Lost, r.Time.P99*1e3)
		if enough || series == 3 {
			break
		}
	}
	drops := int64(0)
	for _, k := range f.Drops() {
		drops += k
	}
	if drops == 0 {
		t.Error("no packet was counted as dropped")
	}
}

// roundLeases gives addresses in turn, for ever, and remembers nothing.
type roundLeases struct {
	mu sync.Mutex
	n  byte
}

func (l *roundLeases) Offer(context.Context, Client, netip.Addr) (Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n = (l.n + 1) % 200
	return Lease{Addr: netip.AddrFrom4([4]byte{192, 0, 2, 10 + l.n}), Duration: time.Hour}, nil
}

func (l *roundLeases) Commit(_ context.Context, _ Client, a netip.Addr) (Lease, error) {
	return Lease{Addr: a, Duration: time.Hour}, nil
}
func (l *roundLeases) Release(context.Context, Client, netip.Addr) error { return nil }
func (l *roundLeases) Decline(context.Context, Client, netip.Addr) error { return nil }

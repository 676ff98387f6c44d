package state

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/site"
)

// leaserEnv makes the test binary a process that leases addresses of the
// directory named in it to new machines, as many at once as a burst has, and
// prints each lease once it is acknowledged. leaserFrom numbers the machines.
const (
	leaserEnv  = "FETTLE_STATE_TEST_LEASER"
	leaserFrom = "FETTLE_STATE_TEST_LEASER_FROM"
	// leaserPool is small: later machines ask for addresses that earlier ones
	// were acknowledged.
	leaserPool = 1 << 16
)

// leaser leases until it is killed. Before that it checks what the parent
// knows to be acknowledged (FILE of leaserEnv's directory): none may be lost.
func leaser(dir string) int {
	from, err := strconv.Atoi(os.Getenv(leaserFrom))
	if err != nil {
		return 2
	}
	s, err := Open(context.Background(), Config{Dir: filepath.Join(dir, "state")})
	if err != nil {
		fmt.Println("open", err)
		return 1
	}
	var out sync.Mutex
	w := bufio.NewWriter(os.Stdout)
	say := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Fprintf(w, format+"\n", args...)
		w.Flush()
	}
	b, err := os.ReadFile(filepath.Join(dir, "acknowledged"))
	if err != nil {
		say("open %v", err)
		return 1
	}
	for line := range strings.Lines(string(b)) {
		addr, mac, _ := strings.Cut(strings.TrimSpace(line), " ")
		l, ok, err := s.LeaseByAddr(context.Background(), "boot", netip.MustParseAddr(addr))
		if err != nil || !ok || macText(l.MAC) != mac {
			say("lost %s: acknowledged to %s, and now %v's (%v, %v)", addr, mac, l.MAC, ok, err)
			return 1
		}
		if of, ok, err := s.LeaseByMAC(context.Background(), "boot", l.MAC); err != nil || !ok || of.Addr != l.Addr {
			say("lost %s: its machine %s has %v (%v, %v)", addr, mac, of.Addr, ok, err)
			return 1
		}
	}
	say("checked")
	for i := range 64 {
		go func() {
			rng := rand.New(rand.NewPCG(uint64(from), uint64(i)))
			for n := 0; ; n++ {
				id := from + i + 64*n
				now := time.Now()
				l := Lease{Network: "boot", MAC: site.MAC{2, byte(id >> 32), byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}, Granted: now, Expires: now.Add(24 * time.Hour)}
				a := rng.IntN(leaserPool)
				l.Addr = netip.AddrFrom4([4]byte{10, 0, byte(a >> 8), byte(a)})
				switch err := s.PutLease(context.Background(), l); {
				case err == nil:
					say("%s %s", l.Addr, macText(l.MAC))
				case !errors.Is(err, ErrAddressTaken):
					say("open %v", err)
				}
			}
		}()
	}
	select {}
}

// TestLeasesSurviveKill kills a process amid a burst of leases, again and
// again: none that was acknowledged is lost, and none is given to another
// machine. FETTLE_KILLS says how often; 1000 takes about ten minutes.
func TestLeasesSurviveKill(t *testing.T) {
	kills := 3
	if n, err := strconv.Atoi(os.Getenv("FETTLE_KILLS")); err == nil {
		kills = n
	} else if !testing.Short() {
		kills = 12
	}
	dir := t.TempDir()
	ledger := filepath.Join(dir, "acknowledged")
	acknowledged := map[string]string{}
	amid := 0
	for kill := range kills + 1 { // the last one only looks
		var b strings.Builder
		for addr, mac := range acknowledged {
			fmt.Fprintf(&b, "%s %s\n", addr, mac)
		}
		if err := os.WriteFile(ledger, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		got := killLeaser(t, dir, kill, time.Duration(rand.IntN(60_000))*time.Microsecond)
		for addr, mac := range got {
			if had, ok := acknowledged[addr]; ok {
				t.Fatalf("kill %d: %s was acknowledged to %s, which %s has", kill, addr, mac, had)
			}
			acknowledged[addr] = mac
		}
		if len(got) > 0 {
			amid++
		}
		if len(acknowledged) > leaserPool/2 {
			// A pool that is full proves nothing: from the start.
			if err := os.RemoveAll(filepath.Join(dir, "state")); err != nil {
				t.Fatal(err)
			}
			clear(acknowledged)
		}
	}
	if amid < kills/2 {
		t.Errorf("%d of %d kills were amid a burst; want most", amid, kills)
	}
	t.Logf("%d kills, %d amid a burst", kills, amid)
}

// killLeaser runs a leaser, kills it a while after its first lease, and returns
// what it acknowledged.
func killLeaser(t *testing.T, dir string, round int, after time.Duration) map[string]string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), leaserEnv+"="+dir, fmt.Sprintf("%s=%d", leaserFrom, round<<24))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slow := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer slow.Stop()
	got := map[string]string{}
	checked := false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		addr, mac, _ := strings.Cut(line, " ")
		switch addr {
		case "checked":
			checked = true
		case "open", "lost":
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatalf("after %d kills: %s", round, line)
		default:
			if len(got) == 0 {
				time.AfterFunc(after, func() { cmd.Process.Kill() })
			}
			if had, ok := got[addr]; ok {
				t.Errorf("%s was acknowledged to %s and to %s", addr, had, mac)
			}
			if len(mac) == 17 { // else the kill cut it
				got[addr] = mac
			}
		}
	}
	cmd.Wait() // killed: its error says so
	if !checked {
		t.Fatalf("after %d kills the store did not open within a minute", round)
	}
	return got
}

// TestSlowDisk has a disk that hangs: nobody is acknowledged meanwhile, and all
// goes on when it is back.
func TestSlowDisk(t *testing.T) {
	s := openTest(t)
	hangs := make(chan struct{})
	s.free = func() (uint64, error) { <-hangs; return 1 << 40, nil } // what every batch asks before it writes
	c := newTwoClocks()
	c.wall.Store(time.Now().UnixNano())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for i := range byte(20) {
		wg.Go(func() {
			if err := s.PutLease(ctx, c.lease("192.0.2.10", i)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("PutLease on a disk that hangs = %v; want that it took too long", err)
			}
		})
	}
	wg.Wait()
	if l, ok, err := s.LeaseByAddr(t.Context(), "boot", netip.MustParseAddr("192.0.2.10")); ok || err != nil {
		t.Errorf("LeaseByAddr = %+v, %v; want none yet", l, err)
	}
	close(hangs)
	if err := s.PutLease(t.Context(), c.lease("192.0.2.11", 99)); err != nil {
		t.Errorf("PutLease with the disk back = %v", err)
	}
	// One of those whose caller has gone may have been written, and no other.
	if all, err := s.Leases(t.Context()); err != nil || len(all) > 2 {
		t.Errorf("Leases = %v, %v; want two at most", all, err)
	}
}

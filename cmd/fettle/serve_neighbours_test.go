package main

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/fettle-dev/fettle/site"
)

// procNeighbours is what Linux 6.1 shows on two processors.
func procNeighbours(limit, full string) fstest.MapFS {
	return fstest.MapFS{
		"sys/net/ipv4/neigh/default/gc_thresh3": {Data: []byte(limit + "\n")},
		"net/stat/arp_cache": {Data: []byte("entries  allocs   destroys hash_grows lookups  hits     res_failed rcv_probes_mcast rcv_probes_ucast periodic_gc_runs forced_gc_runs unresolved_discards table_fulls\n" +
			"00000000 0000702a 000076d1 00000005   00012a75 00010ad8 00002c84   00000000         00000000         00000d63         000016e2       00000000            " + full + "\n" +
			"00000000 00004639 00003f92 00000003   0000c999 0000aa70 00002455   00000000         00000000         00000000         000004d4       000000c7            00000001\n")},
	}
}

func TestNeighbourTables(t *testing.T) {
	got := neighbourTables(procNeighbours("1024", "000016b9"))
	if len(got) != 1 || got[0] != (neighbourTable{"net.ipv4.neigh.default.gc_thresh3", 1024, 0x16ba}) {
		t.Fatalf("neighbourTables = %+v; want the limit 1024 and 0x16ba refusals", got)
	}
	for machines, want := range map[int]string{384: "", 385: "net.ipv4.neigh.default.gc_thresh3=4096", 3000: "gc_thresh3=16384"} {
		text, is := got[0].crowded(&site.Site{Machines: make([]site.Machine, machines)})
		if is != (want != "") || !strings.Contains(text, want) {
			t.Errorf("with %d machines it says %q; want %q in it", machines, text, want)
		}
	}
	if got := neighbourTables(fstest.MapFS{}); got != nil {
		t.Errorf("neighbourTables of nothing = %+v", got)
	}
	if got := tableFulls([]byte("entries allocs\n00000001 00000002\n")); got != 0 {
		t.Errorf("without the column, tableFulls = %d; want 0", got)
	}
}

func TestWatchNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		proc := procNeighbours("1024", "00000000")
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		tick := make(chan time.Time)
		done := make(chan struct{})
		go func() {
			defer close(done)
			watchNeighbours(ctx, proc, slog.New(slog.NewTextHandler(&log, nil)), tick)
		}()
		synctest.Wait()
		tick <- time.Time{}
		synctest.Wait()
		if log.Len() > 0 {
			t.Errorf("it says %s of a table that has room", log.String())
		}
		proc["net/stat/arp_cache"] = procNeighbours("1024", "00000010")["net/stat/arp_cache"]
		tick <- time.Time{}
		tick <- time.Time{} // nothing new
		cancel()
		<-done
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "refused=16") || !strings.Contains(got, "sysctl -w net.ipv4.neigh.default.gc_thresh3=4096") {
			t.Errorf("it says %q; want 16 refusals, once, and the command", got)
		}
	})
}

func TestDoctorNeighbours(t *testing.T) {
	proc := procNeighbours("1024", "00000000")
	for _, c := range []struct {
		machines int
		full     string
		ok       bool
		says     string
	}{
		{2, "00000000", true, "1024 neighbours; its table was full 1 times"}, // the second processor's
		{2, "0000000f", true, "was full 16 times since this kernel started: if machines get no packets, sysctl -w net.ipv4.neigh.default.gc_thresh3=4096"},
		{600, "00000000", false, "sysctl -w net.ipv4.neigh.default.gc_thresh3=4096"},
	} {
		proc["net/stat/arp_cache"] = procNeighbours("1024", c.full)["net/stat/arp_cache"]
		got := checkNeighbours(&site.Site{Name: "lyon", Machines: make([]site.Machine, c.machines)}, proc)
		if len(got) != 1 || got[0].OK != c.ok || !strings.Contains(got[0].Text, c.says) || got[0].For != "serve of site lyon" {
			t.Errorf("%d machines, full %s: checkNeighbours = %+v; want OK %v and %q", c.machines, c.full, got, c.ok, c.says)
		}
	}
}

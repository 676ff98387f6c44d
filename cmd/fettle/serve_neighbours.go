package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/site"
)

// A kernel keeps the link addresses of at most so many neighbours, of all its
// interfaces and network namespaces together (arp(7), gc_thresh3; 1,024 where
// nobody set it). Those beyond are sent nothing, for seconds and more: machines
// stop in the middle of their boot, and no packet tells why.

// neighbourLook is how often a server looks whether that happened.
const neighbourLook = 10 * time.Second

// neighbourTable is one family's.
type neighbourTable struct {
	sysctl string // the name of its limit
	most   int
	full   uint64 // how often an entry was refused, since the kernel started
}

// neighbourTables reads the tables from a proc file system; those that it does
// not show (it shows none to a network namespace but the first) are left out.
func neighbourTables(proc fs.FS) []neighbourTable {
	var out []neighbourTable
	for _, t := range []struct{ family, cache string }{{"ipv4", "arp_cache"}, {"ipv6", "ndisc_cache"}} {
		text, err := fs.ReadFile(proc, "sys/net/"+t.family+"/neigh/default/gc_thresh3")
		if err != nil {
			continue
		}
		most, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			continue
		}
		counts, err := fs.ReadFile(proc, "net/stat/"+t.cache)
		if err != nil {
			continue
		}
		out = append(out, neighbourTable{"net." + t.family + ".neigh.default.gc_thresh3", most, tableFulls(counts)})
	}
	return out
}

// tableFulls sums a column of /proc/net/stat's: a line of names, then one of
// hexadecimal numbers for each processor.
func tableFulls(text []byte) (sum uint64) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	column := -1
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if column < 0 {
			for i, name := range f {
				if name == "table_fulls" {
					column = i
				}
			}
			if column < 0 {
				return 0
			}
			continue
		}
		if column < len(f) {
			n, _ := strconv.ParseUint(f[column], 16, 64)
			sum += n
		}
	}
	return sum
}

// mend is the command that makes room for so many.
func (t neighbourTable) mend(want int) string {
	room := 4096
	for room < 2*want {
		room *= 2
	}
	return fmt.Sprintf("sysctl -w %s=%d (and a file in /etc/sysctl.d, to keep it)", t.sysctl, room)
}

// crowded says that a site's machines and BMCs do not fit into the kernel's
// table, if they do not. Machines behind relays take no room, so that it is
// asked for what may be too much; it costs nothing.
func (t neighbourTable) crowded(s *site.Site) (string, bool) {
	n := 2 * len(s.Machines)
	if n <= t.most*3/4 {
		return "", false
	}
	return fmt.Sprintf("this kernel keeps at most %d neighbours, and the site's %d machines and their BMCs may be %d: those beyond would get no packets: %s", t.most, len(s.Machines), n, t.mend(n)), true
}

// neighbourLacks is what a server of this site must expect.
func neighbourLacks(s *site.Site) (out []string) {
	for _, t := range neighbourTables(os.DirFS("/proc")) {
		if text, is := t.crowded(s); is {
			out = append(out, text)
		}
	}
	return out
}

// watchNeighbours tells when machines got no packets because a table is full,
// until ctx ends.
func watchNeighbours(ctx context.Context, proc fs.FS, log *slog.Logger, tick <-chan time.Time) {
	last := neighbourTables(proc)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		now := neighbourTables(proc)
		for i, t := range now {
			if i < len(last) && last[i].sysctl == t.sysctl && t.full > last[i].full {
				log.Error("machines get no packets: the kernel's table of neighbours is full", "limit", t.most, "refused", t.full-last[i].full, "mend", t.mend(t.most))
			}
		}
		last = now
	}
}

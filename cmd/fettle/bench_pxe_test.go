//go:build linux

package main

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const benchRounds = 3

// benchTable gathers figures: of each row and server one for each round.
type benchTable struct {
	rows []string
	v    map[string]map[string][]float64
	unit map[string]string
	note map[string]string
}

func (t *benchTable) add(row, server, unit string, v float64) {
	if t.v == nil {
		t.v, t.unit, t.note = map[string]map[string][]float64{}, map[string]string{}, map[string]string{}
	}
	if t.v[row] == nil {
		t.rows = append(t.rows, row)
		t.v[row] = map[string][]float64{}
		t.unit[row] = unit
	}
	t.v[row][server] = append(t.v[row][server], v)
}

func medianOf(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// markdown is the table: a line for each row, our median and each peer's, with
// the ratio of ours to theirs.
func (t *benchTable) markdown() string {
	var b strings.Builder
	b.WriteString("| what | fettle | peers: median, and fettle's ratio to it | wanted |\n|---|---|---|---|\n")
	for _, row := range t.rows {
		ours := medianOf(t.v[row]["fettle"])
		var others []string
		for _, name := range slices.Sorted(func(yield func(string) bool) {
			for n := range t.v[row] {
				if n != "fettle" && !yield(n) {
					return
				}
			}
		}) {
			m := medianOf(t.v[row][name])
			ratio := ""
			if m > 0 {
				ratio = fmt.Sprintf(" (%.2f)", ours/m)
			}
			others = append(others, fmt.Sprintf("%s %s%s", name, number(m), ratio))
		}
		fmt.Fprintf(&b, "| %s, %s | %s | %s | %s |\n", row, t.unit[row], number(ours), cmp.Or(strings.Join(others, "; "), "–"), t.note[row])
	}
	return b.String()
}

func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 10:
		return fmt.Sprintf("%.3g", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// perRound starts each peer in turn, in every round, and measures it: what is
// compared is measured within seconds of each other.
func (b *benchRig) perRound(rounds int, peers []benchPeer, answers string, measure func(p *benchProc, round int)) {
	b.t.Helper()
	for round := range rounds {
		for _, peer := range peers {
			if only := os.Getenv("FETTLE_BENCH_PEERS"); only != "" && !slices.Contains(strings.Split(only, ","), peer.name) {
				continue
			}
			if !b.have(peer.tool) {
				if round == 0 {
					b.t.Logf("%s is not installed and is left out: pxe/peers.sh", peer.name)
				}
				continue
			}
			p := b.begin(peer)
			b.answers(p, answers)
			measure(p, round)
			p.stop()
		}
	}
}

// TestBenchPXE measures fettle serve, with its state on disk, its timeline and
// its logs, beside other servers on one wire, and prints the table of
// pxe/BENCH.md: make bench-pxe. FETTLE_BENCH names rows, or is "all".
func TestBenchPXE(t *testing.T) {
	needBench(t)
	before := loadAverage()
	b := newBenchRig(t)
	var table benchTable
	defer func() {
		text := fmt.Sprintf("%s, %d processors (%s), medians of %d rounds, load before and after: %s, %s\n\n%s",
			time.Now().Format("2006-01-02 15:04"), runtime.NumCPU(), cpuModel(), benchRounds, before, loadAverage(), table.markdown())
		t.Log("\n" + text)
		if f := os.Getenv("FETTLE_BENCH_OUT"); f != "" {
			if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
				t.Error(err)
			}
		}
	}()
	for _, row := range []struct {
		name string
		do   func(*benchRig, *benchTable)
	}{
		{"start", benchStart}, {"dhcp", benchDHCP}, {"burst", benchBurst}, {"tftp", benchTFTP}, {"loss", benchLoss}, {"http", benchHTTP}, {"storm", benchStorms},
	} {
		if which := os.Getenv("FETTLE_BENCH"); which == "all" || which == "1" || slices.Contains(strings.Split(which, ","), row.name) {
			start := time.Now()
			row.do(b, &table)
			t.Logf("%s took %.0f s", row.name, time.Since(start).Seconds())
		}
	}
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:2], " ")
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// benchStart is the time from the start to the first answer, and the memory of
// a server that nobody asks.
func benchStart(b *benchRig, table *benchTable) {
	for range benchRounds {
		p := b.begin(peerFettle())
		took := b.answers(p, "http")
		table.add("start to answering", p.name, "s", took.Seconds())
		b.answers(p, "dhcp")
		time.Sleep(2 * time.Second) // what is measured is a server that waits
		now, _ := p.memory()
		table.add("idle memory", p.name, "MB", float64(now)/1e6)
		p.stop()
	}
	table.note["start to answering"], table.note["idle memory"] = "1 s", "60 MB"
}

// benchDHCP is whole exchanges of new machines, 64 under way.
func benchDHCP(b *benchRig, table *benchTable) {
	const rate, cpu, p50, p99, lost = "DHCP exchanges, 64 at once", "CPU of an exchange", "half of the exchanges within", "99% of the exchanges within", "packets lost or refused"
	b.perRound(benchRounds, []benchPeer{peerFettle(), peerKea(), peerQuietKea(), peerDhcpd(), peerDnsmasq()}, "dhcp", func(p *benchProc, round int) {
		r, used := b.load(p, benchLoad{Kind: "exchanges", Clients: 64, For: 4 * time.Second, Series: byte(1 + round)})
		x := r.Exchanges
		table.add(rate, p.name, "a second", x.PerSecond())
		table.add(cpu, p.name, "µs", used.Seconds()*1e6/float64(max(x.Done, 1)))
		table.add(p50, p.name, "ms", x.Time.P50*1e3)
		table.add(p99, p.name, "ms", x.Time.P99*1e3)
		table.add(lost, p.name, "in 4 s", float64(x.Lost+x.Refused))
	})
	table.note[rate], table.note[cpu], table.note[p99] = "3 times kea", "30 µs", "half of kea"
}

// benchBurst is a thousand DISCOVERs at once.
func benchBurst(b *benchRig, table *benchTable) {
	const lost, p99 = "1,000 DISCOVERs at once: lost", "1,000 DISCOVERs at once: 99% within"
	b.perRound(benchRounds, []benchPeer{peerFettle(), peerKea(), peerQuietKea(), peerDnsmasq()}, "dhcp", func(p *benchProc, round int) {
		r, _ := b.load(p, benchLoad{Kind: "burst", Clients: 1000, For: 2 * time.Second, Series: byte(20 + round)})
		table.add(lost, p.name, "machines", float64(r.Lost))
		table.add(p99, p.name, "s", r.Time.P99)
	})
	table.note[lost], table.note[p99] = "0", "0.3 s"
}

// benchTFTP is 50 clients at once.
func benchTFTP(b *benchRig, table *benchTable) {
	peers := []benchPeer{peerFettle(), peerDnsmasq(), peerTftpd(), peerAtftpd()}
	b.perRound(benchRounds, peers, "tftp", func(p *benchProc, _ int) {
		for _, f := range []struct {
			row, file string
			window    int
			wanted    string
			size      int64
		}{
			{"TFTP, 50 clients of 1 MiB, lockstep", "small", 0, "0.9 of dnsmasq", benchSmall},
			{"TFTP, 50 clients of 1 MiB, windowsize 16", "small", 16, "1.4 of atftpd", benchSmall},
			{"TFTP, 50 clients of 40 MiB, windowsize 16", "big", 16, "1.8 of atftpd", benchBig},
		} {
			if f.window > 0 && p.name != "fettle" && p.name != "atftpd" {
				continue
			}
			r, used := b.load(p, benchLoad{Kind: "tftp", Clients: 50, Name: f.file, Window: f.window, For: 60 * time.Second, Wait: 2 * time.Second})
			table.add(f.row, p.name, "MB/s", r.Fetched.MBPerSecond())
			table.note[f.row] = f.wanted
			if f.size == benchBig {
				table.add(f.row+": CPU", p.name, "s/GB", used.Seconds()/(float64(r.Fetched.Bytes)/1e9))
			}
			if want := 50 * f.size; r.Fetched.Bytes != want {
				b.t.Errorf("%s: %s fetched %d bytes; want %d", f.row, p.name, r.Fetched.Bytes, want)
			}
		}
	})
}

// benchLoss is 20 clients while a hundredth of all packets is lost.
func benchLoss(b *benchRig, table *benchTable) {
	const plain, window = "TFTP at 1% loss, 20 clients of 1 MiB, lockstep: median", "the same with windowsize 16: median"
	// A client that asks again would hide what the server does.
	l := benchLoad{Kind: "tftp", Clients: 20, Name: "small", Loss: 0.01, For: 60 * time.Second, Wait: 20 * time.Second}
	b.perRound(1, []benchPeer{peerFettle(), peerDnsmasq(), peerTftpd(), peerAtftpd()}, "tftp", func(p *benchProc, _ int) {
		if p.name != "atftpd" {
			r, _ := b.load(p, l)
			table.add(plain, p.name, "s", r.Fetched.Time.P50)
		}
		if w := l; p.name == "fettle" || p.name == "atftpd" {
			w.Window = 16
			r, _ := b.load(p, w)
			table.add(window, p.name, "s", r.Fetched.Time.P50)
		}
	})
	table.note[plain], table.note[window] = "half of tftpd-hpa", "a tenth of tftpd-hpa in lockstep"
}

// benchHTTP is 200 clients of 40 MiB.
func benchHTTP(b *benchRig, table *benchTable) {
	const rate, cpu = "HTTP, 200 clients of 40 MiB", "HTTP: CPU"
	b.perRound(benchRounds, []benchPeer{peerFettle(), peerNginx()}, "http", func(p *benchProc, _ int) {
		url := "http://" + benchServer + "/boot/files/big"
		if p.name == "fettle" {
			url = "http://" + benchServer + "/boot/files/loaders/big"
		}
		r, used := b.load(p, benchLoad{Kind: "http", Clients: 200, Name: url, For: 60 * time.Second})
		table.add(rate, p.name, "GB/s", r.Fetched.MBPerSecond()/1e3)
		table.add(cpu, p.name, "s/GB", used.Seconds()/(float64(r.Fetched.Bytes)/1e9))
		if want := int64(200 * benchBig); r.Fetched.Bytes != want {
			b.t.Errorf("%s sent %d bytes; want %d", p.name, r.Fetched.Bytes, want)
		}
	})
	table.note[rate], table.note[cpu] = "1.3 of nginx", "0.8 of nginx"
}

// benchStorms is machines that boot at once: beside others, and many.
func benchStorms(b *benchRig, table *benchTable) {
	const few, many = "storm of 200 machines, 50 MB each", "storm of 1,000 machines, 50 MB each"
	b.perRound(2, []benchPeer{peerFettle(), peerPair()}, "dhcp", func(p *benchProc, round int) {
		r, used := b.storm(p, 200, time.Minute, 100+round)
		table.add(few, p.name, "s", r.Took.Seconds())
		table.add(few+": booted", p.name, "machines", float64(r.Booted))
		table.add(few+": CPU", p.name, "s", used.Seconds())
	})
	b.perRound(1, []benchPeer{peerFettle()}, "dhcp", func(p *benchProc, _ int) {
		r, used := b.storm(p, 1000, time.Minute, 200)
		_, most := p.memory()
		table.add(many, p.name, "s", r.Took.Seconds())
		table.add(many+": booted", p.name, "machines", float64(r.Booted))
		table.add(many+": without asking twice", p.name, "machines", float64(r.FirstTry))
		table.add(many+": CPU", p.name, "s", used.Seconds())
		table.add(many+": memory at most", p.name, "MB", float64(most)/1e6)
		b.t.Logf("%s:\n%s", p.name, r.Summary())
	})
	table.note[few] = "0.65 of the best peer"
	table.note[many], table.note[many+": booted"], table.note[many+": without asking twice"] = "18 s", "1000", "1000"
	table.note[many+": CPU"], table.note[many+": memory at most"] = "12 s", "150 MB"
}

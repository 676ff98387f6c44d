// Command bench measures fettle's mirror and bundle commands beside the
// programs that others use for the same work, in one run on one machine: see
// ../BENCH.md. It makes a signed repository, serves it on loopback, runs each
// program under GNU time, and prints a table.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options of a run.
type options struct {
	fettle   string
	dir      string
	packages int
	bytes    int64
	rounds   int
	large    int64
	jsonOut  string
	only     string
}

func run(ctx context.Context, args []string, out, progress io.Writer) (err error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.fettle, "fettle", "bin/fettle", "the program to be measured")
	f.StringVar(&o.dir, "dir", "", "folder to work in (default: a temporary one)")
	f.IntVar(&o.packages, "packages", 2010, "packages of the repository")
	f.Int64Var(&o.bytes, "bytes", 572_000_000, "their bytes")
	f.IntVar(&o.rounds, "rounds", 3, "runs of each; the best wall time counts")
	f.Int64Var(&o.large, "large", 0, "also make and import a bundle of so many bytes, for its memory")
	f.StringVar(&o.only, "only", "", "only this: "+strings.Join(onlyWords(), ", "))
	f.StringVar(&o.jsonOut, "json", "", "file for the figures as JSON")
	if err := f.Parse(args); err != nil {
		return err
	}
	if err := checkOnly(o); err != nil {
		return err
	}
	if o.fettle, err = filepath.Abs(o.fettle); err != nil {
		return err
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "bench-airgap-"); err != nil {
			return err
		}
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	b := &bench{options: o, log: progress}
	defer func() { err = errors.Join(err, os.RemoveAll(filepath.Join(o.dir, "work"))) }()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	b.addr = l.Addr().String()
	srv := &http.Server{Handler: http.FileServer(http.Dir(b.repo)), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	err = b.all(ctx)
	err = errors.Join(err, srv.Close())
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	b.print(out)
	if o.jsonOut != "" {
		data, jerr := json.MarshalIndent(b.rows, "", " ")
		err = errors.Join(err, jerr, os.WriteFile(o.jsonOut, data, 0o644))
	}
	return err
}

// onlyWords are what -only takes.
func onlyWords() []string {
	words := []string{"apt", "bundle", "formats", "memory"}
	for _, w := range (&bench{}).works() {
		words = append(words, w.format)
	}
	return words
}

// checkOnly refuses a word that nothing would be measured for.
func checkOnly(o options) error {
	if o.only != "" && !slices.Contains(onlyWords(), o.only) {
		return fmt.Errorf("-only %s: there is no such work; it is one of %s", o.only, strings.Join(onlyWords(), ", "))
	}
	if o.only == "memory" && o.large <= 0 {
		return errors.New("-only memory: say how large a bundle with -large, e.g. -large 4000000000")
	}
	return nil
}

// bench is one run.
type bench struct {
	options
	log  io.Writer
	addr string
	repo string // what is served
	work string // folders of the programs; removed between rounds
	keys keys
	rows []row
}

// row is the best run of one program at one work.
type row struct {
	Work    string  `json:"work"`
	Program string  `json:"program"`
	Wall    float64 `json:"wallSeconds"`
	CPU     float64 `json:"cpuSeconds"`
	MB      float64 `json:"megabytes"`
	Note    string  `json:"note,omitempty"`
	Ours    bool    `json:"ours,omitempty"`
}

func (b *bench) print(out io.Writer) {
	host, _ := os.Hostname()
	fmt.Fprintf(out, "%s, %d cores, %s; best wall time of %d\n\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), host[:min(len(host), 1)]+"…", b.rounds)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	last := ""
	for _, r := range b.rows {
		if r.Work != last {
			fmt.Fprintf(w, "\n%s\t wall s\t CPU s\t MB\t fettle's part of its wall\t CPU\t\n", strings.ToUpper(r.Work))
			last = r.Work
		}
		ratio, cpu := "", ""
		for _, x := range b.rows {
			if x.Work == r.Work && x.Ours && !r.Ours && r.Wall > 0 {
				ratio, cpu = fmt.Sprintf("%.2f", x.Wall/r.Wall), fmt.Sprintf("%.2f", x.CPU/max(r.CPU, 0.01))
			}
		}
		fmt.Fprintf(w, "%s\t %.2f\t %.2f\t %.0f\t %s\t %s\t\n", r.Program, r.Wall, r.CPU, r.MB, ratio, cpu)
	}
	w.Flush()
}

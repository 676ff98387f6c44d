package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

// way is how a command reaches the BMCs that it selected: by a server, or
// directly.
type way struct {
	names   []string
	server  *web.Client  // nil: directly
	targets []bmc.Target // without a server
}

// bmcServer finds the server that a command about BMCs goes to; nil when there
// is none here, or when somebody says --direct.
func (e *env) bmcServer(c *cli.Context) (*web.Client, error) {
	if c.Bool("direct") {
		return nil, nil
	}
	sock := cmp.Or(c.String("server"), e.getenv("FETTLE_SERVER"))
	if c.String("lab") != "" || sock != "" && sock != e.getenv("FETTLE_SERVER") || strings.Contains(sock, "://") {
		return e.connect(c)
	}
	if sock == "" {
		sock = defaultSocket(e)
	}
	if listening(sock) {
		return web.NewUnixClient(sock), nil
	}
	return nil, nil
}

// pick finds the BMCs that the arguments select, and says how they are reached.
// asks is what a person must agree to first, or "". What goes past a server's
// events is noted.
func (b *bmcCommand) pick(c *cli.Context, asks string) (way, error) {
	w, err := b.choose(c)
	if err != nil {
		return w, err
	}
	if asks != "" {
		if err := b.e.confirm(c.Bool("yes"), fmt.Sprintf("%s %s", asks, count(w.names))); err != nil {
			return w, err
		}
	}
	if w.server == nil && c.String("lab") == "" {
		b.e.noteDirect(c, w.targets, time.Now())
	}
	return w, nil
}

// choose is pick without questions.
func (b *bmcCommand) choose(c *cli.Context) (w way, err error) {
	sel := c.Args().Slice()
	if len(sel) == 0 {
		return w, usage("say which machines: names, a range such as gpu-[01-32], rack=NAME or profile=NAME")
	}
	if i := slices.IndexFunc(sel, func(s string) bool { return strings.HasPrefix(s, "-") }); i >= 0 {
		return w, usage("flags go before the machines: put %s before %s", sel[i], sel[0])
	}
	if c.Int("parallel") < 1 {
		return w, usage("--parallel %d: give 1 or more", c.Int("parallel"))
	}
	if b.server != nil {
		if w.server, err = b.server(c); err != nil {
			return w, err
		}
	}
	if w.server != nil {
		site := ""
		err := w.server.Operate(c.Context, bmc.OpPower.Name, state.BMCRequest{Machines: sel, Dry: true}, func(s state.BMCStep) {
			w.names, site = append(w.names, s.Machine), s.Site
		})
		if err != nil {
			return w, servedError(err)
		}
		fmt.Fprintf(b.e.stderr, "to %s by fettle at %s (site %s); --direct goes past it\n", countBMCs(len(w.names)), w.server.Where(), site)
		return w, nil
	}
	if w.targets, err = b.targets(c, sel); err != nil {
		return w, err
	}
	for _, t := range w.targets {
		w.names = append(w.names, t.Name)
	}
	if len(w.names) == 0 {
		return w, fail(exitInput, fmt.Errorf("no machine matches %s", strings.Join(sel, " ")))
	}
	return w, nil
}

// servedError gives what a server refused its exit status.
func servedError(err error) error {
	var p *web.Problem
	switch {
	case errors.Is(err, state.ErrNeedsYes):
		return fail(exitRefused, err)
	case errors.As(err, &p) && p.Status == http.StatusNotFound && p.Detail == "there is nothing here":
		return fail(exitMissing, fmt.Errorf("the fettle that serves here is older than this one and speaks to no BMCs for commands: start it again, or say --direct: %w", err))
	case errors.As(err, &p) && p.Status == http.StatusNotFound:
		return fail(exitInput, err)
	}
	return err
}

// bmcOrder is an operation with its arguments, and how people see what comes of it.
type bmcOrder[A, T any] struct {
	op   bmc.Operation[A, T]
	args A
	asks string             // instead of the operation's own question
	what string             // the key in JSON
	head []string           // without MACHINE
	row  func(T) []string   // a line a machine, or
	rows func(T) [][]string // several
	file string             // a firmware image
	out  io.Writer          // for what is written
	only []string           // of the machines of the way; nil = all
}

// ask does an operation at every selected machine and reports a line of each.
func ask[A, T any](b *bmcCommand, c *cli.Context, o bmcOrder[A, T]) error {
	if o.asks == "" {
		o.asks = o.op.Asks
	}
	w, err := b.pick(c, o.asks)
	if err != nil {
		return err
	}
	res, err := do(b, c, w, o)
	if err != nil {
		return err
	}
	return show(b, res, o)
}

func show[A, T any](b *bmcCommand, res []bmc.Result[T], o bmcOrder[A, T]) error {
	return report(b.e, res, o.what, append([]string{"MACHINE"}, o.head...), o.row, o.rows)
}

// do does an operation at the machines of a way. What a person must agree to
// was agreed to.
func do[A, T any](b *bmcCommand, c *cli.Context, w way, o bmcOrder[A, T]) ([]bmc.Result[T], error) {
	names := w.names
	if o.only != nil {
		names = o.only
	}
	p := &bmcProgress{e: b.e, total: len(names)}
	defer p.clear()
	if w.server != nil {
		return served(c, w.server, names, o, p)
	}
	targets := slices.DeleteFunc(slices.Clone(w.targets), func(t bmc.Target) bool { return !slices.Contains(names, t.Name) })
	var open func() (io.ReadSeekCloser, error)
	if o.file != "" {
		open = func() (io.ReadSeekCloser, error) { return os.Open(o.file) }
	}
	if b.e.getenv("GOGC") == "" { // else somebody knows better
		// A session each makes 90 kB of garbage a BMC and keeps little of it: an
		// eighth of the work was collecting it (bmc/BENCH.md).
		defer debug.SetGCPercent(debug.SetGCPercent(400))
	}
	return bmc.Each(c.Context, targets, bmc.EachOptions{Parallel: c.Int("parallel"), Again: o.op.Effect == bmc.Reads, Done: func(string, error) { p.done() }},
		func(ctx context.Context, cl *bmc.Client) (T, error) {
			return o.op.Do(ctx, cl, o.args, bmc.Aid{Say: func(text string) { p.say(cl.Name(), text) }, Out: o.out, Open: open})
		}), nil
}

// served has a server do it.
func served[A, T any](c *cli.Context, server *web.Client, names []string, o bmcOrder[A, T], p *bmcProgress) ([]bmc.Result[T], error) {
	args, err := json.Marshal(o.args)
	if err != nil {
		return nil, fmt.Errorf("encoding the arguments of %s: %w", o.op.Name, err)
	}
	at := map[string]int{}
	res := make([]bmc.Result[T], len(names))
	for i, n := range names {
		at[n] = i
		res[i] = bmc.Result[T]{Target: bmc.Target{Name: n}, Err: fmt.Errorf("%s: the server did not say what came of it: look at fettle events", n)}
	}
	var writing error
	req := state.BMCRequest{Machines: names, Args: args, Yes: o.op.Asks != "", Parallel: c.Int("parallel")}
	err = server.Operate(c.Context, o.op.Name, req, func(s state.BMCStep) {
		i, ok := at[s.Machine]
		if !ok {
			return
		}
		if len(s.Data) > 0 && o.out != nil && writing == nil {
			_, writing = o.out.Write(s.Data)
		}
		if s.Text != "" {
			p.say(s.Machine, s.Text)
		}
		if !s.Done {
			return
		}
		p.done()
		res[i].Err = nil
		if s.Error != "" {
			res[i].Err = errors.New(s.Error)
			return
		}
		dec := json.NewDecoder(bytes.NewReader(s.Value))
		dec.UseNumber()
		if err := dec.Decode(&res[i].Value); err != nil {
			res[i].Err = fmt.Errorf("%s: what the server says of it cannot be read; is it as new as this? %w", s.Machine, err)
		}
	})
	if err == nil {
		err = writing
	}
	return res, servedError(err)
}

// sendImage gives a server the firmware image of a command.
func (b *bmcCommand) sendImage(ctx context.Context, server *web.Client, file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fail(exitInput, fmt.Errorf("--file: %w", err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fail(exitInput, fmt.Errorf("--file: %w", err))
	}
	fmt.Fprintf(b.e.stderr, "sending %s (%s) to fettle at %s\n", filepath.Base(file), bytesText(info.Size()), server.Where())
	return server.Upload(ctx, f, info.Size())
}

// bmcProgress tells people how far many BMCs are. Its methods may be called
// concurrently.
type bmcProgress struct {
	e     *env
	total int

	mu    sync.Mutex
	ended int
	drawn bool
}

// say tells how far a machine is.
func (p *bmcProgress) say(machine, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.e.json:
	case p.e.tty && p.total == 1:
		fmt.Fprintf(p.e.stderr, "\r%s: %s\x1b[K", machine, text)
		p.drawn = true
	default:
		p.erase()
		fmt.Fprintf(p.e.stderr, "%-12s %s\n", machine, text)
	}
}

// done counts a machine that has ended.
func (p *bmcProgress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended++
	if p.e.tty && !p.e.json && p.total > 1 {
		fmt.Fprintf(p.e.stderr, "\r%d of %d machines\x1b[K", p.ended, p.total)
		p.drawn = true
	}
}

func (p *bmcProgress) erase() {
	if p.drawn {
		fmt.Fprint(p.e.stderr, "\r\x1b[K")
		p.drawn = false
	}
}

func (p *bmcProgress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

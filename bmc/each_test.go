package bmc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

func TestEach(t *testing.T) {
	r := newRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var ts []Target
	for i := range 20 {
		tg := r.target()
		tg.Name = fmt.Sprint("m", i)
		if i == 3 {
			tg.Address, tg.Timeout = netip.MustParseAddrPort(l.Addr().String()), time.Second // in which one of the others is done
		}
		ts = append(ts, tg)
	}
	var now, most atomic.Int32
	var order []string
	res := Each(t.Context(), ts, EachOptions{Parallel: 3, Done: func(n string, _ error) { order = append(order, n) }}, func(ctx context.Context, c *Client) (Power, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		return c.Power(ctx)
	})
	if len(res) != 20 || len(order) != 20 {
		t.Fatalf("%d results, %d done; want 20", len(res), len(order))
	}
	for i, x := range res {
		if x.Target.Name != ts[i].Name {
			t.Errorf("result %d is of %s; want %s", i, x.Target.Name, ts[i].Name)
		}
		if i == 3 {
			wantErr(t, x.Err, context.DeadlineExceeded, "m3")
		} else if x.Err != nil || x.Value != Off {
			t.Errorf("%s = %v, %v; want off", x.Target.Name, x.Value, x.Err)
		}
	}
	if most.Load() > 3 {
		t.Errorf("%d at once; want at most 3", most.Load())
	}
	if order[19] == "m19" && order[3] == "m3" {
		t.Errorf("the dead BMC held up the others: %v", order)
	}
	r.noSession(t)
}

// TestEachAgain: what this machine could not do is done again only where that
// changes nothing.
func TestEachAgain(t *testing.T) {
	r := newRig(t)
	for _, tc := range []struct {
		name  string
		again bool
		calls int32
	}{{"changes", false, 1}, {"reads", true, 2}} {
		var calls atomic.Int32
		res := Each(t.Context(), []Target{r.target()}, EachOptions{Again: tc.again}, func(context.Context, *Client) (int, error) {
			if calls.Add(1) == 1 {
				return 0, fmt.Errorf("opening a socket: %w", syscall.EMFILE)
			}
			return 7, nil
		})
		if failed := errors.Is(res[0].Err, syscall.EMFILE); calls.Load() != tc.calls || failed == tc.again {
			t.Errorf("%s: called %d times, %v; want %d times", tc.name, calls.Load(), res[0].Err, tc.calls)
		}
	}
}

func TestEachCancelled(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	ts := []Target{r.target(), r.target(), r.target()}
	res := Each(ctx, ts, EachOptions{Parallel: 1}, func(context.Context, *Client) (int, error) {
		cancel()
		return 7, nil
	})
	if res[0].Value != 7 || res[0].Err != nil {
		t.Errorf("first = %+v; want 7", res[0])
	}
	for _, x := range res[1:] {
		if !errors.Is(x.Err, context.Canceled) {
			t.Errorf("error %v; want context.Canceled", x.Err)
		}
	}
	r.noSession(t)
}

func TestPasswordIsSecret(t *testing.T) {
	tg := Target{Name: "m", User: "root", Password: "hunter2"}
	p := tg.Password
	var out []string
	for _, f := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		if f != "%T" {
			out = append(out, fmt.Sprintf(f, p), fmt.Sprintf(f, &p))
		}
		out = append(out, fmt.Sprintf(f, tg))
	}
	j, err := json.Marshal(map[string]any{"p": p, "s": struct{ Password Password }{p}})
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(struct{ P Password }{p})
	if err != nil {
		t.Fatal(err)
	}
	var b, tb strings.Builder
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "p", p, "s", struct{ Password Password }{p})
	slog.New(slog.NewTextHandler(&tb, nil)).Info("x", "p", p, "t", tg)
	out = append(out, string(j), string(y), b.String(), tb.String(), fmt.Sprint(tg.fail("x", fmt.Errorf("y: %v", p))))
	for _, s := range out {
		for _, leak := range []string{"hunter2", "68756e74", "68756E74"} {
			if strings.Contains(s, leak) {
				t.Errorf("the password shows in %q", s)
			}
		}
	}
	if got := fmt.Sprint(p); got != "[secret]" {
		t.Errorf("Sprint(password) = %q; want [secret]", got)
	}
}

func BenchmarkStatus(b *testing.B) {
	r := newRig(b)
	tg := r.target()
	before := r.count()
	b.ResetTimer()
	for b.Loop() {
		c, err := Open(b.Context(), tg)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Status(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := c.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(r.count()-before)/float64(b.N), "requests/op")
	r.noSession(b)
}

// TestEachNodes: nodes that share a BMC are done after each other, each once,
// while other BMCs are done at once.
func TestEachNodes(t *testing.T) {
	r, other := newRig(t), newRig(t)
	var ts []Target
	for _, of := range []*rig{r, other} {
		for i := range 5 {
			tg := of.target()
			tg.Name, tg.System = fmt.Sprintf("%p-%d", of, i), "1"
			ts = append(ts, tg)
		}
	}
	ts[1].Password = "wrong" // who fails keeps nobody waiting
	var at [2]atomic.Int32
	together := make(chan struct{}, len(ts))
	var done []string
	res := Each(t.Context(), ts, EachOptions{Done: func(n string, _ error) { done = append(done, n) }}, func(ctx context.Context, c *Client) (int, error) {
		which := 0
		if strings.HasPrefix(c.Name(), fmt.Sprintf("%p", other)) {
			which = 1
		}
		n := at[which].Add(1)
		defer at[which].Add(-1)
		if at[1-which].Load() > 0 {
			together <- struct{}{}
		}
		_, err := c.Inventory(ctx)
		return int(n), err
	})
	for i, x := range res {
		if (x.Err != nil) != (i == 1) || x.Value > 1 {
			t.Errorf("%s: %v, %d at once at its BMC; want one", x.Target.Name, x.Err, x.Value)
		}
	}
	if len(done) != len(ts) {
		t.Errorf("%d ended; want %d", len(done), len(ts))
	}
	if len(together) == 0 {
		t.Error("the two BMCs were never spoken to at once")
	}
}

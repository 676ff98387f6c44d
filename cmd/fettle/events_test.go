package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
	"github.com/fettle-dev/fettle/web"
)

// noOperator is for servers that are only read.
type noOperator struct{ web.Operator }

// eventsBench is a server of events, and a command line of fettle events.
func eventsBench(t *testing.T) (*state.Store, func(ctx context.Context, out io.Writer, json bool, args ...string) error) {
	t.Helper()
	store, err := state.Open(t.Context(), state.Config{Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := web.New(t.Context(), web.Config{
		Store: store, Site: func() *site.Site { return &site.Site{} }, Operator: noOperator{},
		Authenticate: func(*http.Request) (web.Identity, error) {
			return web.Identity{Name: "test", Role: web.RoleViewer}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(srv)
	t.Cleanup(func() {
		srv.Close()
		ts.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	at := time.Date(2026, 11, 21, 19, 20, 1, 0, time.UTC)
	for i, e := range []state.Event{
		{Machine: "gpu-01", Kind: "dhcp.offer", Text: "offered 192.0.2.11"},
		{Kind: "site.load", Text: "read the site"},
		{Machine: "gpu-02", Kind: "dhcp.offer", Text: "offered 192.0.2.12"},
		{Machine: "gpu-01", Kind: "dhcp.ack", Text: "gave 192.0.2.11"},
	} {
		e.Time = at.Add(time.Duration(i) * time.Second)
		if _, err := store.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	return store, func(ctx context.Context, out io.Writer, json bool, args ...string) error {
		e := &env{stdout: out, stderr: io.Discard, json: json}
		app := &cli.App{
			Name: "fettle", Writer: io.Discard, ErrWriter: io.Discard, ExitErrHandler: func(*cli.Context, error) {},
			Commands: eventsCommands(e, func(*cli.Context) (*web.Client, error) { return web.NewClient(ts.URL, ts.Client(), ""), nil }),
		}
		return app.RunContext(ctx, append([]string{"fettle", "events"}, args...))
	}
}

func TestEvents(t *testing.T) {
	_, run := eventsBench(t)
	const first = "2026-11-21 19:20:01 gpu-01 dhcp.offer offered 192.0.2.11\n"
	const last = "2026-11-21 19:20:04 gpu-01 dhcp.ack gave 192.0.2.11\n"
	tests := []struct {
		name string
		json bool
		args []string
		want string
	}{
		{"all", false, nil, first + "2026-11-21 19:20:02 - site.load read the site\n" +
			"2026-11-21 19:20:03 gpu-02 dhcp.offer offered 192.0.2.12\n" + last},
		{"one machine", false, []string{"gpu-01"}, first + last},
		{"the newest", false, []string{"--limit", "1"}, last},
		{"one kind", false, []string{"--kind", "dhcp.ack"}, last},
		{"after", false, []string{"--after", "3"}, last},
		{"json", true, []string{"-n", "1"}, `{"seq":4,"time":"2026-11-21T19:20:04Z","machine":"gpu-01","actor":"fettle","kind":"dhcp.ack","text":"gave 192.0.2.11"}` + "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := run(t.Context(), &out, tt.json, tt.args...); err != nil || out.String() != tt.want {
				t.Errorf("fettle events %v = %v\n%s; want\n%s", tt.args, err, out.String(), tt.want)
			}
		})
	}
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"gpu-01", "gpu-02"}, exitUsage, "takes one machine"},
		{[]string{"--limit", "-1"}, exitUsage, "--limit is -1"},
		{[]string{"gpu-77"}, exitFailed, `no machine "gpu-77"`},
	} {
		err := run(t.Context(), io.Discard, false, tt.args...)
		if exitStatus(err) != tt.status || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("fettle events %v = %v (%d); want %q (%d)", tt.args, err, exitStatus(err), tt.want, tt.status)
		}
	}
}

func TestEventsFollow(t *testing.T) {
	store, run := eventsBench(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(run(ctx, w, false, "--follow", "--limit", "1", "gpu-02"), w.Close()) }()
	var got strings.Builder
	buf := make([]byte, 4096)
	for n := 0; n < 3; n++ {
		k, err := r.Read(buf)
		if err != nil {
			t.Fatalf("reading line %d: %v", n, err)
		}
		got.Write(buf[:k])
		if _, err := store.Append(ctx, state.Event{Machine: "gpu-02", Kind: "test", Text: "more", Time: time.Date(2026, 11, 21, 20, 0, n, 0, time.UTC)}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error(err)
	}
	want := "2026-11-21 19:20:03 gpu-02 dhcp.offer offered 192.0.2.12\n2026-11-21 20:00:00 gpu-02 test more\n2026-11-21 20:00:01 gpu-02 test more\n"
	if got.String() != want {
		t.Errorf("fettle events --follow printed\n%s; want\n%s", got.String(), want)
	}
	if err := <-ended; exitStatus(err) != exitInterrupted {
		t.Errorf("an interrupted fettle events --follow = %v (%d); want %d", err, exitStatus(err), exitInterrupted)
	}
}

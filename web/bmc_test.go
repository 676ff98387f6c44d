package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/state"
)

func (o *operator) Operations() []state.BMCOperation {
	return []state.BMCOperation{{Name: "power", Effect: "reads"}, {Name: "power-off", Effect: "changes", Asks: "power off"}, {Name: "network-set", Effect: "owns"}, {Name: "screenshot", Effect: "watches"}}
}

func (o *operator) Held() []state.BMCHold {
	return []state.BMCHold{{Machine: "gpu-02", Holder: "fettle", Doing: "a run"}}
}

func (o *operator) Operate(ctx context.Context, actor, operation string, req state.BMCRequest, step func(state.BMCStep)) error {
	o.ask("operate "+operation, actor, req.Machines...)
	if operation == "power-off" && !req.Yes {
		return fmt.Errorf("%w: this would power off gpu-01", state.ErrNeedsYes)
	}
	for _, m := range req.Machines {
		step(state.BMCStep{Machine: m, Text: "waits"})
		step(state.BMCStep{Machine: m, Done: true, Value: req.Args})
	}
	return o.err
}

func (o *operator) Upload(r io.Reader) (string, error) {
	b, err := io.ReadAll(r)
	return fmt.Sprint(len(b)), err
}

func (o *operator) Console(_ context.Context, actor, machine string, take bool, port uint16, attach func() (io.ReadWriter, error)) error {
	o.ask(fmt.Sprintf("console %v %d", take, port), actor, machine)
	if o.err != nil {
		return o.err
	}
	rw, err := attach()
	if err != nil {
		return err
	}
	if o.flood != nil { // until nobody takes any more
		for err == nil {
			_, err = rw.Write(make([]byte, 64<<10))
		}
		o.flood <- err
		return err
	}
	line, err := bufio.NewReader(rw).ReadString('\n')
	if err != nil {
		return err
	}
	if _, err := io.WriteString(rw, strings.ToUpper(line)); err != nil {
		return err
	}
	return errors.New("the BMC ended the serial console")
}

func TestBMCs(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	if v, err := b.client(RoleViewer).BMC(ctx); err != nil || len(v.Operations) != 4 || v.Held[0].Machine != "gpu-02" {
		t.Errorf("BMC() = %+v, %v", v, err)
	}
	ask := func(role Role, op string, req state.BMCRequest) (steps []string, err error) {
		err = b.client(role).Operate(ctx, op, req, func(s state.BMCStep) { steps = append(steps, s.Machine+" "+s.Text+string(s.Value)) })
		return steps, err
	}
	got, err := ask(RoleViewer, "power", state.BMCRequest{Machines: []string{"gpu-01"}, Args: []byte(`{"a":1}`)})
	if want := []string{"gpu-01 waits", `gpu-01 {"a":1}`}; err != nil || !slices.Equal(got, want) {
		t.Errorf("Operate(power) told %q, %v; want %q", got, err, want)
	}
	if want := "operate power user:a-viewer gpu-01"; b.op.asked[0] != want {
		t.Errorf("asked %q; want %q", b.op.asked[0], want)
	}
	asked := len(b.op.asked)
	for _, tc := range []struct {
		name, op string
		role     Role
		req      state.BMCRequest
		want     string
	}{
		{"a viewer changes nothing", "power-off", RoleViewer, state.BMCRequest{Machines: []string{"gpu-01"}, Yes: true}, "needs operator"},
		{"a viewer watches no screen", "screenshot", RoleViewer, state.BMCRequest{Machines: []string{"gpu-01"}}, "needs operator"},
		{"an operator owns nothing", "network-set", RoleOperator, state.BMCRequest{Machines: []string{"gpu-01"}}, "needs admin"},
		{"unknown machine", "power", RoleViewer, state.BMCRequest{Machines: []string{"gpu-99"}}, "gpu-99"},
		{"no machine", "power", RoleViewer, state.BMCRequest{}, "names no machine"},
		{"unknown operation", "explode", RoleAdmin, state.BMCRequest{Machines: []string{"gpu-01"}}, "no operation"},
	} {
		if _, err := ask(tc.role, tc.op, tc.req); err == nil || !strings.Contains(err.Error(), tc.want) || len(b.op.asked) != asked {
			t.Errorf("%s: %v, asked %q; want %q and nothing asked", tc.name, err, b.op.asked[asked:], tc.want)
		}
	}
	if _, err := ask(RoleOperator, "power-off", state.BMCRequest{Machines: []string{"gpu-01"}}); !errors.Is(err, state.ErrNeedsYes) {
		t.Errorf("power-off without a yes = %v; want ErrNeedsYes", err)
	}
	// An image may be longer than other requests.
	big := strings.NewReader(strings.Repeat("x", 3*maxBody))
	if id, err := b.client(RoleOperator).Upload(ctx, big, big.Size()); err != nil || id != fmt.Sprint(3*maxBody) {
		t.Errorf("Upload(3 MiB) = %s, %v", id, err)
	}
}

// TestBMCsFailMidway: an operation that fails as a whole after its first lines
// ends with a line that says so; no other document follows.
func TestBMCsFailMidway(t *testing.T) {
	b := newBench(t)
	b.op.err = errors.New("the state cannot be written")
	req, err := http.NewRequestWithContext(t.Context(), "POST", b.http.URL+"/api/v1/bmc/power", strings.NewReader(`{"machines":["gpu-01"]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+b.secret[RoleViewer])
	req.Header.Set("Content-Type", "application/json")
	resp, err := b.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"machine":"gpu-01","text":"waits"}
{"machine":"gpu-01","done":true}
{"end":true,"failed":"the state cannot be written"}
`
	if resp.StatusCode != http.StatusOK || string(body) != want {
		t.Errorf("POST /bmc/power = %s\n%s\nwant\n%s", resp.Status, body, want)
	}
	err = b.client(RoleViewer).Operate(t.Context(), "power", state.BMCRequest{Machines: []string{"gpu-01"}}, func(state.BMCStep) {})
	if err == nil || !strings.Contains(err.Error(), "the state cannot be written") {
		t.Errorf("Operate() = %v; want why it failed", err)
	}
}

// TestUploadRefused: who may not upload is told so, and sends nothing.
func TestUploadRefused(t *testing.T) {
	b := newBench(t)
	b.http.Client().Transport.(*http.Transport).ExpectContinueTimeout = ContinueTimeout
	big := strings.NewReader(strings.Repeat("x", 3*maxBody))
	if _, err := b.client(RoleViewer).Upload(t.Context(), big, big.Size()); err == nil || !strings.Contains(err.Error(), "needs operator") || big.Len() != 3*maxBody {
		t.Errorf("Upload() of a viewer = %v, %d bytes left to send; want refused, and all", err, big.Len())
	}
}

// TestConsoleStops: a console whose person reads nothing ends with the server.
func TestConsoleStops(t *testing.T) {
	b := newBench(t)
	b.op.flood = make(chan error, 1)
	conn, err := b.client(RoleOperator).Console(t.Context(), "gpu-01", false, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b.server.Close()
	limit := time.NewTimer(15 * time.Second) // less than writeTimeout
	defer limit.Stop()
	select {
	case err := <-b.op.flood:
		if err == nil {
			t.Error("the console ended without an error")
		}
	case <-limit.C:
		t.Error("the console goes on after the server has stopped")
	}
}

func TestConsole(t *testing.T) {
	b := newBench(t)
	conn, err := b.client(RoleOperator).Console(t.Context(), "gpu-01", true, 6230)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(conn)
	if want := "HELLO\n\r\nfettle: the BMC ended the serial console\r\n"; err != nil || string(said) != want {
		t.Errorf("the console said %q, %v; want %q", said, err, want)
	}
	if want := "console true 6230 user:a-operator gpu-01"; b.op.asked[0] != want {
		t.Errorf("asked %q; want %q", b.op.asked[0], want)
	}
	b.op.err = errors.New("the BMC refused the password")
	if _, err := b.client(RoleOperator).Console(t.Context(), "gpu-01", false, 0); err == nil || err.Error() != "the BMC refused the password" {
		t.Errorf("Console() that cannot be opened = %v; want why", err)
	}
	if _, err := b.client(RoleViewer).Console(t.Context(), "gpu-01", false, 0); err == nil || !strings.Contains(err.Error(), "needs operator") {
		t.Errorf("Console() of a viewer = %v; want refused", err)
	}
	if resp := b.do(t, http.MethodGet, "/api/v1/machines/gpu-01/console", b.secret[RoleOperator], ""); resp.StatusCode != http.StatusUpgradeRequired || resp.Header.Get("Upgrade") != consoleProtocol {
		t.Errorf("a console without Upgrade = %s; want 426", resp.Status)
	}
}

package provision

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// servedRotation is a server's BMCs of the site in dir, whose machines share a
// secret; gpu-05's BMC is at addr.
func servedRotation(t *testing.T, dir, addr string) (*BMCs, *site.Secrets) {
	t.Helper()
	sec, err := site.OpenSecrets(dir, filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	var now atomic.Pointer[site.Site]
	reread := func() (*site.Site, error) {
		s, err := site.Load(dir)
		if err == nil {
			now.Store(s)
		}
		return s, err
	}
	if _, err := reread(); err != nil {
		t.Fatal(err)
	}
	b, err := NewBMCs(BMCsConfig{
		Site: now.Load, Turns: NewTurns(nil, BMCOf(now.Load)), Dir: t.TempDir(), Passwords: &SitePasswords{Secrets: sec, Site: now.Load, Reread: reread},
		Append: func(context.Context, ...state.Event) (int64, error) { return 0, nil },
		Target: func(m site.Machine) (bmc.Target, error) {
			v, err := sec.Get(m.BMC.Secret)
			if err != nil {
				return bmc.Target{}, err
			}
			user, pw, err := splitCredential(v)
			return bmc.Target{Name: m.Name, Address: netip.MustParseAddrPort(addr), User: user, Password: pw, Insecure: true, Timeout: 30 * time.Second}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b, sec
}

// rotateSite writes a site of three machines that share a secret; of the BMC of
// gpu-05 more is said.
func rotateSite(t *testing.T, dir, nodes string) {
	t.Helper()
	text := `name: s
domain: example.org
networks:
  - {name: prov, purpose: boot, prefix: 198.51.100.0/24, server: 198.51.100.1, pools: [{from: 198.51.100.10, to: 198.51.100.20}]}
  - {name: oob, purpose: bmc, vlan: 7, prefix: 192.0.2.0/24}
secrets:
  - name: shared
machines:
  - {name: gpu-05, serial: S5, firmware: uefi, nics: [{mac: 52:54:00:00:00:05, network: prov, boot: true}], bmc: {address: 192.0.2.15, secret: shared}}
  - {name: gpu-06, serial: S6, firmware: uefi, nics: [{mac: 52:54:00:00:00:06, network: prov, boot: true}], bmc: {address: 192.0.2.16, secret: shared}}
  - {name: gpu-07, serial: S7, firmware: uefi, nics: [{mac: 52:54:00:00:00:07, network: prov, boot: true}], bmc: {address: 192.0.2.17, secret: shared}}
`
	if nodes != "" {
		text = strings.NewReplacer("192.0.2.15", "192.0.2.15, system: Node0", "192.0.2.16", "192.0.2.15, system: Node1").Replace(text)
		text = strings.Replace(text, "Node1, secret: shared", "Node1, secret: "+nodes, 1)
		text = strings.Replace(text, "  - name: shared\n", "  - name: shared\n  - name: other\n", 1)
	}
	if err := os.WriteFile(filepath.Join(dir, "site.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestServedRotateNodes: nodes that share a BMC have one password, which is
// changed once, and no other machine's.
func TestServedRotateNodes(t *testing.T) {
	for _, tc := range []struct{ name, second, value, err string }{
		{"one secret", "shared", "root:calvin", ""},
		{"two of one value", "other", "root:calvin", ""},
		{"two", "other", "root:hobbes", "share a BMC, and their secrets"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tiny := newTinyBMC(t, "calvin")
			sec, dir := rotateSecrets(t)
			for name, value := range map[string]string{"shared": "root:calvin", "other": tc.value} {
				if err := sec.Set(name, site.NewSecret(value)); err != nil {
					t.Fatal(err)
				}
			}
			rotateSite(t, dir, tc.second)
			b, sec := servedRotation(t, dir, tiny.Listener.Addr().String())
			// Who works at another node has the BMC.
			for _, node := range []string{"gpu-05", "gpu-06"} {
				release, err := b.c.Turns.Take(t.Context(), ToChange, node, "fettle", "a run", 0, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := b.Operate(t.Context(), "user:alice", OpRotate.Name, state.BMCRequest{Machines: []string{"gpu-06"}, Yes: true, Wait: 1}, func(s state.BMCStep) {
					said := strings.Contains(s.Error, "gpu-06: its BMC is held by fettle") && (node == "gpu-06" || strings.Contains(s.Error, "for gpu-05, which has the same BMC"))
					if s.Done && tc.err == "" && !said {
						t.Errorf("rotating gpu-06 while %s is held ends with %q", node, s.Error)
					}
				}); err != nil {
					t.Fatal(err)
				}
				release()
			}
			if tiny.now() != "calvin" || len(b.c.Turns.Held()) > 0 {
				t.Fatalf("the password changed while somebody had the BMC, or it is held: %v", b.c.Turns.Held())
			}
			for _, machines := range [][]string{{"gpu-06"}, {"gpu-05", "gpu-06"}} {
				ends := map[string]string{}
				err := b.Operate(t.Context(), "user:alice", OpRotate.Name, state.BMCRequest{Machines: machines, Yes: true}, func(s state.BMCStep) {
					if s.Done {
						ends[s.Machine] = s.Error
					}
				})
				if err != nil || len(ends) != len(machines) {
					t.Fatalf("Operate(%v) = %v, ends %v", machines, err, ends)
				}
				for _, name := range machines {
					if !strings.Contains(ends[name], tc.err) || (ends[name] == "") != (tc.err == "") {
						t.Errorf("rotating %v: %s ends with %q; want %q", machines, name, ends[name], tc.err)
					}
				}
				for _, name := range []string{"gpu-05", "gpu-06"} {
					m, _ := b.c.Site().Machine(name)
					if v, err := sec.Get(m.BMC.Secret); tc.err == "" && (err != nil || v.Reveal() != "root:"+tiny.now() || m.BMC.Secret != "bmc-gpu-05") {
						t.Errorf("after rotating %v: the secret of %s is %s, which does not open its BMC (%v)", machines, name, m.BMC.Secret, err)
					}
				}
			}
			if v, err := sec.Get("shared"); err != nil || v.Reveal() != "root:calvin" || (tiny.now() == "calvin") != (tc.err != "") {
				t.Errorf("the secret of gpu-07 changed, or the password of the nodes did not: %v", err)
			}
			if tiny.worst > 1 {
				t.Errorf("%d wrong passwords in a row; want the old one, once", tiny.worst)
			}
		})
	}
}

// TestRotationsStop: after the first failure, and after who asked has left,
// nobody begins, not even who waits for its turn, and each is told why.
func TestRotationsStop(t *testing.T) {
	for _, tc := range []struct{ name, why string }{
		{"a failure", ErrNotBegun.Error()},
		{"who asked left", "not begun: context canceled"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tiny := newTinyBMC(t, "calvin")
			sec, dir := rotateSecrets(t)
			for _, name := range []string{"shared", "bmc-gpu-05", "bmc-gpu-06", "bmc-gpu-07"} {
				if err := sec.Set(name, site.NewSecret("root:calvin")); err != nil {
					t.Fatal(err)
				}
			}
			rotateSite(t, dir, "")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stopped := make(chan struct{})
			var begun atomic.Int32
			errs := Rotations{
				Passwords: labelled{sec}, Parallel: 2,
				Take: func(_ context.Context, name string) (func(), error) {
					if name == "gpu-07" {
						<-stopped // its turn comes then
					}
					return func() {}, nil
				},
				Target: func(name string) (bmc.Target, error) {
					switch name {
					case "gpu-06":
						if tc.name != "a failure" {
							cancel()
						}
						return bmc.Target{}, errors.New("no such BMC")
					case "gpu-07":
						begun.Add(1)
					}
					return bmc.Target{Name: name, Address: netip.MustParseAddrPort(tiny.Listener.Addr().String()), User: "root", Password: "calvin", Insecure: true, Timeout: 30 * time.Second}, nil
				},
				Done: func(name string, err error) {
					if name == "gpu-06" {
						close(stopped)
					}
				},
			}.Run(ctx, []string{"gpu-05", "gpu-06", "gpu-07"})
			if errs[0] != nil || errs[1] == nil || begun.Load() != 0 || errs[2] == nil || !strings.Contains(errs[2].Error(), tc.why) {
				t.Errorf("Run() = %v, the last one begun %d times; want gpu-07 not begun: %s", errs, begun.Load(), tc.why)
			}
		})
	}
}

// labelled are passwords of machines that each have their own.
type labelled struct{ *site.Secrets }

func (labelled) Secret(machine string) string { return "bmc-" + machine }
func (labelled) Shared([]string) []string     { return nil }
func (labelled) Own([]string) error           { return nil }

// TestServedRotateKilled kills a server at each step of a rotation, without any
// mercy: a password that is stored opens the BMC, and the same command to the
// next server ends it.
func TestServedRotateKilled(t *testing.T) {
	req := state.BMCRequest{Machines: []string{"gpu-05"}, Yes: true}
	if dir := os.Getenv("FETTLE_TEST_ROTATE_DIR"); dir != "" {
		b, _ := servedRotation(t, dir, os.Getenv("FETTLE_TEST_ROTATE_BMC"))
		err := b.Operate(t.Context(), "user:alice", OpRotate.Name, req, func(s state.BMCStep) {
			t.Log(s.Text, s.Error) // shown when it was not killed
			if s.Text == os.Getenv("FETTLE_TEST_ROTATE_STEP") {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		})
		t.Fatalf("Operate() = %v; want to be killed", err)
	}
	for _, step := range rotateSteps {
		t.Run(string(step), func(t *testing.T) {
			tiny := newTinyBMC(t, "calvin")
			sec, dir := rotateSecrets(t)
			if err := sec.Set("shared", site.NewSecret("root:calvin")); err != nil {
				t.Fatal(err)
			}
			rotateSite(t, dir, "")
			addr := tiny.Listener.Addr().String()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestServedRotateKilled$")
			cmd.Env = append(os.Environ(), "FETTLE_TEST_ROTATE_DIR="+dir, "FETTLE_TEST_ROTATE_BMC="+addr, "FETTLE_TEST_ROTATE_STEP="+string(step))
			out, err := cmd.CombinedOutput()
			var ee *exec.ExitError
			if !errors.As(err, &ee) || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the server = %v; want it killed\n%s", err, out)
			}
			someKnownWorks(t, tiny, sec)
			b, sec := servedRotation(t, dir, addr)
			var last state.BMCStep
			if err := b.Operate(t.Context(), "user:alice", OpRotate.Name, req, func(s state.BMCStep) { last = s }); err != nil || last.Error != "" || !last.Done {
				t.Fatalf("Operate() of the next server = %v, last step %+v", err, last)
			}
			v, err := sec.Get("bmc-gpu-05")
			if err != nil || v.Reveal() != "root:"+tiny.now() || tiny.now() == "calvin" {
				t.Errorf("the secret is not the BMC's password (%v), or that is the old one", err)
			}
			if v, err := sec.Get("shared"); err != nil || v.Reveal() != "root:calvin" {
				t.Errorf("the secret that the other machine names changed: %v", err)
			}
			if names, err := sec.ListPending(); err != nil || len(names) != 0 {
				t.Errorf("pending after the end: %v, %v; want nothing", names, err)
			}
			if tiny.worst > 2 {
				t.Errorf("%d wrong passwords in a row; want 2 at most", tiny.worst)
			}
		})
	}
}

// TestRotationErrorsName: whatever fails, the machine is named once.
func TestRotationErrorsName(t *testing.T) {
	for name, break_ := range map[string]func(*tinyBMC){
		"another password":         func(b *tinyBMC) { b.password = "another" },
		"the new one is refused":   func(b *tinyBMC) { b.refuse = true },
		"it does nothing":          func(b *tinyBMC) { b.ignore = true },
		"no answer to the change":  func(b *tinyBMC) { b.hang = true },
		"nobody answers any more":  func(b *tinyBMC) { b.CloseClientConnections(); b.Listener.Close() },
		"not begun, the first one": func(b *tinyBMC) { b.password = "another" },
	} {
		t.Run(name, func(t *testing.T) {
			tiny := newTinyBMC(t, "calvin")
			sec, _ := rotateSecrets(t)
			for _, s := range []string{"bmc-gpu-05", "bmc-gpu-06"} {
				if err := sec.Set(s, site.NewSecret("root:calvin")); err != nil {
					t.Fatal(err)
				}
			}
			break_(tiny)
			errs := Rotations{
				Passwords: labelled{sec}, Parallel: 1,
				Target: func(name string) (bmc.Target, error) {
					return bmc.Target{Name: name, Address: netip.MustParseAddrPort(tiny.Listener.Addr().String()), User: "root", Password: "calvin", Insecure: true, Timeout: 2 * time.Second}, nil
				},
			}.Run(t.Context(), []string{"gpu-05", "gpu-06"})
			for i, name := range []string{"gpu-05: ", "gpu-06: "} {
				if errs[i] == nil || !strings.HasPrefix(errs[i].Error(), name) || strings.Count(errs[i].Error(), name) != 1 {
					t.Errorf("%v; want an error that begins with %q, once", errs[i], name)
				}
			}
		})
	}
}

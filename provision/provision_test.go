package provision

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/blob"
	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

var bootMAC = site.MAC{0x52, 0x54, 0, 0, 0, 1}

func testSite() *site.Site {
	return &site.Site{
		Name: "test", Domain: "example.org",
		Networks: []site.Network{{
			Name: "prov", Purpose: site.PurposeBoot, Prefix: netip.MustParsePrefix("10.77.0.0/24"),
			Server: netip.MustParseAddr("10.77.0.1"), Gateway: netip.MustParseAddr("10.77.0.254"),
			DNS:   []netip.Addr{netip.MustParseAddr("10.77.0.53")},
			Pools: []site.Pool{{From: netip.MustParseAddr("10.77.0.100"), To: netip.MustParseAddr("10.77.0.102")}},
		}},
		Machines: []site.Machine{{
			Name: "gpu-01", Serial: "FTL0001", Firmware: site.UEFI, CPUs: 2, Memory: 2 << 30, Profile: "train",
			NICs:  []site.NIC{{MAC: bootMAC, Network: "prov", Address: netip.MustParseAddr("10.77.0.11"), Boot: true}},
			Disks: []site.Disk{{Serial: "DISK1", Size: 8 << 30}, {Serial: "DISK2", Size: 4 << 30}},
			GPUs:  []site.GPU{{Model: "H100", PCI: "10de:2330", Count: 2}},
		}},
		Profiles: []site.Profile{{
			Name: "train", Image: "debian-12", Layout: site.Layout{Disk: "first", Swap: 1 << 30},
			Users: []site.User{{Name: "ops", Sudo: true, SSHKeys: []string{"ssh-ed25519 AAAA ops"}}},
		}},
		Images: []site.Image{{Name: "debian-12", OS: "debian", Suite: "bookworm", Arch: "amd64", Size: 3 << 30}},
		Policy: site.Policy{OnDifference: site.Stop, UnknownMachines: site.Inspect},
	}
}

func goodInventory() wire.Inventory {
	return wire.Inventory{
		System: wire.System{Serial: "FTL0001"}, CPU: wire.CPU{Threads: 2}, Memory: 2 << 30,
		Disks:    []wire.Disk{{Name: "vda", Serial: "DISK1", Bytes: 8 << 30}, {Name: "vdb", Serial: "DISK2", Bytes: 4 << 30}},
		NICs:     []wire.NIC{{Name: "eth0", MAC: bootMAC.String(), Link: true}},
		GPUs:     []wire.GPU{{PCI: "10de:2330"}, {PCI: "10de:2330"}},
		Firmware: wire.Firmware{Kind: "uefi"},
	}
}

// fakeReleases holds releases in memory.
type fakeReleases map[string]images.Release

func (f fakeReleases) Latest(_ context.Context, name string) (images.Release, bool, error) {
	r, ok := f[name]
	return r, ok, nil
}

func (f fakeReleases) Find(_ context.Context, name, inputs string) (images.Release, bool, error) {
	r, ok := f[name+"@"+inputs]
	return r, ok, nil
}

func (f fakeReleases) OpenFile(_ context.Context, r images.Release, file string) (io.ReadSeekCloser, int64, error) {
	b := []byte(r.Name + "/" + file)
	return nopCloser{bytes.NewReader(b)}, int64(len(b)), nil
}

func testReleases() fakeReleases {
	f := fakeReleases{}
	for _, n := range []string{"agent", "loaders", "debian-12"} {
		f[n] = images.Release{Name: n, Inputs: blob.FromBytes([]byte(n)), Files: []images.File{{Name: "index.json", Digest: blob.FromBytes([]byte("index"))}}}
	}
	return f
}

// fakeBMC is a BMC that does as it is told, or fails as it is told.
type fakeBMC struct {
	mu    sync.Mutex
	power bmc.Power
	calls []string
	err   error
}

func (f *fakeBMC) do(call string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
	return f.err
}

func (f *fakeBMC) Power(context.Context) (bmc.Power, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.power, f.err
}

func (f *fakeBMC) SetPower(_ context.Context, a bmc.Action) error {
	if err := f.do("power " + string(a)); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.power = bmc.On
	if a == bmc.PowerOff {
		f.power = bmc.Off
	}
	return nil
}

func (f *fakeBMC) SetNextBoot(_ context.Context, n bmc.NextBoot) error {
	return f.do(fmt.Sprintf("boot %s permanent=%v uefi=%v", n.Device, n.Permanent, n.UEFI))
}

func (f *fakeBMC) Close(context.Context) error { return nil }

func (f *fakeBMC) said() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// bench is a Provisioner on a real embedded state, with everything else fake.
type bench struct {
	t     *testing.T
	p     *Provisioner
	store *state.Store
	site  *site.Site
	bmc   *fakeBMC
	srv   *httptest.Server
	from  string // address that requests seem to come from
	stop  func() // ends Run
}

func newBench(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	ctx := t.Context()
	st, err := state.Open(ctx, state.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, store: st, site: testSite(), bmc: &fakeBMC{power: bmc.Off}, from: "10.77.0.11:4242"}
	c := Config{
		Site: func() *site.Site { return b.site }, Store: st, Releases: testReleases(),
		OpenBMC: func(context.Context, site.Machine) (BMC, error) { return b.bmc, nil },
		CA:      []byte("-----BEGIN CERTIFICATE-----\n"), AgentPort: 8443,
		Limits: Limits{PowerPoll: 20 * time.Millisecond, Firmware: time.Hour, Netboot: time.Hour, Agent: time.Hour, FirstBoot: time.Hour},
	}
	if change != nil {
		change(&c)
	}
	b.start(c)
	b.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = b.from
		b.p.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		b.stop()
		b.srv.Close()
		st.Close()
	})
	return b
}

// start makes a Provisioner and runs it until b.stop is called.
func (b *bench) start(c Config) {
	b.t.Helper()
	p, err := New(c)
	if err != nil {
		b.t.Fatal(err)
	}
	b.p = p
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	})
}

// until waits, within a bound, for a machine's phase.
func (b *bench) until(machine string, want state.Phase) state.Status {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	var last state.Status
	for ev, err := range b.store.Watch(ctx, state.Query{Machine: machine}) {
		if err != nil {
			break
		}
		last = state.Fold(last, ev)
		if ev.Kind == state.KindPhase && last.Phase == want {
			st, err := b.store.Status(ctx, machine)
			if err != nil {
				b.t.Fatal(err)
			}
			if st.Phase == want {
				b.settle(machine)
				return st
			}
		}
	}
	b.t.Fatalf("%s is in phase %s (%s); want %s", machine, last.Phase, last.Reason, want)
	return last
}

// settle waits until the Provisioner shows the change whose event was just seen.
func (b *bench) settle(machine string) {
	if r, ok := b.p.latest(machine); ok {
		r.settle()
	}
}

func (b *bench) call(method, path, token string, body any) (int, string) {
	b.t.Helper()
	j, err := json.Marshal(body)
	if err != nil {
		b.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.srv.URL+path, bytes.NewReader(j))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func (b *bench) want(method, path, token string, body any, status int) string {
	b.t.Helper()
	got, text := b.call(method, path, token, body)
	if got != status {
		b.t.Fatalf("%s %s = %d %s; want %d", method, path, got, text, status)
	}
	return text
}

// deploy plans and deploys a machine and returns its token, as the boot script
// carries it.
func (b *bench) deploy(machine string) string {
	b.t.Helper()
	plan, err := b.p.Plan(b.t.Context(), []string{machine})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.p.Deploy(b.t.Context(), "user:test", plan.Digest, []string{machine}); err != nil {
		b.t.Fatal(err)
	}
	b.until(machine, state.Firmware)
	return b.bootToken()
}

func client() pxe.Client {
	return pxe.Client{MAC: net.HardwareAddr(bootMAC[:]), Network: "prov", PXE: true, UEFI: true}
}

func (b *bench) bootToken() string {
	b.t.Helper()
	d, err := b.p.Boot(b.t.Context(), client())
	if err != nil || d.Action != pxe.BootKernel {
		b.t.Fatalf("Boot() = %+v, %v; want the agent", d, err)
	}
	for _, a := range strings.Fields(d.Cmdline) {
		if tok, ok := strings.CutPrefix(a, wire.ArgToken+"="); ok {
			return tok
		}
	}
	b.t.Fatalf("no token in %q", d.Cmdline)
	return ""
}

func (b *bench) task(token string) wire.Task {
	b.t.Helper()
	var t wire.Task
	if err := json.Unmarshal([]byte(b.want("GET", wire.PathTask, token, nil, 200)), &t); err != nil {
		b.t.Fatal(err)
	}
	return t
}

func TestDeployFromPowerOnToReady(t *testing.T) {
	b := newBench(t, nil)
	token := b.deploy("gpu-01")
	b.p.Record(pxe.Exchange{Time: time.Now(), MAC: net.HardwareAddr(bootMAC[:]), Network: "prov", Kind: "dhcp.discover", Text: "asked for an address"})
	b.until("gpu-01", state.Netboot)

	b.want("POST", wire.PathInventory, token, goodInventory(), 204)
	b.until("gpu-01", state.Inspected)
	task := b.task(token)
	if task.Kind != wire.TaskDeploy || task.Deploy.DiskSerial != "DISK1" || task.Deploy.SwapBytes != 1<<30 {
		t.Fatalf("task = %+v; want the deployment of DISK1 with 1 GiB of swap", task)
	}
	if !strings.HasPrefix(task.Deploy.DataURL, "http://10.77.0.1/boot/files/release/debian-12/") {
		t.Errorf("data URL = %s; want it below the boot server's files", task.Deploy.DataURL)
	}
	for _, step := range []wire.Step{wire.StepPartition, wire.StepWrite, wire.StepVerify, wire.StepSeed} {
		b.want("POST", wire.PathReport, token, wire.Report{Task: task.ID, Step: step, Text: string(step), Done: 5, Total: 10}, 204)
	}
	b.until("gpu-01", state.Seeding)
	b.want("POST", wire.PathReport, token, wire.Report{Task: task.ID, Step: wire.StepDone}, 204)
	b.until("gpu-01", state.FirstBoot)
	if got := b.task(token); got.Kind != wire.TaskHalt {
		t.Errorf("task after done = %s; want halt", got.Kind)
	}
	if d, err := b.p.Boot(t.Context(), client()); err != nil || d.Action != pxe.BootDisk {
		t.Errorf("Boot() after writing = %+v, %v; want the disk", d, err)
	}
	b.want("POST", wire.PathPhoneHome, token, wire.PhoneHome{Hostname: "gpu-01", SSHKeys: []string{"ssh-ed25519 KEY"}}, 204)
	st := b.until("gpu-01", state.Ready)
	if st.Image != "debian-12" {
		t.Errorf("status image = %q; want debian-12", st.Image)
	}
	want := []string{"boot pxe permanent=false uefi=true", "power on", "boot disk permanent=true uefi=true", "power cycle"}
	if got := b.bmc.said(); !slices.Equal(got, want) {
		t.Errorf("BMC was told %q; want %q", got, want)
	}
	if got := b.p.HostKeys("gpu-01"); !slices.Equal(got, []string{"ssh-ed25519 KEY"}) {
		t.Errorf("HostKeys = %q", got)
	}
	// The run is over, for whoever still has its token.
	if got := b.task(token); got.Kind != wire.TaskHalt {
		t.Errorf("task after the run = %s; want halt", got.Kind)
	}
	b.want("POST", wire.PathReport, token, wire.Report{Task: task.ID, Step: wire.StepDone}, 410)
	b.want("POST", wire.PathPhoneHome, token, wire.PhoneHome{Hostname: "gpu-01"}, 204) // our answer was lost
	why, err := b.p.Why(t.Context(), "gpu-01")
	if err != nil {
		t.Fatal(err)
	}
	if last := why[len(why)-1]; !strings.Contains(last, "gpu-01 is ready with image debian-12") {
		t.Errorf("why ends with %q; want that it is ready", last)
	}
}

func TestDifferenceStopsTheRunAndNamesIt(t *testing.T) {
	b := newBench(t, nil)
	token := b.deploy("gpu-01")
	inv := goodInventory()
	inv.GPUs = inv.GPUs[:1]
	inv.Disks[0].Serial = "OTHER"
	b.want("POST", wire.PathInventory, token, inv, 204)
	st := b.until("gpu-01", state.Failed)
	for _, part := range []string{"gpus[0].count", "disks[0].serial", "DISK1", "OTHER", "Nothing was written"} {
		if !strings.Contains(st.Reason, part) {
			t.Errorf("reason %q does not name %q", st.Reason, part)
		}
	}
	if d, err := b.p.Boot(t.Context(), client()); err != nil || d.Action != pxe.BootDisk {
		t.Errorf("Boot() of a failed machine = %+v, %v; want the disk", d, err)
	}
}

func TestDifferenceIsOnlyNotedWhenTheSiteSaysWarn(t *testing.T) {
	b := newBench(t, nil)
	b.site.Machines[0].OnDifference = site.Warn
	token := b.deploy("gpu-01")
	inv := goodInventory()
	inv.GPUs = nil
	b.want("POST", wire.PathInventory, token, inv, 204)
	b.until("gpu-01", state.Inspected)
	if got := b.task(token); got.Kind != wire.TaskDeploy {
		t.Errorf("task = %s; want deploy", got.Kind)
	}
}

func TestLostPowerStartsAgain(t *testing.T) {
	b := newBench(t, nil)
	token := b.deploy("gpu-01")
	b.want("POST", wire.PathInventory, token, goodInventory(), 204)
	id := b.task(token).ID
	b.want("POST", wire.PathReport, token, wire.Report{Task: id, Step: wire.StepWrite, Text: "writing"}, 204)
	b.until("gpu-01", state.Deploying)
	b.bmc.mu.Lock()
	b.bmc.power = bmc.Off
	b.bmc.mu.Unlock()
	b.until("gpu-01", state.Firmware)
	// The same token and a new task: the agent that comes back starts over.
	b.want("POST", wire.PathReport, token, wire.Report{Task: id, Step: wire.StepDone}, 410)
	b.want("GET", wire.PathTask, token, nil, 409)
	b.want("POST", wire.PathInventory, b.bootToken(), goodInventory(), 204)
	b.until("gpu-01", state.Inspected)
	if got := b.task(token); got.Kind != wire.TaskDeploy || got.ID == id {
		t.Errorf("task after lost power = %s %s; want a deployment other than %s", got.Kind, got.ID, id)
	}
}

func TestSilentMachineFailsAfterItsAttempts(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Limits.Firmware = 30 * time.Millisecond; c.Limits.Attempts = 2 })
	plan, err := b.p.Plan(t.Context(), []string{"gpu-01"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.p.Deploy(t.Context(), "user:test", plan.Digest, []string{"gpu-01"}); err != nil {
		t.Fatal(err)
	}
	st := b.until("gpu-01", state.Failed)
	if !strings.Contains(st.Reason, "asked for no address") || !strings.Contains(st.Reason, "start 2 of 2") {
		t.Errorf("reason = %q; want that it asked for no address, twice", st.Reason)
	}
}

func TestRefusedPasswordFailsAtOnce(t *testing.T) {
	opened := 0
	b := newBench(t, func(c *Config) {
		c.OpenBMC = func(context.Context, site.Machine) (BMC, error) { opened++; return nil, bmc.ErrPassword }
	})
	plan, err := b.p.Plan(t.Context(), []string{"gpu-01"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.p.Deploy(t.Context(), "user:test", plan.Digest, []string{"gpu-01"}); err != nil {
		t.Fatal(err)
	}
	st := b.until("gpu-01", state.Failed)
	if !strings.Contains(st.Reason, "password") || opened != 1 {
		t.Errorf("reason %q after %d logins; want a refused password after one", st.Reason, opened)
	}
}

func TestDeployIsBoundToItsPlan(t *testing.T) {
	b := newBench(t, nil)
	plan, err := b.p.Plan(t.Context(), []string{"gpu-01"})
	if err != nil {
		t.Fatal(err)
	}
	b.site.Machines[0].Disks = b.site.Machines[0].Disks[1:]
	if _, err := b.p.Deploy(t.Context(), "user:test", plan.Digest, []string{"gpu-01"}); !errors.Is(err, state.ErrPlanChanged) {
		t.Errorf("Deploy with another disk = %v; want ErrPlanChanged", err)
	}
	if said := b.bmc.said(); len(said) != 0 {
		t.Errorf("BMC was told %q; want nothing", said)
	}
}

// TestPlanOfMirror: a plan says that both disks are wiped, and is bound to the
// second one too; the agent is told of both.
func TestPlanOfMirror(t *testing.T) {
	b := newBench(t, nil)
	b.site.Profiles[0].Layout.RAID = 1
	b.site.Images[0].Packages = append(b.site.Images[0].Packages, "mdadm") // or the profile would have an image of its own
	for _, m := range b.site.Machines {
		if len(m.Disks) < 2 {
			continue
		}
		plan, err := b.p.Plan(t.Context(), []string{m.Name})
		if err != nil {
			t.Fatal(err)
		}
		mp := plan.Machines[0]
		if mp.Disk.Serial != m.Disks[0].Serial || mp.Mirror == nil || mp.Mirror.Serial != m.Disks[1].Serial {
			t.Errorf("plan of %s has disk %+v and mirror %+v; want both of %+v", m.Name, mp.Disk, mp.Mirror, m.Disks)
		}
		if want := fmt.Sprintf("disks %s and %s are wiped and get image", m.Disks[0].Serial, m.Disks[1].Serial); !strings.Contains(strings.Join(mp.Changes, "\n"), want) {
			t.Errorf("plan of %s = %q; want that %s", m.Name, mp.Changes, want)
		}
		d, err := b.p.deployRun(t.Context(), b.site, m, mp)
		if err != nil || d.Deploy.DiskSerial != m.Disks[0].Serial || d.Deploy.MirrorSerial != m.Disks[1].Serial {
			t.Errorf("deployRun = %+v, %v; want a task for both disks", d.Deploy, err)
		}
		d.Phase = state.Inspected
		if got := task(d).Kind; got != wire.TaskMirror {
			t.Errorf("the task is of kind %s; want %s, which agents from before refuse", got, wire.TaskMirror)
		}
		i := slices.IndexFunc(b.site.Machines, func(x site.Machine) bool { return x.Name == m.Name })
		b.site.Machines[i].Disks = m.Disks[:1]
		if _, err := b.p.Deploy(t.Context(), "user:test", plan.Digest, []string{m.Name}); err == nil || !strings.Contains(err.Error(), "no second disk for the mirror") {
			t.Errorf("Deploy without the second disk = %v; want an error that says so", err)
		}
		return
	}
	t.Fatal("no machine of the bench has two disks")
}

func TestSecondDeployWhileOneRuns(t *testing.T) {
	b := newBench(t, nil)
	b.deploy("gpu-01")
	plan, err := b.p.Plan(t.Context(), []string{"gpu-01"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.p.Deploy(t.Context(), "user:test", plan.Digest, []string{"gpu-01"}); !errors.Is(err, ErrBusy) {
		t.Errorf("second Deploy = %v; want ErrBusy", err)
	}
}

func TestTokenOnlyFromItsMachine(t *testing.T) {
	b := newBench(t, nil)
	token := b.deploy("gpu-01")
	b.from = "10.77.0.12:999"
	b.want("GET", wire.PathTask, token, nil, 403)
	b.from = "10.77.0.11:999"
	b.want("GET", wire.PathTask, "wrong", nil, 401)
}

func TestRestartedServerGoesOn(t *testing.T) {
	b := newBench(t, nil)
	token := b.deploy("gpu-01")
	p2, err := New(b.p.c)
	if err != nil {
		t.Fatal(err)
	}
	if resumed, err := p2.load(t.Context()); err != nil || len(resumed) != 1 {
		t.Fatalf("load() = %d runs, %v; want the one under way", len(resumed), err)
	}
	r, ok := p2.latest("gpu-01")
	if !ok || r.doc().Token != token || r.doc().Phase != state.Firmware {
		t.Errorf("run after a restart = %+v; want it in phase firmware with its token", r)
	}
}

func TestUnknownMachineIsInspected(t *testing.T) {
	b := newBench(t, nil)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	c := pxe.Client{MAC: mac, Network: "prov", PXE: true}
	l, err := b.p.Offer(t.Context(), c, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.p.Commit(t.Context(), c, l.Addr); err != nil {
		t.Fatal(err)
	}
	d, err := b.p.Boot(t.Context(), c)
	if err != nil || d.Action != pxe.BootKernel {
		t.Fatalf("Boot(stranger) = %+v, %v; want the agent", d, err)
	}
	_, token, _ := strings.Cut(d.Cmdline, wire.ArgToken+"=")
	token, _, _ = strings.Cut(token, " ")
	b.from = l.Addr.String() + ":1"
	b.want("POST", wire.PathInventory, token, goodInventory(), 204)
	b.until("mac-020000000007", state.Inspected)
	if d, err := b.p.Boot(t.Context(), c); err != nil || d.Action != pxe.BootDisk {
		t.Errorf("Boot(stranger, inspected) = %+v, %v; want the disk", d, err)
	}
	b.site.Policy.UnknownMachines = site.Ignore
	if d, err := b.p.Boot(t.Context(), c); err != nil || d.Action != pxe.Ignore {
		t.Errorf("Boot(stranger, policy ignore) = %+v, %v; want Ignore", d, err)
	}
}

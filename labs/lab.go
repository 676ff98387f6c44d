package labs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/labs/fabric"
	"github.com/fettle-dev/fettle/site"
	"golang.org/x/sync/errgroup"
)

// Config is what a lab is opened with.
type Config struct {
	Plan   *Plan
	Logger *slog.Logger     // nil discards
	Now    func() time.Time // nil = time.Now
	// Progress is told what is being done; nil = nobody.
	Progress func(Step)
}

// Step is one thing that a lab did.
type Step struct {
	Machine string // empty: of the whole lab
	Text    string
}

// Lab is an open lab: its fabric, consoles and chassis. One process has it
// open at a time. Methods may be called concurrently.
type Lab struct {
	plan     *Plan
	r        realization
	hv       hypervisor
	log      *slog.Logger
	now      func() time.Time
	progress func(Step)

	owner    int // of the sockets that QEMU connects to; -1: this process' user
	lock     *os.File
	sw       *fabric.Switch
	hosts    map[string]*fabric.Host
	traps    []*fabric.Trap
	consoles map[string]*Console
	machines map[string]*machine

	// life ends with Close; background work of the chassis hangs on it.
	life   context.Context
	end    context.CancelFunc
	work   sync.WaitGroup
	closed sync.Once
	making sync.Mutex // Up and Down

	addrs    sync.Mutex          // guards bmcAddrs
	bmcAddrs map[netip.Addr]bool // that hosts have taken for BMCs
}

// Open connects to libvirt, takes the lab's folder and builds its fabric. It
// makes no domain: see Up. Machines that run already are found again.
func Open(ctx context.Context, c Config) (*Lab, error) {
	o, err := c.Plan.Options.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Lab{plan: c.Plan, log: c.Logger, now: c.Now, progress: c.Progress,
		hosts: map[string]*fabric.Host{}, consoles: map[string]*Console{}, machines: map[string]*machine{}, bmcAddrs: map[netip.Addr]bool{}}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.now == nil {
		l.now = time.Now
	}
	if l.progress == nil {
		l.progress = func(Step) {}
	}
	l.r.dir = folder(o.Dir)
	l.r.bridge = o.BridgeNetwork
	l.life, l.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := l.open(ctx, o); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) open(ctx context.Context, o Options) error {
	if err := l.plan.checkPaths(string(l.r.dir)); err != nil {
		return err
	}
	if err := l.r.findTools(ctx, l.plan); err != nil {
		return err
	}
	var err error
	if l.hv, err = dial(ctx, o.URI); err != nil {
		return err
	}
	domains, err := l.hv.domains()
	if err != nil {
		return err
	}
	if err := l.checkForeign(domains); err != nil {
		return err
	}
	if err := l.r.dir.claim(l.plan.Name, o.URI, l.now()); err != nil {
		return err
	}
	if l.lock, err = l.r.dir.hold(l.plan.Name); err != nil {
		return err
	}
	native := ""
	if runsKVM(site.AMD64) {
		native = l.r.engines[site.AMD64].emulator
	}
	accel, reason, err := chooseAccel(ctx, o.Accel, native, l.r.dir, l.hv)
	if err != nil {
		return err
	}
	l.r.accel = accel
	if reason != "" {
		l.step("", "machines run without KVM, several times slower: "+reason)
	}
	if i := slices.IndexFunc(l.plan.Machines, func(m MachinePlan) bool { return !runsKVM(m.Arch) }); i >= 0 && accel == KVM {
		l.step("", l.plan.Machines[i].Arch+" machines are emulated here, several times slower than the others")
	}
	if l.owner, err = l.chooseUser(o.URI); err != nil {
		return err
	}
	if l.r.ports, err = choosePorts(ctx, l.plan, l.r.dir, l.anyActive(domains), l.portsOfOthers(domains)); err != nil {
		return err
	}
	if err := l.buildFabric(); err != nil {
		return err
	}
	for _, m := range l.plan.Machines {
		if l.consoles[m.Name], err = openConsole(l.r.dir, m.Name, l.owner, l.log); err != nil {
			return err
		}
		if l.machines[m.Name], err = newMachine(l, m); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) step(machine, text string) { l.progress(Step{Machine: machine, Text: text}) }

// checkForeign refuses domains of our names that are not ours.
func (l *Lab) checkForeign(domains []domain) error {
	for _, d := range domains {
		t, _, ok := readTag(d.xml)
		if ok && t.Name == l.plan.Name && t.Dir != string(l.r.dir) {
			return because(ErrForeign, nil, "a lab called %s exists already in %s: say --labs %s, or another name with --lab", t.Name, t.Dir, filepath.Dir(t.Dir))
		}
		for _, m := range l.plan.Machines {
			if d.name == m.Domain && (!ok || t.Name != l.plan.Name) {
				return because(ErrForeign, nil, "the libvirt domain %s exists and lab %s did not make it: remove it, or name the lab otherwise with --lab", d.name, l.plan.Name)
			}
		}
	}
	return nil
}

func (l *Lab) owns(d domain) bool {
	t, _, ok := readTag(d.xml)
	return ok && t.Name == l.plan.Name && t.Dir == string(l.r.dir)
}

func (l *Lab) anyActive(domains []domain) bool {
	for _, d := range domains {
		if d.active && l.owns(d) {
			return true
		}
	}
	return false
}

// portsOfOthers are UDP ports that domains of other labs will use once they
// start.
func (l *Lab) portsOfOthers(domains []domain) map[uint16]bool {
	taken := map[uint16]bool{}
	for _, d := range domains {
		t, x, ok := readTag(d.xml)
		if !ok || t.Name == l.plan.Name || x.Devices == nil {
			continue
		}
		for _, n := range x.Devices.Interfaces {
			if n.Source == nil || n.Source.UDP == nil {
				continue
			}
			taken[uint16(n.Source.UDP.Port)] = true
			if n.Source.UDP.Local != nil {
				taken[uint16(n.Source.UDP.Local.Port)] = true
			}
		}
	}
	return taken
}

// chooseUser decides who QEMU runs as, and returns the owner of the sockets
// that it connects to (-1: ours). Under the system daemon that is libvirt's own
// user, when it can reach the lab's folder by name; else the lab's user.
func (l *Lab) chooseUser(uri string) (owner int, err error) {
	if !strings.Contains(uri, "/system") {
		return -1, nil
	}
	own := "+" + strconv.Itoa(os.Geteuid()) + ":+" + strconv.Itoa(os.Getegid())
	user, err := l.hv.qemuUser()
	if err != nil {
		return 0, err
	}
	uid, _, _ := strings.Cut(user, ":")
	n, err := strconv.Atoi(uid)
	if err == nil && os.Geteuid() == 0 && l.r.dir.reachable(n) {
		return n, nil
	}
	l.r.dac = own
	return -1, nil
}

func (l *Lab) buildFabric() error {
	l.sw = fabric.NewSwitch(fabric.Config{Logger: l.log})
	for _, n := range l.plan.Networks {
		if n.Boot && l.r.bridge != "" {
			continue
		}
		var addrs []netip.Prefix
		if n.Server.IsValid() {
			addrs = append(addrs, netip.PrefixFrom(n.Server, n.Prefix.Bits()))
		}
		if n.Server6.IsValid() {
			addrs = append(addrs, netip.PrefixFrom(n.Server6, n.Prefix6.Bits()))
		}
		if len(addrs) == 0 {
			continue
		}
		h, err := l.sw.NewHost(fabric.HostConfig{
			Name: "host-" + n.Name, VLAN: n.VLAN, MAC: n.HostMAC[:], MTU: n.MTU,
			Addrs: addrs,
			// Debian's iPXE waits 16 s for one otherwise. Where there is IPv6, who
			// serves it says more.
			RouterAdvertisements: n.Boot && !n.Prefix6.IsValid(),
		})
		if err != nil {
			return fmt.Errorf("network %s on the fabric: %w", n.Name, err)
		}
		l.hosts[n.Name] = h
		if len(n.Trap) == 0 {
			continue
		}
		t, err := l.sw.NewTrap(fabric.TrapConfig{Name: "trap-" + n.Name, VLAN: n.VLAN, Addrs: n.Trap, Known: l.plan.known})
		if err != nil {
			return fmt.Errorf("trap of network %s on the fabric: %w", n.Name, err)
		}
		l.traps = append(l.traps, t)
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for _, m := range l.plan.Machines {
		for i, n := range m.NICs {
			if n.Network == "" || (n.Boot && l.r.bridge != "") {
				continue // nobody is at the other end
			}
			pair := l.r.ports[m.Name][i]
			link, err := fabric.ListenUDP(netip.AddrPortFrom(loopback, pair.Fabric), netip.AddrPortFrom(loopback, pair.Guest))
			if err != nil {
				return fmt.Errorf("NIC %s of %s: %w", n.MAC, m.Name, err)
			}
			if _, err := l.sw.Attach(fabric.PortConfig{Name: PortName(m.Name, i), VLAN: n.VLAN}, link); err != nil {
				return fmt.Errorf("NIC %s of %s: %w", n.MAC, m.Name, err)
			}
		}
	}
	return nil
}

// PortName is the name of the fabric's port of a machine's NIC, counted from 0.
func PortName(machine string, nic int) string { return machine + "/" + strconv.Itoa(nic) }

// Run carries frames and consoles until ctx ends. Machines go on without it,
// unheard.
func (l *Lab) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.sw.Run(ctx) })
	for _, c := range l.consoles {
		g.Go(func() error { return c.run(ctx) })
	}
	for _, t := range l.traps {
		g.Go(func() error { return t.Run(ctx) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("lab %s: %w", l.plan.Name, err)
	}
	return nil
}

// Close lets go of the lab; machines that run go on. It may be called twice.
func (l *Lab) Close() error {
	var errs []error
	l.closed.Do(func() {
		l.end()
		l.work.Wait()
		if l.sw != nil {
			errs = append(errs, l.sw.Close())
		}
		for _, c := range l.consoles {
			if c != nil {
				errs = append(errs, c.close())
			}
		}
		if l.hv != nil {
			errs = append(errs, l.hv.close())
		}
		if l.lock != nil {
			errs = append(errs, l.lock.Close())
		}
	})
	return errors.Join(errs...)
}

// Plan is what the lab was opened with.
func (l *Lab) Plan() *Plan { return l.plan }

// Dir is the lab's folder.
func (l *Lab) Dir() string { return string(l.r.dir) }

// StateDir is a folder for what the lab's services keep; it goes with the lab.
func (l *Lab) StateDir() string { return filepath.Join(string(l.r.dir), "state") }

// Accel is how the lab's machines run.
func (l *Lab) Accel() Accel { return l.r.accel }

// Switch is the fabric, for captures and faults.
func (l *Lab) Switch() *fabric.Switch { return l.sw }

// Host is the fabric's IP stack on a network; nil when the site gives fettle no
// address on it, or when the network is a bridge of this machine.
func (l *Lab) Host(network string) *fabric.Host { return l.hosts[network] }

// Console is a machine's serial port; nil for a machine that the lab does not
// have.
func (l *Lab) Console(machine string) *Console { return l.consoles[machine] }

// Chassis is what a virtual BMC of the machine drives; nil for a machine that
// the lab does not have.
func (l *Lab) Chassis(machine string) vbmc.Chassis {
	m := l.machines[machine]
	switch {
	case m == nil:
		return nil
	case m.plan.Firmware == site.UEFI:
		return uefiMachine{m}
	}
	return m
}

// hostFor finds the host on the network that holds a.
func (l *Lab) hostFor(a netip.Addr) (*fabric.Host, NetworkPlan, error) {
	n, ok := l.plan.networkOf(a)
	if !ok {
		return nil, n, fmt.Errorf("lab %s: %s is on none of its networks", l.plan.Name, a)
	}
	h := l.hosts[n.Name]
	if h == nil {
		return nil, n, fmt.Errorf("lab %s: %s is on network %s, on which the site gives fettle no address (server:)", l.plan.Name, a, n.Name)
	}
	return h, n, nil
}

// DialContext connects to an address of the lab, "10.0.0.1:22", from the
// fabric's host on that address's network.
func (l *Lab) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("lab %s: %q: want an IP address and a port", l.plan.Name, addr)
	}
	if n, ok := l.plan.networkOf(ap.Addr()); ok && n.Boot && l.r.bridge != "" {
		var d net.Dialer // this machine is on it
		return d.DialContext(ctx, network, addr)
	}
	h, _, err := l.hostFor(ap.Addr())
	if err != nil {
		return nil, err
	}
	return h.DialContext(ctx, network, addr)
}

// ListenBMC listens where the machine's BMC answers by Redfish: the host on the
// BMC's network takes its address too.
func (l *Lab) ListenBMC(ctx context.Context, machine string) (net.Listener, error) {
	m, h, err := l.bmcHost(machine)
	if err != nil {
		return nil, err
	}
	ln, err := h.Listen(ctx, netip.AddrPortFrom(m.BMC.Address, uint16(m.BMC.portOf(site.Redfish))))
	if err != nil {
		return nil, fmt.Errorf("BMC of %s: %w", machine, err)
	}
	return ln, nil
}

// ListenIPMI listens where it answers by IPMI.
func (l *Lab) ListenIPMI(ctx context.Context, machine string) (net.PacketConn, error) {
	m, h, err := l.bmcHost(machine)
	if err != nil {
		return nil, err
	}
	conn, err := h.ListenPacket(ctx, netip.AddrPortFrom(m.BMC.Address, uint16(m.BMC.portOf(site.IPMI))))
	if err != nil {
		return nil, fmt.Errorf("BMC of %s: %w", machine, err)
	}
	return conn, nil
}

// ListenSystemInterface listens where the machine's QEMU connects for its own
// IPMI interface.
func (l *Lab) ListenSystemInterface(machine string) (net.Listener, error) {
	if _, ok := l.plan.Machine(machine); !ok {
		return nil, fmt.Errorf("lab %s has no machine %s", l.plan.Name, machine)
	}
	ln, err := listenUnix(l.r.dir.ipmi(machine), l.owner)
	if err != nil {
		return nil, fmt.Errorf("IPMI interface of %s: %w", machine, err)
	}
	return ln, nil
}

// bmcHost is the host that has the machine's BMC's address.
func (l *Lab) bmcHost(machine string) (MachinePlan, *fabric.Host, error) {
	m, ok := l.plan.Machine(machine)
	if !ok {
		return m, nil, fmt.Errorf("lab %s has no machine %s", l.plan.Name, machine)
	}
	h, n, err := l.hostFor(m.BMC.Address)
	if err != nil {
		return m, nil, fmt.Errorf("BMC of %s: %w", machine, err)
	}
	l.addrs.Lock()
	defer l.addrs.Unlock()
	if m.BMC.Address != n.Server && !l.bmcAddrs[m.BMC.Address] {
		if err := h.AddAddr(netip.PrefixFrom(m.BMC.Address, n.Prefix.Bits())); err != nil {
			return m, nil, fmt.Errorf("BMC of %s: %w", machine, err)
		}
		l.bmcAddrs[m.BMC.Address] = true
	}
	return m, h, nil
}

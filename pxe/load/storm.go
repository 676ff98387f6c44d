package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Storm is machines that boot at once.
type Storm struct {
	// Wire is where they are: DHCP sockets, and connections from the addresses
	// that they get.
	Wire Wire
	// Server is the only DHCP server whose offers are taken, and the only host
	// that anything is fetched from but for those in Also.
	Server netip.Addr
	Also   []netip.Addr
	Count  int
	// Allowed are the addresses that machines may have here: one that is given
	// another has failed.
	Allowed  netip.Prefix
	Firmware []Firmware    // in turn; default all
	Bytes    int64         // of each file that a script loads; 0: all of it
	Ramp     time.Duration // in which they all start; 0: at once
	Limit    time.Duration // when those that are not done have failed
	Series   uint16        // machines of another series are other machines
	// Report, if set, is a URL where a machine says that it has booted.
	Report string
	// Progress is told of every machine that ends, if it is set.
	Progress func(done, failed int)
}

// Firmware is what a machine starts with.
type Firmware string

// Firmwares that a Storm knows.
const (
	BIOS Firmware = "bios" // a PXE ROM: TFTP in lockstep, 1456 bytes a block
	EDK2 Firmware = "edk2" // UEFI: TFTP with windows of 4 blocks of 1468 bytes
	IPXE Firmware = "ipxe" // iPXE in the ROM: no loader
)

// Firmwares are all of them.
func Firmwares() []Firmware { return []Firmware{BIOS, EDK2, IPXE} }

// Wire is the network that a storm's machines are on.
type Wire interface {
	// DHCP opens the socket of all machines: port 68, where answers arrive by
	// broadcast.
	DHCP(ctx context.Context) (net.PacketConn, error)
	// ListenPacket opens a UDP port of a machine.
	ListenPacket(ctx context.Context, from netip.Addr) (net.PacketConn, error)
	// Dial opens a TCP connection of a machine.
	Dial(ctx context.Context, from netip.Addr, addr string) (net.Conn, error)
}

// Stages of a machine's boot.
const (
	StageFirmware = "dhcp"
	StageLoader   = "tftp"
	StageIPXE     = "dhcp-ipxe"
	StageScript   = "script"
	StageFiles    = "files"
	StageReport   = "report"
	StageBoot     = "boot" // all of it
)

// Stages are in the order of a boot.
func Stages() []string {
	return []string{StageFirmware, StageLoader, StageIPXE, StageScript, StageFiles, StageReport, StageBoot}
}

// StormResult is how a storm went.
type StormResult struct {
	Machines  int               `json:"machines"`
	Booted    int               `json:"booted"`
	FirstTry  int               `json:"first_try"` // without asking anything twice
	Took      time.Duration     `json:"took_ns"`   // until the last machine ended
	Bytes     int64             `json:"bytes"`
	Repeated  int               `json:"repeated"` // DHCP packets that were sent again
	Stages    map[string]Spread `json:"stages"`
	Failures  []Reason          `json:"failures"`
	Addresses int               `json:"addresses"` // that were given to a machine
	Twice     []netip.Addr      `json:"twice"`     // addresses that two machines were given
}

// dhcpWaits are the times that firmware waits for an answer before it asks
// again (PXE 2.1 §2.2.5: 4, 8, 16 and 32 s).
func dhcpWaits() []time.Duration {
	return []time.Duration{4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second}
}

// storm is one that runs.
type storm struct {
	Storm
	conn net.PacketConn
	to   *net.UDPAddr

	mu       sync.Mutex
	waiting  map[uint32]chan message
	took     map[string][]time.Duration
	why      map[string]int
	has      map[netip.Addr][6]byte
	twice    map[netip.Addr]bool
	bytes    int64
	repeated int
	first    int
	done     int
	failed   int
}

// Run runs the storm and returns after all its machines have ended and their
// addresses are given back. It fails
// only when nothing could be sent at all.
func (c Storm) Run(ctx context.Context) (StormResult, error) {
	if len(c.Firmware) == 0 {
		c.Firmware = Firmwares()
	}
	switch {
	case c.Count < 1 || c.Count > 60000:
		return StormResult{}, fmt.Errorf("a storm of %d machines: 1 to 60000 are possible", c.Count)
	case c.Limit <= 0:
		return StormResult{}, errors.New("a storm needs a time limit")
	case c.Allowed.Contains(c.Server):
		return StormResult{}, fmt.Errorf("the machines' addresses %v contain the server's, %v: name those of the pool alone", c.Allowed, c.Server)
	}
	s := &storm{Storm: c, waiting: map[uint32]chan message{}, took: map[string][]time.Duration{}, why: map[string]int{},
		has: map[netip.Addr][6]byte{}, twice: map[netip.Addr]bool{}}
	ctx, cancel := context.WithTimeout(ctx, c.Limit)
	defer cancel()
	conn, err := c.Wire.DHCP(ctx)
	if err != nil {
		return StormResult{}, err
	}
	defer conn.Close()
	s.conn, s.to = conn, net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.Server, 67))
	var reader sync.WaitGroup
	reader.Go(s.read)
	start := time.Now()
	var machines sync.WaitGroup
	for i := range c.Count {
		machines.Go(func() { s.machine(ctx, i) })
	}
	machines.Wait()
	r := StormResult{Took: time.Since(start)}
	s.release()
	conn.Close()
	reader.Wait()
	return s.result(r), nil
}

func (s *storm) result(r StormResult) StormResult {
	r.Machines, r.Booted, r.FirstTry, r.Bytes, r.Repeated = s.Count, s.done-s.failed, s.first, s.bytes, s.repeated
	r.Stages = map[string]Spread{}
	for name, d := range s.took {
		r.Stages[name] = spread(d)
	}
	r.Failures, r.Addresses = reasons(s.why), len(s.has)
	for a := range s.twice {
		r.Twice = append(r.Twice, a)
	}
	slices.SortFunc(r.Twice, netip.Addr.Compare)
	return r
}

// release gives the machines' addresses back, that the pool is as it was
// (RFC 2131 §4.4.6). Nobody answers, and one that is lost ends by itself.
func (s *storm) release() {
	for a, mac := range s.has {
		b := encode(release, 0, mac, netip.Addr{}, addrOption(optServer, s.Server))
		b[10] = 0
		ciaddr := a.As4()
		copy(b[12:], ciaddr[:])
		if _, err := s.conn.WriteTo(b, s.to); err != nil {
			return
		}
	}
}

// read hands answers to the machines that wait for them, until the socket is
// closed.
func (s *storm) read() {
	for buf := make([]byte, 4096); ; {
		k, _, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		m, err := decode(buf[:k])
		if err != nil {
			continue
		}
		s.mu.Lock()
		c := s.waiting[m.xid]
		s.mu.Unlock()
		if c != nil {
			select {
			case c <- m:
			default: // it has enough to read
			}
		}
	}
}

// machine boots machine i.
func (s *storm) machine(ctx context.Context, i int) {
	m := &machine{storm: s, firmware: s.Firmware[i%len(s.Firmware)], mac: [6]byte{2, 0xfe, byte(s.Series >> 8), byte(s.Series), byte(i >> 8), byte(i)}}
	if s.Ramp > 0 {
		select {
		case <-time.After(s.Ramp * time.Duration(i) / time.Duration(s.Count)):
		case <-ctx.Done():
		}
	}
	start := time.Now()
	err := m.boot(ctx)
	if err != nil && ctx.Err() != nil {
		stage, _, _ := strings.Cut(err.Error(), ":")
		err = fmt.Errorf("%s: not done in time", stage)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done++
	if err != nil {
		s.failed++
		s.why[fmt.Sprintf("%s: %v", m.firmware, err)]++
	} else {
		s.took[StageBoot] = append(s.took[StageBoot], time.Since(start))
		if m.repeated == 0 {
			s.first++
		}
	}
	s.bytes += m.bytes
	s.repeated += m.repeated
	if s.Progress != nil {
		s.Progress(s.done, s.failed)
	}
}

// Summary is the result as text for people: a line for each stage, then what
// failed and why.
func (r StormResult) Summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d machines booted in %.1f s, %d without asking twice; %.1f GB, %.0f MB/s\n",
		r.Booted, r.Machines, r.Took.Seconds(), r.FirstTry, float64(r.Bytes)/1e9, float64(r.Bytes)/1e6/max(r.Took.Seconds(), 1e-9))
	fmt.Fprintf(&b, "%-10s %8s %9s %9s %9s %9s\n", "stage", "machines", "median s", "90% s", "99% s", "longest s")
	for _, name := range Stages() {
		if s := r.Stages[name]; s.Count > 0 {
			fmt.Fprintf(&b, "%-10s %8d %9.3f %9.3f %9.3f %9.3f\n", name, s.Count, s.P50, s.P90, s.P99, s.Max)
		}
	}
	for _, a := range r.Twice {
		fmt.Fprintf(&b, "address %v was given to two machines\n", a)
	}
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "%d failed: %s\n", f.Count, f.Text)
	}
	return b.String()
}

// Package fabric is a user-space Ethernet: a [Switch] that learns MAC
// addresses and knows VLANs, a [Port] for each cable plugged into it, a [Link]
// that is the cable (one Ethernet frame per UDP datagram on loopback, libvirt's
// <interface type='udp'>), and a [Host]: an IP stack (gVisor's netstack) on a
// VLAN, whose sockets are net.Listener, net.PacketConn and net.Conn. No bridge,
// no root, nothing of the host's network. It knows nothing of libvirt.
//
// A [Fault] is what a port does wrong on purpose; a capture is a pcapng file of
// what ports saw. FABRIC.md beside this file has the decisions and the measured
// figures.
package fabric

import (
	"errors"
	"log/slog"
	"time"
)

// ErrClosed means that the switch, port or host was closed.
var ErrClosed = errors.New("the fabric is closed")

// Config configures a Switch. The zero value works.
type Config struct {
	// Logger is for debugging; nil discards.
	Logger *slog.Logger
	// Aging is how long an address stays learnt without being heard of
	// (IEEE 802.1Q table 8-6 recommends 300 s, the default).
	Aging time.Duration
	// Now and Random are the clock and the dice of faults and captures;
	// nil is time.Now and math/rand/v2's Float64.
	Now    func() time.Time
	Random func() float64
}

// PortConfig says what a port is.
type PortConfig struct {
	// Name is unique in the switch; captures and errors carry it.
	Name string
	// VLAN is the VLAN of untagged frames, 1 to 4094; 0 is the untagged
	// network, a segment of its own that no tag can reach.
	VLAN int
	// Trunk lists the VLANs that cross this port with an 802.1Q tag.
	Trunk []int
}

// Link is a cable's end: it carries whole Ethernet frames without preamble and
// without frame check sequence.
//
// ReadFrame blocks and is called by one goroutine. It returns an error only
// when the link has ended for good: a peer that is absent is not an error.
// WriteFrame may be called concurrently, must not keep b, and must not wait for
// a peer that does not read: like a cable it drops. Close unblocks ReadFrame
// and may be called twice.
type Link interface {
	ReadFrame(b []byte) (int, error)
	WriteFrame(b []byte) error
	Close() error
}

// Stats counts what passed a port, seen from the switch: in is what the
// attached machine sent. A frame that the port dropped is counted by reason and
// not in In or Out.
type Stats struct {
	InFrames, InBytes   uint64
	OutFrames, OutBytes uint64
	Malformed           uint64 // shorter than a header, bad tag, source is a group address
	WrongVLAN           uint64 // tagged for a VLAN that the port does not carry
	Faulted             uint64 // dropped by the port's Fault
	Overflow            uint64 // dropped because a queue was full
	WriteErrors         uint64 // the link refused it
}

// Fault is what a port does wrong, in both directions. The zero Fault is a
// healthy port.
type Fault struct {
	Down  bool          // nothing passes
	Loss  float64       // fraction of frames dropped, 0 to 1
	Delay time.Duration // added to every frame in each direction
}

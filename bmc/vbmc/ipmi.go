package vbmc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/crypto"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// Bounds of the IPMI service.
const (
	ipmiIdle       = 60 * time.Second // IPMI 2.0 §6.12.15
	ipmiSetup      = 10 * time.Second // for RAKP 1 and 3 to follow
	ipmiPending    = 16               // logins under way; the oldest goes first
	ipmiOperation  = 10 * time.Second // of the chassis
	ipmiMaxMessage = 1024
)

// ipmi is the IPMI 2.0 service of a Server on one interface: a packet
// connection, or the machine's own (conn is nil then). Packets are served one
// after the other, as a BMC does.
type ipmi struct {
	s    *Server
	conn net.PacketConn
	guid [16]byte
	life context.Context // of the service
	work sync.WaitGroup  // serial over LAN
	from net.Addr        // who sent the packet at hand

	mu       sync.Mutex              // guards what follows
	sol      *sol                    // the last one that was activated
	sessions map[uint32]*ipmiSession // by our id
	nextID   uint32
	handle   byte
}

// ipmiState is what all IPMI interfaces of a Server share beyond its accounts
// and logs. Server.mu guards it.
type ipmiState struct {
	services int              // interfaces that are served
	lans     []net.PacketConn // those over LAN
	reserved uint16           // of the event log (IPMI 2.0 §31.4)
	boot     bootParameters
	wanted   float64          // DCMI power limit that is not active yet
	keys     [2][20]byte      // Kr and Kg
	enables  byte             // global enables (IPMI 2.0 §22.1)
	channel  [2]channelAccess // as it is, and after a reset of the BMC
	lan      lanParameters
	sol      solParameters
	chassis  chassisSettings
	watchdog watchdog
	info     systemInfo
	dcmi     dcmiSettings
	pef      map[uint16][]byte // by number and block
	limits   map[string]Sensor // thresholds that were set, by sensor id

	dark  *time.Timer // puts the identify light out
	timed bool
}

// newIPMIState is what a BMC comes with.
func newIPMIState() ipmiState {
	open := channelAccess{mode: accessAlways, limit: privAdmin}
	return ipmiState{reserved: 1, enables: enableEventLog, channel: [2]channelAccess{open, open}}
}

// ServeIPMI answers IPMI 2.0 over LAN (RMCP+, cipher suites 3 and 17) on conn
// with the accounts of the Server, until ctx ends. It does not close conn.
func (s *Server) ServeIPMI(ctx context.Context, conn net.PacketConn) error {
	life, end := context.WithCancel(ctx)
	i := &ipmi{s: s, conn: conn, life: life, sessions: map[uint32]*ipmiSession{}}
	if err := i.identity(ctx); err != nil {
		end()
		return fmt.Errorf("serving IPMI: %w", err)
	}
	s.serving(conn)
	defer s.served(conn)
	defer i.work.Wait()
	defer end()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, ipmiMaxMessage)
	for {
		n, from, err := conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("serving IPMI: %w", err)
		case err != nil:
			return fmt.Errorf("serving IPMI: reading a packet: %w", err)
		}
		if s.Trouble().Hang || !s.suffer(ctx) {
			continue
		}
		i.answer(ctx, buf[:n], from)
	}
}

// answer answers one datagram. The answer is on its way before anything else of
// this service is: ipmitool takes the first words of a serial console for the
// answer to its activation otherwise, and fails (seen with a race detector).
func (i *ipmi) answer(ctx context.Context, p []byte, from net.Addr) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.from = from
	if out := i.packet(ctx, p); out != nil {
		if _, err := i.conn.WriteTo(out, from); err != nil {
			i.s.log.DebugContext(ctx, "virtual BMC: an IPMI answer was not sent", "to", from, "err", err)
		}
	}
}

// serving and served count the IPMI services: over LAN, and the machine's own,
// which has no conn. With the last of them the timers end.
func (s *Server) serving(conn net.PacketConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ipmi.services++
	if conn != nil {
		s.ipmi.lans = append(s.ipmi.lans, conn)
	}
}

func (s *Server) served(conn net.PacketConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ipmi.lans = slices.DeleteFunc(s.ipmi.lans, func(c net.PacketConn) bool { return c == conn })
	if s.ipmi.services--; s.ipmi.services == 0 {
		s.stopLight()
		s.stopWatchdog()
	}
}

// ipmiDisabled: ManagerNetworkProtocol says that IPMI is not answered.
func (s *Server) ipmiDisabled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ipmiOff
}

// identity takes the GUID from the chassis' UUID (IPMI 2.0 §20.8: least
// significant byte first).
func (i *ipmi) identity(ctx context.Context) error {
	in, err := i.s.chassis.Info(ctx)
	if err != nil {
		return fmt.Errorf("reading what the chassis is: %w", err)
	}
	u, ok := parseUUID(in.UUID)
	if !ok {
		u = [16]byte(crypto.RandomBytes(16))
	}
	for n, b := range u {
		i.guid[15-n] = b
	}
	return nil
}

// packet answers one datagram; nil for what deserves no answer.
func (i *ipmi) packet(ctx context.Context, p []byte) []byte {
	if len(p) < 5 || p[0] != lanplus.Version || i.s.ipmiDisabled() {
		return nil
	}
	i.expire()
	switch {
	case p[3] == lanplus.ClassASF && len(p) >= 12 && binary.BigEndian.Uint32(p[4:]) == 4542 && p[8] == 0x80:
		return pong(p[9])
	case p[3] != lanplus.ClassIPMI:
		return nil
	case p[4] == 0: // IPMI 1.5 format, no authentication: before a session only
		return i.preSession15(ctx, p[4:])
	}
	u, ok := lanplus.Unpack(p)
	if !ok {
		return nil
	}
	switch u.Kind {
	case lanplus.Open, lanplus.RAKP1, lanplus.RAKP3:
		return i.setup(u.Kind, u.Body)
	case lanplus.IPMI:
		if u.Session != 0 {
			return nil
		}
		if m := i.preSession(ctx, u.Body); m != nil {
			return lanplus.Packet(lanplus.IPMI, 0, 0, m)
		}
		return nil
	}
	return i.inSession(ctx, u.Session, p)
}

// pong is the ASF Presence Pong (ASF 2.0 §3.2.4.3).
func pong(tag byte) []byte {
	p := make([]byte, 28)
	copy(p, []byte{0x06, 0, 0xff, lanplus.ClassASF, 0, 0, 0x11, 0xbe, 0x40, tag, 0, 16, 0, 0, 0x11, 0xbe})
	p[20] = 0x81 // IPMI supported, ASF 1.0
	return p
}

// setup answers a message of the session set-up.
func (i *ipmi) setup(kind byte, body []byte) []byte {
	var m []byte
	switch kind {
	case lanplus.Open:
		m = i.openSession(body)
	case lanplus.RAKP1:
		m = i.rakp1(body)
	case lanplus.RAKP3:
		m = i.rakp3(body)
	}
	if m == nil {
		return nil
	}
	return lanplus.Packet(kind+1, 0, 0, m)
}

// preSession15 answers a message in the format of IPMI 1.5 (§13.6); p begins
// with its session header.
func (i *ipmi) preSession15(ctx context.Context, p []byte) []byte {
	if len(p) < 10 || binary.LittleEndian.Uint32(p[5:]) != 0 || int(p[9]) > len(p)-10 {
		return nil
	}
	m := i.preSession(ctx, p[10:10+int(p[9])])
	if m == nil {
		return nil
	}
	out := append([]byte{0x06, 0, 0xff, lanplus.ClassIPMI}, make([]byte, 10)...)
	out[13] = byte(len(m))
	return append(out, m...)
}

// preSession answers the few commands that need no session (IPMI 2.0 §G).
func (i *ipmi) preSession(ctx context.Context, msg []byte) []byte {
	r, ok := parseRequest(msg)
	if !ok {
		return nil
	}
	c, ok := commands[code(r.netFn, r.cmd)]
	if !ok || c.priv != privNone {
		return r.answer(ccPrivilege, nil)
	}
	return i.run(ctx, c, nil, r)
}

// inSession answers a packet of a session; nothing is taken there that is not
// encrypted and signed.
func (i *ipmi) inSession(ctx context.Context, id uint32, p []byte) []byte {
	x := i.sessions[id]
	if x == nil || !x.active {
		return nil
	}
	payload, msg, ok := x.Open(p)
	if !ok {
		return nil
	}
	switch payload {
	case lanplus.SOL:
		x.used = i.s.now()
		if ack := i.solPacket(x, msg); ack != nil {
			return x.seal(lanplus.SOL, ack)
		}
	case lanplus.IPMI:
		if r, ok := parseRequest(msg); ok {
			x.used = i.s.now()
			return x.seal(lanplus.IPMI, i.obey(ctx, x, r))
		}
	}
	return nil
}

// obey does one request of a session.
func (i *ipmi) obey(ctx context.Context, x *ipmiSession, r request) []byte {
	c, ok := commands[code(r.netFn, r.cmd)]
	switch {
	case !ok:
		return r.answer(ccInvalid, nil)
	case c.priv > x.priv:
		return r.answer(ccPrivilege, nil)
	}
	return i.run(ctx, c, x, r)
}

// run does one command, in bounded time.
func (i *ipmi) run(ctx context.Context, c command, x *ipmiSession, r request) []byte {
	if len(r.data) < c.min {
		return r.answer(ccLength, nil)
	}
	ctx, cancel := context.WithTimeout(ctx, ipmiOperation)
	defer cancel()
	data, err := c.do(i, ctx, x, r.data)
	var cc completion
	switch {
	case err == nil:
		return r.answer(ccOK, data)
	case errors.As(err, &cc):
		return r.answer(cc, nil)
	case errors.Is(err, ErrUnsupported):
		return r.answer(ccState, nil)
	case errors.Is(err, context.DeadlineExceeded):
		return r.answer(ccTimeout, nil)
	}
	i.s.log.ErrorContext(ctx, "virtual BMC: chassis failed", "netfn", r.netFn, "command", r.cmd, "err", err)
	return r.answer(ccUnspecified, nil)
}

// request is an IPMI message (IPMI 2.0 table 13-8).
type request struct {
	netFn, cmd, lun byte
	from, seq       byte // address and sequence number of the requester, with its LUN
	data            []byte
}

func parseRequest(m []byte) (request, bool) {
	if !lanplus.Valid(m) || m[0] != 0x20 || m[1]>>2&1 != 0 {
		return request{}, false
	}
	return request{m[1] >> 2, m[5], m[1] & 3, m[3], m[4], m[6 : len(m)-1]}, true
}

// answer is the response to a request.
func (r request) answer(cc completion, data []byte) []byte {
	return lanplus.Message(r.from, (r.netFn|1)<<2|r.seq&3, 0x20, r.seq&^3|r.lun, r.cmd, append([]byte{byte(cc)}, data...)...)
}

// completion is a completion code other than 00h (IPMI 2.0 table 5-2).
type completion byte

// Completion codes.
const (
	ccOK          completion = 0x00
	ccParameter   completion = 0x80 // of boot options and LAN parameters
	ccInvalid     completion = 0xc1
	ccTimeout     completion = 0xc3
	ccTruncated   completion = 0xc8
	ccReservation completion = 0xc5
	ccLength      completion = 0xc7
	ccRange       completion = 0xc9
	ccAbsent      completion = 0xcb
	ccReadOnly    completion = 0x82 // of boot options, LAN and other parameters
	ccInProgress  completion = 0x81 // of the same: another is setting them
	ccField       completion = 0xcc
	ccPrivilege   completion = 0xd4
	ccState       completion = 0xd5
	ccUnspecified completion = 0xff
)

func (c completion) Error() string { return fmt.Sprintf("IPMI completion code %02Xh", byte(c)) }

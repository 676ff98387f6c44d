package pxe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

const (
	tftpFirstRTO = time.Second
	tftpMinRTO   = 100 * time.Millisecond
	tftpMaxRTO   = 8 * time.Second
	tftpMinGap   = time.Millisecond
	tftpGaps     = 50 // times that one block is sent again because it is missing
	tftpRetries  = 7  // without progress: 1+2+4+8+8+8+8 s at first, less once the round trip is known
)

// errTFTPProbe means that the client wanted only the file's size and ended the
// transfer with error 8 or 0, which is normal (FIELD-NOTES item 17).
var errTFTPProbe = errors.New("client asked for the size only")

// sender sends one file: RFC 1350's lockstep is a window of one block
// (RFC 7440 §4). Block numbers are counted in 64 bits and roll over on the
// wire.
type sender struct {
	conn    net.PacketConn
	to      netip.AddrPort
	addr    net.Addr
	file    io.Reader
	oack    []byte
	blksize int
	window  int
	now     func() time.Time
	// answered, if set, is called once: when the client's first answer came.
	answered func()

	ring  [][]byte // encoded blocks acked+1 .. read, by number modulo window
	acked uint64
	sent  uint64 // last block on the wire
	twice uint64 // blocks up to here may have been sent more than once
	read  uint64 // last block read from the file
	last  uint64 // the final block, once known
	bytes int64  // acknowledged

	rto      time.Duration
	srtt     time.Duration
	sentAt   time.Time
	gap      bool // the client may miss a block inside the window
	backoff  int  // doublings of the wait before a gap is filled
	repeated bool // what is on the wire was sent twice: no measure (Karn)
	buf      [516]byte

	wire    *net.UDPConn // conn, connected to the client; nil where it is no kernel's socket
	noBurst bool
	ready   [][]byte // to be sent now
}

// run sends the file and returns the bytes that the client acknowledged.
func (t *sender) run() (int64, error) {
	if udp, ok := t.conn.(*net.UDPConn); ok && connect(udp, t.to) == nil {
		t.wire = udp
	}
	t.ring = make([][]byte, t.window)
	t.rto = tftpFirstRTO
	if t.oack != nil {
		if err := t.awaitOack(); err != nil {
			return 0, err
		}
	}
	if err := t.sendWindow(); err != nil {
		return t.bytes, err
	}
	for retries, gaps := 0, 0; ; {
		delta, dup, err := t.ack()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && t.gap:
			// What was on the way has arrived, and the block is missing still.
			if gaps++; gaps > tftpGaps {
				return t.bytes, fmt.Errorf("the client asked for block %d %d times", t.acked+1, gaps)
			}
			t.goBack()
			// A client slower than its measure would get everything twice.
			t.backoff = min(t.backoff+1, 8)
		case errors.Is(err, os.ErrDeadlineExceeded):
			if retries++; retries > tftpRetries {
				return t.bytes, fmt.Errorf("the client stopped answering at block %d", t.acked+1)
			}
			t.rto = min(2*t.rto, tftpMaxRTO)
			t.goBack()
		case err != nil:
			return t.bytes, err
		case dup:
			// In lockstep a repeated ACK is never answered (RFC 1123
			// §4.2.3.1); with a window it may tell of a gap (RFC 7440 §4).
			t.gap = t.gap || t.window > 1
			continue
		default:
			retries, gaps = 0, 0
			t.progress(delta)
			if t.last != 0 && t.acked == t.last {
				return t.bytes, nil
			}
			// An ACK inside the window tells of a gap after it, or answers
			// packets that were sent twice: going back at once would double
			// every block from here on. Two round trips later it is clear. In
			// the second case the window must slide meanwhile, or client and
			// server count their windows from different blocks for ever.
			if t.gap = t.acked < t.sent; t.gap && t.acked >= t.twice {
				continue
			}
		}
		if err := t.sendWindow(); err != nil {
			return t.bytes, err
		}
	}
}

// awaitOack sends the OACK until the client acknowledges it as block 0
// (RFC 2347 §2).
func (t *sender) awaitOack() error {
	for range tftpRetries {
		if err := t.send(t.oack); err != nil {
			return err
		}
		t.sentAt = t.now()
		for {
			_, dup, err := t.ack()
			if dup {
				t.measure()
				return nil
			}
			var abort *tftpAbort
			if errors.As(err, &abort) && (abort.code == tftpErrOption || abort.code == tftpErrUndefined) {
				return errTFTPProbe
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.rto = min(2*t.rto, tftpMaxRTO)
				t.repeated = true
				break
			}
			if err != nil {
				return err
			}
		}
	}
	return errors.New("the client did not answer: its requests arrive here and our answers do not arrive there (a filter, or NAT)")
}

// receive and send spare a kernel's socket the allocation of an address for
// every packet, and a connected one the search for a route.
func (t *sender) receive() (int, netip.AddrPort, error) {
	if t.wire != nil {
		k, err := t.wire.Read(t.buf[:])
		if errors.Is(err, errRefused) {
			// The client's port is closed: it has gone, or says so too early.
			return 0, t.to, nil
		}
		return k, t.to, err
	}
	if udp, ok := t.conn.(*net.UDPConn); ok {
		k, from, err := udp.ReadFromUDPAddrPort(t.buf[:])
		return k, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), err
	}
	k, from, err := t.conn.ReadFrom(t.buf[:])
	if err != nil {
		return k, netip.AddrPort{}, err
	}
	ap, _ := addrPortOf(from)
	return k, ap, nil
}

func (t *sender) send(b []byte) error {
	if t.wire != nil {
		_, err := t.wire.Write(b)
		if errors.Is(err, errRefused) { // of a packet before: this one was not sent
			_, err = t.wire.Write(b)
		}
		if errors.Is(err, errRefused) {
			return nil // as if it were lost: the client is asked again in time
		}
		return err
	}
	if udp, ok := t.conn.(*net.UDPConn); ok {
		_, err := udp.WriteToUDPAddrPort(b, t.to)
		return err
	}
	_, err := t.conn.WriteTo(b, t.addr)
	return err
}

// errRefused is what a connected socket says when the client's machine has
// answered that nobody has the port.
var errRefused error = syscall.ECONNREFUSED

// goBack makes sendWindow send everything that is not acknowledged again.
func (t *sender) goBack() {
	t.twice = max(t.twice, t.sent)
	t.sent, t.repeated, t.gap = t.acked, true, false
}

func (t *sender) measure() {
	if t.answered != nil {
		t.answered()
		t.answered = nil
	}
	if !t.repeated {
		rtt := t.now().Sub(t.sentAt)
		if t.srtt == 0 {
			t.srtt = rtt
		}
		t.srtt += (rtt - t.srtt) / 8
		t.backoff = 0
		t.rto = min(max(4*t.srtt, tftpMinRTO), tftpMaxRTO)
	}
	t.repeated = false
}

// progress takes an ACK of delta more blocks.
func (t *sender) progress(delta uint64) {
	t.measure()
	for range delta {
		t.acked++
		t.bytes += int64(len(t.ring[t.acked%uint64(t.window)]) - 4)
	}
}

// sendWindow sends blocks until the window is full or the file ends.
func (t *sender) sendWindow() error {
	t.ready = t.ready[:0]
	first := t.sent + 1
	for t.sent < t.acked+uint64(t.window) && (t.last == 0 || t.sent < t.last) {
		n := t.sent + 1
		if n > t.read {
			if err := t.readBlock(n); err != nil {
				t.conn.WriteTo(encodeTFTPError(tftpErrUndefined, "the server could not read the file"), t.addr)
				return fmt.Errorf("reading the file: %w", err)
			}
		}
		t.ready = append(t.ready, t.ring[n%uint64(t.window)])
		t.sent = n
	}
	for rest := t.ready; len(rest) > 0; {
		k, err := t.sendSome(rest)
		if err != nil {
			return fmt.Errorf("sending block %d: %w", first+uint64(len(t.ready)-len(rest)), err)
		}
		rest = rest[k:]
	}
	t.sentAt = t.now()
	return nil
}

// sendSome sends the first of these blocks, or several in one call where the
// kernel cuts a burst into datagrams.
func (t *sender) sendSome(blocks [][]byte) (int, error) {
	if t.wire != nil && len(blocks) > 1 && !t.noBurst {
		k, err := sendBurst(t.wire, blocks)
		if err == nil {
			return k, nil
		}
		t.noBurst = true // a device or a kernel that cannot: one by one, then
	}
	return 1, t.send(blocks[0])
}

// readBlock encodes block n; one shorter than blksize is the last
// (RFC 1350 §2).
func (t *sender) readBlock(n uint64) error {
	i := n % uint64(t.window)
	b := t.ring[i]
	if cap(b) == 0 {
		b = make([]byte, 4+t.blksize)
	}
	b = b[:4+t.blksize]
	binary.BigEndian.PutUint16(b, tftpData)
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	k, err := io.ReadFull(t.file, b[4:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if k < t.blksize {
		t.last = n
	}
	t.ring[i], t.read = b[:4+k], n
	return nil
}

// tftpAbort is an ERROR of the client.
type tftpAbort struct {
	code uint16
	text string
}

func (e *tftpAbort) Error() string {
	return fmt.Sprintf("the client ended the transfer: %s (error %d)", e.text, e.code)
}

// ack waits for the client's next packet for up to rto: the number of blocks
// newly acknowledged, or a repeated acknowledgement.
func (t *sender) ack() (delta uint64, dup bool, err error) {
	// A socket's deadline is wall time, whatever clock the logic has.
	wait := t.rto
	if t.gap {
		wait = min(max(2*t.srtt, tftpMinGap)<<t.backoff, t.rto)
	}
	if err := t.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, false, err
	}
	for {
		k, from, err := t.receive()
		if err != nil {
			return 0, false, err
		}
		if from != t.to {
			continue // not this transfer's TID (RFC 1350 §4)
		}
		if k < 4 {
			continue
		}
		b := t.buf[:k]
		switch binary.BigEndian.Uint16(b) {
		case tftpAck:
			d := uint64(binary.BigEndian.Uint16(b[2:]) - uint16(t.acked))
			if d == 0 {
				return 0, true, nil
			}
			if d <= t.sent-t.acked {
				return d, false, nil
			}
		case tftpError:
			return 0, false, &tftpAbort{binary.BigEndian.Uint16(b[2:]), printable(b[4:])}
		}
	}
}

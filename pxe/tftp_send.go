package pxe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

const (
	tftpFirstRTO = time.Second
	tftpMinRTO   = 100 * time.Millisecond
	tftpMaxRTO   = 8 * time.Second
	tftpMinGap   = time.Millisecond
	tftpGaps     = 50   // times that one block is sent again because it is missing
	tftpUseless  = 4096 // packets in a row that acknowledge nothing new
	tftpRetries  = 7    // without progress: 1+2+4+8+8+8+8 s at first, less once the round trip is known
)

// errTFTPProbe means that the client wanted only the file's size and ended the
// transfer with error 8 or 0, which is normal (FIELD-NOTES item 17).
var errTFTPProbe = errors.New("client asked for the size only")

// sender sends one file: RFC 1350's lockstep is a window of one block
// (RFC 7440 §4). Block numbers are counted in 64 bits and roll over on the
// wire.
//
// It waits for no packet: whoever runs it calls start, and then packet with
// what the client sends, and expired when nothing came until due, while done is
// false. Unless it may wait for its file, each of them may return errWait: then
// goOn is to be called next, where waiting holds up nobody else.
type sender struct {
	to      tftpWire
	file    *tftpFile
	mayWait bool
	now     func() time.Time
	oack    []byte
	blksize int
	window  int
	// answered, if set, is called once: when the client's first answer came.
	answered func()
	heard    *atomic.Int64 // when it sent its latest packet, in ns; may be nil

	at   time.Time // of the latest event
	due  time.Time
	done bool

	useless int // packets since the last that acknowledged anything

	open  bool     // the client has accepted the options, if there are any
	tries int      // without progress
	gaps  int      // filled without progress
	ring  [][]byte // encoded blocks acked+1 .. read, by number modulo window
	acked uint64
	sent  uint64 // last block on the wire
	twice uint64 // blocks up to here may have been sent more than once
	read  uint64 // last block read from the file
	part  int    // bytes of the one after that, read before errWait
	last  uint64 // the final block, once known
	bytes int64  // acknowledged

	rto      time.Duration
	srtt     time.Duration
	sentAt   time.Time
	dups     int  // ACKs since then that told nothing new
	gap      bool // the client may miss a block inside the window
	backoff  int  // doublings of the wait before a gap is filled
	repeated bool // what is on the wire was sent twice: no measure (Karn)

	ready [][]byte // to be sent now
}

// tftpWire carries a transfer's packets to its client.
type tftpWire interface {
	send(b []byte) error
	// burst sends the first of these blocks, or several.
	burst(blocks [][]byte) (int, error)
}

// start sends the options' acknowledgement, or the first blocks.
func (t *sender) start() error {
	t.at = t.now()
	t.ring = make([][]byte, t.window)
	t.rto = tftpFirstRTO
	if t.oack != nil {
		return t.sendOack()
	}
	t.open = true
	return t.sendWindow()
}

// sendOack sends the OACK, which the client acknowledges as block 0 (RFC 2347
// §2).
func (t *sender) sendOack() error {
	t.sentAt, t.due = t.at, t.at.Add(t.rto)
	return t.to.send(t.oack)
}

// expired is called at due.
func (t *sender) expired() error {
	t.at = t.now()
	switch {
	case !t.open:
		if t.tries++; t.tries >= tftpRetries {
			return errors.New("the client did not answer: its requests arrive here and our answers do not arrive there (a filter, or NAT)")
		}
		t.rto, t.repeated = min(2*t.rto, tftpMaxRTO), true
		return t.sendOack()
	case t.gap:
		// What was on the way has arrived, and the block is missing still.
		if t.gaps++; t.gaps > tftpGaps {
			return fmt.Errorf("the client asked for block %d %d times", t.acked+1, t.gaps)
		}
		t.goBack()
		// A client slower than its measure would get everything twice.
		t.backoff = min(t.backoff+1, 8)
	default:
		if t.tries++; t.tries > tftpRetries {
			if t.acked+1 == t.last {
				return errors.New("the client did not acknowledge the end: it may have the whole file (RFC 1350 §6)")
			}
			return fmt.Errorf("the client stopped answering at block %d", t.acked+1)
		}
		t.rto = min(2*t.rto, tftpMaxRTO)
		t.goBack()
	}
	return t.sendWindow()
}

// goOn sends what could not be sent because it had to wait for the file.
func (t *sender) goOn() error {
	t.at = t.now()
	return t.sendWindow()
}

// packet takes what the client sent.
func (t *sender) packet(b []byte) error {
	t.at = t.now()
	if t.heard != nil {
		t.heard.Store(t.at.UnixNano())
	}
	if len(b) < 4 {
		return t.noUse()
	}
	switch binary.BigEndian.Uint16(b) {
	case tftpAck:
		acked, open := t.acked, t.open
		err := t.ack(binary.BigEndian.Uint16(b[2:]))
		if t.acked != acked || t.open != open {
			t.useless = 0
			return err
		}
	case tftpError:
		abort := &tftpAbort{binary.BigEndian.Uint16(b[2:]), printable(b[4:])}
		if !t.open && (abort.code == tftpErrOption || abort.code == tftpErrUndefined) {
			return errTFTPProbe
		}
		return abort
	}
	return t.noUse()
}

// noUse counts a packet. A client may send what it likes, as fast as it can: it
// takes nobody's time for ever with it.
func (t *sender) noUse() error {
	if t.useless++; t.useless > tftpUseless {
		return fmt.Errorf("the client sent %d packets that acknowledge nothing, at block %d", t.useless, t.acked+1)
	}
	return nil
}

// ack takes an acknowledgement: of more blocks, or a repeated one.
func (t *sender) ack(n uint16) error {
	delta := uint64(n - uint16(t.acked))
	switch {
	case delta > t.sent-t.acked:
		return nil
	case !t.open:
		t.open, t.tries = true, 0
		t.measure()
		return t.sendWindow()
	case delta == 0:
		// In lockstep a repeated ACK is never answered (RFC 1123 §4.2.3.1);
		// with a window it may tell of a gap (RFC 7440 §4), which is filled when
		// what is on the way has caused all that it can cause. Others put nothing
		// off: a client that repeats its ACK sooner than we send again would
		// wait for ever.
		if t.dups++; t.window > 1 && t.dups <= 2*t.window {
			t.gap = true
			t.wait()
		}
		return nil
	}
	t.tries, t.gaps = 0, 0
	t.progress(delta)
	if t.last != 0 && t.acked == t.last {
		t.done = true
		return nil
	}
	// An ACK inside the window tells of a gap after it, or answers packets
	// that were sent twice: going back at once would double every block from
	// here on. Two round trips later it is clear. In the second case the window
	// must slide meanwhile, or client and server count their windows from
	// different blocks for ever.
	if t.gap = t.acked < t.sent; t.gap && t.acked >= t.twice {
		t.wait()
		return nil
	}
	return t.sendWindow()
}

// wait sets due.
func (t *sender) wait() {
	d := t.rto
	if t.gap {
		d = min(max(2*t.srtt, tftpMinGap)<<t.backoff, t.rto)
	}
	t.due = t.at.Add(d)
}

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
		rtt := t.at.Sub(t.sentAt)
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
	end := t.acked + uint64(t.window)
	for t.read < end && t.last == 0 {
		err := t.readBlock()
		if errors.Is(err, errWait) {
			return errWait
		}
		if err != nil {
			t.to.send(encodeTFTPError(tftpErrUndefined, "the server could not read the file"))
			return fmt.Errorf("reading the file: %w", err)
		}
	}
	t.ready = t.ready[:0]
	first := t.sent + 1
	for t.sent < min(end, t.read) {
		t.sent++
		t.ready = append(t.ready, t.ring[t.sent%uint64(t.window)])
	}
	for rest := t.ready; len(rest) > 0; {
		k, err := t.to.burst(rest)
		if err != nil {
			return fmt.Errorf("sending block %d: %w", first+uint64(len(t.ready)-len(rest)), err)
		}
		rest = rest[k:]
	}
	t.sentAt, t.dups = t.at, 0
	t.wait()
	return nil
}

// readBlock encodes the next block; one shorter than blksize is the last
// (RFC 1350 §2).
func (t *sender) readBlock() error {
	n := t.read + 1
	i := n % uint64(t.window)
	b := t.ring[i]
	if cap(b) == 0 {
		b = make([]byte, 4+t.blksize)
		t.ring[i] = b
	}
	b = b[:4+t.blksize]
	binary.BigEndian.PutUint16(b, tftpData)
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	k, slow, err := t.file.read(b[4+t.part:], t.mayWait)
	t.part += k
	if slow {
		t.at = t.now() // nobody is to blame for the disk's time
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if t.part < t.blksize {
		t.last = n
	}
	t.ring[i], t.read, t.part = b[:4+t.part], n, 0
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

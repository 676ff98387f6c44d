package pxe

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// wireLog is a wire that keeps what is sent: "oack", or numbers of blocks.
type wireLog struct {
	clock time.Time
	sent  []any
}

func (w *wireLog) send(b []byte) error {
	switch binary.BigEndian.Uint16(b) {
	case tftpOack:
		w.sent = append(w.sent, "oack")
	case tftpData:
		w.sent = append(w.sent, int(binary.BigEndian.Uint16(b[2:])))
	default:
		w.sent = append(w.sent, string(b))
	}
	return nil
}

func (w *wireLog) burst(blocks [][]byte) (int, error) { return 1, w.send(blocks[0]) }

// took returns what was sent since it was asked last.
func (w *wireLog) took() []any {
	s := w.sent
	w.sent = nil
	return s
}

func (w *wireLog) sender(f io.Reader, window int) *sender {
	file := &tftpFile{from: waitingSource{f}, buf: make([]byte, 16)}
	return &sender{to: w, file: file, mayWait: true, now: func() time.Time { return w.clock }, blksize: 8, window: window, oack: []byte{0, tftpOack}}
}

func ackOf(n int) []byte { return []byte{0, tftpAck, byte(n >> 8), byte(n)} }

func sameAny(a, b []any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestSenderSteps plays packets and waits against the sender, without any
// connection.
func TestSenderSteps(t *testing.T) {
	type step struct {
		wait time.Duration // before it
		ack  int           // -1: nothing comes until due
		want []any
	}
	const late = -1
	for _, tc := range []struct {
		name   string
		window int
		size   int
		steps  []step
		done   bool
	}{
		{"lockstep", 1, 20, []step{{0, 0, []any{1}}, {0, 1, []any{2}}, {0, 2, []any{3}}, {0, 3, nil}}, true},
		{"RFC 1123 §4.2.3.1: a repeated ACK sends nothing", 1, 20, []step{{0, 0, []any{1}}, {0, 1, []any{2}}, {0, 1, nil}, {0, 0, nil}, {0, 2, []any{3}}, {0, 2, nil}}, false},
		{"an ACK of what was not sent is nothing", 1, 20, []step{{0, 0, []any{1}}, {0, 2, nil}, {0, 40000, nil}, {0, 1, []any{2}}}, false},
		{"an ACK of a block before the options are accepted is nothing", 1, 20, []step{{0, 1, nil}, {0, 0, []any{1}}}, false},
		{"the OACK is sent again", 1, 20, []step{{0, late, []any{"oack"}}, {0, late, []any{"oack"}}, {0, 0, []any{1}}}, false},
		{"a block is sent again", 1, 20, []step{{0, 0, []any{1}}, {0, late, []any{1}}, {0, late, []any{1}}, {0, 1, []any{2}}}, false},
		{"a window slides", 4, 80, []step{{0, 0, []any{1, 2, 3, 4}}, {0, 4, []any{5, 6, 7, 8}}, {0, 8, []any{9, 10, 11}}, {0, 11, nil}}, true},
		{"a window goes back to a gap when what is on the way has arrived", 4, 80, []step{{0, 0, []any{1, 2, 3, 4}}, {0, 2, nil}, {0, late, []any{3, 4, 5, 6}}, {0, 6, []any{7, 8, 9, 10}}}, false},
		{"a window goes back to a gap that a repeated ACK tells of", 4, 80, []step{{0, 0, []any{1, 2, 3, 4}}, {0, 0, nil}, {0, late, []any{1, 2, 3, 4}}, {0, 4, []any{5, 6, 7, 8}}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := &wireLog{clock: time.Unix(0, 0)}
			s := w.sender(strings.NewReader(strings.Repeat("x", tc.size)), tc.window)
			if err := s.start(); err != nil {
				t.Fatal(err)
			}
			if got := w.took(); !sameAny(got, []any{"oack"}) {
				t.Fatalf("start sent %v; want the OACK", got)
			}
			for i, st := range tc.steps {
				var err error
				if st.ack == late {
					w.clock = s.due
					err = s.expired()
				} else {
					w.clock = w.clock.Add(st.wait + time.Millisecond)
					err = s.packet(ackOf(st.ack))
				}
				if got := w.took(); err != nil || !sameAny(got, st.want) {
					t.Fatalf("step %d: sent %v, %v; want %v", i, got, err, st.want)
				}
			}
			if s.done != tc.done {
				t.Errorf("done = %v; want %v", s.done, tc.done)
			}
		})
	}
}

// TestRepeatedACKsPutNothingOff is a client that lost a block several times,
// and repeats its ACK sooner than the server sends again.
func TestRepeatedACKsPutNothingOff(t *testing.T) {
	for _, window := range []int{1, 4} {
		w := &wireLog{clock: time.Unix(0, 0)}
		s := w.sender(strings.NewReader(strings.Repeat("x", 100)), window)
		if err := s.start(); err != nil {
			t.Fatal(err)
		}
		w.clock = w.clock.Add(time.Millisecond)
		if err := s.packet(ackOf(0)); err != nil {
			t.Fatal(err)
		}
		s.rto, s.backoff = 4*time.Second, 8 // it was slow before
		s.srtt = time.Second
		s.wait()
		w.took()
		for range 60 { // 30 s
			w.clock = w.clock.Add(500 * time.Millisecond)
			if !w.clock.Before(s.due) {
				if err := s.expired(); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.packet(ackOf(0)); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.took(); len(got) < 2 {
			t.Errorf("windowsize %d: in 30 s of repeated ACKs were sent %v; want block 1 again, more than once", window, got)
		}
	}
}

// slowFile takes its time for every read.
type slowFile struct {
	w *wireLog
	d time.Duration
}

func (f slowFile) Read(b []byte) (int, error) {
	f.w.clock = f.w.clock.Add(f.d)
	return len(b), nil
}

// TestSlowFile has a client answer at once and a disk that does not: what was
// sent late is not sent twice.
func TestSlowFile(t *testing.T) {
	w := &wireLog{clock: time.Unix(0, 0)}
	s := w.sender(slowFile{w, 500 * time.Millisecond}, 1)
	err := s.start()
	for n := range 20 {
		if err != nil {
			t.Fatal(err)
		}
		w.clock = w.clock.Add(time.Millisecond)
		if err = s.packet(ackOf(n)); s.due.Sub(w.clock) < tftpMinRTO {
			t.Fatalf("block %d is sent again %v after it was sent; want %v at least", n+1, s.due.Sub(w.clock), tftpMinRTO)
		}
	}
	if s.srtt > 10*time.Millisecond {
		t.Errorf("the round trip was measured as %v; want the client's millisecond, not the disk's time", s.srtt)
	}
}

// TestNoLastACK has clients fall silent: of one that had all but the end it is
// said that it may have that too.
func TestNoLastACK(t *testing.T) {
	for _, tc := range []struct {
		acks int
		want string
	}{{3, "stopped answering at block 3"}, {4, "may have the whole file"}} {
		w := &wireLog{clock: time.Unix(0, 0)}
		s := w.sender(strings.NewReader(strings.Repeat("x", 30)), 1)
		err := s.start()
		for n := range tc.acks {
			if err != nil {
				t.Fatal(err)
			}
			err = s.packet(ackOf(n)) // the first is of the options
		}
		for range tftpRetries + 1 {
			if err != nil {
				t.Fatalf("after %d ACKs: %v before %d tries", tc.acks, err, tftpRetries)
			}
			w.clock = s.due
			err = s.expired()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("after %d ACKs, of 5: %v; want %q", tc.acks, err, tc.want)
		}
	}
}

type brokenFile struct{}

func (brokenFile) Read([]byte) (int, error) { return 0, errors.New("I/O error") }

func TestBrokenFile(t *testing.T) {
	w := &wireLog{clock: time.Unix(0, 0)}
	s := w.sender(brokenFile{}, 1)
	s.oack = nil
	if err := s.start(); err == nil || !strings.Contains(err.Error(), "reading the file: I/O error") {
		t.Errorf("start = %v; want the file's error", err)
	}
	if got := w.took(); len(got) != 1 || !strings.Contains(got[0].(string), "could not read") {
		t.Errorf("sent %q; want an ERROR", got)
	}
}

// TestSenderUseless: a client that sends without end what acknowledges nothing
// loses its transfer; what it acknowledges in between counts.
func TestSenderUseless(t *testing.T) {
	for _, tc := range []struct {
		name    string
		useless []byte
	}{{"garbage", []byte("garbage")}, {"short", []byte{0}}, {"empty", nil}, {"another block", ackOf(999)}, {"the block before", ackOf(0)}} {
		t.Run(tc.name, func(t *testing.T) {
			w := &wireLog{}
			s := w.sender(strings.NewReader(strings.Repeat("x", 100)), 1)
			if err := s.start(); err != nil {
				t.Fatal(err)
			}
			if err := s.packet(ackOf(0)); err != nil {
				t.Fatal(err)
			}
			for block := 1; block <= 3; block++ {
				for i := range tftpUseless {
					if err := s.packet(tc.useless); err != nil {
						t.Fatalf("packet %d of no use at block %d: %v", i, block, err)
					}
				}
				if block == 3 {
					break
				}
				if err := s.packet(ackOf(block)); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.packet(tc.useless); err == nil || !strings.Contains(err.Error(), "acknowledge nothing, at block 3") {
				t.Errorf("packet %d of no use = %v; want the end of the transfer at block 3", tftpUseless+1, err)
			}
		})
	}
}

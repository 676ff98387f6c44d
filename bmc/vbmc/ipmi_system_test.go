package vbmc

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// vmRequest is a message as QEMU sends it.
func vmRequest(id, netFn, cmd byte, data ...byte) []byte {
	m := append([]byte{id, netFn << 2, cmd}, data...)
	return vmFrame(append(m, lanplus.Checksum(m)), vmMessage)
}

func TestVMReader(t *testing.T) {
	long := bytes.Repeat([]byte{7}, vmMaxBytes)
	for _, tc := range []struct {
		name string
		in   []byte
		want [][]byte // each with the byte that closed it
	}{
		{"message", []byte{1, 2, 3, vmMessage}, [][]byte{{1, 2, 3, vmMessage}}},
		{"command", []byte{0xff, 1, vmCommand}, [][]byte{{0xff, 1, vmCommand}}},
		{"both", []byte{8, 0x1f, vmCommand, 5, vmMessage}, [][]byte{{8, 0x1f, vmCommand}, {5, vmMessage}}},
		{"escaped", []byte{vmEscape, 0xb0, vmEscape, 0xb1, vmEscape, 0xba, 9, vmMessage}, [][]byte{{vmMessage, vmCommand, vmEscape, 9, vmMessage}}},
		{"nothing in it", []byte{vmMessage, vmCommand, vmMessage}, nil},
		{"end within an escape", []byte{1, vmEscape, vmMessage, 2, vmMessage}, [][]byte{{2, vmMessage}}},
		{"the longest", append(slices.Clone(long), vmMessage), [][]byte{append(slices.Clone(long), vmMessage)}},
		{"too long, then one", slices.Concat(long, []byte{7, vmMessage, 4, vmMessage}), [][]byte{{4, vmMessage}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r vmReader
			var got [][]byte
			for _, b := range tc.in {
				if f, end := r.next(b); f != nil {
					got = append(got, append(slices.Clone(f), end))
				}
			}
			if !slices.EqualFunc(got, tc.want, bytes.Equal) {
				t.Errorf("next(%x) = %x; want %x", tc.in, got, tc.want)
			}
		})
	}
}

// fakeQEMU is the other end of the machine's own interface.
type fakeQEMU struct {
	t testing.TB
	net.Conn
	r vmReader
}

func (q *fakeQEMU) next() (frame []byte, end byte) {
	q.t.Helper()
	if err := q.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		q.t.Fatal(err)
	}
	b := make([]byte, 1)
	for {
		if _, err := q.Read(b); err != nil {
			q.t.Fatalf("the BMC did not answer: %v", err)
		}
		if f, end := q.r.next(b[0]); f != nil {
			return f, end
		}
	}
}

// ask sends a request and returns the completion code and the data.
func (q *fakeQEMU) ask(id, netFn, cmd byte, data ...byte) (completion, []byte) {
	q.t.Helper()
	if _, err := q.Write(vmRequest(id, netFn, cmd, data...)); err != nil {
		q.t.Fatal(err)
	}
	f, end := q.next()
	if end != vmMessage || len(f) < 5 || lanplus.Checksum(f) != 0 || f[0] != id || f[1] != (netFn|1)<<2 || f[2] != cmd {
		q.t.Fatalf("the answer to %02x %02x %02x is %x, closed by %02x", id, netFn, cmd, f, end)
	}
	return completion(f[3]), f[4 : len(f)-1]
}

func TestSystemInterface(t *testing.T) {
	r := newIPMIRig(t, Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.srv.ServeSystemInterface(ctx, l); err != nil {
			t.Errorf("ServeSystemInterface() = %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	dial := func() *fakeQEMU {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return &fakeQEMU{t: t, Conn: c}
	}
	q := dial()
	// What QEMU says first, then noise: half a message, a wrong checksum, an answer.
	wrong := vmRequest(1, 0x06, 0x01)
	wrong[3]++
	if _, err := q.Write(slices.Concat([]byte{0xff, 1, vmCommand, 8, 0x1f, vmCommand}, []byte{1, 2, vmMessage}, wrong, vmRequest(1, 0x07, 0x01))); err != nil {
		t.Fatal(err)
	}
	if cc, d := q.ask(vmMessage, 0x06, 0x01); cc != ccOK || len(d) != 15 || d[4] != 0x02 { // its number needs an escape
		t.Errorf("Get Device ID = %02x %x; want IPMI 2.0", byte(cc), d)
	}
	if cc, d := q.ask(2, 0x06, 0x42, presentChannel); cc != ccOK || d[0] != systemChannel || d[2] != 5 {
		t.Errorf("Get Channel Info of the present channel = %02x %x; want KCS", byte(cc), d)
	}
	if cc, d := q.ask(3, 0x0c, 0x02, lanChannel, 3, 0, 0); cc != ccOK || !bytes.Equal(d[1:], []byte{127, 0, 0, 1}) {
		t.Errorf("the address of the LAN channel = %02x %x", byte(cc), d)
	}
	if cc, _ := q.ask(4, 0x30, 0x01); cc != ccInvalid {
		t.Errorf("a command of nobody's = %02x; want C1h", byte(cc))
	}
	if cc, _ := q.ask(4, 0x06, 0x48, 1, 1, 0, 0, 0, 0); cc != ccField {
		t.Errorf("serial over LAN into no session = %02x; want CCh", byte(cc))
	}
	// Whether it is told of answers by interrupt, QEMU hears behind the answer.
	for enables, want := range map[byte]byte{0x09: vmEnableIRQ, 0x08: vmDisableIRQ} {
		if cc, _ := q.ask(5, 0x06, 0x2e, enables); cc != ccOK {
			t.Errorf("Set BMC Global Enables = %02x", byte(cc))
		}
		if f, end := q.next(); end != vmCommand || !bytes.Equal(f, []byte{want}) {
			t.Errorf("after global enables %02x QEMU hears %x, %02x; want command %02x", enables, f, end, want)
		}
	}
	// One BMC: an event of the machine is in the log that the LAN side reads.
	if cc, _ := q.ask(6, 0x04, 0x02, 0x41, 0x04, 0x01, 0x30, 0x01, 0x59, 0, 0); cc != ccOK {
		t.Errorf("Platform Event Message = %02x", byte(cc))
	}
	if out, err := r.ipmitool(t, "17", "sel", "list"); err != nil || !strings.Contains(out, "Temperature #0x30 | Upper Critical going high") {
		t.Errorf("sel list over LAN said %q, %v; want the machine's event", out, err)
	}
	if _, body := r.redfish(t, "GET", systemPath+"/LogServices/SEL/Entries?$expand=.", "root", "s3cret", ""); !strings.Contains(body, "sent by the machine itself") {
		t.Errorf("Redfish shows %s; want the machine's event", body)
	}
	if cc, _ := q.ask(7, 0x00, 0x02, 1); cc != ccOK {
		t.Errorf("Chassis Control = %02x", byte(cc))
	}
	if p, _ := r.mem.Power(t.Context()); p != On {
		t.Errorf("power is %s after Chassis Control", p)
	}
	// The machine started again: the QEMU before is let go.
	again := dial()
	if cc, _ := again.ask(1, 0x06, 0x04); cc != ccOK {
		t.Errorf("Get Self Test Results of the new QEMU = %02x", byte(cc))
	}
	if err := q.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(q); err != nil {
		t.Errorf("the old QEMU's connection ended with %v; want its end", err)
	}
}

// FuzzSystemInterface: whatever a machine sends, each answer is one message that
// QEMU takes, and nothing that is no message is answered.
func FuzzSystemInterface(f *testing.F) {
	f.Add([]byte{0xff, 1, vmCommand, 8, 0x1f, vmCommand, vmReset, vmCommand})
	for c := range commands {
		f.Add(vmRequest(1, byte(c>>8), byte(c), 1, 0, 0, 0, 0, 0xff, 0, 0))
	}
	f.Add(bytes.Repeat([]byte{vmEscape, 0xb0}, 200))
	i, _ := newIPMI(f, Config{})
	i.conn = nil
	f.Fuzz(func(t *testing.T, in []byte) {
		var r vmReader
		x := systemSession()
		for _, b := range in {
			frame, end := r.next(b)
			if len(r.buf) > vmMaxBytes {
				t.Fatalf("%d bytes are held", len(r.buf))
			}
			switch {
			case frame == nil:
				continue
			case end == vmCommand:
				i.vmCommand(frame)
				continue
			}
			out := i.vmMessage(t.Context(), x, frame)
			if (out == nil) != (len(frame) < 4 || lanplus.Checksum(frame) != 0 || frame[1]>>2&1 != 0) {
				t.Errorf("%x was answered with %x", frame, out)
			}
			if out == nil {
				continue
			}
			var back vmReader
			var got []byte
			for n, b := range out {
				f, end := back.next(b)
				if f != nil && end == vmMessage {
					got = f
				} else if f != nil && n != len(out)-1 {
					t.Errorf("the answer to %x has a command before its end: %x", frame, out)
				}
			}
			if len(got) < 5 || lanplus.Checksum(got) != 0 || got[0] != frame[0] || got[2] != frame[2] {
				t.Errorf("%x was answered with %x", frame, out)
			}
		}
	})
}

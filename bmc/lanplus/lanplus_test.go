package lanplus

import (
	"encoding/binary"
	"testing"
)

// fill is a key of n bytes.
func fill(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// Only a packet that the other end signed for this session, unchanged, is
// opened, and only once.
func TestOpen(t *testing.T) {
	msg := Message(0x81, 0x04, 0x20, 0, 1, 0, 1, 0, 0)
	for _, su := range []Suite{Suite17, Suite3} {
		sealed := func() ([]byte, *Keys) {
			far, near := Keys{Peer: 7, Integrity: su.Integrity, K1: fill(32), K2: fill(20)}, Keys{Own: 7, Integrity: su.Integrity, K1: fill(32), K2: fill(20)}
			p, err := far.Seal(SOL, msg)
			if err != nil {
				t.Fatal(err)
			}
			return p, &near
		}
		p, k := sealed()
		if payload, got, ok := k.Open(p); !ok || payload != SOL || string(got) != string(msg) {
			t.Errorf("suite %d: Open(Seal(m)) = %d, %x, %v; want %d, %x", su.ID, payload, got, ok, SOL, msg)
		}
		if _, _, ok := k.Open(p); ok {
			t.Errorf("suite %d: a packet was opened twice", su.ID)
		}
		for i := range p {
			q, k := sealed()
			q[i] ^= 0x01
			if _, _, ok := k.Open(q); ok && i != 1 && i != 2 { // reserved, and the RMCP sequence number: not signed
				t.Errorf("suite %d: a packet with byte %d changed was opened", su.ID, i)
			}
			q, k = sealed()
			if _, _, ok := k.Open(q[:i]); ok {
				t.Errorf("suite %d: the first %d bytes of a packet were opened", su.ID, i)
			}
		}
		q, k := sealed()
		k.Own = 8
		binary.LittleEndian.PutUint32(q[6:], 8)
		if _, _, ok := k.Open(q); ok {
			t.Errorf("suite %d: a packet of another session was opened", su.ID)
		}
		clear := append(Packet(IPMI, 7, 1, msg), make([]byte, 40)...)
		if _, _, ok := k.Open(clear); ok {
			t.Errorf("suite %d: a packet in clear was opened", su.ID)
		}
	}
}

func TestWindow(t *testing.T) {
	var w Window
	for _, tc := range []struct {
		n    uint32
		want bool
	}{{0, false}, {5, true}, {5, false}, {7, true}, {6, true}, {6, false}, {40, true}, {8, false}, {9, true}, {9, false}, {0xfffffff0, false}, {1000, true}, {40, false}} {
		if got := w.Accept(tc.n); got != tc.want {
			t.Errorf("Accept(%d) = %v; want %v", tc.n, got, tc.want)
		}
	}
}

func TestMessage(t *testing.T) {
	m := Message(0x20, 0x06<<2, 0x81, 4, 0x38, 0x8e, 4)
	want := []byte{0x20, 0x18, 0xc8, 0x81, 0x04, 0x38, 0x8e, 0x04, 0xb1}
	if string(m) != string(want) || !Valid(m) {
		t.Errorf("Message() = %x, valid %v; want %x, true", m, Valid(m), want)
	}
	for i := range m {
		m[i]++
		if Valid(m) {
			t.Errorf("a message with byte %d changed is valid", i)
		}
		m[i]--
	}
	if Valid(m[:6]) {
		t.Error("half a message is valid")
	}
}

// FuzzOpen: no packet panics, and none that was not signed with this session's
// key is opened.
func FuzzOpen(f *testing.F) {
	far := Keys{Peer: 7, Integrity: Suite17.Integrity, K1: fill(32), K2: fill(20)}
	p, err := far.Seal(IPMI, fill(20))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	f.Add(Packet(Open, 0, 0, Suite3.Payloads()))
	f.Fuzz(func(t *testing.T, q []byte) {
		for _, su := range []Suite{Suite17, Suite3} {
			near := Keys{Own: 7, Integrity: su.Integrity, K1: fill(31), K2: fill(20)}
			if _, _, ok := near.Open(q); ok {
				t.Errorf("%x was opened with another key", q)
			}
		}
		if u, ok := Unpack(q); ok && len(u.Body)+len(u.Trailer)+16 != len(q) {
			t.Errorf("Unpack(%x) has %d and %d bytes", q, len(u.Body), len(u.Trailer))
		}
	})
}

package fabric

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// block is one pcapng block as read back.
type block struct {
	kind uint32
	body []byte
}

// readBlocks checks the framing of every block.
func readBlocks(t *testing.T, b []byte) (blocks []block) {
	t.Helper()
	for len(b) > 0 {
		if len(b) < 12 {
			t.Fatalf("%d bytes after the last block", len(b))
		}
		n := binary.LittleEndian.Uint32(b[4:])
		if n%4 != 0 || n < 12 || int(n) > len(b) || binary.LittleEndian.Uint32(b[n-4:]) != n {
			t.Fatalf("block of length %d in %d bytes", n, len(b))
		}
		blocks = append(blocks, block{binary.LittleEndian.Uint32(b), b[8 : n-4]})
		b = b[n:]
	}
	return blocks
}

// captureOf runs the same traffic under a filter and returns the file.
func captureOf(t *testing.T, filter func(string) bool) []byte {
	var file bytes.Buffer
	inBubble(t, Config{}, func(t *testing.T, s *Switch) {
		a, b := plug(t, s, PortConfig{Name: "node1/eth0", VLAN: 10}), plug(t, s, PortConfig{Name: "node2/eth0", VLAN: 10})
		tr := plug(t, s, PortConfig{Name: "trunk", Trunk: []int{10}})
		stop, err := s.Capture(&file, filter)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []struct {
			l Link
			b []byte
		}{{a, ether(broadcast, mac(1), 0, "who")}, {b, ether(mac(1), mac(2), 0, "me")}, {tr, ether(mac(1), mac(3), 10, "odd")}} {
			time.Sleep(time.Millisecond)
			send(t, f.l, f.b)
			synctest.Wait()
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		send(t, a, ether(broadcast, mac(1), 0, "after"))
		synctest.Wait()
		if err := stop(); err != nil {
			t.Errorf("second stop() = %v; want nil", err)
		}
	})
	return file.Bytes()
}

func TestCapture(t *testing.T) {
	for _, tt := range []struct {
		name   string
		filter func(string) bool
		want   []string // interface and direction of each packet
		ifaces []string
	}{
		{"everything once", nil, []string{"0 in", "1 in", "2 in"}, []string{"node1/eth0", "node2/eth0", "trunk"}},
		{"one port both ways", func(n string) bool { return n == "node1/eth0" }, []string{"0 in", "0 out", "0 out"}, []string{"node1/eth0"}},
		{"nothing", func(string) bool { return false }, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var packets, ifaces []string
			var last uint64
			for i, b := range readBlocks(t, captureOf(t, tt.filter)) {
				switch b.kind {
				case blockSection:
					if i != 0 || binary.LittleEndian.Uint32(b.body) != byteOrderMagic {
						t.Errorf("section header at block %d: %x", i, b.body)
					}
				case blockInterface:
					n := binary.LittleEndian.Uint16(b.body[10:])
					ifaces = append(ifaces, string(b.body[12:12+n]))
				case blockPacket:
					now := uint64(binary.LittleEndian.Uint32(b.body[4:]))<<32 | uint64(binary.LittleEndian.Uint32(b.body[8:]))
					if last != 0 && now-last != uint64(time.Millisecond) {
						t.Errorf("packet %d comes %d ns after the one before; want 1 ms", i, now-last)
					}
					last = now
					opts := b.body[20+(binary.LittleEndian.Uint32(b.body[12:])+3)&^3:]
					packets = append(packets, string('0'+b.body[0])+map[byte]string{1: " in", 2: " out"}[opts[4]])
				}
			}
			if strings.Join(packets, ",") != strings.Join(tt.want, ",") {
				t.Errorf("packets %q; want %q", packets, tt.want)
			}
			if strings.Join(ifaces, ",") != strings.Join(tt.ifaces, ",") {
				t.Errorf("interfaces %q; want %q", ifaces, tt.ifaces)
			}
		})
	}
}

func TestCaptureReadByTcpdump(t *testing.T) {
	tcpdump := need(t, "tcpdump")
	file := filepath.Join(t.TempDir(), "lab.pcapng")
	if err := os.WriteFile(file, captureOf(t, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tcpdump, "-nner", file).CombinedOutput()
	if err != nil {
		t.Fatalf("tcpdump: %v\n%s", err, out)
	}
	for _, want := range []string{
		"52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff",
		"52:54:00:00:00:02 > 52:54:00:00:00:01",
		"ethertype 802.1Q (0x8100), length 64: vlan 10",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("tcpdump printed\n%s\nwant %q", out, want)
		}
	}
}

func TestCaptureWriterFails(t *testing.T) {
	full := errors.New("no space left")
	inBubble(t, Config{}, func(t *testing.T, s *Switch) {
		a, b := plug(t, s, PortConfig{Name: "a"}), plug(t, s, PortConfig{Name: "b"})
		stop, err := s.Capture(&failAfter{n: 1, err: full}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			send(t, a, ether(broadcast, mac(1), 0, ""))
		}
		synctest.Wait()
		if err := stop(); !errors.Is(err, full) {
			t.Errorf("stop() = %v; want %v", err, full)
		}
		if n := len(drain(b)); n != 3 {
			t.Errorf("b got %d frames; want 3: a capture must not disturb", n)
		}
		if _, err := s.Capture(&failAfter{err: full}, nil); !errors.Is(err, full) {
			t.Errorf("Capture() = %v; want %v", err, full)
		}
	})
}

func TestCaptureSlowWriter(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, s *Switch) {
		a := plug(t, s, PortConfig{Name: "a"})
		gate := make(chan struct{})
		w := &gated{gate: gate}
		stop, err := s.Capture(w, nil)
		if err != nil {
			t.Fatal(err)
		}
		const n = captureDepth + 1000
		for range n {
			send(t, a, ether(broadcast, mac(1), 0, ""))
			synctest.Wait()
		}
		close(gate)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		blocks := readBlocks(t, w.Bytes())
		packets := 0
		for _, b := range blocks {
			if b.kind == blockPacket {
				packets++
			}
		}
		last := blocks[len(blocks)-1]
		if last.kind != blockStats {
			t.Fatalf("last block is %d; want statistics", last.kind)
		}
		if dropped := binary.LittleEndian.Uint64(last.body[16:]); int(dropped)+packets != n || dropped == 0 {
			t.Errorf("%d packets and %d dropped; want %d together and some dropped", packets, dropped, n)
		}
	})
}

// failAfter takes n writes and refuses the next.
type failAfter struct {
	n   int
	err error
}

func (w *failAfter) Write(b []byte) (int, error) {
	if w.n--; w.n < 0 {
		return 0, w.err
	}
	return len(b), nil
}

// gated takes the first write at once and the others when the gate is open.
type gated struct {
	bytes.Buffer
	gate   chan struct{}
	opened bool
}

func (w *gated) Write(b []byte) (int, error) {
	if w.Len() > 0 && !w.opened {
		<-w.gate
		w.opened = true
	}
	return w.Buffer.Write(b)
}

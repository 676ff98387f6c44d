package fabric

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// drain returns what waits at a pipe's end now.
func drain(l Link) (frames [][]byte) {
	p := l.(*pipe)
	for {
		select {
		case f := <-p.in:
			frames = append(frames, f)
		default:
			return frames
		}
	}
}

// inBubble runs f with a switch in a synctest bubble.
func inBubble(t *testing.T, c Config, f func(t *testing.T, s *Switch)) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSwitch(c)
		done := make(chan error, 1)
		go func() { done <- s.Run(t.Context()) }()
		f(t, s)
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	})
}

func send(t testing.TB, l Link, b []byte) {
	t.Helper()
	if err := l.WriteFrame(b); err != nil {
		t.Fatal(err)
	}
}

func TestSwitchForwards(t *testing.T) {
	const a, b, c, tr = 0, 1, 2, 3
	// Port a and b are on VLAN 10, c is on 20, tr carries both tagged and has
	// 30 untagged.
	configs := []PortConfig{
		a:  {Name: "a", VLAN: 10},
		b:  {Name: "b", VLAN: 10},
		c:  {Name: "c", VLAN: 20},
		tr: {Name: "trunk", VLAN: 30, Trunk: []int{10, 20}},
	}
	type sent struct {
		port  int
		frame []byte
	}
	type got map[int][][]byte
	bpdu := []byte{0x01, 0x80, 0xc2, 0, 0, 0}
	prio := func(f []byte) []byte { return appendTagged(nil, f, 5<<13) }
	for _, tt := range []struct {
		name  string
		learn []sent // before
		in    sent
		want  got
	}{
		{"broadcast stays in its VLAN and is tagged on the trunk", nil,
			sent{a, ether(broadcast, mac(1), 0, "x")},
			got{b: {ether(broadcast, mac(1), 0, "x")}, tr: {ether(broadcast, mac(1), 10, "x")}}},
		{"unknown unicast is flooded", nil,
			sent{a, ether(mac(9), mac(1), 0, "x")},
			got{b: {ether(mac(9), mac(1), 0, "x")}, tr: {ether(mac(9), mac(1), 10, "x")}}},
		{"known unicast goes to one port", []sent{{b, ether(broadcast, mac(2), 0, "")}},
			sent{a, ether(mac(2), mac(1), 0, "x")},
			got{b: {ether(mac(2), mac(1), 0, "x")}}},
		{"known behind the same port goes nowhere", []sent{{a, ether(broadcast, mac(2), 0, "")}},
			sent{a, ether(mac(2), mac(1), 0, "x")}, got{}},
		{"a station that moved is followed", []sent{{a, ether(broadcast, mac(2), 0, "")}, {b, ether(broadcast, mac(2), 0, "")}},
			sent{a, ether(mac(2), mac(1), 0, "x")},
			got{b: {ether(mac(2), mac(1), 0, "x")}}},
		{"addresses are learnt per VLAN", []sent{{tr, ether(broadcast, mac(2), 20, "")}},
			sent{a, ether(mac(2), mac(1), 0, "x")},
			got{b: {ether(mac(2), mac(1), 0, "x")}, tr: {ether(mac(2), mac(1), 10, "x")}}},
		{"tagged from the trunk arrives untagged", []sent{{c, ether(broadcast, mac(3), 0, "")}},
			sent{tr, ether(mac(3), mac(1), 20, "x")},
			got{c: {ether(mac(3), mac(1), 0, "x")}}},
		{"untagged on the trunk is its own VLAN", nil,
			sent{tr, ether(broadcast, mac(1), 0, "x")}, got{}},
		{"a tag that the port does not carry is dropped", nil,
			sent{tr, ether(broadcast, mac(1), 99, "x")}, got{}},
		{"a tag on an access port is dropped", nil,
			sent{a, ether(broadcast, mac(1), 10, "x")}, got{}},
		{"a priority tag is no VLAN", nil,
			sent{a, prio(ether(broadcast, mac(1), 0, "x"))},
			got{b: {ether(broadcast, mac(1), 0, "x")}, tr: {ether(broadcast, mac(1), 10, "x")}}},
		{"the bridge group address is not forwarded", nil,
			sent{a, ether(bpdu, mac(1), 0, "x")}, got{}},
		{"too short", nil, sent{a, []byte{1, 2, 3}}, got{}},
		{"empty", nil, sent{a, nil}, got{}},
		{"a group address as source", nil, sent{a, ether(mac(2), broadcast, 0, "x")}, got{}},
		{"half a tag", nil, sent{tr, ether(mac(2), mac(1), 10, "x")[:15]}, got{}},
		{"VLAN 4095", nil, sent{tr, ether(mac(2), mac(1), 4095, "x")}, got{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, Config{}, func(t *testing.T, s *Switch) {
				var nics []Link
				for _, c := range configs {
					nics = append(nics, plug(t, s, c))
				}
				for _, l := range tt.learn {
					send(t, nics[l.port], l.frame)
					synctest.Wait()
				}
				for _, n := range nics {
					drain(n)
				}
				send(t, nics[tt.in.port], tt.in.frame)
				synctest.Wait()
				for i, n := range nics {
					if got := drain(n); !slices.EqualFunc(got, tt.want[i], bytes.Equal) {
						t.Errorf("port %s got %x; want %x", configs[i].Name, got, tt.want[i])
					}
				}
			})
		})
	}
}

func TestSwitchAges(t *testing.T) {
	inBubble(t, Config{Aging: 10 * time.Second}, func(t *testing.T, s *Switch) {
		a, b, c := plug(t, s, PortConfig{Name: "a"}), plug(t, s, PortConfig{Name: "b"}), plug(t, s, PortConfig{Name: "c"})
		toA := ether(mac(1), mac(2), 0, "x")
		seenByC := func() int {
			t.Helper()
			drain(a)
			drain(c)
			send(t, b, toA)
			synctest.Wait()
			if n := len(drain(a)); n != 1 {
				t.Fatalf("a got %d frames; want 1", n)
			}
			return len(drain(c))
		}
		send(t, a, ether(broadcast, mac(1), 0, ""))
		synctest.Wait()
		time.Sleep(8 * time.Second)
		if n := seenByC(); n != 0 {
			t.Errorf("8 s after a spoke, c got %d frames for it; want 0", n)
		}
		time.Sleep(4 * time.Second)
		if n := seenByC(); n != 1 {
			t.Errorf("12 s after a spoke, c got %d frames for it; want 1 (flooded)", n)
		}
	})
}

func TestSwitchBoundsTable(t *testing.T) {
	tab, p := newTable(), &Port{}
	for i := range uint64(maxStations + 100) {
		tab.learn(i+1, p)
	}
	if n := len(tab.m); n != maxStations {
		t.Errorf("table holds %d; want %d", n, maxStations)
	}
}

func TestPortFaults(t *testing.T) {
	frame := ether(broadcast, mac(1), 0, "x")
	t.Run("down drops both ways", func(t *testing.T) {
		inBubble(t, Config{}, func(t *testing.T, s *Switch) {
			a, b := plug(t, s, PortConfig{Name: "a"}), plug(t, s, PortConfig{Name: "b"})
			s.Port("a").SetFault(Fault{Down: true})
			send(t, a, frame)
			send(t, b, ether(broadcast, mac(2), 0, ""))
			synctest.Wait()
			if na, nb := len(drain(a)), len(drain(b)); na != 0 || nb != 0 {
				t.Errorf("a got %d, b got %d; want 0, 0", na, nb)
			}
			if st := s.Port("a").Stats(); st.Faulted != 2 || st.InFrames != 0 || st.OutFrames != 0 {
				t.Errorf("Stats() = %+v; want 2 faulted, none in or out", st)
			}
			s.Port("a").SetFault(Fault{})
			send(t, a, frame)
			synctest.Wait()
			if n := len(drain(b)); n != 1 {
				t.Errorf("healed: b got %d; want 1", n)
			}
		})
	})
	t.Run("loss drops its share", func(t *testing.T) {
		n := 0
		dice := func() float64 { n++; return float64(n%10) / 10 }
		inBubble(t, Config{Random: dice}, func(t *testing.T, s *Switch) {
			a, b := plug(t, s, PortConfig{Name: "a"}), plug(t, s, PortConfig{Name: "b"})
			s.Port("a").SetFault(Fault{Loss: 0.3})
			for range 100 {
				send(t, a, frame)
			}
			synctest.Wait()
			if n := len(drain(b)); n != 70 {
				t.Errorf("b got %d of 100 at loss 0.3; want 70", n)
			}
		})
	})
	t.Run("delay keeps order and is paid per direction", func(t *testing.T) {
		inBubble(t, Config{}, func(t *testing.T, s *Switch) {
			a, b := plug(t, s, PortConfig{Name: "a"}), plug(t, s, PortConfig{Name: "b"})
			s.Port("a").SetFault(Fault{Delay: 50 * time.Millisecond})
			s.Port("b").SetFault(Fault{Delay: 30 * time.Millisecond})
			for i := range 3 {
				send(t, a, ether(broadcast, mac(1), 0, fmt.Sprint(i)))
			}
			time.Sleep(79 * time.Millisecond)
			synctest.Wait()
			if n := len(drain(b)); n != 0 {
				t.Errorf("after 79 ms b got %d; want 0", n)
			}
			time.Sleep(2 * time.Millisecond)
			synctest.Wait()
			got := drain(b)
			if len(got) != 3 {
				t.Fatalf("after 81 ms b got %d; want 3", len(got))
			}
			for i, f := range got {
				if f[14] != byte('0'+i) {
					t.Errorf("frame %d carries %q; want %d", i, f[14], i)
				}
			}
		})
	})
	t.Run("closing does not wait for a delay", func(t *testing.T) {
		inBubble(t, Config{}, func(t *testing.T, s *Switch) {
			a := plug(t, s, PortConfig{Name: "a"})
			s.Port("a").SetFault(Fault{Delay: time.Hour})
			send(t, a, frame)
			synctest.Wait()
			start := time.Now()
			if err := s.Port("a").Close(); err != nil {
				t.Error(err)
			}
			if d := time.Since(start); d != 0 {
				t.Errorf("Close took %v; want 0", d)
			}
		})
	})
}

func TestAttachRefuses(t *testing.T) {
	s := startSwitch(t, Config{})
	plug(t, s, PortConfig{Name: "taken"})
	for _, tt := range []struct {
		name string
		c    PortConfig
		want string
	}{
		{"no name", PortConfig{}, "no name"},
		{"name taken", PortConfig{Name: "taken"}, "has a port of that name"},
		{"VLAN too large", PortConfig{Name: "p", VLAN: 4095}, "VLAN 4095 is not in 0 to 4094"},
		{"VLAN negative", PortConfig{Name: "p", VLAN: -1}, "VLAN -1"},
		{"trunk with VLAN 0", PortConfig{Name: "p", Trunk: []int{0}}, "trunk VLAN 0 is not in 1 to 4094"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := Pipe()
			_, err := s.Attach(tt.c, a)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Attach(%+v) = %v; want %q", tt.c, err, tt.want)
			}
			if b.WriteFrame(nil) == nil {
				t.Error("the refused link is still open")
			}
		})
	}
	a, _ := Pipe()
	closed := NewSwitch(Config{})
	closed.Close()
	if _, err := closed.Attach(PortConfig{Name: "p"}, a); !errors.Is(err, ErrClosed) {
		t.Errorf("Attach on a closed switch = %v; want ErrClosed", err)
	}
}

func TestPortCloseForgets(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, s *Switch) {
		a, b, c := plug(t, s, PortConfig{Name: "a"}), plug(t, s, PortConfig{Name: "b"}), plug(t, s, PortConfig{Name: "c"})
		send(t, a, ether(broadcast, mac(1), 0, ""))
		synctest.Wait()
		if err := s.Port("a").Close(); err != nil {
			t.Fatal(err)
		}
		drain(c)
		send(t, b, ether(mac(1), mac(2), 0, "x"))
		synctest.Wait()
		if n := len(drain(c)); n != 1 {
			t.Errorf("c got %d frames for the unplugged station; want 1 (flooded)", n)
		}
		// The name is free again.
		plug(t, s, PortConfig{Name: "a"})
	})
}

func TestForwardDoesNotAllocate(t *testing.T) {
	s := NewSwitch(Config{})
	defer s.Close()
	var ports []*Port
	for _, c := range []PortConfig{{Name: "a", VLAN: 10}, {Name: "b", VLAN: 10}, {Name: "t", Trunk: []int{10}}} {
		p, err := s.attach(c, sink{}, false)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, p)
	}
	f := ether(broadcast, mac(1), 0, strings.Repeat("x", 1400))
	if n := testing.AllocsPerRun(1000, func() { ports[0].receive(f) }); n > 0 {
		t.Errorf("forwarding a frame to an access and a trunk port allocates %v times; want 0", n)
	}
}

// sink is a link that takes frames and gives none.
type sink struct{}

func (sink) ReadFrame([]byte) (int, error) { select {} }
func (sink) WriteFrame([]byte) error       { return nil }
func (sink) Close() error                  { return nil }

func FuzzSwitchFrame(f *testing.F) {
	f.Add(ether(broadcast, mac(1), 0, "x"))
	f.Add(ether(mac(2), mac(1), 10, "x"))
	f.Add([]byte{})
	f.Add(ether(mac(2), mac(1), 10, "x")[:16])
	s := NewSwitch(Config{})
	f.Cleanup(func() { s.Close() })
	for _, c := range []PortConfig{{Name: "a", VLAN: 10, Trunk: []int{20}}, {Name: "b", VLAN: 20, Trunk: []int{10}}} {
		if _, err := s.attach(c, sink{}, false); err != nil {
			f.Fatal(err)
		}
	}
	h, err := s.NewHost(HostConfig{Name: "h", VLAN: 10, RouterAdvertisements: true})
	if err != nil {
		f.Fatal(err)
	}
	_ = h
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		s.Port("a").receive(b)
		if !bytes.Equal(b, before) {
			t.Errorf("forwarding changed the frame %x into %x", before, b)
		}
		if m, ok := parseFrame(b); ok && m.tagged {
			plain := appendUntagged(nil, b)
			if len(plain) < minFrame {
				t.Errorf("untagged frame has %d bytes; want %d at least", len(plain), minFrame)
			}
			if again := appendTagged(nil, plain, m.tci); !bytes.HasPrefix(again, b) {
				t.Errorf("tag taken off and put on gives %x; want prefix %x", again, b)
			}
		}
	})
}

package bmc

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	goipmi "github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/hal/mock"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/transport/udp"
)

// fill is a key of n bytes.
func fill(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// Only a packet that the BMC signed for this session, unchanged, is opened, and
// only once.
func TestRMCPOpen(t *testing.T) {
	msg := []byte{consoleAddr, 0x04, 0x7b, bmcAddr, 0, 1, 0, 1, 0, 0, 0}
	for _, su := range suites {
		pair := func() (bmc, console *rmcp) {
			bmc = &rmcp{bmc: 7, auth: su.auth, integrity: su.integrity, k1: fill(32), k2: fill(20)}
			return bmc, &rmcp{console: 7, auth: su.auth, integrity: su.integrity, k1: fill(32), k2: fill(20)}
		}
		sealed := func() ([]byte, *rmcp) {
			b, c := pair()
			p, err := b.seal(msg)
			if err != nil {
				t.Fatal(err)
			}
			return p, c
		}
		p, c := sealed()
		if got, ok := c.open(p); !ok || string(got) != string(msg) {
			t.Errorf("suite %d: open(seal(m)) = %x, %v; want %x", su.id, got, ok, msg)
		}
		if _, ok := c.open(p); ok {
			t.Errorf("suite %d: a packet was opened twice", su.id)
		}
		for i := range p {
			q, c := sealed()
			q[i] ^= 0x01
			if _, ok := c.open(q); ok && i != 1 && i != 2 { // reserved, and the RMCP sequence number: not signed
				t.Errorf("suite %d: a packet with byte %d changed was opened", su.id, i)
			}
			q, c = sealed()
			if _, ok := c.open(q[:i]); ok {
				t.Errorf("suite %d: the first %d bytes of a packet were opened", su.id, i)
			}
		}
		q, c := sealed()
		c.console = 8
		binary.LittleEndian.PutUint32(q[6:], 8)
		if _, ok := c.open(q); ok {
			t.Errorf("suite %d: a packet of another session was opened", su.id)
		}
	}
}

func TestReplayWindow(t *testing.T) {
	var w replayWindow
	for _, tc := range []struct {
		n    uint32
		want bool
	}{{0, false}, {5, true}, {5, false}, {7, true}, {6, true}, {6, false}, {40, true}, {8, false}, {9, true}, {9, false}, {0xfffffff0, false}, {1000, true}, {40, false}} {
		if got := w.accept(tc.n); got != tc.want {
			t.Errorf("accept(%d) = %v; want %v", tc.n, got, tc.want)
		}
	}
}

// TestIPMIOtherServer speaks to a BMC that we did not write: go-ipmi's.
func TestIPMIOtherServer(t *testing.T) {
	b := goipmi.New(goipmi.DeviceInfo{DeviceID: 32, DeviceRevision: 1, FirmwareMajor: 1, FirmwareMinor: 2, IPMIVersion: 0x20}, [16]byte{1}, mock.New())
	u, err := b.Users.Add(2, "root")
	if err != nil {
		t.Fatal(err)
	}
	u.SetPassword([]byte("s3cret"))
	u.Enabled = true
	u.ChannelAccess[1] = goipmi.UserChannelAccess{MaxPrivilege: goipmi.PrivilegeLevelAdministrator, Enabled: true}
	conn, err := udp.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := server.NewServer(b, conn)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ctx) })
	t.Cleanup(func() { cancel(); _ = srv.Close(); wg.Wait() })
	la, ok := any(conn).(interface{ LocalAddr() net.Addr })
	if !ok {
		t.Fatal("go-ipmi's connection has no address")
	}
	tg := Target{Name: "other", Protocol: IPMI, User: "root", Password: "s3cret", Timeout: 5 * time.Second, PowerWait: time.Second,
		Address: netip.MustParseAddrPort(la.LocalAddr().String())}
	c, err := Open(t.Context(), tg)
	if err != nil {
		t.Fatal(err)
	}
	c.poll = 4 * time.Millisecond
	for _, a := range []struct {
		do   Action
		want Power
	}{{PowerOn, On}, {PowerOff, Off}} {
		if err := c.SetPower(t.Context(), a.do); err != nil {
			t.Errorf("SetPower(%s) = %v", a.do, err)
		}
		if p, err := c.Power(t.Context()); err != nil || p != a.want {
			t.Errorf("Power() after %s = %s, %v", a.do, p, err)
		}
	}
	if err := c.SetNextBoot(t.Context(), NextBoot{Device: BootPXE, UEFI: true}); err != nil {
		t.Errorf("SetNextBoot() = %v", err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.Firmware != "1.02" || st.Boot.Device != BootPXE {
		t.Errorf("Status() = %+v, %v; want firmware 1.02 and pxe", st, err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	tg.Password = "guess"
	_, err = Open(t.Context(), tg)
	wantErr(t, err, ErrPassword)
}

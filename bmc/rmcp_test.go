package bmc

import (
	"context"
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
	tg := Target{Name: "other", Protocol: IPMI, User: "root", Password: "s3cret", Timeout: 5 * time.Second, PowerWait: time.Minute,
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

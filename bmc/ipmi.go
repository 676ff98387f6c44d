package bmc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
	"time"

	"github.com/bmc-toolbox/bmclib/v2/providers"
	"github.com/jacobweinstock/registrar"
)

// ipmiName is our driver's name in bmclib's registry.
const ipmiName = "fettle-ipmi"

var ipmiFeatures = registrar.Features{providers.FeaturePowerState, providers.FeaturePowerSet, providers.FeatureBootDeviceSet}

// ipmiDriver speaks IPMI 2.0 over LAN (RMCP+, "lanplus").
type ipmiDriver struct {
	t   Target
	log *slog.Logger
	s   *rmcp
}

func newIPMI(t Target, log *slog.Logger) (*ipmiDriver, error) {
	if t.Dial != nil && t.DialUDP == nil {
		return nil, fmt.Errorf("%w: its connections go by another network stack, which gave no way to open UDP ones: set the BMC's protocol to redfish", ErrUnsupported)
	}
	return &ipmiDriver{t: t, log: log}, nil
}

// Name is the driver's name for bmclib.
func (d *ipmiDriver) Name() string { return ipmiName }

// Open logs in once. When ctx ends meanwhile, the login goes on for a moment,
// so that its session can be ended.
func (d *ipmiDriver) Open(ctx context.Context) error {
	const doing = "logging in"
	lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.t.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(loginGrace, cancel)
		context.AfterFunc(lctx, func() { t.Stop() })
	})
	defer stop()
	dial := d.t.DialUDP
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "udp", addr)
		}
	}
	conn, err := dial(ctx, d.t.Address.String())
	if err != nil {
		return d.t.own(ctx, doing, fmt.Errorf("no UDP connection to %s: %w", d.t.Address, err))
	}
	d.s, err = login(lctx, conn, d.t.User, string(d.t.Password))
	if err == nil && ctx.Err() != nil {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutTimeout)
		defer cancel()
		err = errors.Join(ctx.Err(), d.s.close(cctx))
	}
	if err != nil {
		d.s = nil
		_ = conn.Close() // nothing is lost: the session was not opened, or is ended
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = ctx.Err()
		}
		return d.t.fail(doing, d.explain(ctx, err))
	}
	return nil
}

// explain says what an error of the session means, and what to do next.
func (d *ipmiDriver) explain(ctx context.Context, err error) error {
	var cc *ccError
	switch {
	case errors.Is(err, ErrPassword):
		return err
	case errors.As(err, &cc) && cc.code == 0xd4:
		return fmt.Errorf("the user may not do that over IPMI: give it the role operator or administrator: %w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no IPMI answer from %s within %s: check its address and that IPMI over LAN is enabled: %w", d.t.Address, d.t.Timeout, err)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, context.Canceled):
		return d.t.explain(ctx, err)
	}
	return err
}

// Close ends the session.
func (d *ipmiDriver) Close(ctx context.Context) error {
	if d.s == nil {
		return nil
	}
	if err := d.s.close(ctx); err != nil {
		return d.t.fail("logging out", d.explain(ctx, err))
	}
	return nil
}

// command sends a command; doing is what for.
func (d *ipmiDriver) command(ctx context.Context, doing string, netFn, cmd byte, min int, data ...byte) ([]byte, error) {
	b, err := d.s.command(ctx, netFn, cmd, data...)
	if err == nil && len(b) < min {
		err = fmt.Errorf("its answer has %d bytes instead of %d or more", len(b), min)
	}
	if err != nil {
		return nil, d.t.fail(doing, d.explain(ctx, err))
	}
	return b, nil
}

// chassisStatus is Get Chassis Status (IPMI 2.0 §28.2).
type chassisStatus struct {
	power    Power
	health   string
	light    bool
	tellsLed bool
}

func parseChassisStatus(b []byte) (s chassisStatus) {
	s.power, s.health = Off, "OK"
	if b[0]&0x01 != 0 {
		s.power = On
	}
	// Power overload, main power fault, power control fault; drive and fan fault.
	if b[0]&0x1a != 0 || b[2]&0x0c != 0 {
		s.health = "Critical"
	}
	s.tellsLed = b[2]&0x40 != 0
	s.light = s.tellsLed && b[2]&0x30 != 0
	return s
}

func (d *ipmiDriver) chassis(ctx context.Context, doing string) (chassisStatus, error) {
	b, err := d.command(ctx, doing, netChassis, 0x01, 3)
	if err != nil {
		return chassisStatus{power: PowerUnknown}, err
	}
	return parseChassisStatus(b), nil
}

func (d *ipmiDriver) ready(context.Context) error { return nil }

func (d *ipmiDriver) power(ctx context.Context) (string, error) { return d.PowerStateGet(ctx) }

// PowerStateGet reads the power state, for bmclib.
func (d *ipmiDriver) PowerStateGet(ctx context.Context) (string, error) {
	s, err := d.chassis(ctx, "reading the power state")
	return string(s.power), err
}

// PowerSet is Chassis Control (IPMI 2.0 §28.3), for bmclib.
func (d *ipmiDriver) PowerSet(ctx context.Context, state string) (bool, error) {
	doing := "power " + state
	code, ok := map[string]byte{"off": 0, "on": 1, "cycle": 2, "reset": 3, "nmi": 4, "soft": 5}[state]
	if !ok {
		return false, d.t.fail(doing, fmt.Errorf("%w: IPMI has no such action", ErrUnsupported))
	}
	_, err := d.command(ctx, doing, netChassis, 0x02, 0, code)
	return err == nil, err
}

// Boot option parameters (IPMI 2.0 table 28-14).
const (
	bootValidClearing = 3
	bootFlags         = 5
)

// ipmiDevices are the boot device selectors (IPMI 2.0 table 28-14), by
// bmclib's names.
var ipmiDevices = map[string]byte{"none": 0, "pxe": 1, "disk": 2, "cdrom": 5, "bios": 6}

// BootDeviceSet sets the boot flags, for bmclib.
func (d *ipmiDriver) BootDeviceSet(ctx context.Context, device string, permanent, uefi bool) (bool, error) {
	doing := "setting the next boot to " + device
	code, ok := ipmiDevices[device]
	if !ok {
		return false, d.t.fail(doing, fmt.Errorf("%w: IPMI has no boot device %s; use pxe, or redfish", ErrUnsupported, device))
	}
	// By default the flags end 60 s after they were set, if no power action came
	// by then; the BMC may lack this parameter.
	var cc *ccError
	if _, err := d.command(ctx, doing, netChassis, 0x08, 0, bootValidClearing, 0x08); err != nil && !errors.As(err, &cc) {
		return false, err
	}
	flags := byte(0x80)
	if permanent && code != 0 {
		flags |= 0x40
	}
	if uefi {
		flags |= 0x20
	}
	_, err := d.command(ctx, doing, netChassis, 0x08, 0, bootFlags, flags, code<<2, 0, 0, 0)
	return err == nil, err
}

// nextBoot reads the boot flags.
func (d *ipmiDriver) nextBoot(ctx context.Context) (NextBoot, bool, error) {
	b, err := d.command(ctx, "reading the next boot", netChassis, 0x09, 4, bootFlags, 0, 0)
	if err != nil {
		return NextBoot{Device: BootNone}, false, err
	}
	return parseBootFlags(b[2], b[3]), true, nil
}

func parseBootFlags(flags, device byte) NextBoot {
	nb := NextBoot{Device: BootNone, UEFI: flags&0x20 != 0}
	if flags&0x80 == 0 { // not valid
		return nb
	}
	switch code := device >> 2 & 0xf; code {
	case 0:
	case 1:
		nb.Device = BootPXE
	case 2, 3: // 3: disk, in safe mode
		nb.Device = BootDisk
	case 5:
		nb.Device = BootCD
	case 6:
		nb.Device = BootSetup
	default:
		nb.Device = Device(fmt.Sprintf("ipmi-%d", code))
	}
	nb.Permanent = nb.Device != BootNone && flags&0x40 != 0
	return nb
}

// lightFor is how long a light is on where the BMC cannot keep it on.
const lightFor = 255

// identify is Chassis Identify (IPMI 2.0 §28.5), read back where the chassis
// status tells the light.
func (d *ipmiDriver) identify(ctx context.Context, on bool) error {
	const doing = "switching the identify light"
	var err error
	if !on {
		_, err = d.command(ctx, doing, netChassis, 0x04, 0, 0)
	} else if _, err = d.command(ctx, doing, netChassis, 0x04, 0, 0, 1); refused(err) {
		d.log.Warn("the BMC cannot keep its identify light on: it will go out by itself", "seconds", lightFor)
		_, err = d.command(ctx, doing, netChassis, 0x04, 0, lightFor)
	}
	if err != nil {
		return err
	}
	s, err := d.chassis(ctx, doing)
	if err == nil && s.tellsLed && s.light != on {
		err = d.t.fail(doing, errNothing)
	}
	return err
}

// refused: the BMC answered that the request is not to its liking.
func refused(err error) bool {
	var cc *ccError
	return errors.As(err, &cc)
}

func (d *ipmiDriver) lastReset(context.Context, Action) (string, bool, error) { return "", false, nil }

func (d *ipmiDriver) status(ctx context.Context) (Status, error) {
	const doing = "reading the status"
	c, err := d.chassis(ctx, doing)
	if err != nil {
		return Status{}, err
	}
	st := Status{Power: c.power, Identify: c.light, Health: c.health}
	if st.Boot, _, err = d.nextBoot(ctx); err != nil && !errors.Is(err, ErrUnsupported) {
		return st, err
	}
	id, err := d.command(ctx, doing, netApp, 0x01, 11)
	if err != nil {
		return st, err
	}
	st.Firmware = fmt.Sprintf("%d.%02x", id[2]&0x7f, id[3])
	p, err := d.product(ctx)
	if refused(err) || errors.Is(err, errFRU) { // a BMC may hold no FRU data: then the rest stays unsaid
		d.log.Debug("the BMC shows no FRU data", "err", err)
		return st, nil
	}
	st.Vendor, st.Model, st.Serial = p.maker, p.name, p.serial
	return st, err
}

// inventory is what IPMI tells: what the machine is, and the BMC's firmware.
func (d *ipmiDriver) inventory(ctx context.Context) (Inventory, error) {
	st, err := d.status(ctx)
	return Inventory{Status: st, Firmware: []Firmware{{ID: "BMC", Name: "BMC", Version: st.Firmware}},
		Missing: []string{"processors, memory, network cards, drives, GPUs: IPMI does not tell them; use redfish, or boot the agent"}}, err
}

func (d *ipmiDriver) firmware(ctx context.Context) ([]Firmware, error) {
	inv, err := d.inventory(ctx)
	return inv.Firmware, err
}

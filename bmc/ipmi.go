package bmc

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strconv"
	"strings"

	"github.com/bmc-toolbox/bmclib/v2/providers/ipmitool"
)

// ipmiName is the driver's name in bmclib's registry.
const ipmiName = ipmitool.ProviderName

var ipmiFeatures = ipmitool.Features

// ipmiDriver is bmclib's ipmitool driver, and what that lacks: one login
// attempt, the read-back of the boot override, identify and facts.
type ipmiDriver struct {
	*ipmitool.Conn
	t       Target
	log     *slog.Logger
	program string
	cipher  string
}

func newIPMI(t Target, log *slog.Logger) (*ipmiDriver, error) {
	if t.Dial != nil {
		return nil, fmt.Errorf("%w: IPMI goes by the ipmitool program, which opens its own sockets; a lab's BMC speaks redfish", ErrUnsupported)
	}
	program, err := exec.LookPath("ipmitool")
	if err != nil {
		return nil, fmt.Errorf("IPMI needs the program ipmitool, which this machine lacks: install the package ipmitool, or set the BMC's protocol to redfish: %w", err)
	}
	return &ipmiDriver{t: t, log: log, program: program}, nil
}

// Open asks for the power state. Cipher suite 17 is tried first; 3 only when
// the BMC has no 17, which it says before any password is checked (IPMI 2.0
// §13.17, Open Session Response): so that one login is one attempt. bmclib by
// itself tries 3, then 17, also after a wrong password.
func (d *ipmiDriver) Open(ctx context.Context) error {
	for _, d.cipher = range []string{"17", "3"} {
		conn, err := ipmitool.New(d.t.Address.Addr().String(), d.t.User, string(d.t.Password), ipmitool.WithIpmitoolPath(d.program),
			ipmitool.WithPort(strconv.Itoa(int(d.t.Address.Port()))), ipmitool.WithCipherSuite(d.cipher))
		if err != nil {
			return d.t.own(ctx, "opening", err)
		}
		d.Conn = conn
		err = conn.Open(ctx)
		if err == nil {
			return nil
		}
		if d.cipher == "3" || !noCipher(err.Error()) {
			return d.ipmiError(ctx, "logging in", err)
		}
	}
	return nil
}

// noCipher tells from ipmitool's words that the BMC lacks the cipher suite.
func noCipher(said string) bool {
	s := strings.ToLower(said)
	return strings.Contains(s, "no matching cipher suite") || strings.Contains(s, "invalid authentication algorithm") ||
		strings.Contains(s, "invalid integrity algorithm") || strings.Contains(s, "invalid confidentiality algorithm")
}

// ipmiError is what ipmitool said, as one line.
func (d *ipmiDriver) ipmiError(ctx context.Context, doing string, err error) error {
	if ctx.Err() != nil {
		return d.t.own(ctx, doing, ctx.Err())
	}
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' })
	said := strings.Join(lines, "; ")
	low := strings.ToLower(said)
	switch {
	case strings.Contains(low, "hmac is invalid"), strings.Contains(low, "unauthorized name"), strings.Contains(low, "password"):
		return d.t.fail(doing, fmt.Errorf("%w: ipmitool said: %s", ErrPassword, said))
	case strings.Contains(low, "unable to establish ipmi"):
		return d.t.fail(doing, fmt.Errorf("the BMC at %s did not open an IPMI session: check that IPMI over LAN is enabled, and the address: ipmitool said: %s", d.t.Address, said))
	case strings.Contains(low, "invalid command"), strings.Contains(low, "not supported"):
		return d.t.fail(doing, fmt.Errorf("%w: ipmitool said: %s", ErrUnsupported, said))
	}
	return d.t.fail(doing, fmt.Errorf("ipmitool said: %s", said))
}

// run calls ipmitool. The password goes by its environment.
func (d *ipmiDriver) run(ctx context.Context, args ...string) (string, error) {
	all := append([]string{"-I", "lanplus", "-U", d.t.User, "-E", "-H", d.t.Address.Addr().String(),
		"-p", strconv.Itoa(int(d.t.Address.Port())), "-C", d.cipher}, args...)
	cmd := exec.CommandContext(ctx, d.program, all...)
	cmd.Env = []string{"IPMITOOL_PASSWORD=" + string(d.t.Password)}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", d.ipmiError(ctx, "ipmitool "+strings.Join(args, " "), fmt.Errorf("%s: %w", strings.TrimSpace(string(out)), err))
	}
	return string(out), nil
}

// PowerStateGet reads the power state, for bmclib.
func (d *ipmiDriver) PowerStateGet(ctx context.Context) (string, error) {
	s, err := d.Conn.PowerStateGet(ctx)
	if err != nil {
		return "", d.ipmiError(ctx, "reading the power state", err)
	}
	return s, nil
}

// PowerSet changes power, for bmclib.
func (d *ipmiDriver) PowerSet(ctx context.Context, state string) (bool, error) {
	ok, err := d.Conn.PowerSet(ctx, state)
	if err != nil {
		return ok, d.ipmiError(ctx, "power "+state, err)
	}
	return ok, nil
}

// BootDeviceSet sets the override, for bmclib.
func (d *ipmiDriver) BootDeviceSet(ctx context.Context, device string, permanent, uefi bool) (bool, error) {
	doing := "setting the next boot to " + device
	if device == "uefi_http" {
		return false, d.t.fail(doing, fmt.Errorf("%w: IPMI has no HTTP boot; use pxe, or redfish", ErrUnsupported))
	}
	ok, err := d.Conn.BootDeviceSet(ctx, device, permanent, uefi)
	if err != nil {
		return ok, d.ipmiError(ctx, doing, err)
	}
	return ok, nil
}

// nextBoot reads boot option parameter 5 (IPMI 2.0 §28.13, boot flags).
func (d *ipmiDriver) nextBoot(ctx context.Context) (NextBoot, bool, error) {
	out, err := d.run(ctx, "chassis", "bootparam", "get", "5")
	if err != nil {
		return NextBoot{Device: BootNone}, false, err
	}
	nb, err := parseBootFlags(out)
	return nb, true, err
}

// parseBootFlags reads "Boot parameter data: e004000000".
func parseBootFlags(out string) (NextBoot, error) {
	nb := NextBoot{Device: BootNone}
	for line := range strings.Lines(out) {
		v, ok := strings.CutPrefix(strings.TrimSpace(line), "Boot parameter data:")
		if !ok {
			continue
		}
		b, err := hex.DecodeString(strings.TrimSpace(v))
		if err != nil || len(b) < 2 {
			break
		}
		nb.UEFI = b[0]&0x20 != 0
		if b[0]&0x80 == 0 { // not valid
			return nb, nil
		}
		switch b[1] >> 2 & 0xf {
		case 1:
			nb.Device = BootPXE
		case 2, 3:
			nb.Device = BootDisk
		case 5:
			nb.Device = BootCD
		case 6:
			nb.Device = BootSetup
		case 0:
		default:
			nb.Device = Device(fmt.Sprintf("ipmi-%d", b[1]>>2&0xf))
		}
		nb.Permanent = nb.Device != BootNone && b[0]&0x40 != 0
		return nb, nil
	}
	return nb, errors.New("ipmitool printed no boot parameter data")
}

// fields reads ipmitool's "Name : value" lines; the first of a name counts.
func fields(out string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(out) {
		k, v, ok := strings.Cut(line, ":")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		if _, have := m[k]; ok && !have {
			m[k] = v
		}
	}
	return m
}

func (d *ipmiDriver) status(ctx context.Context) (Status, error) {
	p, err := d.PowerStateGet(ctx)
	if err != nil {
		return Status{}, err
	}
	st := Status{Power: parsePower(p)}
	if st.Boot, _, err = d.nextBoot(ctx); err != nil {
		return st, err
	}
	mc, err := d.run(ctx, "mc", "info")
	if err != nil {
		return st, err
	}
	st.Firmware = fields(mc)["Firmware Revision"]
	// A BMC may hold no FRU data: then the rest stays unsaid.
	fru, err := d.run(ctx, "fru", "print", "0")
	if err != nil {
		if ctx.Err() != nil {
			return st, err
		}
		d.log.Debug("the BMC shows no FRU data", "err", err)
		return st, nil
	}
	f := fields(fru)
	st.Vendor, st.Model, st.Serial = f["Product Manufacturer"], f["Product Name"], f["Product Serial"]
	return st, nil
}

// identify cannot be read back over IPMI (chassis status tells it on few BMCs).
func (d *ipmiDriver) identify(ctx context.Context, on bool) error {
	arg := "0"
	if on {
		arg = "force"
	}
	_, err := d.run(ctx, "chassis", "identify", arg)
	return err
}

func (d *ipmiDriver) lastReset(context.Context, Action) (string, bool, error) { return "", false, nil }

func (d *ipmiDriver) inventory(context.Context) (Inventory, error) {
	return Inventory{}, d.t.fail("reading the inventory", fmt.Errorf("%w: IPMI tells no processors, network cards or drives; use redfish, or boot the agent", ErrUnsupported))
}

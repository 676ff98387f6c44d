package vbmc

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// command is one IPMI command: how many bytes it needs, which privilege, and
// what it does. data is the request without its header; the answer is the
// response behind the completion code.
type command struct {
	min  int
	priv byte
	do   func(i *ipmi, ctx context.Context, x *ipmiSession, data []byte) ([]byte, error)
}

// code is a command's key: network function and number.
func code(netFn, cmd byte) uint16 { return uint16(netFn)<<8 | uint16(cmd) }

// commands are those that are served (IPMI 2.0 appendix G).
var commands = map[uint16]command{
	// Application.
	code(0x06, 0x01): {0, privUser, (*ipmi).deviceID},
	code(0x06, 0x02): {0, privAdmin, (*ipmi).coldReset},
	code(0x06, 0x03): {0, privAdmin, (*ipmi).nothing}, // warm reset
	code(0x06, 0x04): {0, privUser, fixed(0x55, 0x00)},
	code(0x06, 0x08): {0, privUser, (*ipmi).systemGUID}, // device GUID
	code(0x06, 0x2f): {0, privUser, fixed(0x08)},        // global enables: the event log
	code(0x06, 0x37): {0, privNone, (*ipmi).systemGUID},
	code(0x06, 0x38): {2, privNone, (*ipmi).authCapabilities},
	code(0x06, 0x3b): {1, privUser, (*ipmi).setPrivilege},
	code(0x06, 0x3c): {4, privCallback, (*ipmi).closeSession},
	code(0x06, 0x3d): {1, privUser, (*ipmi).sessionInfo},
	code(0x06, 0x41): {2, privUser, fixed(0x02, privAdmin)}, // channel access: always available
	code(0x06, 0x42): {1, privUser, (*ipmi).channelInfo},
	code(0x06, 0x44): {2, privOperator, (*ipmi).userAccess},
	code(0x06, 0x46): {1, privOperator, (*ipmi).userName},
	code(0x06, 0x47): {2, privAdmin, (*ipmi).setUserPassword},
	code(0x06, 0x48): {6, privOperator, (*ipmi).activatePayload},
	code(0x06, 0x49): {6, privOperator, (*ipmi).deactivatePayload},
	code(0x06, 0x4a): {1, privUser, (*ipmi).payloadStatus},
	code(0x06, 0x4d): {2, privOperator, fixed(1<<payloadSOL, 0, 0, 0)}, // every user may
	code(0x06, 0x4e): {1, privUser, (*ipmi).payloadSupport},
	code(0x06, 0x4f): {2, privUser, (*ipmi).payloadVersion},
	code(0x06, 0x54): {3, privNone, (*ipmi).channelCiphers},
	// Chassis.
	code(0x00, 0x00): {0, privUser, fixed(0x00, 0x20, 0x20, 0x20, 0x20)},
	code(0x00, 0x01): {0, privUser, (*ipmi).chassisStatus},
	code(0x00, 0x02): {1, privOperator, (*ipmi).chassisControl},
	code(0x00, 0x04): {0, privOperator, (*ipmi).identify},
	code(0x00, 0x07): {0, privUser, (*ipmi).restartCause},
	code(0x00, 0x08): {1, privOperator, (*ipmi).setBootOption},
	code(0x00, 0x09): {3, privOperator, (*ipmi).bootOption},
	// Storage.
	code(0x0a, 0x10): {1, privUser, (*ipmi).fruInfo},
	code(0x0a, 0x11): {4, privUser, (*ipmi).fruRead},
	code(0x0a, 0x40): {0, privUser, (*ipmi).selInfo},
	code(0x0a, 0x42): {0, privUser, (*ipmi).selReserve},
	code(0x0a, 0x43): {6, privUser, (*ipmi).selEntry},
	code(0x0a, 0x47): {6, privOperator, (*ipmi).selClear},
	code(0x0a, 0x48): {0, privUser, (*ipmi).selTime},
	code(0x0a, 0x49): {4, privOperator, (*ipmi).setSELTime},
	code(0x0a, 0x20): {0, privUser, (*ipmi).repositoryInfo},
	code(0x0a, 0x22): {0, privUser, (*ipmi).repositoryReserve},
	code(0x0a, 0x23): {6, privUser, (*ipmi).sensorRecord},
	// Sensors.
	code(0x04, 0x27): {1, privUser, (*ipmi).sensorThresholds},
	code(0x04, 0x2d): {1, privUser, (*ipmi).sensorReading},
	// DCMI, in the group extension.
	code(0x2c, 0x02): {4, privUser, (*ipmi).dcmiPower},
	code(0x2c, 0x03): {3, privUser, (*ipmi).dcmiLimit},
	code(0x2c, 0x04): {15, privOperator, (*ipmi).setDCMILimit},
	code(0x2c, 0x05): {4, privOperator, (*ipmi).useDCMILimit},
	// Transport.
	code(0x0c, 0x02): {4, privOperator, (*ipmi).lanParameter},
	code(0x0c, 0x22): {4, privUser, (*ipmi).solParameter},
}

// fixed answers always the same.
func fixed(b ...byte) func(*ipmi, context.Context, *ipmiSession, []byte) ([]byte, error) {
	return func(*ipmi, context.Context, *ipmiSession, []byte) ([]byte, error) { return b, nil }
}

// coldReset (IPMI 2.0 §20.2): Redfish's sessions end; settings stay. This
// session ends when the console closes it, or by its timeout.
func (i *ipmi) coldReset(_ context.Context, x *ipmiSession, _ []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	clear(i.s.sessions)
	i.s.record("manager", "OK", fmt.Sprintf("The BMC was reset by %s.", x.user))
	return nil, nil
}

func (i *ipmi) nothing(context.Context, *ipmiSession, []byte) ([]byte, error) { return nil, nil }

// deviceID is Get Device ID (IPMI 2.0 §20.1): IPMI 2.0 with a chassis device,
// sensors, their records, FRU inventory and event log. The firmware's version is that of the service.
func (i *ipmi) deviceID(context.Context, *ipmiSession, []byte) ([]byte, error) {
	major, minor, _ := strings.Cut(firmwareVersion[strings.LastIndexByte(firmwareVersion, '-')+1:], ".")
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	return []byte{0x20, 0x01, byte(a), byte(b/10<<4 | b%10), 0x02, 0x8f, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil
}

func (i *ipmi) systemGUID(context.Context, *ipmiSession, []byte) ([]byte, error) {
	return i.guid[:], nil
}

// lanChannel is our only channel; 0Eh in a request is the present one.
const lanChannel = 1

func isLAN(channel byte) bool { return channel&0xf == lanChannel || channel&0xf == 0xe }

// authCapabilities (IPMI 2.0 §22.13): RMCP+ only, users with names, every
// packet authenticated, no key Kg.
func (i *ipmi) authCapabilities(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if !isLAN(d[0]) || d[1]&0xf == 0 || d[1]&0xf > privAdmin {
		return nil, ccField
	}
	if d[0]&0x80 == 0 { // who asks in the way of IPMI 1.5 finds nothing to log in with
		return []byte{lanChannel, 0, 0x04, 0, 0, 0, 0, 0}, nil
	}
	return []byte{lanChannel, 0x80, 0x04, 0x02, 0, 0, 0, 0}, nil
}

// channelCiphers is Get Channel Cipher Suites (IPMI 2.0 §22.15), 16 bytes of
// the list at a time.
func (i *ipmi) channelCiphers(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if !isLAN(d[0]) {
		return nil, ccField
	}
	var all []byte
	for _, su := range cipherSuites {
		all = append(all, 0xc0, su.id, byte(su.auth), 0x40|byte(su.integ), 0x80|byte(su.crypt))
	}
	at := min(int(d[2]&0x3f)*16, len(all))
	return append([]byte{lanChannel}, all[at:min(at+16, len(all))]...), nil
}

// setPrivilege is Set Session Privilege Level (IPMI 2.0 §22.18).
func (i *ipmi) setPrivilege(_ context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	switch want := d[0] & 0xf; {
	case want == 0:
	case want == privCallback || want > privAdmin:
		return nil, ccField
	case want > x.max:
		return nil, completion(0x81)
	default:
		x.priv = want
	}
	return []byte{x.priv}, nil
}

// closeSession (IPMI 2.0 §22.19): one's own, or any for an administrator.
func (i *ipmi) closeSession(_ context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	id := binary.LittleEndian.Uint32(d)
	y := i.sessions[id]
	switch {
	case y == nil || !y.active:
		return nil, completion(0x87)
	case y != x && x.priv < privAdmin:
		return nil, ccPrivilege
	}
	delete(i.sessions, id)
	return nil, nil
}

// sessionInfo is Get Session Info of one's own session (IPMI 2.0 §22.20).
func (i *ipmi) sessionInfo(_ context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	if d[0] != 0 {
		return nil, ccAbsent
	}
	active := 0
	for _, y := range i.sessions {
		if y.active {
			active++
		}
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	id, _ := strconv.Atoi(x.who.id)
	return []byte{x.handle, byte(min(i.s.max, 63)), byte(min(active, 63)), byte(id), x.priv, 1<<4 | lanChannel}, nil
}

// channelInfo (IPMI 2.0 §22.24): 802.3 LAN, sessions by many.
func (i *ipmi) channelInfo(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if !isLAN(d[0]) {
		return nil, ccField
	}
	return []byte{lanChannel, 0x04, 0x01, 0x80, 0xf2, 0x1b, 0x00, 0, 0}, nil
}

// userSlot finds the account that IPMI numbers id: 1 is the first.
func (i *ipmi) userSlot(id byte) (account, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	if n := int(id & 0x3f); n >= 1 && n <= len(i.s.accounts) {
		return *i.s.accounts[n-1], nil
	}
	return account{}, ccField
}

// userAccess is Get User Access (IPMI 2.0 §22.27).
func (i *ipmi) userAccess(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	a, err := i.userSlot(d[1])
	if err != nil || !isLAN(d[0]) {
		return nil, ccField
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	enabled := byte(0)
	for _, b := range i.s.accounts {
		if b.name != "" && b.enabled {
			enabled++
		}
	}
	state, access := byte(0x80), byte(0x0f)
	if a.name != "" {
		if access = ipmiPrivilege(a.role); a.ipmi {
			access |= 0x10 // may log in over IPMI
		}
		if a.enabled {
			state = 0x40
		}
	}
	return []byte{byte(len(i.s.accounts)), state | enabled, 0, access}, nil
}

// userName is Get User Name (IPMI 2.0 §22.29).
func (i *ipmi) userName(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	a, err := i.userSlot(d[0])
	if err != nil {
		return nil, err
	}
	out := make([]byte, ipmiUserMax)
	copy(out, a.name)
	return out, nil
}

// setUserPassword is Set User Password (IPMI 2.0 §22.30): disable, enable, set
// or test, with 16 or 20 bytes of password.
func (i *ipmi) setUserPassword(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if _, err := i.userSlot(d[0]); err != nil {
		return nil, err
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	a := i.s.accounts[d[0]&0x3f-1]
	size := 16
	if d[0]&0x80 != 0 {
		size = 20
	}
	switch op := d[1] & 3; {
	case op == 0 && a.name != "":
		a.enabled = false
	case op == 1 && a.name != "":
		a.enabled = true
	case op < 2, a.name == "":
		return nil, ccField
	case len(d) != 2+size:
		return nil, completion(0xc7)
	default:
		pw, _, _ := strings.Cut(string(d[2:]), "\x00")
		if op == 2 {
			if pw == "" {
				return nil, ccField
			}
			a.setPassword(pw)
			return nil, nil
		}
		if got := hashPassword(pw); subtle.ConstantTimeCompare(got[:], a.hash[:]) != 1 {
			return nil, completion(0x80) // password test failed
		}
	}
	return nil, nil
}

// powered is the power state.
func (i *ipmi) powered(ctx context.Context) (bool, error) {
	p, err := i.s.chassis.Power(ctx)
	if err != nil {
		return false, fmt.Errorf("reading the power state: %w", err)
	}
	return p == On, nil
}

// chassisStatus is Get Chassis Status (IPMI 2.0 §28.2).
func (i *ipmi) chassisStatus(ctx context.Context, _ *ipmiSession, _ []byte) ([]byte, error) {
	on, err := i.powered(ctx)
	if err != nil {
		return nil, err
	}
	out := []byte{0x60, 0, 0, 0} // power restore policy: unknown
	if on {
		out[0] |= 0x01
	}
	led, err := i.s.chassis.Identify(ctx)
	if errors.Is(err, ErrUnsupported) {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the identify light: %w", err)
	}
	i.light.Lock()
	defer i.light.Unlock()
	switch out[2] = 0x40; {
	case led && i.timed:
		out[2] |= 0x10
	case led:
		out[2] |= 0x20
	}
	return out, nil
}

// selReset is how the event log tells a reset (IPMI 2.0 table 42-3): sensor
// type, offset.
var selReset = map[ResetType][]byte{
	ResetOn: {0x1d, 0}, ResetForceOn: {0x1d, 0}, ResetForceRestart: {0x1d, 1}, ResetGracefulRestart: {0x1d, 2},
	ResetForceOff: {0x09, 0}, ResetPowerCycle: {0x09, 1}, ResetNmi: {0x13, 0}, ResetGracefulShutdown: {0x20, 3}, ResetPushPowerButton: {0x14, 0},
}

// chassisControl (IPMI 2.0 §28.3).
func (i *ipmi) chassisControl(ctx context.Context, x *ipmiSession, d []byte) ([]byte, error) {
	t, ok := map[byte]ResetType{0: ResetForceOff, 1: ResetOn, 2: ResetPowerCycle, 3: ResetForceRestart, 4: ResetNmi, 5: ResetGracefulShutdown}[d[0]&0xf]
	if !ok {
		return nil, ccField
	}
	if t != ResetOn && t != ResetForceOff {
		on, err := i.powered(ctx)
		if err != nil {
			return nil, err
		}
		if !on {
			return nil, ccState
		}
	}
	// The action goes on when the service ends.
	if err := i.s.chassis.Reset(context.WithoutCancel(ctx), t); err != nil {
		return nil, fmt.Errorf("reset %s: %w", t, err)
	}
	i.s.starts(t)
	i.flags.cause = 0x10 // restart cause: chassis control command, our channel
	i.s.logEvent("system", "OK", fmt.Sprintf("Reset %s by %s over IPMI.", t, x.user), selReset[t]...)
	return nil, nil
}

// identify is Chassis Identify (IPMI 2.0 §28.5): for 15 s if nothing is said.
func (i *ipmi) identify(ctx context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	seconds, force := byte(15), false
	if len(d) > 0 {
		seconds = d[0]
	}
	if len(d) > 1 {
		force = d[1]&1 != 0
	}
	on := force || seconds != 0
	if err := i.s.chassis.SetIdentify(ctx, on); err != nil {
		return nil, fmt.Errorf("setting the identify light: %w", err)
	}
	i.stopTimer()
	if on && !force {
		i.light.Lock()
		defer i.light.Unlock()
		i.timed = true
		off := context.WithoutCancel(ctx)
		i.dark = time.AfterFunc(time.Duration(seconds)*time.Second, func() {
			octx, cancel := context.WithTimeout(off, ipmiOperation)
			defer cancel()
			if err := i.s.chassis.SetIdentify(octx, false); err != nil {
				i.s.log.WarnContext(octx, "virtual BMC: the identify light stays on", "err", err)
			}
		})
	}
	return nil, nil
}

func (i *ipmi) stopTimer() {
	i.light.Lock()
	defer i.light.Unlock()
	i.timed = false
	if i.dark != nil {
		i.dark.Stop()
		i.dark = nil
	}
}

func (i *ipmi) restartCause(context.Context, *ipmiSession, []byte) ([]byte, error) {
	return []byte{i.flags.cause >> 4, lanChannel}, nil
}

// lanParameter is Get LAN Configuration Parameters (IPMI 2.0 §23.2): what is
// known of the address that is listened on.
func (i *ipmi) lanParameter(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if !isLAN(d[0]) {
		return nil, ccField
	}
	const revision = 0x11
	if d[0]&0x80 != 0 {
		return []byte{revision}, nil
	}
	var ip [4]byte
	if a, ok := i.conn.LocalAddr().(*net.UDPAddr); ok {
		copy(ip[:], a.IP.To4())
	}
	v, ok := map[byte][]byte{
		0:  {0},                            // nothing is being set
		1:  {0},                            // authentication types of IPMI 1.5: none
		2:  {0, 0, 0, 0, 0},                // enabled: none
		3:  ip[:],                          // address
		4:  {1},                            // static
		5:  {0, 0, 0, 0, 0, 0},             // MAC: not known
		6:  {0, 0, 0, 0},                   // mask
		12: {0, 0, 0, 0},                   // gateway
		13: {0, 0, 0, 0, 0, 0},             // its MAC
		20: {0, 0},                         // no VLAN
		21: {0},                            // its priority
		22: {byte(len(cipherSuites))},      // cipher suites
		23: {0, 3, 17},                     // their ids
		24: {0, 0x44, 0, 0, 0, 0, 0, 0, 0}, // administrator with each
	}[d[1]]
	if !ok {
		return nil, ccParameter
	}
	return append([]byte{revision}, v...), nil
}

package vbmc

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
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
	code(0x06, 0x07): {0, privUser, (*ipmi).acpiState},
	code(0x06, 0x08): {0, privUser, (*ipmi).systemGUID}, // device GUID
	code(0x06, 0x22): {0, privOperator, (*ipmi).resetWatchdog},
	code(0x06, 0x24): {6, privOperator, (*ipmi).setWatchdog},
	code(0x06, 0x25): {0, privUser, (*ipmi).watchdogTimer},
	code(0x06, 0x2e): {1, privAdmin, (*ipmi).setEnables},
	code(0x06, 0x2f): {0, privUser, (*ipmi).globalEnables},
	code(0x06, 0x30): {1, privAdmin, (*ipmi).nothing}, // clear message flags
	code(0x06, 0x31): {0, privUser, fixed(0)},         // message flags: none
	code(0x06, 0x33): {0, privUser, empty},            // get message
	code(0x06, 0x35): {0, privUser, empty},            // read event message buffer
	code(0x06, 0x37): {0, privNone, (*ipmi).systemGUID},
	code(0x06, 0x38): {2, privNone, (*ipmi).authCapabilities},
	code(0x06, 0x3b): {1, privUser, (*ipmi).setPrivilege},
	code(0x06, 0x3c): {4, privCallback, (*ipmi).closeSession},
	code(0x06, 0x3d): {1, privUser, (*ipmi).sessionInfo},
	code(0x06, 0x40): {3, privAdmin, (*ipmi).setAccess},
	code(0x06, 0x41): {2, privUser, (*ipmi).access},
	code(0x06, 0x42): {1, privUser, (*ipmi).channelInfo},
	code(0x06, 0x43): {3, privAdmin, (*ipmi).setUserAccess},
	code(0x06, 0x44): {2, privOperator, (*ipmi).userAccess},
	code(0x06, 0x45): {17, privAdmin, (*ipmi).setUserName},
	code(0x06, 0x46): {1, privOperator, (*ipmi).userName},
	code(0x06, 0x47): {2, privAdmin, (*ipmi).setUserPassword},
	code(0x06, 0x48): {6, privOperator, (*ipmi).activatePayload},
	code(0x06, 0x49): {6, privOperator, (*ipmi).deactivatePayload},
	code(0x06, 0x4a): {1, privUser, (*ipmi).payloadStatus},
	code(0x06, 0x4c): {6, privAdmin, (*ipmi).setPayloadAccess},
	code(0x06, 0x4d): {2, privOperator, (*ipmi).payloadAccess},
	code(0x06, 0x4e): {1, privUser, (*ipmi).payloadSupport},
	code(0x06, 0x4f): {2, privUser, (*ipmi).payloadVersion},
	code(0x06, 0x54): {3, privNone, (*ipmi).channelCiphers},
	code(0x06, 0x56): {3, privAdmin, (*ipmi).securityKeys},
	code(0x06, 0x57): {1, privUser, (*ipmi).interfaceCapabilities},
	code(0x06, 0x58): {2, privAdmin, (*ipmi).setSystemInfo},
	code(0x06, 0x59): {4, privUser, (*ipmi).systemInfo},
	// Chassis.
	code(0x00, 0x00): {0, privUser, (*ipmi).chassisCapabilities},
	code(0x00, 0x01): {0, privUser, (*ipmi).chassisStatus},
	code(0x00, 0x02): {1, privOperator, (*ipmi).chassisControl},
	code(0x00, 0x04): {0, privOperator, (*ipmi).identify},
	code(0x00, 0x05): {5, privAdmin, (*ipmi).setChassisCapabilities},
	code(0x00, 0x06): {1, privOperator, (*ipmi).setRestorePolicy},
	code(0x00, 0x07): {0, privUser, (*ipmi).restartCause},
	code(0x00, 0x08): {1, privOperator, (*ipmi).setBootOption},
	code(0x00, 0x09): {3, privOperator, (*ipmi).bootOption},
	code(0x00, 0x0a): {1, privAdmin, (*ipmi).setButtons},
	code(0x00, 0x0b): {1, privAdmin, (*ipmi).setInterval},
	code(0x00, 0x0f): {0, privUser, (*ipmi).powerOnHours},
	// Storage.
	code(0x0a, 0x10): {1, privUser, (*ipmi).fruInfo},
	code(0x0a, 0x11): {4, privUser, (*ipmi).fruRead},
	code(0x0a, 0x40): {0, privUser, (*ipmi).selInfo},
	code(0x0a, 0x41): {0, privUser, (*ipmi).selAllocation},
	code(0x0a, 0x42): {0, privUser, (*ipmi).selReserve},
	code(0x0a, 0x43): {6, privUser, (*ipmi).selEntry},
	code(0x0a, 0x44): {16, privOperator, (*ipmi).selAdd},
	code(0x0a, 0x46): {4, privOperator, (*ipmi).selDelete},
	code(0x0a, 0x47): {6, privOperator, (*ipmi).selClear},
	code(0x0a, 0x48): {0, privUser, (*ipmi).selTime},
	code(0x0a, 0x49): {4, privOperator, (*ipmi).setSELTime},
	code(0x0a, 0x20): {0, privUser, (*ipmi).repositoryInfo},
	code(0x0a, 0x22): {0, privUser, (*ipmi).repositoryReserve},
	code(0x0a, 0x23): {6, privUser, (*ipmi).sensorRecord},
	// Sensors and events.
	code(0x04, 0x02): {7, privOperator, (*ipmi).platformEvent},
	code(0x04, 0x10): {0, privUser, fixed(0x51, 0, 0)}, // PEF: no action, no filter
	code(0x04, 0x12): {1, privAdmin, (*ipmi).setPEF},
	code(0x04, 0x13): {3, privOperator, (*ipmi).pefParameter},
	code(0x04, 0x15): {0, privAdmin, (*ipmi).lastProcessed},
	code(0x04, 0x26): {8, privOperator, (*ipmi).setThresholds},
	code(0x04, 0x27): {1, privUser, (*ipmi).sensorThresholds},
	code(0x04, 0x2d): {1, privUser, (*ipmi).sensorReading},
	// DCMI, in the group extension.
	code(0x2c, 0x01): {2, privUser, (*ipmi).dcmiCapabilities},
	code(0x2c, 0x02): {4, privUser, (*ipmi).dcmiPower},
	code(0x2c, 0x03): {3, privUser, (*ipmi).dcmiLimit},
	code(0x2c, 0x04): {15, privOperator, (*ipmi).setDCMILimit},
	code(0x2c, 0x05): {4, privOperator, (*ipmi).useDCMILimit},
	code(0x2c, 0x06): {3, privUser, (*ipmi).dcmiText},
	code(0x2c, 0x07): {5, privUser, (*ipmi).dcmiSensors},
	code(0x2c, 0x08): {3, privOperator, (*ipmi).setDCMIText},
	code(0x2c, 0x09): {3, privUser, (*ipmi).dcmiID},
	code(0x2c, 0x0a): {3, privAdmin, (*ipmi).setDCMIID},
	code(0x2c, 0x10): {5, privUser, (*ipmi).dcmiTemperatures},
	// Transport.
	code(0x0c, 0x01): {3, privAdmin, (*ipmi).setLANParameter},
	code(0x0c, 0x02): {4, privOperator, (*ipmi).lanParameter},
	code(0x0c, 0x21): {3, privAdmin, (*ipmi).setSOLParameter},
	code(0x0c, 0x22): {4, privUser, (*ipmi).solParameter},
}

// Bits of the global enables (IPMI 2.0 §22.1).
const (
	enableReceiveIRQ = 0x01
	enableEventIRQ   = 0x02
	enableEventLog   = 0x08
)

// globalEnables is Get BMC Global Enables (IPMI 2.0 §22.2).
func (i *ipmi) globalEnables(context.Context, *ipmiSession, []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return []byte{i.s.ipmi.enables}, nil
}

// setEnables is Set BMC Global Enables (IPMI 2.0 §22.1).
func (i *ipmi) setEnables(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.s.ipmi.enables = d[0]
	return nil, nil
}

// empty: there is no message, nor will there be one.
func empty(*ipmi, context.Context, *ipmiSession, []byte) ([]byte, error) {
	return nil, completion(0x80)
}

// acpiState is Get ACPI Power State (IPMI 2.0 §20.7): S0 and G0, or S5 and G2.
func (i *ipmi) acpiState(ctx context.Context, _ *ipmiSession, _ []byte) ([]byte, error) {
	on, err := i.powered(ctx)
	if err != nil {
		return nil, err
	}
	if on {
		return []byte{0x00, 0x00}, nil
	}
	return []byte{0x05, 0x00}, nil
}

// interfaceCapabilities is Get System Interface Capabilities (IPMI 2.0 §22.9):
// there is KCS.
func (i *ipmi) interfaceCapabilities(_ context.Context, _ *ipmiSession, d []byte) ([]byte, error) {
	if d[0]&0xf != 1 {
		return nil, ccField
	}
	return []byte{0, 0x00, 0xff}, nil
}

// fixed answers always the same.
func fixed(b ...byte) func(*ipmi, context.Context, *ipmiSession, []byte) ([]byte, error) {
	return func(*ipmi, context.Context, *ipmiSession, []byte) ([]byte, error) { return b, nil }
}

// coldReset (IPMI 2.0 §20.2): Redfish's sessions end, what was not to outlive it
// is as it was; settings stay. This session ends when the console closes it, or
// by its timeout.
func (i *ipmi) coldReset(_ context.Context, x *ipmiSession, _ []byte) ([]byte, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	clear(i.s.sessions)
	st := &i.s.ipmi
	st.channel[0] = st.channel[1]
	i.s.ipmiOff = st.channel[0].mode == accessDisabled
	st.lan.progress, st.lan.staged, st.sol.progress, st.boot.progress, st.info.progress = 0, nil, 0, 0, 0
	i.s.stopWatchdog()
	st.watchdog.set = false
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
	if x.who == nil { // the machine itself has no session
		return []byte{0, byte(min(i.s.max, 63)), byte(min(active, 63))}, nil
	}
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	id, _ := strconv.Atoi(x.who.id)
	return []byte{x.handle, byte(min(i.s.max, 63)), byte(min(active, 63)), byte(id), x.priv, 1<<4 | lanChannel}, nil
}

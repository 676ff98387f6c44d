package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/agent/wire"
)

// The IPMI driver's interface, <linux/ipmi.h>: a message goes out by one ioctl,
// the file becomes readable, another ioctl fetches the answer.
const (
	ipmiSend        = 0x8028690d // IPMICTL_SEND_COMMAND, _IOR('i', 13, struct ipmi_req)
	ipmiReceive     = 0xc030690b // IPMICTL_RECEIVE_MSG_TRUNC, _IOWR('i', 11, struct ipmi_recv)
	ipmiSystemAddr  = 0x0c       // IPMI_SYSTEM_INTERFACE_ADDR_TYPE
	ipmiBMCChannel  = 0x0f
	netFnApp        = 0x06
	cmdGetDeviceID  = 0x01 // IPMI 2.0 §20.1
	netFnTransport  = 0x0c
	cmdGetLANParam  = 0x02 // IPMI 2.0 §23.2
	lanParamAddress = 3    // §23.1, table 23-4
	lanParamMAC     = 5
	ipmiPatience    = 2 * time.Second
)

type ipmiAddr struct {
	kind    int32
	channel int16
	lun     byte
	_       byte
}

type ipmiMsg struct {
	netfn, cmd byte
	len        uint16
	data       unsafe.Pointer
}

type ipmiReq struct {
	addr    unsafe.Pointer
	addrLen uint32
	msgid   int64
	msg     ipmiMsg
}

type ipmiRecv struct {
	kind    int32
	addr    unsafe.Pointer
	addrLen uint32
	msgid   int64
	msg     ipmiMsg
}

// bmc asks the BMC what it is, and for the address of its LAN port; nil when
// there is no BMC.
func (r Roots) bmc() *wire.BMC {
	for _, name := range []string{"ipmi0", "ipmi/0", "ipmidev/0"} {
		f, err := os.OpenFile(filepath.Join(r.Dev, name), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		defer f.Close()
		d := &ipmiDevice{File: f}
		b := lanOf(func(req []byte) ([]byte, error) { return d.call(netFnTransport, cmdGetLANParam, req) })
		if id, err := d.call(netFnApp, cmdGetDeviceID, nil); err == nil {
			deviceOf(b, id)
		}
		return b
	}
	return nil
}

// deviceOf reads an answer to Get Device ID: completion code, device id and
// revision, firmware's version, IPMI's, support, maker.
func deviceOf(b *wire.BMC, id []byte) {
	if len(id) < 10 || id[0] != 0 {
		return
	}
	b.Firmware = fmt.Sprintf("%d.%x%x", id[3]&0x7f, id[4]>>4, id[4]&0xf) // the second part is BCD
	b.IPMI = fmt.Sprintf("%d.%d", id[5]&0xf, id[5]>>4)
	b.IANA = uint32(id[7]) | uint32(id[8])<<8 | uint32(id[9]&0xf)<<16
}

// lanOf tries the channels that LAN ports have in practice: 1, then others.
func lanOf(call func(req []byte) ([]byte, error)) *wire.BMC {
	found := &wire.BMC{} // a BMC there is, even if it tells nothing
	for _, ch := range []byte{1, 2, 3, 8} {
		param := func(p byte, n int) []byte {
			// channel, parameter, set, block → completion, revision, data
			res, err := call([]byte{ch, p, 0, 0})
			if err != nil || len(res) < 2+n || res[0] != 0 {
				return nil
			}
			return res[2 : 2+n]
		}
		mac := param(lanParamMAC, 6)
		if mac == nil || allZero(mac) {
			continue
		}
		found.MAC = net.HardwareAddr(mac).String()
		if ip := param(lanParamAddress, 4); ip != nil && !allZero(ip) {
			found.Address = netip.AddrFrom4([4]byte(ip)).String()
			return found
		}
	}
	return found
}

// ipmiDevice is the driver's file. An answer is told from one that comes too
// late, to the request before, by its number.
type ipmiDevice struct {
	*os.File
	last int64
}

// call sends one request to the BMC and waits up to two seconds.
func (d *ipmiDevice) call(netfn, cmd byte, data []byte) ([]byte, error) {
	fd := int(d.Fd())
	addr := ipmiAddr{kind: ipmiSystemAddr, channel: ipmiBMCChannel}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&addr)
	d.last++
	req := ipmiReq{addr: unsafe.Pointer(&addr), addrLen: uint32(unsafe.Sizeof(addr)), msgid: d.last,
		msg: ipmiMsg{netfn: netfn, cmd: cmd, len: uint16(len(data))}}
	if len(data) > 0 {
		pin.Pin(&data[0])
		req.msg.data = unsafe.Pointer(&data[0])
	}
	if err := ioctl(fd, ipmiSend, unsafe.Pointer(&req)); err != nil {
		return nil, fmt.Errorf("sending to the BMC: %w", err)
	}
	buf := make([]byte, 272) // IPMI_MAX_MSG_LENGTH
	from := make([]byte, 32)
	pin.Pin(&buf[0])
	pin.Pin(&from[0])
	until := time.Now().Add(ipmiPatience)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(0, time.Until(until)).Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, fmt.Errorf("the BMC did not answer within %s", ipmiPatience)
		}
		recv := ipmiRecv{addr: unsafe.Pointer(&from[0]), addrLen: uint32(len(from)), msg: ipmiMsg{len: uint16(len(buf)), data: unsafe.Pointer(&buf[0])}}
		if err := ioctl(fd, ipmiReceive, unsafe.Pointer(&recv)); err != nil && !errors.Is(err, unix.EMSGSIZE) {
			return nil, fmt.Errorf("hearing from the BMC: %w", err)
		}
		if recv.msgid == d.last {
			return buf[:min(int(recv.msg.len), len(buf))], nil
		}
	}
}

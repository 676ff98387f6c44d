package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
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
	netFnTransport  = 0x0c
	cmdGetLANParam  = 0x02 // IPMI 2.0 §23.2
	lanParamAddress = 3    // §23.1, table 23-4
	lanParamMAC     = 5
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

// bmc asks the BMC for the address of its LAN port; nil when there is no BMC
// or it does not say.
func (r Roots) bmc() *wire.BMC {
	for _, name := range []string{"ipmi0", "ipmi/0", "ipmidev/0"} {
		f, err := os.OpenFile(filepath.Join(r.Dev, name), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		defer f.Close()
		return lanOf(func(req []byte) ([]byte, error) { return ipmiCall(f, netFnTransport, cmdGetLANParam, req) })
	}
	return nil
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

// ipmiCall sends one request to the BMC and waits up to two seconds.
func ipmiCall(f *os.File, netfn, cmd byte, data []byte) ([]byte, error) {
	fd := int(f.Fd())
	addr := ipmiAddr{kind: ipmiSystemAddr, channel: ipmiBMCChannel}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&addr)
	pin.Pin(&data[0])
	req := ipmiReq{addr: unsafe.Pointer(&addr), addrLen: uint32(unsafe.Sizeof(addr)), msgid: 1,
		msg: ipmiMsg{netfn: netfn, cmd: cmd, len: uint16(len(data)), data: unsafe.Pointer(&data[0])}}
	if err := ioctl(fd, ipmiSend, unsafe.Pointer(&req)); err != nil {
		return nil, fmt.Errorf("sending to the BMC: %w", err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 2000)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, errors.New("the BMC did not answer within 2 s")
		}
		break
	}
	buf := make([]byte, 272) // IPMI_MAX_MSG_LENGTH
	from := make([]byte, 32)
	pin.Pin(&buf[0])
	pin.Pin(&from[0])
	recv := ipmiRecv{addr: unsafe.Pointer(&from[0]), addrLen: uint32(len(from)), msg: ipmiMsg{len: uint16(len(buf)), data: unsafe.Pointer(&buf[0])}}
	if err := ioctl(fd, ipmiReceive, unsafe.Pointer(&recv)); err != nil && !errors.Is(err, unix.EMSGSIZE) {
		return nil, fmt.Errorf("hearing from the BMC: %w", err)
	}
	return buf[:min(int(recv.msg.len), len(buf))], nil
}

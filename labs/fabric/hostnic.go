package fabric

import (
	"net"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// hostQueue is how many frames wait for a host's stack: two full TCP windows.
const hostQueue = 1 << 13

// hostNIC joins a stack and a port: the port's Link and the stack's
// LinkEndpoint. Frames to the stack go through a queue, so that no stack is
// entered from within another's locks; frames from the stack go straight into
// the switch.
type hostNIC struct {
	h         *Host
	port      *Port
	mac       uint64
	advertise atomic.Bool
	link6     [kinds6]atomic.Pointer[Link6Conn]
	stack     atomic.Pointer[stack.NetworkDispatcher]
	in        chan *stack.PacketBuffer
	done      chan struct{} // closed when the cable is
	unplug    sync.Once
	onClose   func()
}

func newHostNIC(h *Host) *hostNIC {
	return &hostNIC{
		h: h, mac: macKey(h.mac),
		in: make(chan *stack.PacketBuffer, hostQueue), done: make(chan struct{}),
	}
}

// hostCable is the port's view of a hostNIC.
type hostCable struct{ *hostNIC }

// Close ends the delivery of frames.
func (c hostCable) Close() error {
	c.unplug.Do(func() { close(c.done) })
	return nil
}

// WriteFrame is the switch giving the host a frame.
func (n *hostNIC) WriteFrame(b []byte) error {
	if len(b) < headerLen {
		return nil
	}
	dst := macKey(b)
	if dst != n.mac && !group(dst) {
		return nil // flooded, for someone else
	}
	if taken, err := n.toLink6(b); taken {
		return err
	}
	if n.advertise.Load() {
		if to, ok := parseSolicitation(b); ok {
			n.port.receive(advertisement(n.h, to))
			return nil
		}
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	select {
	case n.in <- pkt:
		return nil
	default:
		pkt.DecRef()
		return errQueueFull
	}
}

// ReadFrame is not used: WritePackets gives frames to the port.
func (n *hostNIC) ReadFrame([]byte) (int, error) { return 0, net.ErrClosed }

func (n *hostNIC) deliver() {
	for {
		select {
		case pkt := <-n.in:
			n.deliverOne(pkt)
		case <-n.done:
			for {
				select {
				case pkt := <-n.in:
					pkt.DecRef()
				default:
					return
				}
			}
		}
	}
}

func (n *hostNIC) deliverOne(pkt *stack.PacketBuffer) {
	defer pkt.DecRef()
	d := n.stack.Load()
	if d == nil || !n.ParseHeader(pkt) {
		return
	}
	eth := header.Ethernet(pkt.LinkHeader().Slice())
	switch dst := eth.DestinationAddress(); {
	case dst == header.EthernetBroadcastAddress:
		pkt.PktType = tcpip.PacketBroadcast
	case header.IsMulticastEthernetAddress(dst):
		pkt.PktType = tcpip.PacketMulticast
	default:
		pkt.PktType = tcpip.PacketHost
	}
	(*d).DeliverNetworkPacket(eth.Type(), pkt)
}

// WritePackets is the stack sending.
func (n *hostNIC) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	buf := n.h.s.bufs.Get().(*[]byte)
	defer n.h.s.bufs.Put(buf)
	list := pkts.AsSlice()
	for _, pkt := range list {
		b := (*buf)[:0]
		views, off := pkt.AsViewList()
		for v := views.Front(); v != nil; v = v.Next() {
			s := v.AsSlice()
			if off >= len(s) {
				off -= len(s)
				continue
			}
			b = append(b, s[off:]...)
			off = 0
		}
		*buf = pad(b, 0)
		n.port.receive(*buf)
	}
	return len(list), nil
}

// Attach implements stack.LinkEndpoint.
func (n *hostNIC) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		n.stack.Store(nil)
		return
	}
	if n.stack.Swap(&d) == nil {
		n.port.wg.Go(n.deliver)
	}
}

// Close implements stack.LinkEndpoint: the cable's Close does the work.
func (n *hostNIC) Close() {}

func (n *hostNIC) IsAttached() bool                        { return n.stack.Load() != nil }
func (n *hostNIC) MTU() uint32                             { return uint32(n.h.mtu) }
func (n *hostNIC) SetMTU(uint32)                           {}
func (n *hostNIC) MaxHeaderLength() uint16                 { return headerLen }
func (n *hostNIC) LinkAddress() tcpip.LinkAddress          { return tcpip.LinkAddress(n.h.mac) }
func (n *hostNIC) SetLinkAddress(tcpip.LinkAddress)        {}
func (n *hostNIC) Wait()                                   {}
func (n *hostNIC) SetOnCloseAction(f func())               { n.onClose = f }
func (n *hostNIC) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (n *hostNIC) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired
}

// SupportedGSO and GSOMaxSize let TCP build up to 64 KiB of segments in one
// pass down the stack; each still is a frame of its own.
func (n *hostNIC) SupportedGSO() stack.SupportedGSO { return stack.GVisorGSOSupported }
func (n *hostNIC) GSOMaxSize() uint32               { return 1 << 16 }

// AddHeader implements stack.LinkEndpoint.
func (n *hostNIC) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(headerLen)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// ParseHeader implements stack.LinkEndpoint.
func (n *hostNIC) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(headerLen)
	return ok
}

// Package fabric is a user-space Ethernet: a [Switch] that learns MAC
// addresses and knows VLANs, ports that carry one Ethernet frame per UDP
// datagram on loopback (libvirt's <interface type='udp'>), and a [Host]: an IP
// stack (gVisor's netstack) on a VLAN, whose sockets are net.Listener,
// net.PacketConn and net.Conn. No bridge, no root, nothing of the host's
// network. It knows nothing of libvirt.
package fabric

// To be implemented in this package (signatures are relied on by others):
//
//	type Config struct { Logger *slog.Logger }
//	func NewSwitch(Config) *Switch
//	func (s *Switch) Run(ctx) error      // until ctx ends; closes ports
//	func (s *Switch) Attach(PortConfig{Name string; VLAN int /* access VLAN, 0 = untagged */; Trunk []int}, Link) (*Port, error)
//	type Link interface { ReadFrame(b []byte) (int, error); WriteFrame(b []byte) error; Close() error }
//	func ListenUDP(local, peer netip.AddrPort) (Link, error)   // 127.0.0.1 only; refuses other addresses; large socket buffers
//	func Pipe() (a, b Link)                                    // for tests
//	func (p *Port) Stats() Stats; (p *Port) SetFault(Fault{Down bool; Loss float64; Delay time.Duration}); (p *Port) Close() error
//	func (s *Switch) Capture(w io.Writer, filter) (stop func() error, error) // pcapng, every frame with its port's name
//	func (s *Switch) NewHost(HostConfig{Name string; VLAN int; MAC; Addrs []netip.Prefix; MTU int; RouterAdvertisements bool}) (*Host, error)
//	func (h *Host) Listen(ctx, netip.AddrPort) (net.Listener, error)              // TCP
//	func (h *Host) ListenPacket(ctx, netip.AddrPort) (net.PacketConn, error)      // UDP; port 0 = any; unspecified address = any, broadcasts too. The conn has SendFrame(to net.HardwareAddr, src, dst netip.AddrPort, payload []byte) error (pxe.FrameSender)
//	func (h *Host) DialContext(ctx, network, addr string) (net.Conn, error)       // TCP and UDP
//	func (h *Host) AddAddr(netip.Prefix) error
//	func (h *Host) Close() error

package pxe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Answer is what a server does about one request of a capture.
type Answer struct {
	Number  int              `json:"number"` // of the request's packet in the capture, from 1
	Time    time.Time        `json:"time"`
	MAC     net.HardwareAddr `json:"-"`
	Machine string           `json:"mac,omitempty"`
	Request string           `json:"request"` // what it asks, in one line
	Said    []string         `json:"said,omitempty"`
	Reply   string           `json:"reply"` // in one line; "silence"
	Options []string         `json:"options,omitempty"`
}

const silence = "silence"

// Replay runs the requests of a capture against a server in memory, made of c,
// whose clock is the capture's; c.Recorder is not asked. network is where DHCP
// broadcasts come in. A REQUEST that takes another server's offer is replayed
// as if it took ours, unless the network is a proxy's.
func Replay(ctx context.Context, c Config, network string, packets []Packet) ([]Answer, error) {
	p := &replay{}
	c.Recorder, c.Capture, c.Now = p, nil, func() time.Time { return p.now }
	s, err := New(c)
	if err != nil {
		return nil, err
	}
	on := s.networks[network]
	if on == nil {
		return nil, fmt.Errorf("pxe: no network named %q is configured", network)
	}
	p.s, p.on, p.offered, p.offered6 = s, on, map[string]offered{}, map[string]netip.Addr{}
	var out []Answer
	for i, packet := range packets {
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		if packet.Sent {
			continue
		}
		if packet.Time.After(p.now) {
			p.now = packet.Time
		}
		p.said = nil
		a := Answer{Number: i + 1, Time: packet.Time, MAC: packet.MAC}
		if !p.answer(ctx, packet, &a) {
			continue
		}
		if len(a.MAC) == 6 {
			a.Machine = a.MAC.String()
		}
		a.Said = p.said
		out = append(out, a)
	}
	return out, nil
}

type offered struct{ addr, server netip.Addr }

// replay is a Recorder that keeps the sentences of one request.
type replay struct {
	s       *Server
	on      *Network
	now     time.Time
	said    []string
	offered map[string]offered // ours, by MAC

	offered6    map[string]netip.Addr // ours, by DUID
	lastClient6 string                // DUID of the reply that is printed
}

func (p *replay) Record(e Exchange) { p.said = append(p.said, e.Text) }

// answer fills a; false means that the packet is no request of the boot
// protocols.
func (p *replay) answer(ctx context.Context, packet Packet, a *Answer) bool {
	switch port := packet.To.Port(); {
	case isDHCP(packet) && port == binlPort:
		p.dhcp(ctx, packet, a, true)
	case isDHCP(packet) && port == dhcpServerPort:
		p.dhcp(ctx, packet, a, false)
	case isDHCP6(packet) && port == dhcp6ServerPort:
		p.dhcp6(ctx, packet, a)
	case !packet.TCP && port == 69:
		p.tftp(ctx, packet, a)
	case packet.TCP:
		return p.http(ctx, packet, a)
	default:
		return false
	}
	return true
}

func (p *replay) dhcp(ctx context.Context, packet Packet, a *Answer, binl bool) {
	b := packet.Data
	r, err := parseRequest(b, dhcpMaxPacket)
	if err != nil {
		a.Request, a.Reply = "DHCP that is dropped: "+err.Error(), silence
		return
	}
	a.MAC = r.client.MAC
	a.Request = fmt.Sprintf("DHCP %v from %s", r.kind, r.client.describe())
	if r.giaddr.IsValid() {
		a.Request += fmt.Sprintf(" through relay %v", r.giaddr)
	}
	var rep *reply
	if binl {
		a.Request += " on port 4011"
		rep = p.s.answerBINL(ctx, p.on, b, packet.From)
	} else {
		b, note := p.asOurs(r, b)
		a.Request += note
		rep = p.s.answer(ctx, p.on, b, nil)
	}
	if rep == nil {
		a.Reply = silence
		return
	}
	m, err := dhcpv4.FromBytes(rep.bytes)
	if err != nil {
		a.Reply = "a reply that does not parse: " + err.Error()
		return
	}
	how := ""
	if rep.unicastFrame {
		how = " as a frame to " + rep.mac.String()
	}
	a.Reply = fmt.Sprintf("DHCP %v to %v%s", m.MessageType(), rep.to, how)
	if y := addrOf(m.YourIPAddr); y.IsValid() {
		a.Reply += fmt.Sprintf(", address %v", y)
		if m.MessageType() == dhcpv4.MessageTypeOffer {
			p.offered[r.client.MAC.String()] = offered{y, addrOf(m.ServerIdentifier())}
		}
	}
	if m.BootFileName != "" {
		a.Reply += ", file " + m.BootFileName
	}
	a.Options = optionLines(rep.bytes)
}

// asOurs turns a REQUEST that takes another server's offer, in a capture of
// another day, into one that takes ours.
func (p *replay) asOurs(r *request, b []byte) ([]byte, string) {
	o, ok := p.offered[r.client.MAC.String()]
	if r.kind != dhcpv4.MessageTypeRequest || !r.server.IsValid() || p.s.serves(r.server) || !ok {
		return b, ""
	}
	note := fmt.Sprintf(", which took %v of server %v and is replayed as if it took ours", r.want, r.server)
	m, err := dhcpv4.FromBytes(append(b[:len(b):len(b)], optEnd))
	if err != nil {
		return b, ""
	}
	s4, a4 := o.server.As4(), o.addr.As4()
	m.Options[optServerID], m.Options[optRequestedAddr] = s4[:], a4[:]
	return m.ToBytes(), note
}

// at makes the machine known by the address that it has in the capture.
func (p *replay) at(packet Packet, a *Answer) {
	from := packet.From.Addr()
	if c, ok := p.s.clients.at(from); ok {
		a.MAC = c.MAC
		return
	}
	if c, ok := p.s.clients.of(packet.MAC); ok {
		c.Addr = from
		p.s.noteAddress(c)
		a.MAC = c.MAC
	}
}

func (p *replay) tftp(ctx context.Context, packet Packet, a *Answer) {
	p.at(packet, a)
	q, err := parseTFTP(packet.Data)
	var refusal *tftpRefusal
	if errors.As(err, &refusal) {
		a.Request, a.Reply = "TFTP request", fmt.Sprintf("TFTP error %d: %s", refusal.code, refusal.text)
		return
	}
	if err != nil {
		a.Request, a.Reply = "TFTP that is dropped: "+err.Error(), silence
		return
	}
	a.Request = fmt.Sprintf("TFTP read of %s%s", printable([]byte(q.name)), q.asks())
	n := p.s.networkFor(packet.From.Addr())
	f, name, err := p.s.openTFTP(ctx, n, packet.From.Addr(), q.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		a.Reply = "TFTP error 1: no such file"
		if text, ok := quirkMissing(name); ok {
			p.said = append(p.said, text)
		}
		return
	case err != nil:
		a.Reply = "TFTP error 0: " + err.Error()
		return
	}
	defer f.Close()
	oack := q.negotiate(n.tftpMTU(packet.From.Addr()), f.Size)
	a.Reply = fmt.Sprintf("%s, %d bytes", name, f.Size)
	if oack != nil {
		a.Reply += ", OACK" + strings.ReplaceAll(q.acknowledged(oack), "\x00", " ")
	}
	p.s.noteFetch(packet.From.Addr(), stageLoader, name)
}

// asks lists a request's options.
func (q tftpRequest) asks() string {
	s := ""
	if q.blksize > 0 {
		s += fmt.Sprintf(" blksize=%d", q.blksize)
	}
	if q.tsize {
		s += " tsize"
	}
	if q.timeout > 0 {
		s += fmt.Sprintf(" timeout=%d", q.timeout)
	}
	if q.window > 0 {
		s += fmt.Sprintf(" windowsize=%d", q.window)
	}
	return s
}

// acknowledged lists an OACK's options.
func (q tftpRequest) acknowledged(oack []byte) string {
	words := strings.Split(strings.TrimRight(string(oack[2:]), "\x00"), "\x00")
	s := ""
	for i := 0; i+1 < len(words); i += 2 {
		s += " " + words[i] + "=" + words[i+1]
	}
	return s
}

// http replays a request of boot HTTP; others are none.
func (p *replay) http(ctx context.Context, packet Packet, a *Answer) bool {
	if !bytes.HasPrefix(packet.Data, []byte("GET ")) && !bytes.HasPrefix(packet.Data, []byte("HEAD ")) {
		return false
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(packet.Data)))
	if err != nil {
		return false // the rest is in another segment
	}
	p.at(packet, a)
	r = r.WithContext(ctx)
	r.RemoteAddr = packet.From.String()
	a.Request = fmt.Sprintf("HTTP %s %s", r.Method, r.RequestURI)
	w := &replayWriter{header: http.Header{}}
	p.s.serveHTTP(w, r)
	a.Reply = fmt.Sprintf("HTTP %d, %s bytes", w.status, w.header.Get("Content-Length"))
	if strings.HasPrefix(w.header.Get("Content-Type"), "text/plain") {
		a.Options = strings.Split(strings.TrimRight(w.text.String(), "\n"), "\n")
	}
	return true
}

// replayWriter keeps a response's head, and its text if that is short.
type replayWriter struct {
	header http.Header
	status int
	text   bytes.Buffer
}

func (w *replayWriter) Header() http.Header { return w.header }

func (w *replayWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *replayWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.text.Len()+len(b) <= 64<<10 {
		w.text.Write(b)
	}
	return len(b), nil
}

// optionLines lists a reply's options in their order.
func optionLines(b []byte) (lines []string) {
	for b = b[dhcpHeader:]; len(b) >= 2 && b[0] != optEnd; {
		if b[0] == 0 {
			b = b[1:]
			continue
		}
		n := 2 + int(b[1])
		if n > len(b) {
			break
		}
		code := dhcpv4.GenericOptionCode(b[0])
		lines = append(lines, fmt.Sprintf("%d %s", b[0], optionValue(code.Code(), b[2:n])))
		b = b[n:]
	}
	return lines
}

// optionValue prints an option: text where it is text, addresses where it
// holds them, else hex.
func optionValue(code uint8, v []byte) string {
	switch code {
	case optSubnetMask, optRouter, optDNS, optNTP, optBroadcast, optServerID, optRequestedAddr:
		var s []string
		for ; len(v) >= 4; v = v[4:] {
			s = append(s, netip.AddrFrom4([4]byte(v[:4])).String())
		}
		return strings.Join(s, " ")
	case optLeaseTime, optRenewal, optRebinding:
		if len(v) == 4 {
			return fmt.Sprintf("%d s", uint32(v[0])<<24|uint32(v[1])<<16|uint32(v[2])<<8|uint32(v[3]))
		}
	case optHostname, optDomain, optMessage, optVendorClass, optTFTPServer, optBootFile:
		return printable(v)
	case optMessageType:
		if len(v) == 1 {
			return dhcpv4.MessageType(v[0]).String()
		}
	}
	return fmt.Sprintf("%x", v)
}

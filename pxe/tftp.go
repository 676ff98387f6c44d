package pxe

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	tftpMaxTransfers = 4096 // at once
	tftpMaxPerHost   = 256  // of one address at once: a flood from one client starves nobody else
	tftpOpenTimeout  = 10 * time.Second
	tftpMaxTime      = time.Hour // of one transfer, however slow
	tftpRestart      = time.Second
)

// tftpLimits counts running transfers. Where there are too many, the oldest
// whose client has never answered makes room: a flood of requests that nobody
// means keeps no client from its file.
type tftpLimits struct {
	mu      sync.Mutex
	active  map[tftpKey]*tftpSlot
	perHost map[netip.Addr]*tftpHost
	silent  list.List // of *tftpSlot: those that have not answered, the oldest first
}

// tftpHost is an address's transfers.
type tftpHost struct {
	count  int
	silent list.List
}

// tftpSlot is a running transfer's place.
type tftpSlot struct {
	key             tftpKey
	end             context.CancelCauseFunc
	heard           atomic.Int64  // when its client sent something, in ns
	inAll, inHost   *list.Element // nil: it has answered
	host            *tftpHost
	ended, replaced bool
}

// tftpKey is a client's transfer: RFC 1350 §4, its TID is its port.
type tftpKey struct {
	from netip.AddrPort
	name string
}

// errTFTPAgain ends a transfer whose client wants it from the start.
var errTFTPAgain = errors.New("the client asked for it again")

// take finds a place for a transfer, which end ends; nil if there is none, or
// if the transfer runs. A client that has answered and then asks for the same
// file again, from the same port, was started again meanwhile if it has said
// nothing else for a second: some firmware always asks from one port.
func (l *tftpLimits) take(k tftpKey, now time.Time, end context.CancelCauseFunc) *tftpSlot {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.active[k]; t != nil {
		if t.inAll != nil || now.Sub(time.Unix(0, t.heard.Load())) < tftpRestart {
			return nil
		}
		l.remove(t)
		t.end(errTFTPAgain)
	}
	if l.active == nil {
		l.active, l.perHost = map[tftpKey]*tftpSlot{}, map[netip.Addr]*tftpHost{}
	}
	h := l.perHost[k.from.Addr()]
	switch {
	case h != nil && h.count >= tftpMaxPerHost:
		if !l.replace(h.silent.Front()) {
			return nil
		}
	case len(l.active) >= tftpMaxTransfers:
		if !l.replace(l.silent.Front()) {
			return nil
		}
	}
	if h = l.perHost[k.from.Addr()]; h == nil {
		h = &tftpHost{}
		l.perHost[k.from.Addr()] = h
	}
	t := &tftpSlot{key: k, end: end, host: h}
	t.inAll, t.inHost = l.silent.PushBack(t), h.silent.PushBack(t)
	h.count++
	l.active[k] = t
	return t
}

// replace ends the transfer of e, if there is one.
func (l *tftpLimits) replace(e *list.Element) bool {
	if e == nil {
		return false
	}
	t := e.Value.(*tftpSlot)
	t.replaced = true
	l.remove(t)
	t.end(errUnanswered)
	return true
}

// answered says that the client of t is there.
func (l *tftpLimits) answered(t *tftpSlot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unlist(t)
}

func (l *tftpLimits) unlist(t *tftpSlot) {
	if t.inAll != nil {
		l.silent.Remove(t.inAll)
		t.host.silent.Remove(t.inHost)
		t.inAll, t.inHost = nil, nil
	}
}

// give gives t's place back, and reports whether it had been replaced.
func (l *tftpLimits) give(t *tftpSlot) (replaced bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(t)
	return t.replaced
}

func (l *tftpLimits) remove(t *tftpSlot) {
	if t.ended {
		return
	}
	t.ended = true
	l.unlist(t)
	delete(l.active, t.key)
	if t.host.count--; t.host.count == 0 {
		delete(l.perHost, t.key.from.Addr())
	}
}

// ServeTFTP answers read requests until ctx ends, which is no error, or conn
// fails; it waits for running transfers to stop. It does not close conn. dial
// opens a socket on a new port for each transfer (TID, RFC 1350 §4); local is
// the address to send from.
func (s *Server) ServeTFTP(ctx context.Context, conn net.PacketConn, dial func(ctx context.Context, local netip.Addr) (net.PacketConn, error)) error {
	var engines *tftpEngines // nil: each transfer waits for itself
	if _, ok := conn.(*net.UDPConn); ok {
		var err error
		if engines, err = s.engines.take(s.now); err != nil {
			return err
		}
		defer s.engines.give()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return readPackets(ctx, conn, tftpMaxRequest+1, "TFTP", func(b []byte, from net.Addr) {
		peer, ok := addrPortOf(from)
		if !ok {
			return
		}
		if s.capture.listens() {
			s.capture.packet(Packet{Time: s.now(), MAC: s.macAt(peer.Addr()), From: peer, To: netip.AddrPortFrom(s.localFor(conn, peer.Addr()), 69), Data: b})
		}
		q, err := parseTFTP(b)
		var refusal *tftpRefusal
		if errors.As(err, &refusal) {
			conn.WriteTo(encodeTFTPError(refusal.code, refusal.text), from)
			s.recordFetch(s.now(), s.networkFor(peer.Addr()), peer.Addr(), Exchange{
				Kind: "tftp.error", Name: printable([]byte(q.name)), Text: "was refused by TFTP: " + refusal.text, Err: refusal})
			return
		}
		if err != nil {
			s.drop("TFTP", err)
			return
		}
		tctx, cancel := context.WithTimeout(ctx, tftpMaxTime)
		tctx, end := context.WithCancelCause(tctx)
		slot := s.tftp.take(tftpKey{peer, q.name}, s.now(), end)
		if slot == nil {
			// A repeated request, or too many: the client asks again.
			cancel()
			s.drop("TFTP", errRepeated)
			return
		}
		local := s.localFor(conn, peer.Addr())
		wg.Go(func() {
			defer cancel()
			e := s.transfer(tctx, engines, peer, q, slot, func() (net.PacketConn, error) { return dial(tctx, local) })
			if replaced := s.tftp.give(slot); replaced {
				s.drop("TFTP", errUnanswered)
				return
			}
			s.recordFetch(e.Time, s.networkFor(peer.Addr()), peer.Addr(), e)
		})
	})
}

// localFor is the address that a client's transfer is sent from.
func (s *Server) localFor(conn net.PacketConn, peer netip.Addr) netip.Addr {
	if ap, ok := addrPortOf(conn.LocalAddr()); ok && !ap.Addr().IsUnspecified() {
		return ap.Addr()
	}
	return s.networkFor(peer).serverFor(peer)
}

func addrPortOf(a net.Addr) (netip.AddrPort, bool) {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()), ap.Addr().IsValid()
}

// transfer sends one file over a socket of its own and says how it went.
func (s *Server) transfer(ctx context.Context, engines *tftpEngines, peer netip.AddrPort, q tftpRequest, slot *tftpSlot, dial func() (net.PacketConn, error)) (e Exchange) {
	start := s.now()
	n := s.networkFor(peer.Addr())
	e = Exchange{Time: start, Kind: "tftp.read", Name: printable([]byte(q.name))}
	defer func() {
		e.Took = s.now().Sub(start)
		if e.Text == "" && e.Err == nil {
			e.Text = fmt.Sprintf("fetched %s by TFTP: %s", e.Name, amount(e.Bytes, e.Took))
		} else if e.Err != nil {
			e.Text = fmt.Sprintf("did not get %s by TFTP: %v", e.Name, e.Err)
		}
	}()
	conn, err := dial()
	if err != nil {
		e.Err = fmt.Errorf("opening a socket for the transfer: %w", err)
		return e
	}
	conn = s.tap(conn, peer.Addr(), n.serverFor(peer.Addr()))
	defer conn.Close()
	to := net.UDPAddrFromAddrPort(peer)

	f, name, err := s.openTFTP(ctx, n, peer.Addr(), q.name)
	if err != nil {
		code := uint16(tftpErrUndefined)
		text := "the server could not open the file"
		switch {
		case errors.Is(err, fs.ErrPermission):
			code, text = tftpErrAccess, "not yours"
		case errors.Is(err, fs.ErrNotExist):
			code, text = tftpErrNotFound, "no such file"
		}
		conn.WriteTo(encodeTFTPError(code, text), to)
		if text, ok := quirkMissing(name); ok {
			e.Text = text
			return e
		}
		if errors.Is(err, fs.ErrNotExist) && quirkOptional(name) {
			e.Text = fmt.Sprintf("asked by TFTP for %s, which it can do without", name)
			return e
		}
		e.Err = err
		return e
	}
	defer f.Close()
	e.Name = name
	if t, ok := conn.(*tapConn); ok {
		t.secret = f.config != "" // kernel arguments may carry a token
	}
	wire := engines.carrier(conn, peer)
	t := &sender{to: wire, file: newTFTPFile(sourceOf(f.ReadSeekCloser)), oack: q.negotiate(n.tftpMTU(peer.Addr()), f.Size), now: s.now,
		answered: func() { s.tftp.answered(slot) }, heard: &slot.heard,
		blksize: max(q.blksize, 0), window: max(q.window, 1)}
	if t.blksize == 0 {
		t.blksize = tftpDefBlksize
	}
	err = wire.run(ctx, t)
	e.Bytes = t.bytes
	switch {
	case err == nil && f.config != "":
		e.Kind, e.Text = "script", "fetched its "+f.config
	case err == nil:
		st := stageLoader
		if !strings.HasPrefix(name, "loaders/") {
			st = stageKernel
		}
		s.noteFetch(peer.Addr(), st, name)
	case errors.Is(err, errTFTPProbe):
		e.Text = fmt.Sprintf("asked by TFTP how long %s is: %d bytes", name, f.Size)
	case errors.Is(context.Cause(ctx), errTFTPAgain):
		e.Err = fmt.Errorf("after %d of %d bytes it fell silent, and asked for it again from the start", e.Bytes, f.Size)
	case ctx.Err() != nil:
		e.Err = fmt.Errorf("the server stopped after %d of %d bytes", e.Bytes, f.Size)
	default:
		e.Err = fmt.Errorf("after %d of %d bytes: %w", e.Bytes, f.Size, err)
	}
	return e
}

// fill is quirkFill of an open file, which it closes when it fails.
func fill(f *File) (*File, error) {
	filled, err := quirkFill(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return filled, nil
}

// openTFTP finds a file by a name of the wire. A name without a folder may be
// a loader's: DHCP names loaders so, and firmware asks for their companions
// (shim's grubx64.efi) at the root.
func (s *Server) openTFTP(ctx context.Context, n *Network, at netip.Addr, wire string) (*File, string, error) {
	name, err := cleanName(wire)
	if err != nil {
		return nil, "", err
	}
	// Only the opening is bounded: a file may read by the context that it was
	// opened with, for as long as the transfer takes.
	ctx, cancel := context.WithCancel(ctx)
	slow := time.AfterFunc(tftpOpenTimeout, cancel)
	defer slow.Stop()
	if _, ok := quirkMissing(name); ok {
		return nil, name, fs.ErrNotExist
	}
	if mac, ok := ukiMAC(name); ok {
		f, err := s.ukiFor(ctx, n, at, mac)
		return f, name, err
	}
	if try, ok := grubConfigName(name); ok {
		text, name := s.grubFor(ctx, n, at, try)
		return &File{ReadSeekCloser: nopCloser{strings.NewReader(text)}, Size: int64(len(text)), config: "GRUB configuration"}, name, nil
	}
	if mac, ok := pxelinuxName(name); ok {
		if mac == nil {
			return nil, name, fs.ErrNotExist
		}
		text, name, err := s.pxelinuxFor(ctx, n, at, mac)
		if err != nil {
			return nil, name, err
		}
		return textFile("U-Boot configuration", text), name, nil
	}
	if c, known := s.clients.at(at); known && name == ubootScript {
		if info, _ := archs(c.Arch); info.asks == pxelinuxFolder {
			return ubootScriptFile(), name, nil
		}
	}
	if text, ok := strings.CutPrefix(name, ramdiskFolder+"/"); ok {
		if mac, err := net.ParseMAC(text); err == nil {
			f, err := s.ramdiskFor(ctx, n, at, mac)
			return f, name, err
		}
	}
	if rest, ok := piName(name); ok {
		if c, known := s.clients.at(at); known && c.Arch == ArchRaspberryPi41 {
			return s.piFor(ctx, n, c, at, rest)
		}
	}
	if !strings.Contains(name, "/") {
		f, err := s.files.Open(ctx, "loaders/"+name)
		if c, known := s.clients.at(at); err == nil && known && c.IPXE && (name == loaderGRUB || name == loaderGRUBAA64) {
			f, err = fill(f)
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return f, "loaders/" + name, err
		}
	}
	f, err := s.open(ctx, n, at, name)
	return f, name, err
}

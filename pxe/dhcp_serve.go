package pxe

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dhcpBatch    = 64  // datagrams that one call reads or writes
	dhcpWaiting  = 128 // requests that wait for a worker; more wait in the socket
	dhcpOutgoing = 256 // replies that wait for the sender
)

// Datagram is a packet of a batch.
type Datagram struct {
	Data []byte // to be read into: its length is the room, afterwards the packet's
	Peer netip.AddrPort
}

// Batcher is an optional extra of a packet connection: several datagrams in
// one call, which is what a burst costs least in. A kernel's socket has it, a
// lab's fabric does not.
type Batcher interface {
	// ReadBatch waits for datagrams, fills as many of to as there are, and
	// returns how many that is. A read deadline of the connection ends it.
	ReadBatch(to []Datagram) (int, error)
	// WriteBatch sends datagrams and returns how many went before an error.
	WriteBatch(from []Datagram) (int, error)
}

// job is one request on its way, with room for all that it needs. It is used
// again.
type job struct {
	buf  [dhcpMaxPacket + 1]byte
	n    int
	from netip.AddrPort
	r    request
	out  [replyRoom]byte
	p    *reply
}

// service answers the requests of one socket.
type service struct {
	s       *Server
	n       *Network
	conn    net.PacketConn
	batch   Batcher // nil: one packet at a time
	answer  func(ctx context.Context, r *request, packet []byte, from netip.AddrPort) *reply
	work    chan *job
	sending chan *job
	free    sync.Pool
	workers sync.WaitGroup
	running int          // the reader's own
	idle    atomic.Int64 // workers that wait for work
	limits  contexts
}

// serveRequests answers packets, many at once, until ctx ends (nil) or conn
// fails.
func (s *Server) serveRequests(ctx context.Context, n *Network, conn net.PacketConn, what string, answer func(ctx context.Context, r *request, packet []byte, from netip.AddrPort) *reply) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	v := &service{s: s, n: n, conn: conn, answer: answer, work: make(chan *job, dhcpWaiting), sending: make(chan *job, dhcpOutgoing)}
	v.batch, _ = conn.(Batcher)
	v.free.New = func() any { return new(job) }
	v.limits.parent = ctx
	defer v.limits.end()
	var sender sync.WaitGroup
	if v.batch != nil {
		sender.Go(v.send)
	}
	err := v.read(ctx, what)
	cancel()
	close(v.work)
	v.workers.Wait()
	close(v.sending)
	sender.Wait()
	return err
}

// read hands requests to workers until ctx ends or the socket fails.
func (v *service) read(ctx context.Context, what string) error {
	if v.batch == nil {
		return readPackets(ctx, v.conn, dhcpMaxPacket+1, what, func(b []byte, addr net.Addr) {
			j := v.free.Get().(*job)
			j.from, _ = addrPortOf(addr)
			j.n = copy(j.buf[:], b)
			v.hand(j)
		})
	}
	jobs := make([]*job, dhcpBatch)
	grams := make([]Datagram, dhcpBatch)
	return readLoop(ctx, v.conn, what, func() error {
		for i := range jobs {
			if jobs[i] == nil {
				jobs[i] = v.free.Get().(*job)
			}
			grams[i] = Datagram{Data: jobs[i].buf[:]}
		}
		k, err := v.batch.ReadBatch(grams)
		if ctx.Err() != nil || err != nil {
			return err
		}
		for i := range k {
			j := jobs[i]
			jobs[i] = nil
			j.n, j.from = len(grams[i].Data), grams[i].Peer
			v.hand(j)
		}
		return nil
	})
}

// hand gives a request to a worker: a new one when none waits, as the others
// may be waiting for the disk, up to a limit.
func (v *service) hand(j *job) {
	if v.running < dhcpWorkers && int(v.idle.Load()) <= len(v.work) {
		v.running++
		v.workers.Go(v.worker)
	}
	v.work <- j
}

func (v *service) worker() {
	for {
		v.idle.Add(1)
		j, ok := <-v.work
		v.idle.Add(-1)
		if !ok {
			return
		}
		v.do(j)
	}
}

// do answers one request.
func (v *service) do(j *job) {
	ctx := v.limits.now()
	packet := j.buf[:j.n]
	v.s.captureRequest(v.conn, v.n, packet, j.from)
	j.r.out = j.out[:0]
	j.p = v.answer(ctx, &j.r, packet, j.from)
	if j.p == nil {
		v.free.Put(j)
		return
	}
	if v.n.ReplyDelay > 0 {
		select {
		case <-time.After(v.n.ReplyDelay):
		case <-ctx.Done():
			v.free.Put(j)
			return
		}
	}
	if v.batch != nil {
		v.sending <- j
		return
	}
	v.s.send(v.conn, v.n, j.p)
	v.free.Put(j)
}

// send writes replies, those that wait together in one call.
func (v *service) send() {
	jobs := make([]*job, 0, dhcpBatch)
	grams := make([]Datagram, 0, dhcpBatch)
	for j := range v.sending {
		jobs, grams = append(jobs[:0], j), grams[:0]
		runtime.Gosched() // let those who are about to answer do so
	more:
		for len(jobs) < dhcpBatch {
			select {
			case j, ok := <-v.sending:
				if !ok {
					break more
				}
				jobs = append(jobs, j)
			default:
				break more
			}
		}
		for _, j := range jobs {
			// A frame, or a broadcast that may need one, goes its own way.
			if p := j.p; p.unicastFrame || p.onLink || p.to.Addr() == limitedBroadcast() {
				v.s.send(v.conn, v.n, p)
				continue
			}
			v.s.captureReply(v.conn, v.n, j.p)
			grams = append(grams, Datagram{Data: j.p.bytes, Peer: j.p.to})
		}
		for rest := grams; len(rest) > 0; {
			k, err := v.batch.WriteBatch(rest)
			rest = rest[k:]
			if err != nil && len(rest) > 0 {
				v.s.sendFailed(v.n, jobs, rest[0], err)
				rest = rest[1:]
			}
		}
		for _, j := range jobs {
			j.p = nil
			v.free.Put(j)
		}
	}
}

// sendFailed records a reply of a batch that could not be sent.
func (s *Server) sendFailed(on *Network, jobs []*job, d Datagram, err error) {
	for _, j := range jobs {
		if len(j.p.bytes) > 0 && &j.p.bytes[0] == &d.Data[0] {
			s.notSent(on, j.p, err)
		}
	}
}

// contexts bounds requests in time. One context serves all that come within a
// while: one for each packet would cost more than its answer.
type contexts struct {
	parent context.Context
	mu     sync.Mutex
	ctx    context.Context
	made   time.Time
	cancel [2]context.CancelFunc // of this context and of the one before
}

// now is a context that ends in dhcpTimeout to twice that.
func (c *contexts) now() context.Context {
	at := time.Now() // of timers, whatever clock the logic has
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil || at.Sub(c.made) > dhcpTimeout {
		if c.cancel[1] != nil {
			c.cancel[1]() // it has ended by itself
		}
		ctx, cancel := context.WithTimeout(c.parent, 2*dhcpTimeout)
		c.ctx, c.made, c.cancel = ctx, at, [2]context.CancelFunc{cancel, c.cancel[0]}
	}
	return c.ctx
}

func (c *contexts) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cancel := range c.cancel {
		if cancel != nil {
			cancel()
		}
	}
}

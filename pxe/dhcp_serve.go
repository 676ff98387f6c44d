package pxe

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	dhcpBatch   = 64  // datagrams that one call reads or writes
	dhcpWaiting = 128 // requests that wait for a worker; more wait in the socket
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
	v    *service
	buf  [dhcpMaxPacket + 1]byte
	n    int
	from netip.AddrPort
	r    request
	x    exchange // once the request is read
	read bool
	out  [replyRoom]byte
	p    *reply

	waits bool // for its lease, which came then
	lease Lease
	err   error
}

// service answers the requests of one socket. Its reader answers what needs no
// waiting itself, a batch at a time; a lease that is to be stored waits without
// a goroutine; all else is the workers'.
type service struct {
	s     *Server
	n     *Network
	conn  net.PacketConn
	what  string // for errors
	binl  bool   // port 4011
	probe Prober // may be nil
	quick QuickLeases

	batch   Batcher // nil: one packet at a time
	work    chan *job
	free    sync.Pool
	workers sync.WaitGroup
	running int64        // the reader's own
	handed  atomic.Int64 // requests that workers have, or wait for one
	limits  contexts
	out     outbox
}

// outbox is the jobs that wait for the sender.
type outbox struct {
	mu   sync.Mutex
	jobs []*job
	wake chan struct{} // has room for one
}

func (o *outbox) put(j *job) {
	o.mu.Lock()
	o.jobs = append(o.jobs, j)
	first := len(o.jobs) == 1
	o.mu.Unlock()
	if first {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
}

// take moves the jobs to an empty list.
func (o *outbox) take(to []*job) []*job {
	o.mu.Lock()
	defer o.mu.Unlock()
	to, o.jobs = o.jobs, to
	return to
}

// serve answers packets, many at once, until ctx ends (nil) or the socket
// fails.
func (v *service) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	v.work = make(chan *job, dhcpWaiting)
	v.out.wake = make(chan struct{}, 1)
	v.batch, _ = v.conn.(Batcher)
	v.free.New = func() any { return &job{v: v} }
	v.limits.parent = ctx
	defer v.limits.end()
	if v.batch == nil || v.n.ReplyDelay > 0 {
		v.quick = nil
	}
	stop := make(chan struct{})
	var sender sync.WaitGroup
	if v.batch != nil {
		sender.Go(func() { v.send(ctx, stop) })
	}
	err := v.receive(ctx)
	cancel()
	close(v.work)
	v.workers.Wait()
	close(stop)
	sender.Wait()
	return err
}

// receive answers requests, or hands them to workers, until ctx ends or the
// socket fails.
func (v *service) receive(ctx context.Context) error {
	if v.batch == nil {
		return readPackets(ctx, v.conn, dhcpMaxPacket+1, v.what, func(b []byte, addr net.Addr) {
			j := v.free.Get().(*job)
			j.from, _ = addrPortOf(addr)
			j.n = copy(j.buf[:], b)
			v.hand(j)
		})
	}
	jobs := make([]*job, dhcpBatch)
	grams := make([]Datagram, dhcpBatch)
	var out writing
	return readLoop(ctx, v.conn, v.what, func() error {
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
		start := v.s.now()
		for i := range k {
			j := jobs[i]
			jobs[i] = nil
			j.n, j.from = len(grams[i].Data), grams[i].Peer
			if v.quick == nil {
				v.hand(j)
				continue
			}
			switch p, ours := v.now(ctx, j, start); {
			case !ours:
				v.hand(j)
			case p != nil:
				v.write(&out, j)
			}
		}
		v.flush(&out)
		return nil
	})
}

// now answers a request that needs no waiting; j is nobody's any more when it
// has no reply. The request is a worker's where ours is false.
func (v *service) now(ctx context.Context, j *job, start time.Time) (p *reply, ours bool) {
	v.s.captureRequest(v.conn, v.n, j.buf[:j.n], j.from)
	j.r.out = j.out[:0]
	x, r := &j.x, &j.r
	if !v.s.begin(x, start, v.n, r, j.buf[:j.n], v.probe) {
		v.done(j)
		return nil, true
	}
	j.read = true
	x.at = start
	if x.n.Proxy || r.client.boots() {
		// Deciding what a machine boots that nobody knows yet writes the state.
		return nil, false
	}
	switch r.kind {
	case dhcpv4.MessageTypeDiscover:
		if x.n.Probe && x.probe != nil {
			return nil, false
		}
		p = x.discover(ctx)
	case dhcpv4.MessageTypeRequest:
		var ok bool
		if p, ok = x.requested(ctx); ok {
			return nil, v.quick.CommitSoon(r.client, x.addr, j)
		}
	default:
		return nil, false
	}
	if j.p = p; p == nil {
		v.done(j)
	}
	return p, true
}

// Committed is a [Waiter]: the sender goes on with the request.
func (j *job) Committed(l Lease, err error) {
	j.lease, j.err, j.waits = l, err, true
	j.v.out.put(j)
}

// hand gives a request to a worker: a new one when none is free, as the others
// may be waiting for the disk, up to a limit.
func (v *service) hand(j *job) {
	if n := v.handed.Add(1); n > v.running && v.running < dhcpWorkers {
		v.running++
		v.workers.Go(v.worker)
	}
	v.work <- j
}

func (v *service) worker() {
	for j := range v.work {
		v.do(j)
		v.handed.Add(-1)
	}
}

// do answers one request.
func (v *service) do(j *job) {
	ctx := v.limits.now()
	packet := j.buf[:j.n]
	switch {
	case j.read:
		j.x.at = time.Time{}
		j.p = j.x.answer(ctx)
	default:
		v.s.captureRequest(v.conn, v.n, packet, j.from)
		j.r.out = j.out[:0]
		if v.binl {
			j.p = v.s.answerBINLWith(ctx, v.n, &j.r, packet, j.from)
		} else {
			j.p = v.s.answerWith(ctx, v.n, &j.r, packet, v.probe)
		}
	}
	if j.p == nil {
		v.done(j)
		return
	}
	if v.n.ReplyDelay > 0 {
		select {
		case <-time.After(v.n.ReplyDelay):
		case <-ctx.Done():
			v.done(j)
			return
		}
	}
	if v.batch != nil {
		v.out.put(j)
		return
	}
	v.s.send(v.conn, v.n, j.p)
	v.done(j)
}

// done keeps a job to be used again.
func (v *service) done(j *job) {
	j.p, j.read, j.waits = nil, false, false
	v.free.Put(j)
}

// send writes replies, those that wait together in one call, until stop is
// closed and none waits.
func (v *service) send(ctx context.Context, stop <-chan struct{}) {
	var jobs []*job
	var out writing
	for open := true; open; {
		select {
		case <-v.out.wake:
		case <-stop:
			open = false
		}
		runtime.Gosched() // let those who are about to answer do so
		jobs = v.out.take(jobs[:0])
		at := v.s.now()
		for _, j := range jobs {
			if j.waits {
				j.x.at = at
				j.p = j.x.committed(ctx, j.lease, j.err)
			}
			if j.p == nil {
				v.done(j)
				continue
			}
			v.write(&out, j)
		}
		v.flush(&out)
		clear(jobs)
	}
}

// writing is replies that are written together.
type writing struct {
	jobs  []*job
	grams []Datagram
}

// write sends a reply, at the latest when flush is called.
func (v *service) write(w *writing, j *job) {
	// A frame, or a broadcast that may need one, goes its own way.
	if p := j.p; p.unicastFrame || p.onLink || p.to.Addr() == limitedBroadcast() {
		v.s.send(v.conn, v.n, p)
		v.done(j)
		return
	}
	v.s.captureReply(v.conn, v.n, j.p)
	w.jobs, w.grams = append(w.jobs, j), append(w.grams, Datagram{Data: j.p.bytes, Peer: j.p.to})
	if len(w.jobs) == dhcpBatch {
		v.flush(w)
	}
}

func (v *service) flush(w *writing) {
	for rest := w.grams; len(rest) > 0; {
		k, err := v.batch.WriteBatch(rest)
		rest = rest[k:]
		if err != nil && len(rest) > 0 {
			v.s.sendFailed(v.n, w.jobs, rest[0], err)
			rest = rest[1:]
		}
	}
	for _, j := range w.jobs {
		v.done(j)
	}
	clear(w.jobs)
	w.jobs, w.grams = w.jobs[:0], w.grams[:0]
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

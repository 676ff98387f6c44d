package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// DHCP message types and options that these clients use (RFC 2132, RFC 4578).
const (
	discover, offer, request, ack, nak, release = 1, 2, 3, 5, 6, 7

	optHostname  = 12
	optWant      = 50
	optType      = 53
	optServer    = 54
	optList      = 55
	optClass     = 60
	optTFTPName  = 66
	optFile      = 67
	optUserClass = 77
	optArch      = 93
	optUUID      = 97
	optIPXE      = 175
)

// message is a DHCP message of these clients, or an answer to one.
type message struct {
	kind   byte
	xid    uint32
	mac    [6]byte
	yiaddr netip.Addr
	siaddr netip.Addr
	server netip.Addr // option 54
	file   string
	tftp   string // option 66
}

// encode makes a request's packet. relay, if valid, is its giaddr; without one
// the answer is asked for by broadcast, as its client has no address.
func encode(kind byte, xid uint32, mac [6]byte, relay netip.Addr, opts ...[]byte) []byte {
	b := make([]byte, 240, 400)
	b[0], b[1], b[2] = 1, 1, 6
	binary.BigEndian.PutUint32(b[4:], xid)
	if relay.IsValid() {
		a := relay.As4()
		copy(b[24:], a[:])
	} else {
		b[10] = 0x80
	}
	copy(b[28:], mac[:])
	copy(b[236:], []byte{99, 130, 83, 99, optType, 1, kind})
	b = append(b, optType, 1, kind)
	for _, o := range opts {
		b = append(b, o...)
	}
	b = append(b, 255)
	for len(b) < 300 {
		b = append(b, 0)
	}
	return b
}

func option(code byte, v ...byte) []byte { return append([]byte{code, byte(len(v))}, v...) }

func textOption(code byte, v string) []byte { return option(code, []byte(v)...) }

func addrOption(code byte, a netip.Addr) []byte {
	v := a.As4()
	return option(code, v[:]...)
}

var errMalformed = errors.New("a malformed answer")

// decode reads an answer; m.file is empty where it names none.
func decode(b []byte) (m message, err error) {
	if len(b) < 240 || b[0] != 2 {
		return m, errMalformed
	}
	m.xid = binary.BigEndian.Uint32(b[4:])
	m.yiaddr, m.siaddr = netip.AddrFrom4([4]byte(b[16:20])), netip.AddrFrom4([4]byte(b[20:24]))
	copy(m.mac[:], b[28:34])
	for i := 108; i < 236 && b[i] != 0; i++ {
		m.file = string(b[108 : i+1])
	}
	for o := b[240:]; len(o) > 0 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || len(o) < 2+int(o[1]) {
			return m, errMalformed
		}
		v := o[2 : 2+int(o[1])]
		switch {
		case o[0] == optType && len(v) == 1:
			m.kind = v[0]
		case o[0] == optServer && len(v) == 4:
			m.server = netip.AddrFrom4([4]byte(v))
		case o[0] == optFile && len(v) > 0:
			m.file = string(v)
		case o[0] == optTFTPName:
			m.tftp = string(v)
		}
		o = o[2+len(v):]
	}
	return m, nil
}

// ExchangeConfig says what [Exchanges] does.
type ExchangeConfig struct {
	Conn   net.PacketConn // the relay's socket
	Server netip.AddrPort
	Relay  netip.Addr // its address, in giaddr
	Open   int        // exchanges under way at once
	For    time.Duration
	Series byte // machines of another series are other machines
}

// ExchangeResult is how whole exchanges (DISCOVER to ACK) went.
type ExchangeResult struct {
	Done    int           `json:"done"`
	Took    time.Duration `json:"took_ns"`
	Lost    int           `json:"lost"`    // packets without an answer for a second
	Refused int           `json:"refused"` // NAKs
	Time    Spread        `json:"time"`
}

// PerSecond is the rate of whole exchanges.
func (r ExchangeResult) PerSecond() float64 { return float64(r.Done) / r.Took.Seconds() }

// patience is how long a client of Exchanges waits before it asks again.
const patience = time.Second

// Exchanges has new machines get addresses in a closed loop, through a relay's
// socket.
func Exchanges(ctx context.Context, c ExchangeConfig) (ExchangeResult, error) {
	type slot struct {
		packet      []byte
		begun, sent time.Time
		kind        byte
	}
	var r ExchangeResult
	var took []time.Duration
	slots := make([]slot, c.Open)
	to := net.UDPAddrFromAddrPort(c.Server)
	next := uint32(0)
	send := func(s *slot) error {
		s.sent = time.Now()
		_, err := c.Conn.WriteTo(s.packet, to)
		return err
	}
	begin := func(i int) error {
		next++
		mac := [6]byte{2, c.Series}
		binary.BigEndian.PutUint32(mac[2:], next)
		s := &slots[i]
		s.packet, s.begun, s.kind = encode(discover, uint32(i)<<24|next&0xffffff, mac, c.Relay), time.Now(), offer
		return send(s)
	}
	for i := range slots {
		if err := begin(i); err != nil {
			return r, fmt.Errorf("sending to %v: %w", c.Server, err)
		}
	}
	start := time.Now()
	buf := make([]byte, 2048)
	for checked := start; time.Since(start) < c.For && ctx.Err() == nil; {
		if now := time.Now(); now.Sub(checked) > patience/10 {
			checked = now
			for i := range slots {
				if s := &slots[i]; now.Sub(s.sent) > patience {
					r.Lost++
					if err := send(s); err != nil {
						return r, fmt.Errorf("sending to %v: %w", c.Server, err)
					}
				}
			}
			if err := c.Conn.SetReadDeadline(now.Add(patience / 10)); err != nil {
				return r, err
			}
		}
		k, _, err := c.Conn.ReadFrom(buf)
		if err != nil {
			continue // the deadline: some are asked again
		}
		m, err := decode(buf[:k])
		if err != nil {
			return r, err
		}
		i := int(m.xid >> 24)
		if i >= len(slots) {
			continue
		}
		s := &slots[i]
		if binary.BigEndian.Uint32(s.packet[4:]) != m.xid || m.kind != s.kind && m.kind != nak {
			continue // of an exchange that is over
		}
		switch m.kind {
		case offer:
			s.kind = ack
			s.packet = encode(request, m.xid, m.mac, c.Relay, addrOption(optServer, m.server), addrOption(optWant, m.yiaddr))
			err = send(s)
		case ack:
			took = append(took, time.Since(s.begun))
			err = begin(i)
		default:
			r.Refused++
			err = begin(i)
		}
		if err != nil {
			return r, fmt.Errorf("sending to %v: %w", c.Server, err)
		}
	}
	r.Done, r.Took, r.Time = len(took), time.Since(start), spread(took)
	return r, nil
}

// Burst sends n DISCOVERs of new machines at once and waits for the offers:
// how many did not come by the time limit, and how long the others took.
func Burst(ctx context.Context, c ExchangeConfig, n int) (lost int, took Spread, err error) {
	var mu sync.Mutex
	begun := make([]time.Time, n)
	packets := make([][]byte, n)
	for i := range packets {
		mac := [6]byte{2, c.Series, 0xbb}
		binary.BigEndian.PutUint16(mac[4:], uint16(i))
		packets[i] = encode(discover, uint32(i), mac, c.Relay)
	}
	var times []time.Duration
	var read sync.WaitGroup
	if err := c.Conn.SetReadDeadline(time.Now().Add(c.For)); err != nil {
		return 0, took, err
	}
	stop := context.AfterFunc(ctx, func() { c.Conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	read.Go(func() {
		seen := make([]bool, n)
		for buf := make([]byte, 2048); len(times) < n; {
			k, _, err := c.Conn.ReadFrom(buf)
			if err != nil {
				return
			}
			m, err := decode(buf[:k])
			if err != nil || m.kind != offer || int(m.xid) >= n || seen[m.xid] {
				continue
			}
			seen[m.xid] = true
			mu.Lock()
			times = append(times, time.Since(begun[m.xid]))
			mu.Unlock()
		}
	})
	to := net.UDPAddrFromAddrPort(c.Server)
	for i, p := range packets {
		mu.Lock()
		begun[i] = time.Now()
		mu.Unlock()
		if _, err = c.Conn.WriteTo(p, to); err != nil {
			break
		}
	}
	read.Wait()
	return n - len(times), spread(times), err
}

package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fetch is one file by TFTP (RFC 1350), as a client of today asks for it.
type Fetch struct {
	Server  netip.AddrPort
	Name    string
	Blksize int     // 0: not asked for
	Window  int     // 0: not asked for
	Loss    float64 // of the packets of either direction
	Timeout time.Duration
	Tries   int // of one packet
}

// tftpError is an ERROR of the server.
type tftpError struct {
	code uint16
	text string
}

func (e *tftpError) Error() string { return fmt.Sprintf("error %d (%s)", e.code, e.text) }

var errTimeout = errors.New("the server stopped answering")

// Run fetches the file over conn and returns its length.
func (f Fetch) Run(ctx context.Context, conn net.PacketConn) (int64, error) {
	if f.Timeout == 0 {
		f.Timeout = 2 * time.Second
	}
	if f.Tries == 0 {
		f.Tries = 6
	}
	f.Server = netip.AddrPortFrom(f.Server.Addr().Unmap(), f.Server.Port())
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	udp, _ := conn.(*net.UDPConn)
	rng := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	var peer netip.AddrPort
	var total int64
	var last uint16 // block
	blksize, window := 512, 1
	out := f.request()
	to := f.Server
	send := func() error {
		if f.Loss > 0 && rng.Float64() < f.Loss {
			return nil
		}
		var err error
		if udp != nil {
			_, err = udp.WriteToUDPAddrPort(out, to)
		} else {
			_, err = conn.WriteTo(out, net.UDPAddrFromAddrPort(to))
		}
		return err
	}
	acknowledge := func(n uint16) error {
		out = append(out[:0], 0, 4, byte(n>>8), byte(n))
		return send()
	}
	if err := send(); err != nil {
		return 0, err
	}
	buf := make([]byte, 4+max(f.Blksize, 512))
	got, tries, gap := 0, 0, false
	for {
		if err := conn.SetReadDeadline(time.Now().Add(f.Timeout)); err != nil {
			return total, err
		}
		if ctx.Err() != nil {
			return total, ctx.Err()
		}
		var n int
		var from netip.AddrPort
		var err error
		if udp != nil {
			n, from, err = udp.ReadFromUDPAddrPort(buf)
			from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		} else {
			var a net.Addr
			if n, a, err = conn.ReadFrom(buf); err == nil {
				from = a.(*net.UDPAddr).AddrPort()
			}
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil:
			if tries++; tries >= f.Tries {
				return total, errTimeout
			}
			got, gap = 0, false
			if total == 0 && tries%3 == 0 {
				// The server may have given up before it heard of us: from the start.
				peer, to, last, out = netip.AddrPort{}, f.Server, 0, f.request()
			}
			if err := send(); err != nil {
				return total, err
			}
			continue
		case err != nil:
			return total, err
		case n < 4 || peer.IsValid() && from != peer || from.Addr() != f.Server.Addr():
			continue
		case f.Loss > 0 && rng.Float64() < f.Loss:
			continue
		}
		switch binary.BigEndian.Uint16(buf) {
		case 5:
			return total, &tftpError{binary.BigEndian.Uint16(buf[2:]), strings.TrimRight(string(buf[4:n]), "\x00")}
		case 6:
			if last != 0 || total > 0 {
				continue
			}
			words := strings.Split(strings.TrimRight(string(buf[2:n]), "\x00"), "\x00")
			for i := 0; i+1 < len(words); i += 2 {
				v, err := strconv.Atoi(words[i+1])
				if err != nil {
					return 0, errMalformed
				}
				switch strings.ToLower(words[i]) {
				case "blksize":
					blksize = v
				case "windowsize":
					window = v
				}
			}
			if blksize > len(buf)-4 || blksize < 1 || window < 1 {
				return 0, errMalformed
			}
			peer, to, tries = from, from, 0
			if err := acknowledge(0); err != nil {
				return 0, err
			}
		case 3:
			peer, to = from, from
			block := binary.BigEndian.Uint16(buf[2:])
			if block != last+1 {
				// RFC 7440 §4: tell of the gap once, then wait for the window.
				if ahead := block - last; ahead < 0x8000 && !gap && window > 1 {
					gap, got = true, 0
					if err := acknowledge(last); err != nil {
						return total, err
					}
				} else if ahead >= 0x8000 || ahead == 0 {
					// A block again: its acknowledgement was lost.
					if got++; got >= window {
						got = 0
						if err := acknowledge(last); err != nil {
							return total, err
						}
					}
				}
				continue
			}
			last, tries, gap = block, 0, false
			total += int64(n - 4)
			end := n-4 < blksize
			if got++; got < window && !end {
				out = append(out[:0], 0, 4, byte(last>>8), byte(last)) // for a timeout
				continue
			}
			got = 0
			if err := acknowledge(last); err != nil || end {
				return total, err
			}
		}
	}
}

// request is the read request.
func (f Fetch) request() []byte {
	b := append([]byte{0, 1}, f.Name+"\x00octet\x00tsize\x000\x00"...)
	if f.Blksize > 0 {
		b = append(b, fmt.Sprintf("blksize\x00%d\x00", f.Blksize)...)
	}
	if f.Window > 0 {
		b = append(b, fmt.Sprintf("windowsize\x00%d\x00", f.Window)...)
	}
	return b
}

// FetchResult is how many fetches at once went.
type FetchResult struct {
	Bytes  int64         `json:"bytes"`
	Took   time.Duration `json:"took_ns"`
	Time   Spread        `json:"time"`
	Failed []Reason      `json:"failed"`
}

// MBPerSecond is the rate of all together.
func (r FetchResult) MBPerSecond() float64 { return float64(r.Bytes) / 1e6 / r.Took.Seconds() }

// Fetches has many clients do something at once, each with a context that ends
// with ctx; fetch returns its bytes.
func Fetches(ctx context.Context, clients int, fetch func(ctx context.Context, client int) (int64, error)) FetchResult {
	var r FetchResult
	var mu sync.Mutex
	var took []time.Duration
	why := map[string]int{}
	start := time.Now()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			n, err := fetch(ctx, i)
			d := time.Since(start)
			mu.Lock()
			defer mu.Unlock()
			r.Bytes += n
			if err != nil {
				why[err.Error()]++
				return
			}
			took = append(took, d)
		})
	}
	wg.Wait()
	r.Took, r.Time, r.Failed = time.Since(start), spread(took), reasons(why)
	return r
}

package fabric

import (
	"errors"
	"io"
	"net"
	"sync"
)

var errQueueFull = errors.New("the queue is full")

// pipeDepth is how many frames wait in each direction of a Pipe.
const pipeDepth = 1024

// Pipe returns the two ends of a cable in memory. A frame that finds 1024
// others waiting is dropped. Closing either end unplugs both.
func Pipe() (a, b Link) {
	ab, ba := make(chan []byte, pipeDepth), make(chan []byte, pipeDepth)
	end := &pipeEnd{done: make(chan struct{})}
	return &pipe{end, ab, ba}, &pipe{end, ba, ab}
}

type pipeEnd struct {
	once sync.Once
	done chan struct{}
}

type pipe struct {
	end *pipeEnd
	out chan<- []byte
	in  <-chan []byte
}

func (p *pipe) ReadFrame(b []byte) (int, error) {
	select {
	case f := <-p.in:
		if len(f) > len(b) {
			return 0, io.ErrShortBuffer
		}
		return copy(b, f), nil
	case <-p.end.done:
		return 0, net.ErrClosed
	}
}

func (p *pipe) WriteFrame(b []byte) error {
	select {
	case <-p.end.done:
		return net.ErrClosed
	default:
	}
	select {
	case p.out <- append([]byte(nil), b...):
		return nil
	default:
		return errQueueFull
	}
}

func (p *pipe) Close() error {
	p.end.once.Do(func() { close(p.end.done) })
	return nil
}

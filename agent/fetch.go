package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
)

// source is an image on the server: its index, and its data by ranges.
type source struct {
	get   func(ctx context.Context, url, ranges string) (*http.Response, error)
	data  string
	idx   *wire.ImageIndex
	retry Retry
	stall time.Duration // a connection without bytes for so long is given up
	log   *slog.Logger
}

// fatalError is one that no retry mends.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

// again runs f until it succeeds, fails fatally, or has made no progress for
// retry.GiveUp. f returns whether it made progress before it failed.
func again(ctx context.Context, r Retry, log *slog.Logger, what string, f func() (progress bool, err error)) error {
	fails, since := 0, time.Now()
	for {
		progress, err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var fatal *fatalError
		if errors.As(err, &fatal) {
			return fatal.err
		}
		if progress {
			fails, since = 0, time.Now()
		}
		fails++
		if r.GiveUp > 0 && time.Since(since) > r.GiveUp {
			return fmt.Errorf("%s failed for %v, last: %w; check the network and that fettle serve runs, then deploy again", what, r.GiveUp, err)
		}
		d := r.Delay(fails)
		log.Warn("trying again", "what", what, "error", err, "in", d.Round(time.Millisecond))
		if err := sleep(ctx, d); err != nil {
			return err
		}
	}
}

// fetchIndex gets the index and believes nothing that its digest does not
// cover.
func (s *source) fetchIndex(ctx context.Context, url, digest string) error {
	err := again(ctx, s.retry, s.log, "fetching the image index "+url, func() (bool, error) {
		var b []byte
		err := s.read(ctx, url, 0, -1, func(r io.Reader) error {
			var err error
			b, err = io.ReadAll(io.LimitReader(r, wire.MaxIndexBytes+1))
			return err
		})
		if err != nil {
			return false, err
		}
		if got := digestOf(b); got != digest {
			return false, &fatalError{fmt.Errorf("image index %s has digest %s, the task says %s: run fettle image verify on the server", url, got, digest)}
		}
		s.idx = new(wire.ImageIndex)
		if err := json.Unmarshal(b, s.idx); err != nil {
			return false, &fatalError{fmt.Errorf("reading the image index %s: %w", url, err)}
		}
		return false, nil
	})
	if err != nil {
		return err
	}
	return s.idx.Validate()
}

// stream gives the frames of the non-zero chunks from number first on, in
// order, and goes on with the next missing one after a broken connection.
// emit takes ownership of the frame.
func (s *source) stream(ctx context.Context, first int, emit func(i int, frame []byte) error) error {
	next := s.nextFrom(first)
	return again(ctx, s.retry, s.log, "fetching the image "+s.data, func() (bool, error) {
		if next >= len(s.idx.Chunks) {
			return false, nil
		}
		last := len(s.idx.Chunks) - 1
		for s.idx.Chunks[last].Zero {
			last--
		}
		pos := s.idx.Chunks[next].Offset
		end := s.idx.Chunks[last].Offset + s.idx.Chunks[last].Length
		progress := false
		err := s.read(ctx, s.data, pos, end-pos, func(r io.Reader) error {
			for next <= last {
				c := s.idx.Chunks[next]
				if _, err := io.CopyN(io.Discard, r, c.Offset-pos); err != nil {
					return noEOF(err)
				}
				frame := make([]byte, c.Length)
				if _, err := io.ReadFull(r, frame); err != nil {
					return noEOF(err)
				}
				pos = c.Offset + c.Length
				if err := emit(next, frame); err != nil {
					return &fatalError{err}
				}
				next, progress = s.nextFrom(next+1), true
			}
			return nil
		})
		return progress, err
	})
}

// one gives the frame of one chunk.
func (s *source) one(ctx context.Context, i int) ([]byte, error) {
	c := s.idx.Chunks[i]
	frame := make([]byte, c.Length)
	err := again(ctx, s.retry, s.log, fmt.Sprintf("fetching chunk %d of %s", i, s.data), func() (bool, error) {
		return false, s.read(ctx, s.data, c.Offset, c.Length, func(r io.Reader) error {
			_, err := io.ReadFull(r, frame)
			return noEOF(err)
		})
	})
	return frame, err
}

// nextFrom is the first non-zero chunk at or after i.
func (s *source) nextFrom(i int) int {
	for i < len(s.idx.Chunks) && s.idx.Chunks[i].Zero {
		i++
	}
	return i
}

// read makes one request for n bytes at off (n < 0: the whole) and hands the
// body on; a body that stalls ends.
func (s *source) read(ctx context.Context, url string, off, n int64, use func(io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(s.stall, func() { cancel(fmt.Errorf("no bytes came for %v", s.stall)) })
	defer watch.Stop()
	ranges := ""
	if n >= 0 {
		ranges = fmt.Sprintf("bytes=%d-%d", off, off+n-1)
	}
	res, err := s.get(ctx, url, ranges)
	if err != nil {
		return stallCause(ctx, err)
	}
	defer res.Body.Close()
	body := io.Reader(&watchedReader{res.Body, watch, s.stall})
	switch {
	case res.StatusCode == http.StatusOK && off > 0:
		// A server without ranges: slow, but right.
		if _, err := io.CopyN(io.Discard, body, off); err != nil {
			return stallCause(ctx, noEOF(err))
		}
	case res.StatusCode == http.StatusOK:
	case res.StatusCode == http.StatusPartialContent && n >= 0:
		if got, want := res.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/", off, off+n-1); !strings.HasPrefix(got, want) {
			return &fatalError{fmt.Errorf("asked for %s of %s and got %q: the file on the server is not the one of the index; run fettle image verify there", ranges, url, got)}
		}
	default:
		err := statusError(res)
		if permanent(res.StatusCode) {
			return &fatalError{err}
		}
		return err
	}
	return stallCause(ctx, use(body))
}

// permanent says that asking again is of no use.
func permanent(status int) bool {
	return status >= 400 && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests && status != http.StatusTooEarly
}

func stallCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.As(err, new(*fatalError)) {
		return cause
	}
	return err
}

type watchedReader struct {
	r     io.Reader
	watch *time.Timer
	d     time.Duration
}

func (w *watchedReader) Read(p []byte) (int, error) {
	w.watch.Reset(w.d)
	n, err := w.r.Read(p)
	// What is done with the bytes takes as long as it takes.
	w.watch.Stop()
	return n, err
}

// noEOF makes an early end an error that io users do not take for success.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func digestOf(b []byte) string {
	h := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(h[:])
}

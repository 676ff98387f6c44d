package airgap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/blob"
)

const (
	defaultPerHost  = 6
	defaultTries    = 5
	defaultStall    = time.Minute
	defaultLarge    = 32 << 20
	maxUnknownSize  = 1 << 40
	firstBackoff    = 500 * time.Millisecond
	backoffCeiling  = 30 * time.Second
	defaultParallel = 16
)

// Progress is how far a fetch is. Total may grow while sizes become known.
type Progress struct {
	Files, FilesTotal int
	Bytes, BytesTotal int64
	Last              string // the path of the file that was done last
}

// Fetcher brings upstream files into a blob store. Its methods may be called
// concurrently; its fields are set before.
type Fetcher struct {
	Blobs *blob.Store
	Dir   string       // where validators and large partial files are kept
	HTTP  *http.Client // nil: a client of its own that uses the environment's proxies

	PerHost  int           // requests at once to one host; 0: 6
	Tries    int           // for each file; 0: 5
	Stall    time.Duration // a transfer that brings nothing for so long is cut; 0: a minute
	Large    int64         // files at least so large are resumed across runs; 0: 32 MiB
	Sleep    func(context.Context, time.Duration) error
	Progress func(Progress)
	Log      *slog.Logger

	once   sync.Once
	client *http.Client
	mu     sync.Mutex
	hosts  map[string]chan struct{}
	reqs   int // requests made, for tests and figures
}

// permanent is an error that trying again does not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// ErrGone says that upstream has no such file any more.
var ErrGone = errors.New("not at upstream")

func (f *Fetcher) init() {
	f.once.Do(func() {
		f.hosts = map[string]chan struct{}{}
		if f.Log == nil {
			f.Log = slog.New(slog.DiscardHandler)
		}
		c := http.Client{}
		if f.HTTP != nil {
			c = *f.HTTP
		}
		if c.Transport == nil {
			t := http.DefaultTransport.(*http.Transport).Clone()
			t.MaxIdleConnsPerHost = orDefault(f.PerHost, defaultPerHost)
			t.ResponseHeaderTimeout = orDefault(f.Stall, defaultStall)
			t.DisableCompression = true // digests are of the bytes as they are
			c.Transport = t
		}
		c.CheckRedirect = checkRedirect
		f.client = &c
	})
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

type redirectKey struct{}

// checkRedirect refuses redirects to another host, unless a person gave the
// digest (redirectKey), and every step from https to http.
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	switch {
	case len(via) >= 5:
		return permanent{errors.New("upstream redirects more than five times")}
	case first.URL.Scheme == "https" && req.URL.Scheme != "https":
		return permanent{fmt.Errorf("upstream redirects from https to %s: refused", req.URL.Redacted())}
	case req.URL.Host != first.URL.Host && req.Context().Value(redirectKey{}) == nil:
		return permanent{fmt.Errorf("upstream redirects to another host, %s: refused; if that is right, name it as the mirror's url", req.URL.Host)}
	}
	return nil
}

// Requests is the number of requests made so far.
func (f *Fetcher) Requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reqs
}

// acquire waits for one of the places at a host.
func (f *Fetcher) acquire(ctx context.Context, host string) (release func(), err error) {
	f.mu.Lock()
	sem := f.hosts[host]
	if sem == nil {
		sem = make(chan struct{}, orDefault(f.PerHost, defaultPerHost))
		f.hosts[host] = sem
	}
	f.mu.Unlock()
	select {
	case sem <- struct{}{}:
		return func() { <-sem }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// All fetches the items that the blob store lacks, in parallel. It tries all
// of them; the error names each that failed.
func (f *Fetcher) All(ctx context.Context, items []Item) error {
	f.init()
	var p Progress
	var missing []Item
	seen := map[blob.Digest]bool{}
	for _, it := range items {
		if seen[it.SHA256] {
			continue
		}
		seen[it.SHA256] = true
		n, err := f.Blobs.Size(it.SHA256)
		if err == nil && (it.Size < 0 || n == it.Size) {
			continue
		}
		missing = append(missing, it)
		p.FilesTotal++
		p.BytesTotal += max(0, it.Size)
	}
	if len(missing) > 0 {
		if err := checkFree(f.Blobs.Dir(), p.BytesTotal); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	report := func(n int64, done string) {
		mu.Lock()
		defer mu.Unlock()
		p.Bytes += n
		if done != "" {
			p.Files, p.Last = p.Files+1, done
		}
		if f.Progress != nil {
			f.Progress(p)
		}
	}
	var g errgroup.Group
	g.SetLimit(defaultParallel)
	var errs []error
	for _, it := range missing {
		g.Go(func() error {
			err := f.Get(ctx, it, func(n int64) { report(n, "") })
			mu.Lock()
			if err != nil && ctx.Err() == nil {
				errs = append(errs, err)
			}
			mu.Unlock()
			if err == nil {
				report(0, it.Path)
			}
			return nil
		})
	}
	_ = g.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	if n := len(errs); n > 20 {
		errs = append(errs[:20], fmt.Errorf("and %d more", n-20))
	}
	return errors.Join(errs...)
}

// Get fetches one item into the blob store. add, when it is not nil, is told
// of bytes as they come (and, negative, of bytes that turned out wrong).
func (f *Fetcher) Get(ctx context.Context, it Item, add func(int64)) error {
	f.init()
	if err := it.SHA256.Validate(); err != nil {
		return err
	}
	if add == nil {
		add = func(int64) {}
	}
	limit := it.Size
	if limit < 0 {
		limit = maxUnknownSize
	}
	sink, err := f.open(it)
	if err != nil {
		return err
	}
	defer sink.close()
	add(sink.size())
	if it.Kind == KindFile {
		ctx = context.WithValue(ctx, redirectKey{}, true)
	}
	restarted := false
	err = f.try(ctx, it.URL, func() error {
		err := f.transfer(ctx, it, sink, limit, add)
		if err != nil {
			return err
		}
		err = sink.commit(ctx, it)
		if !errors.Is(err, blob.ErrMismatch) {
			return err
		}
		// A resumed file may have begun with other bytes: once more, whole.
		again := sink.resumed() && !restarted
		restarted = true
		add(-sink.size())
		if rerr := sink.reset(); rerr != nil {
			return permanent{rerr}
		}
		if again {
			return fmt.Errorf("resumed to wrong bytes: %w", err)
		}
		return permanent{fmt.Errorf("upstream sends other bytes than were promised, nothing was kept: %w", err)}
	})
	if err != nil {
		return fmt.Errorf("fetching %s: %w", redact(it.URL), err)
	}
	return nil
}

func redact(raw string) string {
	if u, err := url.Parse(raw); err == nil {
		return u.Redacted()
	}
	return raw
}

// try repeats do with growing, jittered pauses.
func (f *Fetcher) try(ctx context.Context, what string, do func() error) error {
	pause := firstBackoff
	for n := 1; ; n++ {
		err := do()
		var p permanent
		if err == nil || ctx.Err() != nil || errors.As(err, &p) || n >= orDefault(f.Tries, defaultTries) {
			if err != nil && ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		f.Log.Info("fetch failed, trying again", "url", redact(what), "try", n, "error", err)
		sleep := f.Sleep
		if sleep == nil {
			sleep = sleepCtx
		}
		if err := sleep(ctx, pause/2+rand.N(pause/2)); err != nil {
			return err
		}
		pause = min(2*pause, backoffCeiling)
	}
}

func sleepCtx(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// transfer appends to sink what it lacks of an item: RFC 9110 §14.
func (f *Fetcher) transfer(ctx context.Context, it Item, sink sink, limit int64, add func(int64)) error {
	have := sink.size()
	if it.Size >= 0 && have == it.Size {
		return nil
	}
	header := http.Header{}
	if have > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	resp, done, err := f.do(ctx, it.URL, header)
	if err != nil {
		return err
	}
	defer done()
	switch {
	case have > 0 && resp.StatusCode == http.StatusPartialContent && rangeStart(resp.Header.Get("Content-Range")) == have:
	case resp.StatusCode == http.StatusOK, have > 0 && (resp.StatusCode == http.StatusRequestedRangeNotSatisfiable || resp.StatusCode == http.StatusPartialContent):
		if have > 0 { // upstream starts from the beginning
			add(-have)
			if err := sink.reset(); err != nil {
				return permanent{err}
			}
			if resp.StatusCode != http.StatusOK {
				return errors.New("upstream does not go on where the transfer was cut")
			}
		}
	default:
		return statusError(resp)
	}
	body := io.LimitReader(resp.Body, limit-sink.size()+1)
	n, err := io.Copy(countWriter{sink, add}, body)
	if err != nil {
		return err
	}
	if got := sink.size(); got > limit {
		return permanent{fmt.Errorf("upstream sends more than the %d bytes that were promised; nothing was kept", limit)}
	} else if it.Size >= 0 && got < it.Size {
		return fmt.Errorf("upstream sent %d bytes and ended; %d of %d are here", n, got, it.Size)
	}
	return nil
}

func rangeStart(v string) int64 {
	v, ok := strings.CutPrefix(v, "bytes ")
	first, _, ok2 := strings.Cut(v, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	if !ok || !ok2 || err != nil {
		return -1
	}
	return n
}

func statusError(resp *http.Response) error {
	err := fmt.Errorf("upstream answers %s", resp.Status)
	switch c := resp.StatusCode; {
	case c == http.StatusNotFound || c == http.StatusGone:
		return permanent{fmt.Errorf("%w: %w; resolve again if upstream moved on", ErrGone, err)}
	case c == http.StatusTooManyRequests || c == http.StatusRequestTimeout || c >= 500:
		return err
	}
	return permanent{err}
}

// do makes one request. done gives its place back and must be called.
func (f *Fetcher) do(ctx context.Context, rawURL string, header http.Header) (resp *http.Response, done func(), err error) {
	f.init()
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, nil, permanent{err}
	}
	release, err := f.acquire(ctx, u.Host)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	end := func() { cancel(nil); release() }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		end()
		return nil, nil, permanent{err}
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", "fettle-mirror")
	req.Header.Set("Accept-Encoding", "identity")
	f.mu.Lock()
	f.reqs++
	f.mu.Unlock()
	resp, err = f.client.Do(req)
	if err != nil {
		end()
		return nil, nil, err
	}
	stall := orDefault(f.Stall, defaultStall)
	errStall := fmt.Errorf("nothing came for %s", stall)
	t := time.AfterFunc(stall, func() { cancel(errStall) })
	resp.Body = &watched{resp.Body, ctx, t, stall}
	return resp, func() { t.Stop(); resp.Body.Close(); end() }, nil
}

// watched puts the stall timer off with every read.
type watched struct {
	io.ReadCloser
	ctx   context.Context
	t     *time.Timer
	stall time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if n > 0 {
		w.t.Reset(w.stall)
	}
	if err != nil && !errors.Is(err, io.EOF) && w.ctx.Err() != nil {
		err = context.Cause(w.ctx)
	}
	return n, err
}

type countWriter struct {
	w   io.Writer
	add func(int64)
}

func (c countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.add(int64(n))
	return n, err
}

// sink is where the bytes of one item gather.
type sink interface {
	io.Writer
	size() int64
	resumed() bool // it began with bytes of an earlier transfer
	reset() error
	commit(ctx context.Context, it Item) error
	close()
}

// open gives small items a blob writer, which lives as long as this run, and
// large ones a file that outlives it.
func (f *Fetcher) open(it Item) (sink, error) {
	if it.Size >= 0 && it.Size < orDefault(f.Large, defaultLarge) || f.Dir == "" {
		s := &blobSink{store: f.Blobs}
		return s, s.reset()
	}
	dir := filepath.Join(f.Dir, "partial")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, it.SHA256.Hex()), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	fi, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	s := &fileSink{store: f.Blobs, f: file, n: fi.Size(), before: fi.Size() > 0}
	if it.Size >= 0 && s.n > it.Size {
		return s, s.reset()
	}
	return s, nil
}

type blobSink struct {
	store *blob.Store
	w     *blob.Writer
	cut   bool
	calls int
}

func (s *blobSink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		err = permanent{err}
	}
	return n, err
}
func (s *blobSink) size() int64   { return s.w.Size() }
func (s *blobSink) resumed() bool { return s.calls > 1 }
func (s *blobSink) close()        { s.w.Abort() }
func (s *blobSink) reset() (err error) {
	if s.w != nil {
		s.w.Abort()
	}
	s.w, err = s.store.Create()
	return err
}
func (s *blobSink) commit(_ context.Context, it Item) error {
	s.calls++
	_, _, err := s.w.Commit(it.SHA256)
	if err != nil && !errors.Is(err, blob.ErrMismatch) {
		return permanent{err}
	}
	return err
}

type fileSink struct {
	store  *blob.Store
	f      *os.File
	n      int64
	before bool
}

func (s *fileSink) Write(p []byte) (int, error) {
	n, err := s.f.Write(p)
	s.n += int64(n)
	if err != nil {
		err = permanent{err}
	}
	return n, err
}
func (s *fileSink) size() int64   { return s.n }
func (s *fileSink) resumed() bool { return s.before }
func (s *fileSink) close()        { s.f.Close() }
func (s *fileSink) reset() error {
	s.n, s.before = 0, false
	return s.f.Truncate(0)
}
func (s *fileSink) commit(ctx context.Context, it Item) error {
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return permanent{err}
	}
	if _, _, err := s.store.Put(ctx, s.f, it.SHA256); err != nil {
		if errors.Is(err, blob.ErrMismatch) {
			return err
		}
		return permanent{err}
	}
	if err := os.Remove(s.f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return permanent{err}
	}
	return nil
}

package airgap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

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
	defaultParallel = 24  // files that are asked for or come
	defaultAtOnce   = 256 // with those that wait for the disk
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
	// Wrap, when it is not nil, makes the transport of all requests from the
	// client's own: for upstreams that want more than a plain request.
	Wrap func(http.RoundTripper) http.RoundTripper

	PerHost  int           // requests at once to one host; 0: 6
	Tries    int           // for each file; 0: 5
	Stall    time.Duration // a transfer that brings nothing for so long is cut; 0: a minute
	Large    int64         // files at least so large are resumed across runs; 0: 32 MiB
	Sleep    func(context.Context, time.Duration) error
	Progress func(Progress)
	Log      *slog.Logger
	// Local names a file of this machine that may be the item, "" if there is
	// none. It is taken if its digest is right. It may be nil.
	Local func(Item) string

	once   sync.Once
	client *http.Client
	mu     sync.Mutex
	hosts  map[string]chan struct{}
	coming chan struct{} // a place for each file that is asked for or comes
	reqs   int           // requests made, for tests and figures
}

// permanent is an error that trying again does not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// ErrGone says that upstream has no such file any more.
var ErrGone = errors.New("not at upstream")

func (f *Fetcher) init() {
	f.once.Do(func() {
		f.hosts = map[string]chan struct{}{}
		f.coming = make(chan struct{}, defaultParallel)
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
		if f.Wrap != nil {
			c.Transport = f.Wrap(c.Transport)
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
	_, err := f.all(ctx, items)
	return err
}

// all is All; there are the sizes of those that did not have to be fetched.
func (f *Fetcher) all(ctx context.Context, items []Item) (there map[blob.Digest]int64, err error) {
	f.init()
	var p Progress
	var missing []Item
	there = make(map[blob.Digest]int64, len(items))
	wanted := map[blob.Digest]bool{}
	for _, it := range items {
		if _, ok := there[it.SHA256]; ok || wanted[it.SHA256] {
			continue
		}
		n, err := f.Blobs.Size(it.SHA256)
		if err == nil && (it.Size < 0 || n == it.Size) {
			there[it.SHA256] = n
			continue
		}
		wanted[it.SHA256] = true
		missing = append(missing, it)
		p.FilesTotal++
		p.BytesTotal += max(0, it.Size)
	}
	if len(missing) > 0 {
		if err := checkFree(f.Blobs.Dir(), p.BytesTotal); err != nil {
			return nil, err
		}
	}
	failed := f.several(ctx, len(missing), p, func(i int, add func(int64)) (string, error) {
		return missing[i].Path, f.get(ctx, missing[i], add)
	})
	if err := errors.Join(ctx.Err(), f.Blobs.Flush()); err != nil {
		return nil, err
	}
	return there, failed
}

// Get fetches one item into the blob store. add, when it is not nil, is told
// of bytes as they come (and, negative, of bytes that turned out wrong).
func (f *Fetcher) Get(ctx context.Context, it Item, add func(int64)) error {
	return errors.Join(f.get(ctx, it, add), f.Blobs.Flush())
}

// get is Get of one of many: what it fetched is durable after a flush.
func (f *Fetcher) get(ctx context.Context, it Item, add func(int64)) error {
	f.init()
	if err := it.SHA256.Validate(); err != nil {
		return err
	}
	if it.Kind == KindBuilt {
		return fmt.Errorf("%s was built here and is gone: %w", it.Path, ErrGone)
	}
	if f.Local != nil {
		if path := f.Local(it); path != "" {
			n, err := f.Blobs.Link(ctx, path, it.SHA256)
			if err == nil {
				if add != nil {
					add(n)
				}
				return nil
			}
			f.Log.Debug("a file at hand is not the one", "path", path, "error", err)
		}
	}
	if add == nil {
		add = func(int64) {}
	}
	if it.Text != "" {
		add(int64(len(it.Text)))
		_, _, err := f.Blobs.PutSoon(ctx, strings.NewReader(it.Text), it.SHA256)
		return err
	}
	leave, err := f.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	sink, err := f.open(it)
	if err != nil {
		return err
	}
	defer sink.close()
	add(sink.size())
	return f.bringAny(ctx, it, leaving{sink, leave}, add)
}

// enter waits for a place among the files that come. leave, which may be called
// again, gives it to the next one: a file that is here and waits until the disk
// has it, which is the longer the better (see blob.Writer.CommitSoon), is not
// in the way of others.
func (f *Fetcher) enter(ctx context.Context) (leave func(), err error) {
	select {
	case f.coming <- struct{}{}:
		return sync.OnceFunc(func() { <-f.coming }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bringAny is bring from the first of an item's addresses that has it.
func (f *Fetcher) bringAny(ctx context.Context, it Item, sink sink, add func(int64)) error {
	var errs []error
	for _, u := range append([]string{it.URL}, it.Also...) {
		it.URL = u
		err := f.bring(ctx, it, sink, add)
		if err == nil || ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// bring fills sink from an item's address and commits it.
func (f *Fetcher) bring(ctx context.Context, it Item, sink sink, add func(int64)) error {
	limit := it.Size
	if limit < 0 {
		limit = maxUnknownSize
	}
	if it.Kind == KindFile || it.Kind == KindPart {
		ctx = context.WithValue(ctx, redirectKey{}, true)
	}
	restarted := false
	err := f.try(ctx, it.URL, func() error {
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
	n, err := sink.pour(countReader{io.LimitReader(resp.Body, limit-sink.size()+1), add})
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

type countReader struct {
	r   io.Reader
	add func(int64)
}

func (c countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.add(int64(n))
	return n, err
}

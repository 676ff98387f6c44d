package airgap

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// upstream serves data and cuts the first connections after cut bytes each.
type upstream struct {
	data   []byte
	cut    int
	cuts   int32
	ranges bool
	status []int // of the first answers
	n      atomic.Int32
	asked  chan string
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(u.n.Add(1))
	u.asked <- r.Header.Get("Range")
	if n <= len(u.status) {
		w.WriteHeader(u.status[n-1])
		return
	}
	if !u.ranges {
		r.Header.Del("Range")
	}
	if int32(n) > u.cuts {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(u.data))
		return
	}
	from := 0
	if v := r.Header.Get("Range"); v != "" {
		from, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(v, "bytes="), "-"))
		w.Header().Set("Content-Range", "bytes "+strconv.Itoa(from)+"-"+strconv.Itoa(len(u.data)-1)+"/"+strconv.Itoa(len(u.data)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(u.data)-from))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = w.Write(u.data[from:min(from+u.cut, len(u.data))])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func fetcher(t *testing.T) *Fetcher {
	t.Helper()
	s := testStore(t)
	return &Fetcher{Blobs: s.Blobs(), Dir: s.Dir(), Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}
}

func TestFetchResumes(t *testing.T) {
	data := noise(5, 100_000)
	for _, tt := range []struct {
		name  string
		up    *upstream
		large int64
		want  []string // ranges asked for
	}{
		{"at once", &upstream{ranges: true}, 0, []string{""}},
		{"cut twice", &upstream{ranges: true, cut: 30_000, cuts: 2}, 0, []string{"", "bytes=30000-", "bytes=60000-"}},
		{"cut twice, large", &upstream{ranges: true, cut: 30_000, cuts: 2}, 1000, []string{"", "bytes=30000-", "bytes=60000-"}},
		{"upstream without ranges", &upstream{cut: 30_000, cuts: 1}, 0, []string{"", "bytes=30000-"}},
		{"busy", &upstream{ranges: true, status: []int{503, 429}}, 0, []string{"", "", ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.up.data, tt.up.asked = data, make(chan string, 20)
			srv := httptest.NewServer(tt.up)
			defer srv.Close()
			f := fetcher(t)
			f.Large = tt.large
			var got int64
			it := Item{Path: "x", URL: srv.URL + "/x", Size: int64(len(data)), SHA256: blob.FromBytes(data)}
			if err := f.Get(t.Context(), it, func(n int64) { got += n }); err != nil {
				t.Fatal(err)
			}
			close(tt.up.asked)
			var asked []string
			for r := range tt.up.asked {
				asked = append(asked, r)
			}
			if !slices.Equal(asked, tt.want) || got != int64(len(data)) || f.Blobs.Verify(t.Context(), it.SHA256) != nil {
				t.Errorf("Get asked %q and counted %d bytes; want %q and %d", asked, got, tt.want, len(data))
			}
			if left, err := filepath.Glob(filepath.Join(f.Dir, "partial", "*")); err != nil || len(left) > 0 {
				t.Errorf("Get left %v", left)
			}
		})
	}
}

// A large download that was cut by the end of the process goes on in the next
// one; one that began with wrong bytes begins anew.
func TestFetchResumesAcrossRuns(t *testing.T) {
	data := noise(6, 100_000)
	for name, before := range map[string][]byte{"right": data[:40_000], "wrong": noise(7, 40_000), "too long": noise(7, 200_000)} {
		up := &upstream{data: data, ranges: true, asked: make(chan string, 20)}
		srv := httptest.NewServer(up)
		defer srv.Close()
		f := fetcher(t)
		f.Large = 1
		it := Item{Path: "x", URL: srv.URL + "/x", Size: int64(len(data)), SHA256: blob.FromBytes(data)}
		path := filepath.Join(f.Dir, "partial", it.SHA256.Hex())
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, before, 0o644)); err != nil {
			t.Fatal(err)
		}
		if err := f.Get(t.Context(), it, nil); err != nil || f.Blobs.Verify(t.Context(), it.SHA256) != nil {
			t.Errorf("Get with %s bytes there = %v", name, err)
		}
		if r := <-up.asked; name == "right" && r != "bytes=40000-" {
			t.Errorf("Get asked for %q; want the rest only", r)
		}
	}
}

func TestFetchRefuses(t *testing.T) {
	data := noise(8, 10_000)
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
	}))
	defer secure.Close()
	stop := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/wrong":
			_, _ = w.Write(noise(9, 10_000))
		case "/short":
			_, _ = w.Write(data[:100])
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(data); err != nil {
					return
				}
			}
		case "/stall":
			_, _ = w.Write(data[:100])
			w.(http.Flusher).Flush()
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	defer close(stop)
	for url, want := range map[string]string{
		srv.URL + "/wrong": "other bytes", srv.URL + "/short": "100 of 10000 are here", srv.URL + "/endless": "more than the 10000", srv.URL + "/stall": "nothing came for",
		srv.URL + "/loop": "five times", srv.URL + "/gone": "404", secure.URL: "from https to",
	} {
		f := fetcher(t)
		f.Tries = 2
		if strings.HasSuffix(url, "/stall") { // the others may take as long as this machine makes them
			f.Stall = 100 * time.Millisecond
		}
		if strings.HasPrefix(url, "https") {
			f.HTTP = secure.Client()
		}
		it := Item{Path: "x", URL: url, Size: int64(len(data)), SHA256: blob.FromBytes(data)}
		err := f.All(t.Context(), []Item{it})
		if err == nil || !strings.Contains(err.Error(), want) || f.Blobs.Has(it.SHA256) {
			t.Errorf("All(%s) = %v; want an error with %q and nothing kept", url, err, want)
		}
	}
}

func TestFetchIsBoundedPerHost(t *testing.T) {
	var now, most atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		_, _ = w.Write([]byte(r.URL.Path))
	}))
	defer srv.Close()
	f := fetcher(t)
	f.PerHost = 3
	var items []Item
	for i := range 60 {
		p := "/" + strconv.Itoa(i)
		items = append(items, Item{Path: p[1:], URL: srv.URL + p, Size: int64(len(p)), SHA256: blob.FromBytes([]byte(p))})
	}
	var last Progress
	f.Progress = func(p Progress) { last = p }
	if err := f.All(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	if most.Load() > 3 || last.Files != 60 || last.Bytes != last.BytesTotal {
		t.Errorf("at most %d requests at once, progress %+v; want 3 and all", most.Load(), last)
	}
	if n := f.Requests(); n != 60 {
		t.Errorf("%d requests; want 60", n)
	}
	if err := f.All(t.Context(), items); err != nil || f.Requests() != 60 {
		t.Errorf("All again made %d requests, %v; want none", f.Requests()-60, err)
	}
}

func TestFetchRefusesWithoutRoom(t *testing.T) {
	f := fetcher(t)
	it := Item{Path: "x", URL: "http://127.0.0.1:1/x", Size: 1 << 60, SHA256: blob.FromBytes(nil)}
	if err := f.All(t.Context(), []Item{it}); err == nil || !strings.Contains(err.Error(), "bytes free") || f.Requests() != 0 {
		t.Errorf("All of an exabyte = %v after %d requests; want it refused before the first", err, f.Requests())
	}
}

// An index without a digest is asked for again only if it changed, and never
// read without an end.
func TestIndexIsConditional(t *testing.T) {
	text, tag := "one", `"1"`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", tag)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(text))
	}))
	defer srv.Close()
	f := fetcher(t)
	f.Tries = 1
	for _, want := range []string{"one", "one", "two", "two"} {
		if want == "two" {
			text, tag = "two", `"2"`
		}
		got, err := f.Index(t.Context(), srv.URL+"/x", 100)
		if err != nil || string(got) != want {
			t.Errorf("Index = %q, %v; want %q", got, err, want)
		}
	}
	// What is kept here may be damaged: then it is asked for anew.
	path := f.Blobs.Path(blob.FromBytes([]byte("two")))
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("twa"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Index(t.Context(), srv.URL+"/x", 100); err != nil || string(got) != "two" {
		t.Errorf("Index with a damaged copy here = %q, %v; want upstream's", got, err)
	}
	text, tag = strings.Repeat("x", 101), `"3"`
	if _, err := f.Index(t.Context(), srv.URL+"/x", 100); err == nil || !strings.Contains(err.Error(), "more than 100 bytes") {
		t.Errorf("Index that is too long = %v; want it refused", err)
	}
}

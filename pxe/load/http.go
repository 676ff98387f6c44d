package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Get fetches a URL over a connection of its own and returns the length of its
// body, of which it keeps up to keep bytes. limit, if not 0, ends it early.
func Get(ctx context.Context, dial func(ctx context.Context, network, addr string) (net.Conn, error), rawURL string, keep int, limit int64) (n int64, body []byte, err error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return 0, nil, fmt.Errorf("%q is no HTTP URL", rawURL)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	conn, err := dial(ctx, "tcp", host)
	if err != nil {
		return 0, nil, quiet(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: fettle-bench\r\nConnection: close\r\n\r\n", u.RequestURI(), u.Host); err != nil {
		return 0, nil, quiet(err)
	}
	r := bufio.NewReaderSize(conn, 4096) // the body goes with the connection: it needs no Close
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return 0, nil, quiet(err)
	}
	if resp.StatusCode != http.StatusOK {
		return 0, nil, fmt.Errorf("HTTP status %d", resp.StatusCode)
	}
	if resp.ContentLength < 0 {
		return 0, nil, errors.New("no Content-Length")
	}
	want := resp.ContentLength
	if limit > 0 {
		want = min(want, limit)
	}
	if keep > 0 {
		body, err = io.ReadAll(io.LimitReader(resp.Body, min(want, int64(keep))))
		n = int64(len(body))
		if err != nil {
			return n, body, quiet(err)
		}
	} else {
		// What the buffer has, then the rest from the socket itself.
		k, err := io.CopyN(io.Discard, r, min(want, int64(r.Buffered())))
		if n = k; err != nil {
			return n, nil, quiet(err)
		}
		k, err = discard(conn, want-n)
		if n += k; err != nil {
			return n, nil, quiet(err)
		}
	}
	if n < want && keep == 0 {
		return n, body, io.ErrUnexpectedEOF
	}
	return n, body, nil
}

// quiet takes addresses and ports out of an error, so that errors of many
// clients can be counted.
func quiet(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return err
}

// scriptFiles are the URLs that an iPXE script loads, each once: kernel and
// initrd lines (a kernel's may begin "imgfetch --name vmlinuz"), and the
// arguments of the kernel.
func scriptFiles(script string) (urls []string, args string) {
	seen := map[string]bool{}
	for line := range strings.Lines(script) {
		words := strings.Fields(line)
		kernel := len(words) > 0 && words[0] == "kernel" || len(words) > 2 && words[0] == "imgfetch" && words[2] == "vmlinuz"
		if !kernel && (len(words) == 0 || words[0] != "initrd") {
			continue
		}
		for i, w := range words[1:] {
			if strings.HasPrefix(w, "http://") && !seen[w] {
				seen[w] = true
				urls = append(urls, w)
				if kernel {
					args, _, _ = strings.Cut(strings.Join(words[i+2:], " "), " || ")
				}
				break
			}
		}
	}
	return urls, args
}

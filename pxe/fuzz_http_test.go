package pxe

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"
)

// FuzzHTTP feeds requests to boot HTTP: whatever comes, the answer has a status
// and is no redirect, and no name leaves the root (mapFiles fails on one).
func FuzzHTTP(f *testing.F) {
	for _, s := range []string{
		"GET /boot/files/agent/vmlinuz HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n",
		"GET //boot//files/agent/vmlinuz HTTP/1.0\r\nRange: bytes=0-3,7-\r\n\r\n",
		"HEAD /boot/script/52:54:00:01:02:03?platform=efi&uuid=x&try=2 HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /boot/files/..%2f..%5cetc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /boot/autoexec.ipxe HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		fx := newFixture(t)
		r.RemoteAddr = "192.0.2.10:1234"
		w := &replayWriter{header: http.Header{}}
		fx.serveHTTP(w, r)
		w.WriteHeader(http.StatusOK) // what net/http does for a handler that says nothing
		if w.status < 200 || w.status >= 300 && w.status < 304 || w.status > 304 && w.status < 400 {
			t.Errorf("%q = status %d", b, w.status)
		}
		for _, e := range fx.timeline.all {
			if strings.ContainsAny(e.Text+e.Name, "\x00\n\x1b") {
				t.Errorf("%q: the timeline holds what a terminal would obey: %q %q", b, e.Name, e.Text)
			}
			if e.Err != nil && strings.Contains(e.Err.Error(), "Files was asked for") {
				t.Errorf("%q asked for a name outside the root: %v", b, e.Err)
			}
		}
	})
}

package vbmc

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestSSDP: which searches are answered, and how (DSP0266 §15).
func TestSSDP(t *testing.T) {
	s := newService(t, nil)
	in, err := s.mem.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.ServeSSDP(ctx, conn, "https://192.0.2.9/redfish/v1/") }()
	defer func() { cancel(); <-done }()
	waitFor(t, "the service", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.ssdp > 0 })
	ask := func(text string, wait time.Duration) string {
		t.Helper()
		c, err := net.Dial("udp4", conn.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(wait))
		b := make([]byte, 2048)
		n, err := c.Read(b)
		if err != nil {
			return ""
		}
		return string(b[:n])
	}
	search := func(st string) string {
		return "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: " + st + "\r\n\r\n"
	}
	want := "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\nST: urn:dmtf-org:service:redfish-rest:1:0\r\nUSN: uuid:" + in.UUID +
		"::urn:dmtf-org:service:redfish-rest:1:0\r\nAL: https://192.0.2.9/redfish/v1/\r\nEXT:\r\n\r\n"
	for _, st := range []string{"urn:dmtf-org:service:redfish-rest:1", "urn:dmtf-org:service:redfish-rest:1:18", "ssdp:all"} {
		if got := ask(search(st), 10*time.Second); got != want {
			t.Errorf("a search for %s = %q; want %q", st, got, want)
		}
	}
	for name, text := range map[string]string{
		"another service": search("upnp:rootdevice"), "another version": search("urn:dmtf-org:service:redfish-rest:12"), "nothing": "",
		"GET": "GET / HTTP/1.1\r\n\r\n", "no MAN": strings.Replace(search("ssdp:all"), "MAN", "WOMAN", 1), "half": "M-SEARCH * HT",
	} {
		if got := ask(text, 100*time.Millisecond); got != "" {
			t.Errorf("%s is answered: %q", name, got)
		}
	}
	root := s.do("GET", root, admin, "")
	if id, _ := root.body["UUID"].(string); !strings.Contains(want, id) {
		t.Errorf("the service root has the UUID %s; the answer %s", id, want)
	}
	s.run(t, []step{{"off", "PATCH", protocolPath, `{"SSDP":{"ProtocolEnabled":false}}`, http.StatusOK, nil}})
	if got := ask(search("ssdp:all"), 100*time.Millisecond); got != "" {
		t.Errorf("a search is answered after SSDP was switched off: %q", got)
	}
	cancel()
}

// TestSSDPRate: a flood of searches gets few answers.
func TestSSDPRate(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC) // stands still
	s := newService(t, func(c *Config) { c.Now = func() time.Time { return now } })
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.ServeSSDP(ctx, conn, "https://192.0.2.9/redfish/v1/") }()
	defer func() { cancel(); <-done }()
	c, err := net.Dial("udp4", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 5 * ssdpRate {
		if _, err := c.Write([]byte("M-SEARCH * HTTP/1.1\r\nMAN: \"ssdp:discover\"\r\nST: ssdp:all\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	got := 0
	for b := make([]byte, 2048); ; got++ {
		wait := 10 * time.Second
		if got >= ssdpRate { // no more is to come
			wait = 200 * time.Millisecond
		}
		_ = c.SetReadDeadline(time.Now().Add(wait))
		if _, err := c.Read(b); err != nil {
			break
		}
	}
	if got != ssdpRate {
		t.Errorf("%d answers to %d searches; want %d", got, 5*ssdpRate, ssdpRate)
	}
}

func FuzzSSDP(f *testing.F) {
	f.Add([]byte("M-SEARCH * HTTP/1.1\r\nMAN: \"ssdp:discover\"\r\nST: ssdp:all\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if searches(b) && (!bytes.HasPrefix(b, []byte("M-SEARCH * ")) || !bytes.Contains(b, []byte("ssdp:discover"))) {
			t.Errorf("searches(%q) = true", b)
		}
	})
}

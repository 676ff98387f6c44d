package oci

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// TestMain is the registry itself when a test of killing it starts it as a
// child.
func TestMain(m *testing.M) {
	dir := os.Getenv("FETTLE_TEST_REGISTRY")
	if dir == "" {
		os.Exit(m.Run())
	}
	fmt.Println(serveForKilling(dir))
	os.Exit(1)
}

func serveForKilling(dir string) error {
	s, err := airgap.OpenStore(dir)
	if err != nil {
		return err
	}
	g, err := OpenRegistry(s, Options{Push: &Pushers{Anyone: true}})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return http.Serve(l, g)
}

// TestKilledServer kills the registry while images are pushed. What was
// acknowledged is there afterwards, and nothing is there by half.
func TestKilledServer(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[string][]byte{} // manifests by tag
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), "FETTLE_TEST_REGISTRY="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "127.") {
			t.Fatalf("the registry says %q, %v", line, err)
		}
		base := "http://" + strings.TrimSpace(line)
		var end *time.Timer
		for i := 0; ; i++ {
			tag := fmt.Sprintf("r%d-%d", round, i)
			m, ok := pushQuietly(ctx, base, tag)
			if !ok {
				break
			}
			acknowledged[tag] = m
			if i == 0 { // however long that took
				end = time.AfterFunc(time.Duration(100+50*round)*time.Millisecond, func() { _ = cmd.Process.Kill() })
			}
		}
		if end == nil {
			t.Fatalf("life %d: nothing could be pushed", round)
		}
		end.Stop()
		_ = cmd.Process.Kill() // were it not for the timer that a push failed
		_ = cmd.Wait()
		cancel()
	}
	s, err := airgap.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	// What the killed ones left goes; what is needed stays.
	if _, err := s.Collect(t.Context(), 1, false); err != nil {
		t.Fatal(err)
	}
	_, srv := newRegistry(t, s, Options{})
	c := &conformance{T: t, base: srv.URL}
	for tag, m := range acknowledged {
		a := c.do("GET", "/v2/a/b/manifests/"+tag, nil)
		if !bytes.Equal(a.body, m) {
			t.Errorf("after the kills, %s = %s; want what was acknowledged", tag, a.Status)
			continue
		}
		got := must[manifest](t)(parseManifest(m, ""))
		for _, b := range got.blobs() {
			x := c.do("GET", "/v2/a/b/blobs/"+string(b.Digest), nil)
			c.check(x.StatusCode == 200 && b.Digest.of(x.body), "blob %s of %s = %s", b.Digest.short(), tag, x.Status)
		}
	}
	if n := tmpFiles(t, s); n != 0 {
		t.Errorf("%d temporary files are left; want none", n)
	}
	err = s.Blobs().List(t.Context(), func(d blob.Digest, _ int64) error { return s.Blobs().Verify(t.Context(), d) })
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d images were acknowledged in %d lives", len(acknowledged), rounds)
}

// pushQuietly pushes an image of one large layer in chunks.
func pushQuietly(ctx context.Context, base, tag string) (manifest []byte, ok bool) {
	do := func(method, addr string, body []byte, ctype string, want int) (string, bool) {
		req, err := http.NewRequestWithContext(ctx, method, addr, bytes.NewReader(body))
		if err != nil {
			return "", false
		}
		req.Header.Set("Content-Type", ctype)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return "", false
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.Header.Get("Location"), resp.StatusCode == want
	}
	layer := random(300_000)
	d := canonical(layer)
	loc, ok := do("POST", base+"/v2/a/b/blobs/uploads/", nil, octets, 202)
	if ok {
		loc, ok = do("PATCH", base+loc, layer[:200_000], octets, 202)
	}
	if ok {
		_, ok = do("PUT", base+loc+"?digest="+string(d), layer[200_000:], octets, 201)
	}
	m := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x/y","digest":%q,"size":%d},"layers":[]}`, typeImage, d, len(layer))
	if ok {
		_, ok = do("PUT", base+"/v2/a/b/manifests/"+tag, m, typeImage, 201)
	}
	return m, ok
}

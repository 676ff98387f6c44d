package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fettle-dev/fettle/pxe/load"
)

// stuckFiles has files that no one can read until they are released.
type stuckFiles struct {
	mapFiles
	asked   chan struct{} // one for each read that waits
	release chan struct{}
}

func (f stuckFiles) Open(ctx context.Context, name string) (*File, error) {
	file, err := f.mapFiles.Open(ctx, name)
	if err == nil && strings.HasSuffix(name, "stuck") {
		file.ReadSeekCloser = &stuckFile{ReadSeekCloser: file.ReadSeekCloser, f: f}
	}
	return file, err
}

type stuckFile struct {
	io.ReadSeekCloser
	f    stuckFiles
	once sync.Once
}

func (s *stuckFile) Read(b []byte) (int, error) {
	s.once.Do(func() {
		s.f.asked <- struct{}{}
		<-s.f.release
	})
	return s.ReadSeekCloser.Read(b)
}

// TestTFTPSlowDisk has more clients wait for a disk than there are engines:
// others get their files meanwhile, and they get theirs when it has read.
func TestTFTPSlowDisk(t *testing.T) {
	const waiting = 2 * tftpMaxEngines
	want := pattern(100_000)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	files := stuckFiles{mapFiles{"stuck": want, "f": "@" + path}, make(chan struct{}, waiting), make(chan struct{})}
	addr := realUDP(t, files, 1500)
	var wg sync.WaitGroup
	defer wg.Wait()
	release := sync.OnceFunc(func() { close(files.release) })
	defer release()
	for i := range waiting {
		wg.Go(func() {
			var got bytes.Buffer
			if _, err := fetch(addr, "stuck", 1468, 1+i%4, &got); err != nil || got.String() != want {
				t.Errorf("client %d of the slow disk got %d bytes, %v; want all", i, got.Len(), err)
			}
		})
	}
	for i := range waiting {
		select {
		case <-files.asked:
		case <-time.After(20 * time.Second):
			t.Fatalf("%d of %d clients read from the disk", i, waiting)
		}
	}
	for _, window := range []int{1, 4} {
		var got bytes.Buffer
		if _, err := fetch(addr, "f", 1468, window, &got); err != nil || got.String() != want {
			t.Errorf("windowsize %d beside a slow disk: got %d bytes, %v; want all", window, got.Len(), err)
		}
	}
	release()
}

// TestTFTPFiftyAtOnce has clients of both kinds at once, of files on the disk
// and in memory.
func TestTFTPFiftyAtOnce(t *testing.T) {
	files, dir := mapFiles{}, t.TempDir()
	for i := range 10 {
		data := pattern(200_000 + 734*i) // the last block is now and then empty
		name := fmt.Sprint("f", i)
		if files[name] = data; i%2 == 0 {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
			files["@"+name], files[name] = data, "@"+path
		}
	}
	addr := realUDP(t, files, 1500)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			name := fmt.Sprint("f", i%10)
			want := files[name]
			if i%2 == 0 {
				want = files["@"+name]
			}
			var got bytes.Buffer
			if _, err := fetch(addr, name, 1468, []int{1, 1, 8}[i%3], &got); err != nil || got.String() != want {
				t.Errorf("client %d got %d bytes of %s, %v; want %d", i, got.Len(), name, err, len(want))
			}
		})
	}
	wg.Wait()
}

// carried is a transfer that an engine carries to a socket of the test's.
func carried(t *testing.T, from tftpSource) (*engineWire, *sender, *net.UDPConn) {
	t.Helper()
	engines, err := newTFTPEngines(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engines.close(); err != nil {
			t.Errorf("closing the engines: %v", err)
		}
	})
	listen := func() *net.UDPConn {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	server, client := listen(), listen()
	client.SetDeadline(time.Now().Add(20 * time.Second))
	to, _ := addrPortOf(client.LocalAddr())
	w, ok := engines.carrier(server, to).(*engineWire)
	if !ok {
		t.Fatal("no engine carries a transfer over a socket of the kernel's")
	}
	return w, &sender{to: w, file: newTFTPFile(from), now: time.Now, blksize: 1000, window: 1}, client
}

// toggle has an engine change its way of waiting without end, until stop.
func toggle(e *tftpEngine) (stop func()) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
			}
			e.mu.Lock()
			if e.hot {
				e.cool()
			} else {
				e.heat()
				e.others() // it waits, perhaps, for what does not come now
			}
			e.mu.Unlock()
			runtime.Gosched()
		}
	})
	return func() { close(end); wg.Wait() }
}

// TestTFTPWaysOfWaiting has an engine change between being told and asking
// while it serves, once more clients than it asks at a time. A packet that it
// overlooks costs 100 ms.
func TestTFTPWaysOfWaiting(t *testing.T) {
	engines, err := newTFTPEngines(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer engines.close()
	for _, e := range engines.all {
		defer toggle(e)()
	}
	want := pattern(50_000)
	for _, clients := range []int{10, tftpHotMost*len(engines.all) + 20} {
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
				if err != nil {
					t.Error(err)
					return
				}
				defer server.Close()
				client, err := net.DialUDP("udp4", nil, server.LocalAddr().(*net.UDPAddr))
				if err != nil {
					t.Error(err)
					return
				}
				defer client.Close()
				client.SetDeadline(time.Now().Add(60 * time.Second))
				to, _ := addrPortOf(client.LocalAddr())
				w, ok := engines.carrier(server, to).(*engineWire)
				if !ok {
					t.Error("no engine carries the transfer")
					return
				}
				rng := rand.New(rand.NewPCG(uint64(i), 1))
				s := &sender{to: w, file: newTFTPFile(fitful{strings.NewReader(want), rng}), now: time.Now, blksize: 1000, window: 1 + i%3}
				done := make(chan error, 1)
				go func() { done <- w.run(t.Context(), s) }()
				var got bytes.Buffer
				for b, last := make([]byte, 1100), 0; ; {
					k, err := client.Read(b)
					if err != nil {
						t.Errorf("client %d after block %d: %v", i, last, err)
						break
					}
					if n := int(b[2])<<8 | int(b[3]); n == last+1 {
						last = n
						got.Write(b[4:k])
					}
					if _, err := client.Write(ackOf(last)); err != nil || k < 1004 && got.Len() == len(want) {
						break
					}
				}
				if err := <-done; err != nil || got.String() != want {
					t.Errorf("client %d: run = %v, %d bytes; want all", i, err, got.Len())
				}
			})
		}
		wg.Wait()
	}
}

// TestTFTPWaitsCold has the only client of an engine wait for the disk: packets
// that it sends meanwhile keep nobody from sleeping.
func TestTFTPWaitsCold(t *testing.T) {
	release := make(chan struct{})
	w, s, client := carried(t, waitingSource{readerFunc(func(b []byte) (int, error) {
		<-release
		return 0, io.EOF
	})})
	s.oack = []byte{0, tftpOack}
	done := make(chan error, 1)
	go func() { done <- w.run(t.Context(), s) }()
	_, from, err := client.ReadFrom(make([]byte, 10))
	if err != nil {
		t.Fatal(err)
	}
	e := w.engine
	until := func(what string, is func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
			e.mu.Lock()
			ok := is()
			e.mu.Unlock()
			if ok {
				return
			}
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	for range 3 { // the first has it read the file
		if _, err := client.WriteTo(ackOf(0), from); err != nil {
			t.Fatal(err)
		}
	}
	until("the transfer does not wait for its file", func() bool { return w.away })
	e.mu.Lock()
	e.heat()
	e.others()
	e.mu.Unlock()
	until("the engine asks without end", func() bool { return !e.hot })
	close(release)
	if _, _, err := client.ReadFrom(make([]byte, 10)); err != nil { // the block that ends it
		t.Fatal(err)
	}
	if _, err := client.WriteTo(ackOf(1), from); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("run = %v; want no error", err)
	}
}

type readerFunc func(b []byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestTFTPClientVanishes has a client say nothing more: its transfer ends when
// it was asked often enough.
func TestTFTPClientVanishes(t *testing.T) {
	w, s, client := carried(t, memorySource{strings.NewReader(pattern(5000))})
	s.oack, s.tries = []byte{0, tftpOack}, tftpRetries-1 // as if it had been asked before
	client.Close()
	if err := w.run(t.Context(), s); err == nil || !strings.Contains(err.Error(), "did not answer") {
		t.Errorf("run = %v; want that the client did not answer", err)
	}
}

// TestTFTPSendFails has the kernel refuse to send: the transfer ends and says so.
func TestTFTPSendFails(t *testing.T) {
	for _, window := range []int{1, 4} {
		w, s, client := carried(t, memorySource{strings.NewReader(pattern(50_000))})
		s.window = window
		done := make(chan error, 1)
		go func() { done <- w.run(t.Context(), s) }()
		buf := make([]byte, 1100)
		var from net.Addr
		for range window {
			var err error
			if _, from, err = client.ReadFrom(buf); err != nil {
				t.Fatal(err)
			}
		}
		// A socket that is shut for writing; the client's end is not told.
		if err := unix.Shutdown(w.fd, unix.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		if _, err := client.WriteTo(ackOf(window), from); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			if !errors.Is(err, unix.EPIPE) || !strings.Contains(err.Error(), fmt.Sprintf("sending block %d", window+1)) {
				t.Errorf("windowsize %d: run = %v; want that block %d could not be sent", window, err, window+1)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("windowsize %d: the transfer goes on", window)
		}
	}
}

// TestTFTPStopsInTransfers has the server stop while blocks come and go: no
// goroutine and no socket is left.
func TestTFTPStopsInTransfers(t *testing.T) {
	const stopSize = 4 << 30 // nobody has it all before
	sockets := func() int {
		e, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(e)
	}
	goroutines, before := runtime.NumGoroutine(), sockets()
	t.Run("serve", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, stopSize); err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Networks: []Network{{Name: "lo", Prefix: netip.MustParsePrefix("127.0.0.0/8"), Server: netip.MustParseAddr("127.0.0.1"), MTU: 1500}},
			Booter: booterFunc(nil), Leases: &memLeases{}, Files: mapFiles{"f": "@" + path}})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() {
			served <- s.ServeTFTP(ctx, conn, func(context.Context, netip.Addr) (net.PacketConn, error) {
				return net.ListenPacket("udp4", "127.0.0.1:0")
			})
		}()
		fetching, end := context.WithCancel(t.Context())
		defer end()
		to, _ := addrPortOf(conn.LocalAddr())
		got := make(chan int64, 10)
		for i := range cap(got) {
			go func() {
				client, err := net.ListenPacket("udp4", "127.0.0.1:0")
				if err != nil {
					t.Error(err)
				} else {
					defer client.Close()
				}
				n, _ := load.Fetch{Server: to, Name: "f", Blksize: 512, Window: 1 + i%2*7}.Run(fetching, client)
				got <- n
			}()
		}
		for end := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
			s.tftp.mu.Lock()
			answered := len(s.tftp.active) - s.tftp.silent.Len()
			s.tftp.mu.Unlock()
			if answered == cap(got) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%d clients of %d are served", answered, cap(got))
			}
		}
		stop()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("ServeTFTP = %v; want no error", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("ServeTFTP goes on")
		}
		end()
		for range cap(got) {
			if n := <-got; n == stopSize {
				t.Error("a client had all before the server stopped: nothing was tried")
			}
		}
	})
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines || sockets() > before; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines and %d files are left; want %d and %d", runtime.NumGoroutine(), sockets(), goroutines, before)
		}
	}
}

// TestDiskSource reads files of file systems that can tell what is in memory,
// and of one that cannot.
func TestDiskSource(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	want := pattern(100_000)
	if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, "/proc/self/maps"} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		file := newTFTPFile(sourceOf(f))
		var got bytes.Buffer
		waited := 0
		for b := make([]byte, 1468); ; {
			n, slow, err := file.read(b, false)
			if errors.Is(err, errWait) {
				got.Write(b[:n])
				waited++
				if n, slow, err = file.read(b, true); !slow {
					t.Errorf("%s: a read that may wait is not said to be slow", name)
				}
			}
			got.Write(b[:n])
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if name == path && got.String() != want {
			t.Errorf("%s: read %d bytes; want the %d of the file", name, got.Len(), len(want))
		}
		if name != path && (waited == 0 || !strings.Contains(got.String(), "\n")) {
			t.Errorf("%s: read %d bytes, waiting %d times; want its lines, and to wait", name, got.Len(), waited)
		}
	}
}

// fitful is a source that gives what it likes, and now and then has to wait.
type fitful struct {
	from io.Reader
	rng  *rand.Rand
}

func (f fitful) read(b []byte, wait bool) (int, error) {
	if !wait && f.rng.IntN(2) == 0 {
		return 0, errWait
	}
	return f.from.Read(b[:1+f.rng.IntN(len(b))])
}

// TestSenderWaits has the file come in pieces, with waits in and between
// blocks: what is sent is the file.
func TestSenderWaits(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 0))
		want := pattern(rng.IntN(300))
		w := &keptWire{}
		s := &sender{to: w, file: &tftpFile{from: fitful{strings.NewReader(want), rng}, buf: make([]byte, 1+rng.IntN(40))}, now: func() time.Time { return time.Unix(0, 0) },
			blksize: 8 + rng.IntN(20), window: 1 + rng.IntN(4)}
		err := s.start()
		for turns := 0; (err == nil || errors.Is(err, errWait)) && !s.done; turns++ {
			if turns > 1000 {
				t.Fatalf("seed %d: no end after %d bytes of %d", seed, w.got.Len(), len(want))
			}
			if errors.Is(err, errWait) {
				s.mayWait = true
				err = s.goOn()
				s.mayWait = false
				continue
			}
			err = s.packet(ackOf(w.last))
		}
		if err != nil || w.got.String() != want || s.bytes != int64(len(want)) {
			t.Fatalf("seed %d: sent %q, %d acknowledged, %v; want %q", seed, &w.got, s.bytes, err, want)
		}
	}
}

// keptWire keeps the data of blocks that come in order.
type keptWire struct {
	got  bytes.Buffer
	last int
}

func (w *keptWire) send(b []byte) error {
	if n := int(b[2])<<8 | int(b[3]); n == w.last+1 {
		w.last = n
		w.got.Write(b[4:])
	}
	return nil
}

func (w *keptWire) burst(blocks [][]byte) (int, error) { return 1, w.send(blocks[0]) }

//go:build linux

package pxe

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// netns is a network namespace that lives as long as the test.
type netns struct{ name string }

func newNS(t testing.TB) *netns {
	t.Helper()
	needTool(t, "ip")
	if os.Getuid() != 0 {
		missing(t, "network namespaces need root")
	}
	var r [3]byte
	rand.Read(r[:])
	n := &netns{"fpxe-" + hex.EncodeToString(r[:])}
	if out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput(); err != nil {
		missing(t, "ip netns add: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", n.name).Run() })
	n.run(t, "ip", "link", "set", "lo", "up")
	return n
}

func (n *netns) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.name}, args...)...)
	c.WaitDelay = 5 * time.Second
	return c
}

func (n *netns) run(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	out, err := n.command(ctx, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("in %s: %s: %v\n%s", n.name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// start runs a program that dies with the test process. Pdeathsig goes by the
// thread that forked, and threads of do end: the program gets one of its own.
func start(cmd *exec.Cmd) (exited <-chan error, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, done := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
	}()
	return done, <-started
}

// do runs f on a thread inside the namespace; sockets that it opens stay there.
func (n *netns) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open("/run/netns/"+n.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// serve runs the whole server on an interface of the namespace.
func (n *netns) serve(t testing.TB, s *Server, ifname string) {
	t.Helper()
	nw := s.order[0]
	if nw.has4() {
		n.serve4(t, s, ifname)
	}
	if nw.has6() {
		n.serve6(t, s, ifname)
	}
	if nw.Advertise != AdvertiseOff {
		n.advertise(t, s, ifname)
	}
}

// serve4 runs what is of IPv4.
func (n *netns) serve4(t testing.TB, s *Server, ifname string) {
	t.Helper()
	nw := s.order[0]
	var dhcp *DHCPConn
	err := n.do(func() (err error) {
		dhcp, err = ListenDHCP(ifname)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.ServeDHCP(ctx, nw.Name, dhcp) }()
	t.Cleanup(func() {
		cancel()
		check(t, "ServeDHCP", <-done)
		dhcp.Close()
	})
	n.serveBut67(t, s)
}

// serve6 runs DHCPv6, and TFTP and boot HTTP over IPv6.
func (n *netns) serve6(t testing.TB, s *Server, ifname string) {
	t.Helper()
	nw := s.order[0]
	n.run(t, "ip", "addr", "replace", nw.IPv6.Server.String()+"/64", "dev", ifname, "nodad")
	var dhcp *DHCP6Conn
	var tftp net.PacketConn
	var web net.Listener
	err := n.do(func() (err error) {
		if dhcp, err = ListenDHCP6(ifname); err != nil {
			return err
		}
		if tftp, err = net.ListenPacket("udp6", netip.AddrPortFrom(nw.IPv6.Server, 69).String()); err != nil {
			return err
		}
		web, err = net.Listen("tcp6", netip.AddrPortFrom(nw.IPv6.Server, 80).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	srv := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}
	wg.Go(func() { check(t, "ServeDHCP6", s.ServeDHCP6(ctx, nw.Name, dhcp)) })
	wg.Go(func() {
		check(t, "ServeTFTP", s.ServeTFTP(ctx, tftp, func(_ context.Context, local netip.Addr) (c net.PacketConn, err error) {
			err = n.do(func() error {
				c, err = net.ListenPacket("udp6", netip.AddrPortFrom(local, 0).String())
				return err
			})
			return c, err
		}))
	})
	wg.Go(func() { srv.Serve(web) })
	t.Cleanup(func() {
		cancel()
		srv.Close()
		wg.Wait()
		dhcp.Close()
		tftp.Close()
	})
}

// advertise runs router advertisements.
func (n *netns) advertise(t testing.TB, s *Server, ifname string) {
	t.Helper()
	var conn AdvertiseConn
	err := n.do(func() (err error) {
		conn, err = ListenAdvertise(ifname)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.ServeAdvertisements(ctx, s.order[0].Name, conn) }()
	t.Cleanup(func() {
		cancel()
		check(t, "ServeAdvertisements", <-done)
		conn.Close()
	})
}

// serveBut67 runs everything but DHCP's port 67.
func (n *netns) serveBut67(t testing.TB, s *Server) {
	t.Helper()
	nw := s.order[0]
	var tftp, binl net.PacketConn
	var web net.Listener
	err := n.do(func() (err error) {
		if binl, err = net.ListenPacket("udp4", nw.Server.String()+":4011"); err != nil {
			return err
		}
		if tftp, err = net.ListenPacket("udp4", nw.Server.String()+":69"); err != nil {
			return err
		}
		web, err = net.Listen("tcp4", nw.Server.String()+":80")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	srv := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}
	wg.Go(func() { check(t, "ServeBINL", s.ServeBINL(ctx, nw.Name, binl)) })
	wg.Go(func() {
		check(t, "ServeTFTP", s.ServeTFTP(ctx, tftp, func(_ context.Context, local netip.Addr) (c net.PacketConn, err error) {
			err = n.do(func() error {
				c, err = net.ListenPacket("udp4", netip.AddrPortFrom(local, 0).String())
				return err
			})
			return c, err
		}))
	})
	wg.Go(func() { srv.Serve(web) })
	t.Cleanup(func() {
		cancel()
		stop, done := context.WithTimeout(context.Background(), 3*time.Second)
		defer done()
		if srv.Shutdown(stop) != nil {
			srv.Close()
		}
		wg.Wait()
		binl.Close()
		tftp.Close()
	})
}

func check(t testing.TB, what string, err error) {
	if err != nil {
		t.Errorf("%s = %v; want nil after its context ended", what, err)
	}
}

// vethPair makes two namespaces with a wire between them: the server's, with
// its address, and the client's, with the test MAC and no address.
func vethPair(t testing.TB) (server, client *netns) {
	t.Helper()
	server, client = newNS(t), newNS(t)
	server.run(t, "ip", "link", "add", "srv0", "type", "veth", "peer", "name", "cli0", "netns", client.name)
	server.run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "srv0")
	server.run(t, "ip", "link", "set", "srv0", "up")
	client.run(t, "ip", "link", "set", "cli0", "address", testMAC.String())
	client.run(t, "ip", "link", "set", "cli0", "up")
	return server, client
}

// eventually polls for up to d.
func eventually(ctx context.Context, d time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %v", d)
		}
	}
	return nil
}

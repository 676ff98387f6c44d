//go:build linux

package pxe

import (
	"bytes"
	"net"
	"testing"
	"time"
)

// TestSendBurst cuts one call into datagrams, as a window of blocks is.
func TestSendBurst(t *testing.T) {
	a, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	to, _ := addrPortOf(b.LocalAddr())
	sock, err := takeSocket(a, to)
	if err != nil {
		t.Fatal(err)
	}
	defer sock.close()
	var blocks [][]byte
	for i := range 70 {
		blocks = append(blocks, bytes.Repeat([]byte{byte(i)}, 1472))
	}
	blocks[69] = blocks[69][:5]
	if err := b.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	for sent := 0; sent < len(blocks); {
		n, err := sendBurst(sock.fd, blocks[sent:])
		if err != nil || n < 1 {
			t.Fatalf("sendBurst = %d, %v", n, err)
		}
		for _, want := range blocks[sent : sent+n] {
			k, err := b.Read(buf)
			if err != nil || !bytes.Equal(buf[:k], want) {
				t.Fatalf("a datagram of %d bytes, %v; want %d of %d", k, err, len(want), want[0])
			}
		}
		sent += n
	}
}

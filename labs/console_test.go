package labs

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestConsole(t *testing.T) {
	dir := folder(t.TempDir())
	if err := dir.claim("hall", "u", testTime); err != nil {
		t.Fatal(err)
	}
	if _, err := DialConsole(t.Context(), string(dir), "m"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "fettle lab up") {
		t.Errorf("DialConsole without a daemon = %v; want an error that says what to do", err)
	}
	// A socket that a killed daemon left.
	old, err := net.Listen("unix", dir.consoleGuest("m"))
	if err != nil {
		t.Fatal(err)
	}
	old.(*net.UnixListener).SetUnlinkOnClose(false)
	old.Close()

	c, err := openConsole(dir, "m", -1, discard)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(dir.consoleGuest("m")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the guest's socket: %v, %v; want mode 0600: who can connect can play the guest", fi, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.run(ctx) }()

	guest, err := net.Dial("unix", dir.consoleGuest("m"))
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	user, err := DialConsole(t.Context(), string(dir), "m")
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	for _, conn := range []net.Conn{guest, user} {
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	// What is typed reaches the guest once it is known; then its answer comes.
	for !c.Connected() {
		if t.Context().Err() != nil {
			t.Fatal("the console never saw its guest")
		}
	}
	if _, err := user.Write([]byte("root\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(guest).ReadString('\n'); line != "root\n" || err != nil {
		t.Fatalf("the guest read %q, %v; want what the user typed", line, err)
	}
	if _, err := guest.Write([]byte("Password:\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(user).ReadString('\n'); line != "Password:\n" || err != nil {
		t.Fatalf("the user read %q, %v; want what the guest said", line, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run = %v; want nil when its context ends", err)
	}
	if err := c.close(); err != nil {
		t.Errorf("close = %v; want nil", err)
	}
	log, err := os.ReadFile(ConsoleLog(string(dir), "m"))
	if err != nil || string(log) != "Password:\n" {
		t.Errorf("the console's log = %q, %v; want what the guest said", log, err)
	}
}

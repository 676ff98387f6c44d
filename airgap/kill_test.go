package airgap

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be a process that changes a store and is
// killed: see childProcess.
func TestMain(m *testing.M) {
	if args := os.Getenv("AIRGAP_TEST_IMPORT"); args != "" {
		os.Exit(importProcess(args))
	}
	if args := os.Getenv("AIRGAP_TEST_CHILD"); args != "" {
		os.Exit(childProcess(strings.Fields(args)))
	}
	os.Exit(m.Run())
}

// importProcess imports the bundle DIR into STORE with KEY, writes a line for
// each step and waits for an answer, so that its parent can kill it at one.
func importProcess(args string) int {
	f := strings.Fields(args)
	key, err := ParsePublicKey(f[2])
	if err != nil {
		return 1
	}
	s, err := OpenStore(f[1])
	if err != nil {
		return 1
	}
	b, err := OpenBundle(key, f[0])
	if err != nil {
		return 1
	}
	_, err = s.Import(context.Background(), b, ImportOptions{Now: func() time.Time { return testTime }, Progress: func(_, _ int64) {
		_, _ = os.Stdout.WriteString(".\n")
		_, _ = os.Stdin.Read(make([]byte, 1))
	}})
	if err != nil {
		return 1
	}
	return 0
}

// TestKilledImports kills imports at one step after the other (SIGKILL: what a
// power cut leaves, but for the disk's own cache). Each time either all is
// served or what was before, and the next import ends well.
func TestKilledImports(t *testing.T) {
	s, k := testStore(t), testKey(t, "A")
	addSnapshot(t, s, "one", 1, map[string][]byte{"old": []byte("old")})
	first, _ := create(t, s, k, CreateOptions{})
	two := contents()
	for i := range 10 {
		two["more/"+string(rune('a'+i))] = noise(uint64(20+i), 5000)
	}
	addSnapshot(t, s, "two", 2, two)
	dir, _ := create(t, s, k, CreateOptions{VolumeSize: 150_000})
	for at := 1; ; at += 2 {
		other := testStore(t)
		if _, err := importDirs(t, other, k.Public(), false, first); err != nil {
			t.Fatal(err)
		}
		killed := killAfter(t, at, strings.Join([]string{dir, other.Dir(), k.Public().String()}, " "))
		name, err := other.Served()
		switch {
		case err != nil:
			t.Fatal(err)
		case name == "one":
			checkServed(t, other, "one", map[string][]byte{"old": []byte("old")})
		default:
			checkServed(t, other, "two", two)
		}
		if _, err := importDirs(t, other, k.Public(), false, dir); err != nil {
			t.Fatalf("killed at step %d: Import again = %v", at, err)
		}
		checkServed(t, other, "two", two)
		if left, err := filepath.Glob(filepath.Join(other.Dir(), "blobs", "tmp", "*")); err != nil || len(left) > 0 {
			t.Errorf("killed at step %d: left %v", at, left)
		}
		if !killed {
			if at < 10 {
				t.Errorf("the import has only %d steps: nothing was killed", at)
			}
			return
		}
		if at > 200 {
			t.Fatal("the import does not end")
		}
	}
}

// killAfter runs an import and kills it after n steps; false: it ended first.
func killAfter(t *testing.T, n int, args string) bool {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), "AIRGAP_TEST_IMPORT="+args)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	steps := 0
	for sc := bufio.NewScanner(out); sc.Scan(); {
		if steps++; steps == n {
			_ = cmd.Process.Kill() // it waits, so it is there
			break
		}
		_, _ = in.Write([]byte{0})
	}
	err = cmd.Wait()
	if err == nil || steps >= n {
		return err != nil
	}
	t.Fatalf("the import failed by itself after %d steps: %v", steps, err)
	return false
}

package airgap

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every code with one wrong character, or two that changed places, is refused,
// and the right one is suggested.
func TestCodeOfAReceipt(t *testing.T) {
	s := testStore(t)
	snap := addSnapshot(t, s, "one", 7, contents())
	r, err := s.receiptOf("dc1", snap)
	if err != nil {
		t.Fatal(err)
	}
	code := r.Code()
	t.Log(code)
	if len(code) != 24 || strings.Count(code, "-") != 4 {
		t.Errorf("Code() = %q; want five groups of four", code)
	}
	for _, typed := range []string{code, strings.ToLower(code), strings.ReplaceAll(code, "-", " "), strings.ReplaceAll(code, "0", "o"), " " + strings.ReplaceAll(code, "1", "l") + "\n"} {
		got, d, err := s.BaseOfCode("dc1", typed)
		if err != nil || got.Name != "one" || d != r.SHA256 {
			t.Errorf("BaseOfCode(%q) = %q, %v; want one", typed, got.Name, err)
		}
	}
	if _, _, err := s.BaseOfCode("dc2", code); !errors.Is(err, ErrNoSnapshot) || !strings.Contains(err.Error(), "another site") {
		t.Errorf("BaseOfCode of another site = %v; want it told", err)
	}
	for i := range code {
		if code[i] == '-' {
			continue
		}
		for _, x := range codeAlphabet {
			bad := code[:i] + string(x) + code[i+1:]
			if bad == code {
				continue
			}
			if _, err := ParseCode(bad); !errors.Is(err, ErrCode) {
				t.Errorf("ParseCode(%q) = %v; want %v", bad, err, ErrCode)
			}
		}
	}
	bad := []byte(code)
	bad[6] = codeAlphabet[(strings.IndexByte(codeAlphabet, bad[6])+1)%32]
	if _, _, err := s.BaseOfCode("dc1", string(bad)); !errors.Is(err, ErrCode) || !strings.Contains(err.Error(), code) {
		t.Errorf("BaseOfCode of a slip = %v; want %s suggested", err, code)
	}
	if (Receipt{Serial: 1 << serialBits, SHA256: r.SHA256}).Code() != "" {
		t.Error("a serial that does not fit has a code")
	}
}

func FuzzCode(f *testing.F) {
	f.Add("0000-E0VN-8K2J-Q1M5-ABCD")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCode(text)
		if err != nil {
			return
		}
		if got, err := ParseCode(c.String()); err != nil || got != c {
			t.Errorf("ParseCode(%q) = %+v, %v; want %+v", c, got, err, c)
		}
	})
}

// TestNeverOutOfSequence: bundles are lost on the way, snapshots are collected
// here, steps are repeated; the next delta always fits what the record or a
// typed code says.
func TestNeverOutOfSequence(t *testing.T) {
	here, there, k := testStore(t), testStore(t), testKey(t, "A")
	at := testTime
	files := contents()
	add := func(serial int64) {
		t.Helper()
		files["n"+string(rune('0'+serial))] = noise(uint64(serial), 5000)
		addSnapshot(t, here, "s"+string(rune('0'+serial)), serial, files)
	}
	send := func(since bool) string {
		t.Helper()
		o := CreateOptions{}
		if since {
			r, err := here.Record("dc1-b")
			if err != nil {
				t.Fatal(err)
			}
			held, ok := r.Holds()
			if !ok {
				t.Fatal("the record says that nothing was sent")
			}
			o.Base, o.BaseDigest = held.Snapshot, held.SHA256
		}
		dir, b := create(t, here, k, o)
		for range 2 { // a repeated step is noted once
			if err := here.RecordSent("dc1-b", b, at); err != nil {
				t.Fatal(err)
			}
		}
		at = at.Add(time.Hour)
		return dir
	}
	add(1)
	if _, err := importDirs(t, there, k.Public(), false, send(false)); err != nil {
		t.Fatal(err)
	}
	add(2)
	if _, err := importDirs(t, there, k.Public(), false, send(true)); err != nil {
		t.Fatalf("Import of a delta by the record alone = %v", err)
	}
	add(3)
	send(true) // lost on the way
	add(4)
	_, err := importDirs(t, there, k.Public(), false, send(true))
	if !errors.Is(err, ErrBase) {
		t.Fatalf("Import of a delta on a lost bundle = %v; want %v", err, ErrBase)
	}
	// The refusal says the code that corrects the sender's picture.
	words := strings.Fields(err.Error())
	var code string
	for _, w := range words {
		if w = strings.TrimRight(w, ",;."); len(w) == 24 && LooksLikeCode(w) {
			code = w
		}
	}
	// Meanwhile this side kept only its newest snapshot.
	if _, err := here.Collect(t.Context(), 1, false); err != nil {
		t.Fatal(err)
	}
	snap, d, err := here.BaseOfCode("dc1", code)
	if err != nil || snap.Name != "s2" {
		t.Fatalf("BaseOfCode(%q) = %q, %v; want s2", code, snap.Name, err)
	}
	if err := here.Learn("dc1-b", "dc1", snap.Name, snap.Serial, d, at); err != nil {
		t.Fatal(err)
	}
	if _, err := importDirs(t, there, k.Public(), false, send(true)); err != nil {
		t.Fatalf("Import after the code was typed = %v", err)
	}
	checkServed(t, there, "s4", files)
	r, err := here.Record("dc1-b")
	if err != nil {
		t.Fatal(err)
	}
	var states []string
	for _, b := range r.Sent {
		states = append(states, b.Snapshot+" "+string(b.State))
	}
	if got, want := strings.Join(states, ", "), "s1 sent, s3 lost, s4 lost, s2 arrived, s4 sent"; got != want {
		t.Errorf("the record = %s; want %s", got, want)
	}
	if err := here.RecordSent("dc1-b", Bundle{Site: "other"}, at); err == nil {
		t.Error("RecordSent of another site's bundle = nil; want it refused")
	}
	if err := os.WriteFile(here.basePath(d), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := here.known("s2", d); err == nil || !strings.Contains(err.Error(), filepath.Base(here.basePath(d))) {
		t.Errorf("known() with a damaged base = %v; want it named", err)
	}
}

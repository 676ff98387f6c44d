package site

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPendingSecret(t *testing.T) {
	dir := t.TempDir()
	sec, _, err := InitSecrets(dir, filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sec.Set("bmc", NewSecret("root:old")); err != nil {
		t.Fatal(err)
	}
	p := Pending{Was: NewSecret("root:old"), Next: NewSecret("root:new")}
	if err := sec.SetPending("bmc", p); err != nil {
		t.Fatal(err)
	}
	if err := sec.SetPending("bmc", p); err != nil {
		t.Errorf("SetPending() of the same again = %v; want nil", err)
	}
	if err := sec.SetPending("bmc", Pending{Next: NewSecret("root:third")}); !errors.Is(err, ErrPendingExists) || strings.Contains(err.Error(), "third") {
		t.Errorf("SetPending() over another = %v; want ErrPendingExists", err)
	}
	// What others change and rotate meanwhile keeps it.
	if err := sec.Set("other", NewSecret("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := sec.RotateKey(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	again, err := OpenSecrets(dir, filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	if got, ok, err := again.GetPending("bmc"); err != nil || !ok || got.Next.Reveal() != "root:new" || got.Was.Reveal() != "root:old" {
		t.Errorf("GetPending() = %v, %v; want what was begun", ok, err)
	}
	if v, err := again.Get("bmc"); err != nil || v.Reveal() != "root:old" {
		t.Errorf("Get() while a change is pending: %v; want the old value", err)
	}
	if err := again.CommitPending("bmc"); err != nil {
		t.Fatal(err)
	}
	if v, err := again.Get("bmc"); err != nil || v.Reveal() != "root:new" {
		t.Errorf("Get() after CommitPending: %v; want the new value", err)
	}
	if names, err := again.ListPending(); err != nil || len(names) != 0 {
		t.Errorf("ListPending() = %v, %v; want none", names, err)
	}
	if err := again.CommitPending("bmc"); err == nil {
		t.Error("CommitPending() of nothing = nil; want an error")
	}
	if err := again.SetPending("bmc", p); err != nil {
		t.Fatal(err)
	}
	if err := again.DropPending("bmc"); err != nil {
		t.Fatal(err)
	}
	if v, err := again.Get("bmc"); err != nil || v.Reveal() != "root:new" {
		t.Errorf("Get() after DropPending: %v; want the value as it was", err)
	}
}

// TestSecretsVersion: only a file with pending changes has the version that an
// older fettle, which would lose them, does not take.
func TestSecretsVersion(t *testing.T) {
	for want, doc := range map[string]secretsDoc{
		`"version":1`: {Values: map[string][]byte{"a": []byte("b")}},
		`"version":2`: {Pending: map[string]pendingDoc{"a": {Next: []byte("b")}}},
	} {
		if b, err := encodeSecrets(doc); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("encodeSecrets() = %s, %v; want %s", b, err, want)
		}
	}
}

package airgap

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

func TestPolicy(t *testing.T) {
	item := func(name string) Item {
		return Item{Path: "pool/" + name, URL: "http://x.example.org/" + name, SHA256: blob.FromBytes([]byte(name)), Kind: KindPackage, Name: name, Version: "1", Why: "openssh-server"}
	}
	lock := Lock{LockVersion, []LockedMirror{
		{Name: "debian", Format: "apt", Spec: Mirror{Name: "debian", Format: "apt"}, Inputs: blob.FromBytes(nil),
			Trust: []Trust{{What: "suite bookworm", Date: "2026-11-10T00:00:00Z", SignedBy: "AB", Source: "k"}}, Items: []Item{item("nmap"), item("libc6")}},
		{Name: "fw", Format: "files", Spec: Mirror{Name: "fw", Format: "files"}, Inputs: blob.FromBytes(nil), Trust: []Trust{{What: "files", Source: "the site file"}},
			Items: []Item{{Path: "bios.bin", SHA256: blob.FromBytes([]byte("b")), Kind: KindFile}, {Path: "zz", SHA256: blob.FromBytes([]byte("z")), Kind: KindEvidence}}},
	}}
	licences := func(it Item) []string {
		return map[string][]string{"nmap": {"NPSL"}, "libc6": {"LGPL-2.1+", "GPL-2+"}}[it.Name]
	}
	for _, tt := range []struct {
		name string
		p    Policy
		want []string // parts of the refusals, in order
	}{
		{"none", Policy{}, nil},
		{"deny", Policy{Deny: []string{"NMAP*"}}, []string{"debian: nmap 1: refused by the rule deny NMAP* (brought in by openssh-server)"}},
		{"deny in another mirror", Policy{Deny: []string{"fw:nmap"}}, nil},
		{"deny by mirror", Policy{Deny: []string{"debian:lib*"}}, []string{"libc6 1: refused by the rule deny debian:lib*"}},
		{"deny a file", Policy{Deny: []string{"*.bin"}}, []string{"fw: bios.bin: refused by the rule deny *.bin"}},
		{"allow", Policy{Allow: []string{"lib*", "fw:*"}}, []string{"nmap 1: refused by the rule allow"}},
		{"deny wins", Policy{Allow: []string{"*"}, Deny: []string{"libc6"}}, []string{"rule deny libc6"}},
		{"young enough", Policy{MaxAge: 12 * 24 * time.Hour}, nil},
		{"too old", Policy{MaxAge: 11 * 24 * time.Hour}, []string{"debian: suite bookworm: refused by the rule max-age 11d (it is as of 2026-11-10"}},
		{"only signed", Policy{OnlySigned: true}, []string{"fw: the mirror: refused by the rule only-signed (it is trusted because of the site file)"}},
		{"licence denied", Policy{DenyLicences: []string{"npsl"}}, []string{"nmap 1: refused by the rule deny-licences npsl (it is under NPSL)"}},
		{"a licence that is not known denied", Policy{DenyLicences: []string{"unknown"}}, []string{"bios.bin: refused by the rule deny-licences unknown (its licence is not known)"}},
		{"and allowed", Policy{AllowLicences: []string{"*GPL*", "NPSL", "fw:unknown"}}, nil},
		{"licences allowed", Policy{AllowLicences: []string{"GPL*", "LGPL*"}}, []string{"nmap 1: refused by the rule allow-licences (it is under NPSL)", "bios.bin: refused by the rule allow-licences (its licence is not known)"}},
		{"a pattern that never matches", Policy{Deny: []string{"[x"}}, []string{"[x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.p.Check(lock, testTime, licences)
			if len(tt.want) == 0 {
				if err != nil {
					t.Errorf("Check() = %v; want nothing refused", err)
				}
				return
			}
			var pe *PolicyError
			if errors.As(err, &pe) && (len(pe.Refusals) != len(tt.want) || !errors.Is(err, ErrPolicy)) {
				t.Errorf("Check() refuses %d: %v; want %d", len(pe.Refusals), err, len(tt.want))
			}
			for _, w := range tt.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("Check() = %v; want %q", err, w)
				}
			}
		})
	}
	if err := (Policy{DenyLicences: []string{"*"}}).Check(lock, testTime, nil); err != nil {
		t.Errorf("Check() before licences can be known = %v; want it to wait", err)
	}
}

// What fettle built itself has no upstream whose signature, age or licence
// could be asked for.
func TestPolicyOfBuilt(t *testing.T) {
	built := Item{Path: "agent/1/vmlinuz", URL: "fettle:/agent/1/vmlinuz", Kind: KindBuilt, Name: "agent", Version: "1"}
	l := Lock{Version: LockVersion, Mirrors: []LockedMirror{{Name: "site-images", Format: "images", Items: []Item{built}, Trust: []Trust{{What: "images", Source: "built by fettle"}}}}}
	none := func(Item) []string { return nil }
	if err := (Policy{OnlySigned: true, Allow: []string{"curl"}, AllowLicences: []string{"MIT"}}).Check(l, time.Now(), none); err != nil {
		t.Errorf("Check of what was built = %v; want nil", err)
	}
	if err := (Policy{Deny: []string{"agent"}}).Check(l, time.Now(), none); !errors.Is(err, ErrPolicy) {
		t.Errorf("Check of what is denied by name = %v; want ErrPolicy", err)
	}
}

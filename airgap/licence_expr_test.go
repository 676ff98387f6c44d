package airgap

import (
	"slices"
	"strings"
	"testing"
)

func TestParseLicence(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"MIT", "MIT"},
		{"(MIT OR Apache-2.0)", "MIT OR Apache-2.0"},
		{"MIT and GPLv2+ or ISC", "(MIT AND GPLv2+) OR ISC"},
		{"MIT AND (GPL-2.0-only WITH Classpath-exception-2.0 OR ISC)", "MIT AND (GPL-2.0-only WITH Classpath-exception-2.0 OR ISC)"},
		{"GPL-2+ with OpenSSL exception and MIT", "GPL-2+ WITH OpenSSL exception AND MIT"},
		{"GPL-3 with GCC Runtime Library exception", "GPL-3 WITH GCC Runtime Library exception"},
		{"GPL-2+ with Font or MIT with exception", "GPL-2+ WITH Font OR MIT WITH exception"},
		// No expressions: names as they stand.
		{"BSD License", "BSD License"},
		{" SEE LICENSE IN LICENSE.md ", "SEE LICENSE IN LICENSE.md"},
		{"GNU General Public License v3 or later (GPLv3+)", "GNU General Public License v3 or later (GPLv3+)"},
		{"MIT OR", "MIT OR"},
		{"(MIT", "(MIT"},
		{"MIT)", "MIT)"},
		{"", ""},
		{strings.Repeat("(", 1000) + "MIT" + strings.Repeat(")", 1000), strings.Repeat("(", 1000) + "MIT" + strings.Repeat(")", 1000)},
	} {
		if got := ParseLicence(tt.text).String(func(s string) string { return s }); got != tt.want {
			t.Errorf("ParseLicence(%q) = %q; want %q", tt.text, got, tt.want)
		}
	}
}

func FuzzParseLicence(f *testing.F) {
	for _, s := range []string{"MIT", "(MIT OR Apache-2.0) and ISC", "a WITH b or (c)", "( ( x )", "BSD License"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		same := func(s string) string { return s }
		l := ParseLicence(s)
		if len(l.Parts) == 0 {
			return
		}
		written := l.String(same)
		if again := ParseLicence(written).String(same); again != written {
			t.Errorf("ParseLicence(%q) = %q, and that again %q", s, written, again)
		}
		if slices.Contains(l.Names(), "") {
			t.Errorf("ParseLicence(%q) has a licence without a name", s)
		}
	})
}

func TestPolicyOfExpressions(t *testing.T) {
	class, classOnly := "GPL-2.0-only WITH Classpath-exception-2.0", Policy{DenyLicences: []string{"GPL-2.0-only WITH Classpath-exception-2.0"}}
	exact := Policy{DenyLicences: []string{"GPL-2.0-only", "m:GPL-2+"}}
	but := Policy{DenyLicences: []string{"GPL-2.0-only"}, AllowLicences: []string{"*", class}}
	both := Policy{DenyLicences: []string{class}, AllowLicences: []string{class}}
	gpl, free := Policy{DenyLicences: []string{"GPL*"}}, Policy{AllowLicences: []string{"MIT", "Apache-2.0"}}
	for _, tt := range []struct {
		p       Policy
		licence string
		want    string
	}{
		{free, "(MIT OR GPL-3.0-only)", ""},
		{free, "MIT AND Apache-2.0", ""},
		{free, "MIT AND ISC", "p 1: refused by the rule allow-licences (it is under ISC (of MIT AND ISC))"},
		{free, "ISC OR BSD-2-Clause", "p 1: refused by the rule allow-licences (it is under ISC (of ISC OR BSD-2-Clause))"},
		{gpl, "MIT OR GPL-3.0-only", ""},
		{gpl, "MIT AND (GPL-3.0-only OR GPL-2.0-only)", "p 1: refused by the rule deny-licences GPL* (it is under GPL-3.0-only (of MIT AND (GPL-3.0-only OR GPL-2.0-only)))"},
		{exact, class, "p 1: refused by the rule deny-licences GPL-2.0-only (it is under " + class + ")"},
		{exact, "MIT AND " + class, "deny-licences GPL-2.0-only (it is under " + class + " (of MIT AND " + class + "))"},
		{exact, "MIT OR " + class, ""},
		{exact, "GPL-2+ with OpenSSL exception", "deny-licences m:GPL-2+ (it is under GPL-2+ WITH OpenSSL exception)"},
		{exact, "GPL-2+ with the usual exceptions", "deny-licences m:GPL-2+ (it is under GPL-2+ with the usual exceptions)"},
		{exact, "GPL-3.0-only WITH Classpath-exception-2.0", ""},
		{classOnly, class, "deny-licences " + class},
		{classOnly, "GPL-2.0-only", ""},
		{classOnly, "GPL-2.0-only WITH Bison-exception-2.2", ""},
		{but, class, ""},
		{but, "GPL-2.0-only WITH Bison-exception-2.2", "deny-licences GPL-2.0-only (it is under GPL-2.0-only WITH Bison-exception-2.2)"},
		{but, "GPL-2.0-only", "deny-licences GPL-2.0-only"},
		{both, class, "deny-licences " + class},
		{gpl, "GPL-2.0-only WITH Classpath-exception-2.0", "p 1: refused by the rule deny-licences GPL* (it is under GPL-2.0-only WITH Classpath-exception-2.0)"},
	} {
		l := Lock{Version: LockVersion, Mirrors: []LockedMirror{{Name: "m", Format: "npm", Items: []Item{{Path: "p", Name: "p", Version: "1", Kind: KindPackage}}}}}
		err := tt.p.Check(l, testTime, func(Item) []string { return []string{tt.licence} })
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Check() of %s = %v; want %q", tt.licence, err, tt.want)
		}
	}
}

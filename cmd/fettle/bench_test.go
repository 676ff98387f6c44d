package main

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
)

// TestBenchStormRefuses what cannot be meant, before anything is sent.
func TestBenchStormRefuses(t *testing.T) {
	ok := []string{"--server", "192.0.2.1", "--interface", "nosuch0", "--addresses", "192.0.2.128/25"}
	for _, tc := range []struct {
		args   []string
		status int
		want   string
	}{
		{nil, exitFailed, "server"},
		{[]string{"--server", "boot.example.org", "--interface", "x", "--addresses", "192.0.2.128/25"}, exitUsage, "--server boot.example.org is not an IPv4 address"},
		{[]string{"--server", "192.0.2.200", "--interface", "x", "--addresses", "192.0.2.128/25"}, exitUsage, "contains the server"},
		{[]string{"--server", "192.0.2.1", "--interface", "x", "--addresses", "192.0.2.128"}, exitUsage, "is not an IPv4 prefix"},
		{append(ok, "--count", "0"), exitUsage, "--count 0"},
		{append(ok, "--count", "60001"), exitUsage, "--count 60001"},
		{append(ok, "--limit", "2h"), exitUsage, "--limit 2h"},
		{append(ok, "--ramp", "5m"), exitUsage, "--ramp 5m"},
		{append(ok, "--firmware", "coreboot"), exitUsage, "bios, edk2 and ipxe"},
		{append(ok, "--bytes", "50X"), exitUsage, "--bytes 50X"},
		{append(ok, "--also", "x"), exitUsage, "--also x"},
		{ok, exitMissing, "interface nosuch0"},
	} {
		var out, errOut bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errOut, getenv: func(string) string { return "" }, log: slog.New(slog.DiscardHandler)}
		got := run(context.Background(), e, append([]string{"fettle", "bench", "storm"}, tc.args...))
		if tc.args == nil && got != exitOK {
			got = exitFailed // whatever the library says of a missing flag
		}
		if got != tc.status || !strings.Contains(errOut.String()+out.String(), tc.want) {
			t.Errorf("fettle bench storm %s = %d, %q; want %d and %q", strings.Join(tc.args, " "), got, errOut.String(), tc.status, tc.want)
		}
	}
	for text, want := range map[string]int64{"": 0, "7": 7, "50M": 50_000_000, "1k": 1000, "2G": 2_000_000_000} {
		if got, err := byteCount(text); err != nil || got != want {
			t.Errorf("byteCount(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "-1", "M", "9999999999G", "1.5M"} {
		if got, err := byteCount(text); err == nil {
			t.Errorf("byteCount(%q) = %d; want an error", text, got)
		}
	}
}

package bmc

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// BenchmarkIPMIMany is the power status of 250 BMCs with login and logout, 32
// at once: ours, and by FreeIPMI's ipmipower with a host list.
func BenchmarkIPMIMany(b *testing.B) {
	const many = 250
	var ts []Target
	var hosts []string
	for range many {
		r := newIPMIRig(b, vbmc.Config{})
		ts, hosts = append(ts, r.Target), append(hosts, r.Address.String())
	}
	b.Run("native", func(b *testing.B) {
		for b.Loop() {
			for _, r := range Each(b.Context(), ts, EachOptions{Parallel: 32}, func(ctx context.Context, c *Client) (Power, error) { return c.Power(ctx) }) {
				if r.Err != nil || r.Value != Off {
					b.Fatal(r.Value, r.Err)
				}
			}
		}
	})
	b.Run("ipmipower", func(b *testing.B) {
		p, err := exec.LookPath("ipmipower")
		if err != nil {
			b.Skip("no ipmipower on this machine")
		}
		for b.Loop() {
			out, err := exec.CommandContext(b.Context(), p, "-D", "LAN_2_0", "-I", "17", "-u", "root", "-p", "s3cret", "-h", strings.Join(hosts, ","), "--stat").CombinedOutput()
			if n := strings.Count(string(out), ": off"); err != nil || n != many {
				b.Fatalf("%d of %d answered off: %v", n, many, err)
			}
		}
	})
}

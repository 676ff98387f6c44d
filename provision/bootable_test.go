package provision

import (
	"strings"
	"testing"
)

// TestNothingStartsWithoutAnAgent: a machine that cannot boot the agent is not
// switched on to find out.
func TestNothingStartsWithoutAnAgent(t *testing.T) {
	for _, missing := range []string{"agent", "loaders"} {
		b := newBench(t, nil)
		rel := testReleases()
		delete(rel, missing)
		b.p.c.Releases = rel
		want := "image " + missing + " is not built: fettle image build " + missing
		if _, err := b.p.Plan(t.Context(), []string{"gpu-01"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Plan without %s = %v; want %q", missing, err, want)
		}
		if _, err := b.p.Inspect(t.Context(), "user:test", []string{"gpu-01"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Inspect without %s = %v; want %q", missing, err, want)
		}
		if said := b.bmc.said(); len(said) != 0 {
			t.Errorf("BMC was told %q; want nothing", said)
		}
	}
}

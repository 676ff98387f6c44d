package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/state"
)

// An interrupted machine deploy leaves its runs to the server, and says so:
// the same command again would be refused.
func TestDeployInterrupted(t *testing.T) {
	b := newDeployBench(t, "gpu-01")
	b.outcome["gpu-01"] = state.Netboot
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.followed = cancel
	p, err := b.client.Plan(t.Context(), []string{"gpu-01"})
	if err != nil {
		t.Fatal(err)
	}
	err = (&env{stdout: io.Discard, stderr: io.Discard}).deploy(ctx, b.client, p, []string{"gpu-01"}, true)
	var left *leftRunning
	if !errors.As(err, &left) || !errors.Is(err, context.Canceled) || !strings.Contains(left.Error(), "the server goes on with gpu-01: ") {
		t.Errorf("interrupted deploy = %v; want that the server goes on", err)
	}
}

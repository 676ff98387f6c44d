package labs

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// closable is a hypervisor that counts how often it is closed.
type closable struct {
	hypervisor
	closed chan struct{}
}

func (c closable) close() error { close(c.closed); return nil }

func TestDialIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		hv := closable{closed: make(chan struct{})}
		stuck := func(string) (hypervisor, error) { <-goOn; return hv, nil }

		_, err := dialWithin(t.Context(), "qemu:///system", time.Minute, stuck)
		if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "qemu:///system does not answer within 1m0s") {
			t.Errorf("dialWithin(stuck daemon) = %v; want ErrMissing and that it does not answer", err)
		}
		close(goOn)
		<-hv.closed // what answers late is closed

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		later := make(chan struct{})
		if _, err := dialWithin(ctx, "x", time.Minute, func(string) (hypervisor, error) { <-later; return nil, errors.New("late") }); !errors.Is(err, context.Canceled) {
			t.Errorf("dialWithin(cancelled) = %v; want Canceled", err)
		}
		close(later)
	})
}

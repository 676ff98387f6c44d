package labs

import (
	"context"
	"fmt"
	"time"
)

// dialLimit is how long a libvirt daemon may take to answer. One that starts on
// demand takes seconds.
const dialLimit = 30 * time.Second

// dial connects to libvirt at uri, within a bound: libvirt itself waits for a
// daemon that is stuck for ever, whatever ctx says. What answers late is closed.
func dial(ctx context.Context, uri string) (hypervisor, error) {
	return dialWithin(ctx, uri, dialLimit, connect)
}

func dialWithin(ctx context.Context, uri string, limit time.Duration, connect func(string) (hypervisor, error)) (hypervisor, error) {
	type answer struct {
		hv  hypervisor
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		hv, err := connect(uri)
		answered <- answer{hv, err}
	}()
	late := func() {
		if a := <-answered; a.err == nil {
			_ = a.hv.close() // nobody has used it
		}
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case a := <-answered:
		return a.hv, a.err
	case <-ctx.Done():
		go late()
		return nil, fmt.Errorf("connecting to libvirt at %s: %w", uri, ctx.Err())
	case <-t.C:
		go late()
		return nil, because(ErrMissing, nil, "libvirt at %s does not answer within %s: its daemon is stuck; restart it (systemctl restart libvirtd, or labs/libvirtd.sh stop and start)", uri, limit)
	}
}

// hypervisor is what a lab asks of libvirt. It is an interface so that a
// fettle that was built without libvirt still compiles, and says so. Methods
// may be called concurrently.
type hypervisor interface {
	// domains lists all domains, running or not.
	domains() ([]domain, error)
	// define makes or changes a domain; a running one goes on as it is.
	define(xml string) error
	start(name string) error
	// destroy pulls the plug; a domain that is off stays off.
	destroy(name string) error
	shutdown(name string) error
	nmi(name string) error
	state(name string) (domainState, error)
	// undefine removes a domain that is off, with its NVRAM file.
	undefine(name string) error
	// kvm says whether the daemon would run a guest with KVM.
	kvm(emulator string) (bool, error)
	// qemuUser is the user:group that the daemon runs QEMU as, as numbers
	// ("64055:64055"); empty when it is the caller's own.
	qemuUser() (string, error)
	close() error
}

// domain is one domain of the hypervisor.
type domain struct {
	name   string
	xml    string // of the persistent definition
	active bool
}

// domainState is what became of a domain's power.
type domainState int

// States of a domain.
const (
	stateOff domainState = iota
	stateOn
	stateAbsent // not defined
)

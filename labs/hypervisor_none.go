//go:build !cgo || !libvirt_dlopen

package labs

import "fmt"

func connect(string) (hypervisor, error) {
	return nil, fmt.Errorf("%w: this fettle was built without libvirt; build it with cgo and -tags libvirt_dlopen (make build does)", ErrMissing)
}

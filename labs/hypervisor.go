package labs

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

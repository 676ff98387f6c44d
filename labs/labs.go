// Package labs mirrors a site on one machine. A [Plan] says, without touching
// anything, which virtual machines stand for which of the site's machines. A
// [Lab] is a plan being run: libvirt domains, the fabric between them (see
// labs/fabric), a virtual BMC's chassis and a console for each. The lab keeps
// the site's names, MACs, addresses, serial numbers and UUIDs; memory, CPUs,
// disk sizes and GPUs are scaled, and the scaled site is the plan's own Site,
// so that nothing else needs to know that it is a lab.
//
// The package knows no provisioning steps: a lab's machines take the
// hardware's path through services that others attach to the lab's hosts.
package labs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/fettle-dev/fettle/site"
)

// Accel says how guests' instructions are run.
type Accel string

// Accelerators. AccelAuto takes KVM where a probe guest runs with it.
const (
	AccelAuto Accel = ""
	KVM       Accel = "kvm"
	TCG       Accel = "tcg"
)

// Options are what a lab may differ in from its site.
type Options struct {
	Name          string     // of the lab; default: the site's name
	Dir           string     // the lab's own folder; default: DefaultDir(Name)
	URI           string     // of libvirt; default: qemu:///system for root, else qemu:///session
	Machines      []string   // selectors of the site's machines; empty = all
	Memory        site.Bytes // per machine; default 2 GiB, never more than the site's
	CPUs          int        // per machine; default 2, never more than the site's
	DiskSize      site.Bytes // largest virtual disk; default 8 GiB; disks are sparse
	Accel         Accel
	SSHKey        string // authorized_keys line that opens every machine, besides the site's own
	Trap          bool   // boot networks have a gateway and a name server that lead nowhere and remember who asked
	BridgeNetwork string // attach the boot network's NICs to this bridge of the host instead of the fabric
}

// What a lab's machines get when Options do not say.
const (
	DefaultMemory   site.Bytes = 2 << 30
	DefaultCPUs                = 2
	DefaultDiskSize site.Bytes = 8 << 30
)

// Errors that callers may want to tell apart.
var (
	// ErrMissing means that this machine lacks libvirt, QEMU or firmware; the
	// error that wraps it says what to install or to start.
	ErrMissing = errors.New("this machine lacks something that labs need")
	// ErrForeign means that a domain or folder of the lab's name exists that the
	// lab did not make.
	ErrForeign = errors.New("not made by this lab")
	// ErrCapacity means that disk space or memory does not suffice.
	ErrCapacity = errors.New("not enough room for the lab")
	// ErrRunning means that another process is this lab's daemon.
	ErrRunning = errors.New("the lab's daemon is running")
)

// labError is a whole sentence for the user that is also one of the errors above.
type labError struct {
	kind error
	msg  string
	err  error
}

func (e *labError) Error() string { return e.msg }

func (e *labError) Unwrap() []error {
	if e.err == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.err}
}

// because makes a labError of kind. cause may be nil; when its text is not part
// of the sentence it is still found by errors.Is.
func because(kind, cause error, format string, args ...any) error {
	return &labError{kind: kind, err: cause, msg: fmt.Sprintf(format, args...)}
}

// Root is the folder of this user's labs: /var/lib/fettle/labs for root, else
// below $XDG_STATE_HOME.
func Root() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/fettle/labs", nil
	}
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "fettle", "labs"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding a folder for labs: %w: say --labs FOLDER", err)
	}
	return filepath.Join(home, ".local", "state", "fettle", "labs"), nil
}

// DefaultDir is the folder of the lab called name.
func DefaultDir(name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, name), nil
}

// DefaultURI is the libvirt daemon that a lab of this user uses.
func DefaultURI() string {
	if os.Geteuid() == 0 {
		return "qemu:///system"
	}
	return "qemu:///session"
}

// withDefaults fills what depends on the user who runs the lab.
func (o Options) withDefaults() (Options, error) {
	if o.URI == "" {
		o.URI = DefaultURI()
	}
	if o.Dir == "" {
		d, err := DefaultDir(o.Name)
		if err != nil {
			return o, err
		}
		o.Dir = d
	}
	abs, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, fmt.Errorf("lab folder %s: %w", o.Dir, err)
	}
	o.Dir = abs
	return o, nil
}

var nameRE = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,38}[a-zA-Z0-9])?$`)

func checkName(name string) error {
	if !nameRE.MatchString(name) {
		return fmt.Errorf("lab name %q: want 1 to 40 letters, digits, dots and dashes, beginning and ending with a letter or digit", name)
	}
	return nil
}

// DomainName is the name of the libvirt domain of a lab's machine.
func DomainName(lab, machine string) string { return "fettle-" + lab + "-" + machine }

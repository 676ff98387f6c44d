//go:build cgo && libvirt_dlopen

package labs

import (
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// libvirtd is a hypervisor by libvirt. It connects again when the daemon was
// restarted.
type libvirtd struct {
	uri string

	mu   sync.Mutex
	conn *libvirt.Connect
}

const installHint = "apt-get install libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils ovmf"

func connect(uri string) (hypervisor, error) {
	l := &libvirtd{uri: uri}
	if _, err := l.connection(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *libvirtd) connection() (*libvirt.Connect, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		if alive, err := l.conn.IsAlive(); err == nil && alive {
			return l.conn, nil
		}
		l.conn.Close()
		l.conn = nil
	}
	loadLibvirt()
	c, err := libvirt.NewConnect(l.uri)
	if err != nil {
		return nil, explainConnect(l.uri, err)
	}
	l.conn = c
	return c, nil
}

// explainConnect turns libvirt's error into one sentence that says what to do.
func explainConnect(uri string, err error) error {
	text := strings.TrimSpace(err.Error())
	var le libvirt.Error
	if errors.As(err, &le) {
		text = le.Message
	}
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(s string) bool { return strings.Contains(text, s) })
	}
	switch {
	case has("libvirt.so", "dlopen", "Failed to load"):
		return because(ErrMissing, err, "libvirt's library is not installed (%s): %s", text, installHint)
	case has("Cannot create user"):
		return because(ErrMissing, err, "libvirt's session finds no folder of this user's own (%s): set XDG_RUNTIME_DIR, or HOME, to a folder that the user may write to", text)
	case has("Permission denied", "authentication", "polkit"):
		return because(ErrMissing, err, "libvirt at %s refuses this user (%s): use qemu:///session, or add the user to the group libvirt", uri, text)
	case has("no connection driver"):
		return because(ErrMissing, err, "libvirt knows no URI like %s: say --connect qemu:///session or qemu:///system", uri)
	case has("No such file or directory", "Connection refused", "Cannot find", "Unable to", "cannot execute"):
		return because(ErrMissing, err, "no libvirt daemon answers at %s (%s): install it with %s, start it with systemctl start libvirtd, or with labs/libvirtd.sh start where there is no systemd",
			uri, text, installHint)
	}
	return because(ErrMissing, err, "connecting to libvirt at %s failed (%s): see its daemon's log, or restart it", uri, text)
}

func (l *libvirtd) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		return nil
	}
	_, err := l.conn.Close()
	l.conn = nil
	return err
}

// with runs f on the domain called name.
func (l *libvirtd) with(name, doing string, f func(*libvirt.Domain) error) error {
	c, err := l.connection()
	if err != nil {
		return err
	}
	d, err := c.LookupDomainByName(name)
	if err != nil {
		return fmt.Errorf("%s domain %s: %w", doing, name, err)
	}
	defer d.Free()
	if err := f(d); err != nil {
		return fmt.Errorf("%s domain %s: %w", doing, name, err)
	}
	return nil
}

func (l *libvirtd) domains() ([]domain, error) {
	c, err := l.connection()
	if err != nil {
		return nil, err
	}
	all, err := c.ListAllDomains(0)
	if err != nil {
		return nil, fmt.Errorf("listing the domains of %s: %w", l.uri, err)
	}
	var out []domain
	for i := range all {
		d := &all[i]
		defer d.Free()
		one, err := describe(d)
		if errors.Is(err, libvirt.ERR_NO_DOMAIN) {
			continue // it went away meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("listing the domains of %s: %w", l.uri, err)
		}
		out = append(out, one)
	}
	return out, nil
}

func describe(d *libvirt.Domain) (domain, error) {
	name, err := d.GetName()
	if err != nil {
		return domain{}, err
	}
	active, err := d.IsActive()
	if err != nil {
		return domain{}, err
	}
	text, err := d.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE)
	if err != nil {
		return domain{}, err
	}
	return domain{name: name, xml: text, active: active}, nil
}

func (l *libvirtd) define(text string) error {
	c, err := l.connection()
	if err != nil {
		return err
	}
	d, err := c.DomainDefineXML(text)
	if err != nil {
		return fmt.Errorf("defining a domain: %w", err)
	}
	return d.Free()
}

func (l *libvirtd) start(name string) error {
	return l.with(name, "starting", func(d *libvirt.Domain) error { return d.Create() })
}

func (l *libvirtd) destroy(name string) error {
	return l.with(name, "stopping", func(d *libvirt.Domain) error {
		err := d.Destroy()
		if errors.Is(err, libvirt.ERR_OPERATION_INVALID) { // it is off
			return nil
		}
		return err
	})
}

func (l *libvirtd) shutdown(name string) error {
	return l.with(name, "shutting down", func(d *libvirt.Domain) error {
		return d.ShutdownFlags(libvirt.DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
	})
}

func (l *libvirtd) nmi(name string) error {
	return l.with(name, "interrupting", func(d *libvirt.Domain) error { return d.InjectNMI(0) })
}

func (l *libvirtd) undefine(name string) error {
	return l.with(name, "removing", func(d *libvirt.Domain) error {
		err := d.UndefineFlags(libvirt.DOMAIN_UNDEFINE_NVRAM | libvirt.DOMAIN_UNDEFINE_MANAGED_SAVE |
			libvirt.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | libvirt.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
		if errors.Is(err, libvirt.ERR_INVALID_ARG) { // a driver that keeps none of these
			return d.Undefine()
		}
		return err
	})
}

func (l *libvirtd) state(name string) (domainState, error) {
	out := stateAbsent
	err := l.with(name, "looking at", func(d *libvirt.Domain) error {
		st, _, err := d.GetState()
		if err != nil {
			return err
		}
		out = stateOn
		if st == libvirt.DOMAIN_SHUTOFF || st == libvirt.DOMAIN_CRASHED || st == libvirt.DOMAIN_NOSTATE {
			out = stateOff
		}
		return nil
	})
	if errors.Is(err, libvirt.ERR_NO_DOMAIN) {
		return stateAbsent, nil
	}
	return out, err
}

func (l *libvirtd) kvm(emulator string) (bool, error) {
	c, err := l.connection()
	if err != nil {
		return false, err
	}
	_, err = c.GetDomainCapabilities(emulator, "x86_64", "q35", "kvm", 0)
	if errors.Is(err, libvirt.ERR_INVALID_ARG) || errors.Is(err, libvirt.ERR_CONFIG_UNSUPPORTED) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking libvirt about KVM: %w", err)
	}
	return true, nil
}

func (l *libvirtd) qemuUser() (string, error) {
	c, err := l.connection()
	if err != nil {
		return "", err
	}
	text, err := c.GetCapabilities()
	if err != nil {
		return "", fmt.Errorf("asking libvirt what it can do: %w", err)
	}
	var caps libvirtxml.Caps
	if err := xml.Unmarshal([]byte(text), &caps); err != nil {
		return "", fmt.Errorf("reading libvirt's capabilities: %w", err)
	}
	for _, m := range caps.Host.SecModel {
		if m.Name != "dac" {
			continue
		}
		for _, l := range m.Labels {
			if l.Type == "qemu" {
				return strings.ReplaceAll(l.Value, "+", ""), nil
			}
		}
	}
	return "", nil
}

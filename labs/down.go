package labs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Down removes the lab: its domains with their NVRAM, and its folder with
// disks, sockets and state. The lab is closed.
func (l *Lab) Down(ctx context.Context) error {
	l.making.Lock()
	defer l.making.Unlock()
	l.end()
	l.work.Wait()
	err := removeDomains(ctx, l.hv, l.plan.Name, string(l.r.dir), l.step)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	return errors.Join(l.Close(), l.r.dir.removeAll())
}

// Down removes the lab that o names (Name, Dir, URI), also when it is half
// made, and when its daemon or its folder are gone. It removes domains that
// carry the lab's tag and the folder that carries its marker, nothing else. A
// lab whose daemon runs is refused with ErrRunning. A lab that does not exist
// is removed already.
func Down(ctx context.Context, o Options, progress func(Step)) error {
	if err := checkName(o.Name); err != nil {
		return err
	}
	said := o.URI
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	if progress == nil {
		progress = func(Step) {}
	}
	dir := folder(o.Dir)
	m, marked, err := dir.readMarker()
	if err != nil {
		return err
	}
	if marked {
		if m.Lab != o.Name {
			return because(ErrForeign, nil, "folder %s belongs to lab %s, not to %s: nothing was removed", dir, m.Lab, o.Name)
		}
		if said == "" {
			o.URI = m.URI
		}
		lock, err := dir.hold(o.Name)
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	hv, err := dial(ctx, o.URI)
	if err != nil {
		return err
	}
	step := func(machine, text string) { progress(Step{Machine: machine, Text: text}) }
	if err := errors.Join(removeDomains(ctx, hv, o.Name, o.Dir, step), hv.close()); err != nil {
		return err
	}
	if !marked {
		return nil
	}
	return dir.removeAll()
}

// removeDomains removes the domains that carry the lab's tag, and says at the
// end what it could not remove.
func removeDomains(ctx context.Context, hv hypervisor, lab, dir string, step func(machine, text string)) error {
	domains, err := hv.domains()
	if err != nil {
		return fmt.Errorf("lab %s: %w", lab, err)
	}
	var errs []error
	for _, d := range domains {
		t, _, ok := readTag(d.xml)
		if !ok || t.Name != lab || t.Dir != dir {
			continue
		}
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, fmt.Errorf("lab %s: %w", lab, err))...)
		}
		if d.active {
			if err := hv.destroy(d.name); err != nil {
				errs = append(errs, fmt.Errorf("lab %s: %w", lab, err))
				continue
			}
		}
		if err := hv.undefine(d.name); err != nil {
			errs = append(errs, fmt.Errorf("lab %s: %w", lab, err))
			continue
		}
		if err := removeLogs(d.name); err != nil {
			errs = append(errs, fmt.Errorf("lab %s: %w", lab, err))
		}
		step(t.Machine, "removed domain "+d.name)
	}
	return errors.Join(errs...)
}

// removeAll removes a folder that claim made. The marker goes last, so that an
// interrupted removal can be repeated.
func (f folder) removeAll() error {
	if _, ok, err := f.readMarker(); err != nil || !ok {
		return err
	}
	entries, err := os.ReadDir(string(f))
	if err != nil {
		return fmt.Errorf("lab folder: %w", err)
	}
	for _, e := range entries {
		if path := filepath.Join(string(f), e.Name()); path != f.marker() {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("lab folder: %w", err)
			}
		}
	}
	for _, path := range []string{f.marker(), string(f)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("lab folder: %w", err)
		}
	}
	return nil
}

// removeLogs removes what libvirt's daemon logged of a domain: the system
// daemon's folder, and the session daemon's (libvirt, "Logging in the QEMU
// driver"). Rotated logs end with a number.
func removeLogs(domain string) error {
	dirs := []string{"/var/log/libvirt/qemu"}
	if cache, err := os.UserCacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(cache, "libvirt", "qemu", "log"))
	}
	var errs []error
	for _, dir := range dirs {
		names := []string{domain + ".log"}
		for i := range 4 { // virtlogd.conf: max_backups = 3
			names = append(names, fmt.Sprintf("%s.log.%d", domain, i))
		}
		for _, n := range names {
			err := os.Remove(filepath.Join(dir, n))
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

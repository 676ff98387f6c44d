package labs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// Up makes what is missing of the lab's machines: disks and domains. It starts
// nothing: power is the BMC's. It may be called again at any time, and goes on
// where an earlier call was interrupted.
func (l *Lab) Up(ctx context.Context) error {
	l.making.Lock()
	defer l.making.Unlock()
	domains, err := l.hv.domains()
	if err != nil {
		return fmt.Errorf("lab %s: %w", l.plan.Name, err)
	}
	if err := l.checkForeign(domains); err != nil {
		return err
	}
	have := map[string]domain{}
	for _, d := range domains {
		have[d.name] = d
	}
	if err := checkRoom(l.plan, l.r.dir, exists, func(name string) bool { return have[name].active }); err != nil {
		return err
	}
	for _, m := range l.plan.Machines {
		for i, d := range m.Disks {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("lab %s: %w", l.plan.Name, err)
			}
			made, err := makeDisk(ctx, l.r.dir.disk(m.Name, i), d.Bytes)
			if err != nil {
				return fmt.Errorf("lab %s: machine %s: disk %s: %w", l.plan.Name, m.Name, d.Serial, err)
			}
			if made {
				l.step(m.Name, "made disk "+d.Serial+", "+gib(d.Bytes))
			}
		}
		d, ok := have[m.Domain]
		if ok && d.active {
			continue // what it runs with is what it runs with; the next start takes the new
		}
		text, err := domainXML(l.plan.Name, m, l.r, startDisk, "")
		if err != nil {
			return fmt.Errorf("lab %s: %w", l.plan.Name, err)
		}
		if err := l.hv.define(text); err != nil {
			return fmt.Errorf("lab %s: machine %s: %w", l.plan.Name, m.Name, err)
		}
		if !ok {
			l.step(m.Name, "defined domain "+m.Domain)
		}
	}
	return nil
}

func exists(_ DiskPlan, path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// makeDisk makes an empty sparse disk, whole or not at all; made is false when
// there is one.
func makeDisk(ctx context.Context, path string, bytes int64) (made bool, err error) {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	tmp := path + ".new"
	cmd := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", tmp, strconv.FormatInt(bytes, 10))
	if out, err := cmd.CombinedOutput(); err != nil {
		return false, errors.Join(fmt.Errorf("qemu-img create: %w: %s", err, strings.TrimSpace(string(out))), remove(tmp))
	}
	return true, os.Rename(tmp, path)
}

// remove removes a file that may be absent.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

package labs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// folder is a lab's own folder. Everything in it is the lab's, and goes with
// it.
type folder string

func (f folder) marker() string  { return filepath.Join(string(f), "fettle-lab.json") }
func (f folder) lock() string    { return filepath.Join(string(f), "daemon.lock") }
func (f folder) ports() string   { return filepath.Join(string(f), "ports.json") }
func (f folder) accel() string   { return filepath.Join(string(f), "accel.json") }
func (f folder) disks() string   { return filepath.Join(string(f), "disks") }
func (f folder) console() string { return filepath.Join(string(f), "console") }

// nvram is another file with Secure Boot on: the keys are in it.
func (f folder) nvram(machine string, secure bool) string {
	if secure {
		machine += "-secure"
	}
	return filepath.Join(f.disks(), machine+"-vars.fd")
}

func (f folder) disk(machine string, n int) string {
	return filepath.Join(f.disks(), fmt.Sprintf("%s-%d.qcow2", machine, n))
}

// media is the image in a machine's virtual CD drive.
func (f folder) media(machine string) string { return filepath.Join(f.disks(), machine+".iso") }

func (f folder) chassis(machine string) string {
	return filepath.Join(string(f), "chassis", machine+".json")
}

// consoleLog is everything that the machine's serial port said.
func (f folder) consoleLog(machine string) string { return filepath.Join(f.console(), machine+".log") }

// consoleGuest is the socket that QEMU connects to, consoleUser the one for people.
func (f folder) consoleGuest(machine string) string { return filepath.Join(f.console(), machine+".vm") }
func (f folder) consoleUser(machine string) string {
	return filepath.Join(f.console(), machine+".sock")
}

// ipmi is the socket that QEMU's BMC connects to.
func (f folder) ipmi(machine string) string { return filepath.Join(f.console(), machine+".ipmi") }

// marker is the file that makes a folder a lab's.
type marker struct {
	Format int       `json:"format"` // 1
	Lab    string    `json:"lab"`
	URI    string    `json:"uri"`
	Made   time.Time `json:"made"`
}

// readMarker reads the folder's marker; ok is false when it has none.
func (f folder) readMarker() (m marker, ok bool, err error) {
	err = readJSON(f.marker(), &m)
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return m, false, fmt.Errorf("the lab's folder %s cannot be used: let this user read and write it, or choose another folder of labs with --labs: %w", f, err)
	}
	if err == nil && (m.Format != 1 || m.Lab == "") {
		err = fmt.Errorf("%s: format %d is not known to this fettle", f.marker(), m.Format)
	}
	return m, err == nil, err
}

// claim makes the folder the lab's, or finds that it is already.
func (f folder) claim(lab, uri string, now time.Time) error {
	m, ok, err := f.readMarker()
	if err != nil {
		return err
	}
	if ok {
		if m.Lab != lab {
			return because(ErrForeign, nil, "folder %s belongs to lab %s: choose another folder of labs with --labs", f, m.Lab)
		}
		if m.URI != uri {
			return fmt.Errorf("lab %s in %s was made at %s, not at %s: say that URI, or take the lab down first", lab, f, m.URI, uri)
		}
		return f.makeDirs()
	}
	entries, err := os.ReadDir(string(f))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lab folder: %w", err)
	}
	if len(entries) > 0 {
		return because(ErrForeign, nil, "folder %s is not empty (%s) and no lab made it: choose another folder of labs with --labs", f, entries[0].Name())
	}
	// QEMU may run as another user, which must reach disks and sockets by name.
	if err := os.MkdirAll(string(f), 0o711); err != nil {
		return fmt.Errorf("lab folder: %w", err)
	}
	if err := writeJSON(f.marker(), marker{Format: 1, Lab: lab, URI: uri, Made: now.UTC()}); err != nil {
		return err
	}
	return f.makeDirs()
}

func (f folder) makeDirs() error {
	for _, d := range []string{f.disks(), f.console(), filepath.Dir(f.chassis("x"))} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return fmt.Errorf("lab folder: %w", err)
		}
	}
	return nil
}

// hold takes the daemon's lock: one process runs a lab. The lock goes with the
// process.
func (f folder) hold(lab string) (*os.File, error) {
	file, err := os.OpenFile(f.lock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", lab, err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		pid := f.daemon()
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, because(ErrRunning, nil, "lab %s is run by process %d already", lab, pid)
		}
		return nil, fmt.Errorf("lab %s: locking %s: %w", lab, f.lock(), err)
	}
	err = file.Truncate(0)
	if err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("lab %s: %w", lab, err)
	}
	return file, nil
}

// daemon is the process that runs the lab, 0 when none does.
func (f folder) daemon() int {
	file, err := os.Open(f.lock())
	if err != nil {
		return 0
	}
	defer file.Close()
	if unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return 0 // closing gives it back
	}
	b := make([]byte, 32)
	n, _ := file.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return -1 // running, and it has not said who it is yet
	}
	return pid
}

// reachable says whether the user uid can reach files in the folder by name.
func (f folder) reachable(uid int) bool {
	for d := string(f); ; d = filepath.Dir(d) {
		fi, err := os.Stat(d)
		if err != nil {
			return false
		}
		need := fs.FileMode(0o001)
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) == uid {
			need = 0o100
		}
		if fi.Mode()&need == 0 {
			return false
		}
		if d == filepath.Dir(d) {
			return true
		}
	}
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// writeJSON replaces the file whole or not at all.
func writeJSON(path string, v any) (err error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			file.Close()
			os.Remove(file.Name())
		}
	}()
	if _, err = file.Write(append(b, '\n')); err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = file.Close()
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

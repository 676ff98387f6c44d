package provision

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// consoleKeep is how large a console's log becomes before it is put aside as
// FILE.1 and a new one begins: a day at 115,200 baud is both of them.
const consoleKeep = 512 << 20

// consoleLog appends what a console says to a file.
type consoleLog struct {
	path string
	keep int64
	f    *os.File
	size int64
}

func openConsoleLog(path string, keep int64) (*consoleLog, error) {
	l := &consoleLog{path: path, keep: keep}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("the console's log: %w", err)
	}
	return l, l.open()
}

func (l *consoleLog) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("the console's log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("the console's log: %w", err), f.Close())
	}
	l.f, l.size = f, st.Size()
	return nil
}

func (l *consoleLog) Write(p []byte) (int, error) {
	if l.size > 0 && l.size+int64(len(p)) > l.keep {
		if err := errors.Join(l.f.Close(), os.Rename(l.path, l.path+".1")); err != nil {
			return 0, fmt.Errorf("putting the console's log aside: %w", err)
		}
		if err := l.open(); err != nil {
			return 0, err
		}
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("keeping the console's log: %w", err)
	}
	return n, nil
}

func (l *consoleLog) Close() error { return l.f.Close() }

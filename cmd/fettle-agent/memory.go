package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// memory is agent.Memory in a directory of a tmpfs: the worker writes the task
// it does, init writes how the worker ended.
type memory struct{ dir string }

func (m memory) task() string  { return filepath.Join(m.dir, "task") }
func (m memory) crash() string { return filepath.Join(m.dir, "crash") }

// Begin records the task being done; "" for none.
func (m memory) Begin(task string) error {
	if task == "" {
		if err := os.Remove(m.task()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	return os.WriteFile(m.task(), []byte(task), 0o600)
}

// Crashed gives the task that was being done when the worker ended.
func (m memory) Crashed() (task, words string) {
	t, terr := os.ReadFile(m.task())
	w, werr := os.ReadFile(m.crash())
	os.Remove(m.task())
	os.Remove(m.crash())
	if terr != nil || werr != nil {
		return "", ""
	}
	return string(t), string(w)
}

func (m memory) crashed(words string) error {
	return os.WriteFile(m.crash(), []byte(strings.TrimSpace(words)), 0o600)
}

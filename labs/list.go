package labs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Info is a lab on this machine.
type Info struct {
	Name     string        `json:"name"`
	Dir      string        `json:"dir"`
	URI      string        `json:"uri"`
	Daemon   int           `json:"daemon,omitempty"` // process that runs it, 0 = none
	Folder   bool          `json:"folder"`           // the folder is there
	Machines []InfoMachine `json:"machines,omitempty"`
}

// InfoMachine is a machine that has a domain.
type InfoMachine struct {
	Name   string `json:"name"`
	Domain string `json:"domain"`
	On     bool   `json:"on"`
}

// List finds the labs of this machine by the tags of uri's domains (empty: the
// user's default) and by the folders below Root, sorted by name.
func List(ctx context.Context, uri string) ([]Info, error) {
	if uri == "" {
		uri = DefaultURI()
	}
	root, err := Root()
	if err != nil {
		return nil, err
	}
	labs := map[string]*Info{} // by folder
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("labs: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if m, ok, err := folder(dir).readMarker(); err != nil {
			return nil, err
		} else if ok && m.URI == uri {
			labs[dir] = &Info{Name: m.Lab, Dir: dir, URI: m.URI}
		}
	}
	hv, err := dial(ctx, uri)
	if err != nil {
		return nil, err
	}
	domains, err := hv.domains()
	if err := errors.Join(err, hv.close(), ctx.Err()); err != nil {
		return nil, fmt.Errorf("labs: %w", err)
	}
	for _, d := range domains {
		t, _, ok := readTag(d.xml)
		if !ok {
			continue
		}
		if labs[t.Dir] == nil {
			labs[t.Dir] = &Info{Name: t.Name, Dir: t.Dir, URI: uri}
		}
		labs[t.Dir].Machines = append(labs[t.Dir].Machines, InfoMachine{Name: t.Machine, Domain: d.name, On: d.active})
	}
	var out []Info
	for _, i := range labs {
		_, i.Folder, err = folder(i.Dir).readMarker()
		if err != nil {
			return nil, err
		}
		i.Daemon = folder(i.Dir).daemon()
		slices.SortFunc(i.Machines, func(a, b InfoMachine) int { return strings.Compare(a.Name, b.Name) })
		out = append(out, *i)
	}
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.Name+"\x00"+a.Dir, b.Name+"\x00"+b.Dir) })
	return out, nil
}

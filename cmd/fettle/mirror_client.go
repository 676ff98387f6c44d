package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/apt"
	"github.com/fettle-dev/fettle/airgap/built"
	"github.com/fettle-dev/fettle/airgap/files"
	"github.com/fettle-dev/fettle/airgap/gomod"
	"github.com/fettle-dev/fettle/airgap/helm"
	"github.com/fettle-dev/fettle/airgap/npm"
	"github.com/fettle-dev/fettle/airgap/oci"
	"github.com/fettle-dev/fettle/airgap/pypi"
	"github.com/fettle-dev/fettle/airgap/rpm"
)

// mirrorFormats are the formats that this fettle mirrors. Keyrings and the like
// are relative to siteDir.
func mirrorFormats(siteDir string) []airgap.Format {
	return []airgap.Format{&apt.Format{Dir: siteDir}, files.Format{Dir: siteDir}, built.Format{}, &gomod.Format{Dir: siteDir}, &npm.Format{Dir: siteDir}, &rpm.Format{Dir: siteDir}, &pypi.Format{Dir: siteDir},
		helm.Format{}, &oci.Format{Dir: siteDir}}
}

// clientNames are the programs that can be configured.
func clientNames() []string {
	var out []string
	for _, f := range mirrorFormats("") {
		if c, ok := f.(airgap.Configurer); ok {
			out = append(out, c.Clients()...)
		}
		if a, ok := f.(airgap.Asker); ok {
			out = append(out, a.ClientsByName()...)
		}
	}
	return out
}

// clientFiles are the files that a client needs; client "" is all that
// machines have.
func clientFiles(ctx context.Context, client string, r airgap.ClientRequest) ([]airgap.ClientFile, error) {
	var out []airgap.ClientFile
	for _, f := range mirrorFormats("") {
		c, ok := f.(airgap.Configurer)
		if !ok {
			continue
		}
		names := c.Clients()
		if a, ok := f.(airgap.Asker); ok && slices.Contains(a.ClientsByName(), client) {
			names = []string{client}
		}
		for _, name := range names {
			if client != "" && client != name {
				continue
			}
			got, err := c.ClientConfig(ctx, name, r)
			if err != nil {
				return nil, fmt.Errorf("configuration of %s: %w", name, err)
			}
			for _, x := range got {
				// Programs of one format may share a file.
				if !slices.ContainsFunc(out, func(o airgap.ClientFile) bool { return o.Path == x.Path }) {
					out = append(out, x)
				}
			}
		}
	}
	return out, nil
}

func clientConfigFlags() []cli.Flag {
	return []cli.Flag{
		storeFlag(),
		&cli.StringFlag{Name: "base-url", Value: "http://127.0.0.1:8480", Usage: "address that clients reach the server at, http:// or https://"},
		&cli.StringFlag{Name: "ca", Usage: "file, on the client, with the CA of the server's certificate", TakesFile: true},
		&cli.BoolFlag{Name: "install", Usage: "write the files instead of printing them"},
		&cli.StringFlag{Name: "root", Value: "/", Usage: "with --install: the folder that is the client's root", TakesFile: true},
	}
}

// servedSnapshot is the snapshot that a store serves.
func servedSnapshot(s *airgap.Store) (airgap.Snapshot, error) {
	name, err := s.Served()
	if err != nil {
		return airgap.Snapshot{}, err
	}
	if name == "" {
		return airgap.Snapshot{}, errors.New("nothing is served yet: fettle mirror sync, or fettle bundle import")
	}
	snap, _, err := s.Snapshot(name)
	return snap, err
}

func (e *env) mirrorClientConfig(c *cli.Context) error {
	if err := nargs(c, 1); err != nil {
		return err
	}
	client := c.Args().First()
	if known := clientNames(); !slices.Contains(known, client) {
		return usage("client-config knows %s, not %q", strings.Join(known, ", "), client)
	}
	s, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	snap, err := servedSnapshot(s)
	if err != nil {
		return err
	}
	r := airgap.ClientRequest{Store: s, Snapshot: snap, CAFile: c.String("ca")}
	switch base := strings.TrimRight(c.String("base-url"), "/"); {
	case strings.HasPrefix(base, "http://"):
		r.HTTP = base
	case strings.HasPrefix(base, "https://"):
		r.HTTPS = base
	default:
		return usage("--base-url is an address that begins with http:// or https://, not %q", base)
	}
	got, err := clientFiles(c.Context, client, r)
	if err != nil {
		return err
	}
	if len(got) == 0 {
		return fmt.Errorf("snapshot %s has no mirror that %s can use: see mirrors: in the site file", snap.Name, client)
	}
	if c.Bool("install") {
		if err := installClient(c.String("root"), got); err != nil {
			return fmt.Errorf("installing the configuration of %s: %w", client, err)
		}
	}
	if e.json {
		type row struct {
			airgap.ClientFile
			Text string `json:"text"`
		}
		rows := []row{}
		for _, f := range got {
			rows = append(rows, row{f, string(f.Content)})
		}
		return e.printJSON(rows)
	}
	for i, f := range got {
		switch {
		case c.Bool("install"):
			fmt.Fprintln(e.stdout, filepath.Join(c.String("root"), f.Path))
		case i > 0:
			fmt.Fprintf(e.stdout, "\n# ---- %s\n%s", f.Path, f.Content)
		default:
			fmt.Fprintf(e.stdout, "# ---- %s\n%s", f.Path, f.Content)
		}
	}
	return nil
}

// installClient writes files below root. What a person had at their places is
// kept beside them.
func installClient(root string, files []airgap.ClientFile) error {
	for _, f := range files {
		path := filepath.Join(root, f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		old, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		kept := path + ".before-fettle"
		if err == nil && !bytes.Equal(old, f.Content) {
			if _, err := os.Lstat(kept); errors.Is(err, fs.ErrNotExist) {
				if err := os.Rename(path, kept); err != nil {
					return err
				}
			}
		}
		if err := replaceFile(path, f.Content); err != nil {
			return err
		}
		if err := os.Chmod(path, f.Mode.Perm()); err != nil {
			return err
		}
	}
	return nil
}

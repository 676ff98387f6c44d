package provision

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/pxe"
	"github.com/fettle-dev/fettle/site"
)

// caPath is the name of the extra ramdisk that brings the site's CA into the
// agent's root: the agent's own ramdisk is the same for every site.
const caPath = "site/ca.cpio"

var _ pxe.Files = (*Provisioner)(nil)

// Open finds loaders ("loaders/NAME"), files of releases
// ("release/NAME/INPUTS/FILE") and the ramdisk with the site's CA.
func (p *Provisioner) Open(ctx context.Context, name string) (*pxe.File, error) {
	dir, rest, _ := strings.Cut(name, "/")
	switch dir {
	case "loaders":
		f, err := p.openRelease(ctx, loadersRelease, "", rest)
		if errors.Is(err, fs.ErrNotExist) {
			f, err = p.openRelease(ctx, images.LoadersName(site.ARM64), "", rest)
		}
		return f, err
	case "release":
		parts := strings.Split(rest, "/")
		if len(parts) == 3 {
			return p.openRelease(ctx, parts[0], parts[1], parts[2])
		}
	}
	if name == caPath {
		b, err := caRamdisk(p.c.CA)
		if err != nil {
			return nil, fmt.Errorf("ramdisk of the site's CA: %w", err)
		}
		return &pxe.File{ReadSeekCloser: nopCloser{bytes.NewReader(b)}, Size: int64(len(b)), ModTime: time.Unix(0, 0)}, nil
	}
	return nil, fmt.Errorf("boot file %q: %w", name, fs.ErrNotExist)
}

func (p *Provisioner) openRelease(ctx context.Context, name, inputs, file string) (*pxe.File, error) {
	r, ok, err := p.c.Releases.Latest(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("finding release %s: %w", name, err)
	}
	if ok && inputs != "" && r.Inputs.Hex() != inputs {
		// A newer one was built while a run is under way: the run keeps its own.
		if r, ok, err = p.c.Releases.Find(ctx, name, inputs); err != nil {
			return nil, fmt.Errorf("finding release %s %s: %w", name, inputs, err)
		}
	}
	if !ok {
		return nil, fmt.Errorf("release %s %s: %w", name, inputs, fs.ErrNotExist)
	}
	f, size, err := p.c.Releases.OpenFile(ctx, r, file)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", name, err)
	}
	return &pxe.File{ReadSeekCloser: f, Size: size, ModTime: r.Created, Type: "application/octet-stream"}, nil
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

// caRamdisk is a ramdisk with one file: the CA, at wire.PathCA.
func caRamdisk(pem []byte) ([]byte, error) {
	var b bytes.Buffer
	err := images.WriteCPIO(&b, []images.Entry{{Path: strings.TrimPrefix(wire.PathCA, "/"), Mode: 0o644, Data: pem}})
	return b.Bytes(), err
}

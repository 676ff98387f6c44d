package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

const largeFile = 250_000_000

// memory makes and imports a bundle of 1 GB and one of b.large bytes: what
// counts is that the memory is the same.
func (b *bench) memory(ctx context.Context) error {
	for _, total := range []int64{1_000_000_000, b.large} {
		if err := b.oneLarge(ctx, total); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) oneLarge(ctx context.Context, total int64) (err error) {
	base, served := filepath.Join(b.dir, "base"), filepath.Join(b.repo, "large")
	defer func() { err = errors.Join(err, os.RemoveAll(base), os.RemoveAll(served)) }()
	if err := errors.Join(os.RemoveAll(base), os.MkdirAll(served, 0o755), b.site(base)); err != nil {
		return err
	}
	text := "name: bench\ndomain: example.org\nmirrors:\n  - name: large\n    format: files\n    files:\n"
	fmt.Fprintf(b.log, "making %d MB\n", total/1e6)
	for i := range max(1, int(total/largeFile)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := fmt.Sprintf("f%03d", i)
		f, err := os.Create(filepath.Join(served, name))
		if err != nil {
			return err
		}
		h := sha256.New()
		_, err = io.CopyN(io.MultiWriter(f, h), rand.NewChaCha8([32]byte{9, byte(i)}), largeFile)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		text += fmt.Sprintf("      - url: http://%s/large/%s\n        sha256: %x\n", b.addr, name, h.Sum(nil))
	}
	store, key, out := filepath.Join(base, "store"), filepath.Join(base, "key"), filepath.Join(base, "out")
	if err := errors.Join(put(filepath.Join(base, "site.yaml"), []byte(text)),
		prepareWith(b.fettle, "mirror", "sync", "--site", base, "--store", store, "--key", key)); err != nil {
		return err
	}
	if err := os.RemoveAll(served); err != nil { // no more than two copies at a time
		return err
	}
	public, err := output(b.fettle, "bundle", "key", "--key", key)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name string
		args []string
	}{
		{"create", []string{b.fettle, "bundle", "create", "--site", base, "--store", store, "--key", key, "--no-record", "--program", "none", "--volume-size", "400MB", "--parity", "1", "--out", out}},
		{"import", []string{b.fettle, "bundle", "import", out, "--store", filepath.Join(base, "other"), "--public-key", strings.TrimSpace(public)}},
	} {
		fmt.Fprintf(b.log, "%s of %d MB\n", c.name, total/1e6)
		r, err := b.measure(ctx, base, nil, c.args)
		if err != nil {
			return err
		}
		if c.name == "create" {
			if err := os.RemoveAll(store); err != nil {
				return err
			}
		}
		r.Work, r.Program, r.Ours = "memory of large bundles, with parity", fmt.Sprintf("fettle, %s of %d MB", c.name, total/1e6), false
		b.rows = append(b.rows, r)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// all measures all works.
func (b *bench) all(ctx context.Context) error {
	var err error
	if b.only == "" || b.only == "apt" {
		err = b.compete(ctx, fmt.Sprintf("apt, %d packages, %d MB", b.packages, b.bytes/1e6), "apt, nothing changed", b.mirrors())
	}
	if (b.only == "" || b.only == "bundle") && ctx.Err() == nil {
		err = errors.Join(err, b.bundles(ctx))
	}
	if b.only != "apt" && b.only != "bundle" && b.only != "memory" && ctx.Err() == nil {
		err = errors.Join(err, b.formats(ctx))
	}
	if b.large > 0 && ctx.Err() == nil {
		err = errors.Join(err, b.memory(ctx))
	}
	return errors.Join(err, ctx.Err())
}

// mirrors are the programs that mirror a repository.
func (b *bench) mirrors() []command {
	url := "http://" + b.addr
	write := func(name, text string) func(string) error {
		return func(dir string) error { return put(filepath.Join(dir, name), []byte(text)) }
	}
	return []command{
		{
			name: "fettle", ours: true,
			setup: b.site,
			args: func(dir string) []string {
				return []string{b.fettle, "mirror", "sync", "--site", dir, "--store", filepath.Join(dir, "store"), "--key", filepath.Join(dir, "key")}
			},
		},
		{
			name: "aptly", needs: []string{"aptly", "gpgv"},
			setup: func(dir string) error {
				conf := fmt.Sprintf(`{"rootDir": %q, "downloadConcurrency": 4, "skipLegacyPool": true}`, filepath.Join(dir, "root"))
				if err := put(filepath.Join(dir, "aptly.conf"), []byte(conf)); err != nil {
					return err
				}
				return prepareWith("aptly", "-config="+filepath.Join(dir, "aptly.conf"), "-keyring="+b.keys.binary, "-architectures=amd64", "mirror", "create", "bench", url+"/", "stable", "main")
			},
			args: func(dir string) []string {
				return []string{"aptly", "-config=" + filepath.Join(dir, "aptly.conf"), "-keyring=" + b.keys.binary, "mirror", "update", "bench"}
			},
		},
		{
			name: "debmirror", needs: []string{"debmirror", "gpgv"},
			args: func(dir string) []string {
				return []string{"debmirror", "--method=http", "--host=" + b.addr, "--root=/", "--dist=stable", "--section=main", "--arch=amd64", "--nosource",
					"--rsync-extra=none", "--diff=none", "--keyring=" + b.keys.binary, filepath.Join(dir, "mirror")}
			},
		},
		{
			name: "apt-mirror", needs: []string{"apt-mirror", "wget"}, note: "verifies nothing",
			setup: func(dir string) error {
				for _, sub := range []string{"mirror", "skel", "var"} {
					if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
						return err
					}
				}
				return write("mirror.list", fmt.Sprintf("set base_path %s\nset nthreads 20\nset _tilde 0\nset run_postmirror 0\ndeb [arch=amd64] %s stable main\n", dir, url))(dir)
			},
			args: func(dir string) []string { return []string{"apt-mirror", filepath.Join(dir, "mirror.list")} },
		},
		{
			name: "apt-mirror, synced", needs: []string{"apt-mirror", "wget"}, note: "verifies nothing; as durable as fettle",
			setup: func(dir string) error {
				for _, sub := range []string{"mirror", "skel", "var"} {
					if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
						return err
					}
				}
				return write("mirror.list", fmt.Sprintf("set base_path %s\nset nthreads 20\nset _tilde 0\nset run_postmirror 0\ndeb [arch=amd64] %s stable main\n", dir, url))(dir)
			},
			args: func(string) []string { return []string{"sh", "-c", "apt-mirror mirror.list && sync -f ."} },
		},
		{
			name: "reprepro", needs: []string{"reprepro"},
			setup: func(dir string) error {
				// It takes keys from a home of gpg's own only; the index is verified by no one.
				return errors.Join(write("conf/distributions", "Codename: stable\nArchitectures: amd64\nComponents: main\nUpdate: bench\n")(dir),
					write("conf/updates", "Name: bench\nMethod: "+url+"\nSuite: stable\nVerifyRelease: blindtrust\n")(dir))
			},
			args: func(dir string) []string { return []string{"reprepro", "-b", dir, "update"} }, note: "does not verify the signature here",
		},
		{
			name: "curl -Z", needs: []string{"curl"}, note: "verifies nothing",
			setup: func(dir string) error {
				var text strings.Builder
				err := filepath.WalkDir(filepath.Join(b.repo, "pool"), func(p string, e fs.DirEntry, err error) error {
					if err != nil || e.IsDir() {
						return err
					}
					rel, err := filepath.Rel(b.repo, p)
					fmt.Fprintf(&text, "url = %q\noutput = %q\n", url+"/"+rel, filepath.Join(dir, filepath.Base(p)))
					return err
				})
				return errors.Join(err, put(filepath.Join(dir, "urls"), []byte(text.String())))
			},
			args: func(dir string) []string {
				return []string{"curl", "-sS", "-Z", "--parallel-max", "16", "--config", filepath.Join(dir, "urls")}
			},
		},
	}
}

// site writes a site that mirrors the repository whole.
func (b *bench) site(dir string) error {
	text := fmt.Sprintf("name: bench\ndomain: example.org\nmirrors:\n  - name: bench\n    format: apt\n    urls: [\"http://%s\"]\n    suites: [stable]\n    components: [main]\n    archs: [amd64]\n    keyrings: [upstream.asc]\n", b.addr)
	key, err := os.ReadFile(b.keys.armoured)
	if err != nil {
		return err
	}
	return errors.Join(put(filepath.Join(dir, "site.yaml"), []byte(text)), put(filepath.Join(dir, "upstream.asc"), key),
		prepareWith(b.fettle, "bundle", "key", "--key", filepath.Join(dir, "key")))
}

// bundles measures making and importing a bundle, beside tar and sha256sum on
// the same disk.
func (b *bench) bundles(ctx context.Context) error {
	base := filepath.Join(b.dir, "base")
	defer os.RemoveAll(base)
	if err := errors.Join(os.RemoveAll(base), os.MkdirAll(base, 0o755), b.site(base)); err != nil {
		return err
	}
	store := filepath.Join(base, "store")
	if err := prepareWith(b.fettle, "mirror", "sync", "--site", base, "--store", store, "--key", filepath.Join(base, "key"), "--name", "bench"); err != nil {
		return err
	}
	blobs := filepath.Join(store, "mirror", "blobs")
	create := func(out string) []string {
		return []string{b.fettle, "bundle", "create", "--site", base, "--store", store, "--key", filepath.Join(base, "key"), "--no-record", "--program", "none", "--out", out}
	}
	tarball := "set -o pipefail; tar -C " + blobs + " -cf - sha256 | tee DIR/x.tar | sha256sum > DIR/sum"
	err := b.compete(ctx, "bundle create", "", []command{
		{name: "fettle", ours: true, args: func(dir string) []string { return create(filepath.Join(dir, "out")) }, note: "durable: fsync"},
		{name: "tar with sha256sum, synced", args: func(dir string) []string {
			return []string{"bash", "-c", strings.ReplaceAll(tarball+"; sync DIR/x.tar", "DIR", dir)}
		}},
		{name: "tar with sha256sum", args: func(dir string) []string {
			return []string{"bash", "-c", strings.ReplaceAll(tarball, "DIR", dir)}
		}, note: "not durable"},
	})
	// What is imported.
	out := filepath.Join(base, "out")
	if cerr := prepareWith(create(out)[0], create(out)[1:]...); cerr != nil {
		return errors.Join(err, cerr)
	}
	if cerr := prepareWith("bash", "-c", strings.ReplaceAll(tarball, "DIR", base)); cerr != nil {
		return errors.Join(err, cerr)
	}
	public, kerr := output(b.fettle, "bundle", "key", "--key", filepath.Join(base, "key"))
	if kerr != nil {
		return errors.Join(err, kerr)
	}
	imported := func(out string) func(dir string) []string {
		return func(dir string) []string {
			return []string{b.fettle, "bundle", "import", out, "--store", filepath.Join(dir, "store"), "--public-key", strings.TrimSpace(public)}
		}
	}
	untar := "sha256sum < " + base + "/x.tar | cmp - " + base + "/sum && tar -C DIR -xf " + base + "/x.tar"
	err = errors.Join(err, b.compete(ctx, "bundle import", "", []command{
		{name: "fettle", ours: true, args: imported(out), note: "durable: fsync"},
		{name: "sha256sum and untar, synced", args: func(dir string) []string {
			return []string{"bash", "-c", strings.ReplaceAll(untar+" && sync -f DIR", "DIR", dir)}
		}},
		{name: "sha256sum and untar", args: func(dir string) []string {
			return []string{"bash", "-c", strings.ReplaceAll(untar, "DIR", dir)}
		}, note: "not durable"},
	}))
	return err
}

package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/dirhash"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/pgp"
)

// What each of the other formats' repositories holds. The bytes do not compress.
const (
	things    = 300
	thingSize = 200_000
)

// formatWork makes a format's repository below b.repo and says who competes.
type formatWork struct {
	format, what string
	prepare      func(ctx context.Context) ([]command, error)
}

func (b *bench) works() []formatWork {
	return []formatWork{
		{"files", "digests in the site file", b.filesWork},
		{"npm", "a package-lock", b.npmWork},
		{"pypi", "requirements with hashes", b.pypiWork},
		{"go", "a go.sum", b.goWork},
		{"rpm", "a signed repository", b.rpmWork},
	}
}

// formats measures a sync of each format, and it again.
func (b *bench) formats(ctx context.Context) error {
	var errs []error
	for _, w := range b.works() {
		if b.only != "" && b.only != "formats" && b.only != w.format || ctx.Err() != nil {
			continue
		}
		cs, err := w.prepare(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", w.format, err))
			continue
		}
		work := fmt.Sprintf("%s, %d, %d MB, %s", w.format, things, things*thingSize/1_000_000, w.what)
		errs = append(errs, b.compete(ctx, work, w.format+", nothing changed", cs))
	}
	return errors.Join(errs...)
}

// noise gives bytes that do not compress, the same for the same number.
func noise(i int) []byte {
	data := make([]byte, thingSize)
	_, _ = rand.NewChaCha8([32]byte{3, byte(i), byte(i >> 8)}).Read(data)
	return data
}

// syncOf is fettle's sync of one mirror; more are files of its site folder.
func (b *bench) syncOf(mirror string, more map[string]string, env ...string) command {
	return command{
		name: "fettle", ours: true, env: env,
		setup: func(dir string) error {
			errs := []error{put(filepath.Join(dir, "site.yaml"), []byte("name: bench\ndomain: example.org\nmirrors:\n"+mirror)),
				prepareWith(b.fettle, "bundle", "key", "--key", filepath.Join(dir, "key"))}
			for name, text := range more {
				errs = append(errs, put(filepath.Join(dir, name), []byte(text)))
			}
			return errors.Join(errs...)
		},
		args: func(dir string) []string {
			return []string{b.fettle, "mirror", "sync", "--site", dir, "--store", filepath.Join(dir, "store"), "--key", filepath.Join(dir, "key")}
		},
	}
}

func (b *bench) filesWork(ctx context.Context) ([]command, error) {
	var site, urls, sums strings.Builder
	site.WriteString("  - name: bench\n    format: files\n    files:\n")
	for i := range things {
		data, url := noise(i), fmt.Sprintf("http://%s/files/f%03d", b.addr, i)
		if err := errors.Join(ctx.Err(), put(filepath.Join(b.repo, "files", fmt.Sprintf("f%03d", i)), data)); err != nil {
			return nil, err
		}
		fmt.Fprintf(&site, "      - url: %s\n        sha256: %x\n", url, sha256.Sum256(data))
		fmt.Fprintf(&urls, "url = %q\noutput = \"f%03d\"\n", url, i)
		fmt.Fprintf(&sums, "%x  f%03d\n", sha256.Sum256(data), i)
	}
	return []command{b.syncOf(site.String(), nil), {
		name: "curl -Z, then sha256sum", needs: []string{"curl"},
		setup: func(dir string) error {
			return errors.Join(put(filepath.Join(dir, "urls"), []byte(urls.String())), put(filepath.Join(dir, "sums"), []byte(sums.String())))
		},
		args: func(string) []string {
			return []string{"sh", "-c", "curl -sS -Z --parallel-max 16 --config urls && sha256sum --quiet -c sums"}
		},
	}}, nil
}

func (b *bench) npmWork(ctx context.Context) ([]command, error) {
	deps, places := map[string]string{}, map[string]any{}
	for i := range things {
		name := fmt.Sprintf("p%03d", i)
		manifest := fmt.Sprintf(`{"name":%q,"version":"1.0.0","license":"MIT"}`, name)
		var tgz bytes.Buffer
		z := gzip.NewWriter(&tgz)
		w := tar.NewWriter(z)
		var err error
		for _, f := range []struct {
			name string
			data []byte
		}{{"package.json", []byte(manifest)}, {"data", noise(i)}} {
			herr := w.WriteHeader(&tar.Header{Name: "package/" + f.name, Mode: 0o644, Size: int64(len(f.data))})
			_, werr := w.Write(f.data)
			err = errors.Join(err, herr, werr)
		}
		path := fmt.Sprintf("npm/%s/-/%s-1.0.0.tgz", name, name)
		if err := errors.Join(ctx.Err(), err, w.Close(), z.Close(), put(filepath.Join(b.repo, path), tgz.Bytes())); err != nil {
			return nil, err
		}
		sum := sha512.Sum512(tgz.Bytes())
		deps[name] = "1.0.0"
		places["node_modules/"+name] = map[string]any{"version": "1.0.0", "resolved": "http://" + b.addr + "/" + path, "license": "MIT",
			"integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:])}
	}
	places[""] = map[string]any{"name": "app", "version": "1.0.0", "dependencies": deps}
	pkg, err := json.Marshal(places[""])
	if err != nil {
		return nil, err
	}
	lock, err := json.Marshal(map[string]any{"name": "app", "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": places})
	if err != nil {
		return nil, err
	}
	url := "http://" + b.addr + "/npm"
	return []command{
		b.syncOf("  - name: bench\n    format: npm\n    urls: [\""+url+"\"]\n    lockfiles: [package-lock.json]\n", map[string]string{"package-lock.json": string(lock)}),
		{
			name: "npm ci", needs: []string{"npm"}, note: "unpacks too",
			setup: func(dir string) error {
				return errors.Join(put(filepath.Join(dir, "package.json"), pkg), put(filepath.Join(dir, "package-lock.json"), lock))
			},
			args: func(dir string) []string {
				return []string{"npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--registry", url + "/", "--cache", filepath.Join(dir, "cache")}
			},
		},
	}, nil
}

func (b *bench) pypiWork(ctx context.Context) ([]command, error) {
	var wanted strings.Builder
	for i := range things {
		name := fmt.Sprintf("p%03d", i)
		info := name + "-1.0.dist-info/"
		files := []struct {
			name string
			data []byte
		}{{name + ".bin", noise(i)}, {info + "METADATA", []byte("Metadata-Version: 2.1\nName: " + name + "\nVersion: 1.0\n")},
			{info + "WHEEL", []byte("Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n")}}
		var whl bytes.Buffer
		z := zip.NewWriter(&whl)
		record := ""
		write := func(name string, data []byte) error {
			w, err := z.Create(name)
			if err != nil {
				return err
			}
			_, err = w.Write(data)
			return err
		}
		for _, f := range files {
			if err := write(f.name, f.data); err != nil {
				return nil, err
			}
			sum := sha256.Sum256(f.data)
			record += fmt.Sprintf("%s,sha256=%s,%d\n", f.name, base64.RawURLEncoding.EncodeToString(sum[:]), len(f.data))
		}
		file := name + "-1.0-py3-none-any.whl"
		sum := func() [32]byte { return sha256.Sum256(whl.Bytes()) }
		if err := errors.Join(ctx.Err(), write(info+"RECORD", []byte(record+info+"RECORD,,\n")), z.Close(), put(filepath.Join(b.repo, "pypi/files", file), whl.Bytes()),
			put(filepath.Join(b.repo, "pypi/simple", name, "index.html"), fmt.Appendf(nil, "<!DOCTYPE html><html><body><a href=\"../../files/%s#sha256=%x\">%s</a></body></html>\n", file, sum(), file))); err != nil {
			return nil, err
		}
		fmt.Fprintf(&wanted, "%s==1.0 --hash=sha256:%x\n", name, sum())
	}
	url := "http://" + b.addr + "/pypi/simple/"
	cs := []command{
		b.syncOf("  - name: bench\n    format: pypi\n    urls: [\""+url+"\"]\n    lockfiles: [requirements.txt]\n", map[string]string{"requirements.txt": wanted.String()}),
		{
			name: "pip download", needs: []string{"python3"},
			setup: func(dir string) error {
				return put(filepath.Join(dir, "requirements.txt"), []byte(wanted.String()))
			},
			args: func(dir string) []string {
				return []string{"python3", "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps", "--require-hashes", "--no-cache-dir", "--index-url", url, "-d", filepath.Join(dir, "out"), "-r", "requirements.txt"}
			},
		},
	}
	return b.without(cs, "pip download", "python3", "-m", "pip", "--version"), nil
}

// without leaves the last command out when a program says that it cannot run it:
// a module or a plugin may be missing.
func (b *bench) without(cs []command, name string, check ...string) []command {
	if err := prepareWith(check[0], check[1:]...); err != nil {
		fmt.Fprintf(b.log, "%s is left out: %v\n", name, err)
		return cs[:len(cs)-1]
	}
	return cs
}

func (b *bench) goWork(ctx context.Context) ([]command, error) {
	var gomod, gosum strings.Builder
	gomod.WriteString("module example.org/app\n\ngo 1.21\n\nrequire (\n")
	for i := range things {
		path := fmt.Sprintf("example.org/p%03d", i)
		at := filepath.Join(b.repo, "go", path, "@v")
		text := "module " + path + "\n\ngo 1.21\n"
		var out bytes.Buffer
		z := zip.NewWriter(&out)
		for _, f := range []struct {
			name string
			data []byte
		}{{"go.mod", []byte(text)}, {"data.bin", noise(i)}} {
			w, err := z.Create(path + "@v1.0.0/" + f.name)
			if err == nil {
				_, err = w.Write(f.data)
			}
			if err != nil {
				return nil, err
			}
		}
		zipped := filepath.Join(at, "v1.0.0.zip")
		if err := errors.Join(ctx.Err(), z.Close(), put(zipped, out.Bytes()), put(filepath.Join(at, "v1.0.0.mod"), []byte(text)), put(filepath.Join(at, "list"), []byte("v1.0.0\n")),
			put(filepath.Join(at, "v1.0.0.info"), []byte(`{"Version":"v1.0.0","Time":"2024-01-02T03:04:05Z"}`))); err != nil {
			return nil, err
		}
		whole, err := dirhash.HashZip(zipped, dirhash.Hash1)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256([]byte(text))
		line := sha256.Sum256(fmt.Appendf(nil, "%x  go.mod\n", sum)) // h1: of a module's go.mod alone
		fmt.Fprintf(&gomod, "\t%s v1.0.0\n", path)
		fmt.Fprintf(&gosum, "%s v1.0.0 %s\n%s v1.0.0/go.mod h1:%s\n", path, whole, path, base64.StdEncoding.EncodeToString(line[:]))
	}
	gomod.WriteString(")\n")
	url := "http://" + b.addr + "/go"
	return []command{
		b.syncOf("  - name: bench\n    format: go\n    urls: [\""+url+"\"]\n    lockfiles: [go.sum]\n", map[string]string{"go.sum": gosum.String(), "go.mod": gomod.String()}, "GOSUMDB=off"),
		{
			name: "go mod download", needs: []string{"go"}, note: "unpacks too",
			setup: func(dir string) error {
				return errors.Join(put(filepath.Join(dir, "go.mod"), []byte(gomod.String())), put(filepath.Join(dir, "go.sum"), []byte(gosum.String())), os.Mkdir(filepath.Join(dir, "home"), 0o755))
			},
			// What go unpacks is read-only unless it is told otherwise.
			env: []string{"GOPROXY=" + url, "GOSUMDB=off", "GOFLAGS=-modcacherw -mod=mod", "GOTOOLCHAIN=local", "GOWORK=off", "GOTELEMETRY=off"},
			args: func(dir string) []string {
				return []string{"env", "GOMODCACHE=" + filepath.Join(dir, "cache"), "HOME=" + filepath.Join(dir, "home"), "go", "mod", "download"}
			},
		},
	}, nil
}

func (b *bench) rpmWork(ctx context.Context) ([]command, error) {
	if !b.has(command{name: "rpm", needs: []string{"rpmbuild", "createrepo_c"}}) {
		return nil, nil
	}
	top := filepath.Join(b.dir, "rpm")
	defer os.RemoveAll(top)
	var head, install, files strings.Builder
	head.WriteString("Name: bench\nVersion: 1\nRelease: 1\nSummary: x\nLicense: MIT\nBuildArch: noarch\n%global _binary_payload w0.gzdio\n%global __os_install_post %{nil}\n%description\nx\n")
	for i := range things {
		name := fmt.Sprintf("p%03d", i)
		if err := errors.Join(ctx.Err(), put(filepath.Join(top, "data", name), noise(i))); err != nil {
			return nil, err
		}
		fmt.Fprintf(&head, "%%package -n %s\nSummary: x\n%%description -n %s\nx\n", name, name)
		fmt.Fprintf(&files, "%%files -n %s\n/usr/share/%s\n", name, name)
		fmt.Fprintf(&install, "cp %s/data/%s %%{buildroot}/usr/share/%s\n", top, name, name)
	}
	spec, repo := filepath.Join(top, "bench.spec"), filepath.Join(b.repo, "rpm")
	if err := errors.Join(put(spec, []byte(head.String()+"%install\nmkdir -p %{buildroot}/usr/share\n"+install.String()+files.String())),
		prepareWith("rpmbuild", "-bb", "--quiet", "--define", "_topdir "+top+"/top", spec),
		os.RemoveAll(repo), os.Rename(filepath.Join(top, "top/RPMS/noarch"), repo),
		prepareWith("createrepo_c", "--quiet", repo)); err != nil {
		return nil, err
	}
	md := filepath.Join(repo, "repodata/repomd.xml")
	data, err := os.ReadFile(md)
	if err != nil {
		return nil, err
	}
	key, err := airgap.NewKey()
	if err != nil {
		return nil, err
	}
	s, err := pgp.NewSigner(key)
	if err != nil {
		return nil, err
	}
	_, detached, err := s.Sign(data, time.Now().UTC().Truncate(time.Second))
	if err != nil {
		return nil, err
	}
	url := "http://" + b.addr + "/rpm"
	cs := []command{
		b.syncOf("  - name: bench\n    format: rpm\n    urls: [\""+url+"\"]\n    keyrings: [rpm.asc]\n", map[string]string{"rpm.asc": string(s.Public)}),
		{
			name: "dnf reposync", needs: []string{"dnf"}, note: "verifies no signature",
			args: func(dir string) []string {
				return []string{"dnf", "-q", "--releasever=1", "--setopt=reposdir=/nonexistent", "--setopt=cachedir=" + filepath.Join(dir, "cache"), "--setopt=logdir=" + dir, "--setopt=persistdir=" + dir,
					"--repofrompath=bench," + url, "--setopt=bench.gpgcheck=0", "--setopt=max_parallel_downloads=6", "reposync", "--repoid=bench", "--download-metadata", "-p", filepath.Join(dir, "out")}
			},
		},
	}
	return b.without(cs, "dnf reposync", "dnf", "--releasever=1", "reposync", "--help"), put(md+".asc", detached)
}

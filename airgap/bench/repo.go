package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/pgp"
)

// keys are the upstream's key, as programs want it.
type keys struct {
	armoured, binary string // files
}

// prepare makes the repository: packages that dpkg accepts, of bytes that do
// not compress, and a signed Release.
func (b *bench) prepare(ctx context.Context) error {
	b.repo, b.work = filepath.Join(b.dir, "repo"), filepath.Join(b.dir, "work")
	fmt.Fprintf(b.log, "making a repository of %d packages, %d MB, in %s\n", b.packages, b.bytes/1e6, b.repo)
	if err := os.RemoveAll(b.repo); err != nil {
		return err
	}
	size := int(b.bytes / int64(b.packages))
	r := rand.NewChaCha8([32]byte{7})
	data := make([]byte, size)
	var index bytes.Buffer
	for i := range b.packages {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := fmt.Sprintf("p%04d", i)
		control := fmt.Sprintf("Package: %s\nVersion: 1.0\nArchitecture: amd64\nMaintainer: Nobody <nobody@example.org>\nInstalled-Size: %d\nSection: misc\nPriority: optional\nDescription: package %d of a benchmark\n", name, size>>10, i)
		_, _ = r.Read(data)
		deb, err := debOf(name, control, data[:size-700])
		if err != nil {
			return err
		}
		path := fmt.Sprintf("pool/main/p/%s/%s_1.0_amd64.deb", name, name)
		if err := put(filepath.Join(b.repo, path), deb); err != nil {
			return err
		}
		fmt.Fprintf(&index, "%sFilename: %s\nSize: %d\nMD5sum: %x\nSHA1: %x\nSHA256: %x\n\n", control, path, len(deb), md5.Sum(deb), sha1.Sum(deb), sha256.Sum256(deb))
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(index.Bytes()); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	var rel strings.Builder
	fmt.Fprintf(&rel, "Origin: Bench\nLabel: Bench\nSuite: stable\nCodename: stable\nDate: %s\nArchitectures: amd64\nComponents: main\nDescription: a benchmark\n", now.Format("Mon, 02 Jan 2006 15:04:05 UTC"))
	files := map[string][]byte{"main/binary-amd64/Packages": index.Bytes(), "main/binary-amd64/Packages.gz": packed.Bytes()}
	for _, sum := range []struct {
		field string
		of    func([]byte) string
	}{{"MD5Sum", func(d []byte) string { return fmt.Sprintf("%x", md5.Sum(d)) }}, {"SHA256", func(d []byte) string { return fmt.Sprintf("%x", sha256.Sum256(d)) }}} {
		rel.WriteString(sum.field + ":\n")
		for _, name := range []string{"main/binary-amd64/Packages", "main/binary-amd64/Packages.gz"} {
			fmt.Fprintf(&rel, " %s %d %s\n", sum.of(files[name]), len(files[name]), name)
		}
	}
	return b.sign(rel.String(), files, now)
}

func (b *bench) sign(release string, files map[string][]byte, now time.Time) error {
	key, err := airgap.NewKey()
	if err != nil {
		return err
	}
	s, err := pgp.NewSigner(key)
	if err != nil {
		return err
	}
	inline, detached, err := s.Sign([]byte(release), now)
	if err != nil {
		return err
	}
	files["Release"], files["InRelease"], files["Release.gpg"] = []byte(release), inline, detached
	for name, data := range files {
		if err := put(filepath.Join(b.repo, "dists/stable", name), data); err != nil {
			return err
		}
	}
	// The body of the armour, without its check sum, is the binary key.
	var body strings.Builder
	_, rest, _ := strings.Cut(string(s.Public), "\n\n")
	for line := range strings.Lines(rest) {
		if strings.HasPrefix(line, "=") || strings.HasPrefix(line, "-") {
			break
		}
		body.WriteString(strings.TrimSpace(line))
	}
	binary, err := base64.StdEncoding.DecodeString(body.String())
	if err != nil {
		return err
	}
	b.keys = keys{filepath.Join(b.dir, "upstream.asc"), filepath.Join(b.dir, "upstream.gpg")}
	return errors.Join(put(b.keys.armoured, s.Public), put(b.keys.binary, binary))
}

func put(path string, data []byte) error {
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644))
}

// debOf is a package with one file: deb(5).
func debOf(name, control string, data []byte) ([]byte, error) {
	inner := func(w io.Writer, path string, data []byte) error {
		t := tar.NewWriter(w)
		err := t.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(data)), Format: tar.FormatGNU})
		_, werr := t.Write(data)
		return errors.Join(err, werr, t.Close())
	}
	var c, d bytes.Buffer
	z := gzip.NewWriter(&c)
	if err := errors.Join(inner(z, "./control", []byte(control)), z.Close(), inner(&d, "./usr/share/"+name, data)); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", c.Bytes()}, {"data.tar", d.Bytes()}} {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.data))
		out.Write(m.data)
		if len(m.data)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes(), nil
}

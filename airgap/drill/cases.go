package drill

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// escaped is in the name of files that must never be written.
const escaped = "escaped-from-the-store"

// update publishes the next release of the archive, changed by a case.
func (r *rig) update(change func(*release)) error {
	next := r.good()
	next.date, next.version = r.up.now.Add(-time.Hour), "2"
	next.packages = map[string]string{"app": "the program, mended", "lib": "the library, mended"}
	if change != nil {
		change(&next)
	}
	return r.up.publish(next)
}

// updated is update, then something done to what the archive serves.
func updated(then func(r *rig)) attack {
	return func(_ context.Context, r *rig) error {
		err := r.update(nil)
		then(r)
		return err
	}
}

// signed is an update whose signed index was changed.
func signed(change func(r *rig, next *release)) attack {
	return func(_ context.Context, r *rig) error { return r.update(func(n *release) { change(r, n) }) }
}

// edited is an update whose list of packages was changed before it was signed.
func edited(old, new string) attack {
	return signed(func(_ *rig, n *release) {
		n.edit = func(p string) string { return strings.Replace(p, old, new, 1) }
	})
}

// newImage has the site want a newer tag, whose image a case then changes.
func newImage(change func(r *rig, manifest, blob string)) attack {
	return func(_ context.Context, r *rig) error {
		manifest, blob, err := r.up.image("the files of a newer image")
		if err != nil {
			return err
		}
		r.up.mu.Lock()
		r.up.files["v2/"+imageName+"/manifests/2"] = r.up.files[manifest]
		r.up.mu.Unlock()
		if _, _, err := r.up.image(layer); err != nil { // the old tag stays
			return err
		}
		change(r, manifest, blob)
		r.tag = "2"
		return r.site(firmware)
	}
}

// tampered makes a bundle and changes it; the program is to verify it.
func tampered(change func(dir string) error) attack {
	return func(ctx context.Context, r *rig) error {
		if err := r.bundle(ctx, "bundle"); err != nil {
			return err
		}
		return change(r.path("bundle"))
	}
}

func (r *rig) bundle(ctx context.Context, name string) error {
	status, said, err := r.d.Run(ctx, "bundle", "create", "--site", r.path("site"), "--store", r.path("store"), "--key", r.path("key"), "--program", "none", "--out", r.path(name))
	if err != nil {
		return err
	}
	if status != 0 {
		return fmt.Errorf("making a bundle failed with status %d: %s", status, lastLine(said))
	}
	return nil
}

// publicKey is the site's public key, as text.
func (r *rig) publicKey(ctx context.Context, key string) (string, error) {
	status, said, err := r.d.Run(ctx, "bundle", "key", "--site", r.path("site"), "--key", r.path(key))
	if err != nil || status != 0 {
		return "", errors.Join(err, fmt.Errorf("printing the public key ended with status %d", status))
	}
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "fettle-public-key-") {
			return strings.TrimSpace(line), nil
		}
	}
	return "", fmt.Errorf("no public key in %q", said)
}

// bundleCommand verifies or imports the bundle, on another side.
func bundleCommand(verb, key string) command {
	return func(ctx context.Context, r *rig) []string {
		pub, err := r.publicKey(ctx, key)
		if err != nil {
			return []string{"bundle", verb, err.Error()} // it fails, and shows why
		}
		args := []string{"bundle", verb, "--public-key", pub}
		if verb == "import" {
			args = append(args, "--store", r.path("other"))
		}
		return append(args, r.path("bundle"))
	}
}

// edit changes the bytes of a bundle's file.
func edit(pattern string, change func([]byte) []byte) func(dir string) error {
	return func(dir string) error {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) == 0 {
			return fmt.Errorf("the bundle has no %s: %w", pattern, err)
		}
		b, err := os.ReadFile(files[0])
		if err != nil {
			return err
		}
		return os.WriteFile(files[0], change(bytes.Clone(b)), 0o644)
	}
}

func flip(at func(n int) int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[at(len(b))] ^= 1
		return b
	}
}

// Cases are all cases.
func Cases() []Case {
	app := debPath("app", "2")
	verify := bundleCommand("verify", "key")
	return []Case{
		{Name: "an honest update", accept: true, attack: updated(func(*rig) {})},
		{Name: "a package with another byte", says: "app", attack: updated(func(r *rig) { r.up.put(app, []byte("the program, bended")) })},
		{Name: "a package that is too short", says: "app", attack: updated(func(r *rig) { r.up.put(app, []byte("the prog")) })},
		{Name: "a package that is too long", says: "app", attack: updated(func(r *rig) { r.up.put(app, []byte("the program, mended and more")) })},
		{Name: "a package without end", says: "app", attack: updated(func(r *rig) { r.up.endless(app) })},
		{Name: "an older package in the place of a new one", says: "app", attack: updated(func(r *rig) { r.up.put(app, []byte("the program")) })},
		{Name: "a package that is not there", says: "app", attack: updated(func(r *rig) { r.up.handle(app, http.NotFound) })},
		{Name: "an index without end", attack: updated(func(r *rig) { r.up.endless("dists/stable/InRelease") })},
		{Name: "a list of packages without end", attack: updated(func(r *rig) { r.up.endless("dists/stable/main/binary-amd64/Packages.gz") })},
		{Name: "a zip bomb in the place of a list of packages, signed", says: "decompresses", attack: signed(func(_ *rig, n *release) { n.bomb = true })},
		{Name: "an index that a stranger signed", says: "no trusted key", attack: signed(func(r *rig, n *release) { n.signer = r.up.other })},
		{Name: "an index whose text was changed", says: "no trusted key", attack: func(ctx context.Context, r *rig) error {
			return errors.Join(r.update(nil), r.rewrite(ctx, "dists/stable/InRelease", func(b []byte) []byte {
				return bytes.Replace(b, []byte("Origin: Drill"), []byte("Origin: Drall"), 1)
			}))
		}},
		{Name: "an index that nobody signed", attack: updated(func(r *rig) { r.up.put("dists/stable/InRelease", []byte("Origin: Drill\nSuite: stable\n")) })},
		{Name: "text beside the signed one", attack: func(ctx context.Context, r *rig) error {
			return errors.Join(r.update(nil), r.rewrite(ctx, "dists/stable/InRelease", func(b []byte) []byte { return append(b, "Origin: Evil\n"...) }))
		}},
		{Name: "an index whose Valid-Until is past", says: "valid until", attack: signed(func(r *rig, n *release) { n.validUntil = r.up.now.Add(-time.Minute) })},
		{Name: "an older index, replayed", says: "older", attack: signed(func(r *rig, n *release) { n.date = r.up.now.Add(-48 * time.Hour) })},
		{Name: "the index of another suite, rightly signed", says: "swapped", attack: func(ctx context.Context, r *rig) error {
			if err := r.update(func(n *release) { n.suite = "unstable" }); err != nil {
				return err
			}
			r.up.mu.Lock()
			defer r.up.mu.Unlock()
			r.up.files["dists/stable/InRelease"] = r.up.files["dists/unstable/InRelease"]
			return nil
		}},
		{Name: "a path that leaves the mirror, signed", says: "path", attack: edited("pool/app_2", "pool/../../"+escaped)},
		{Name: "an absolute path, signed", says: "path", attack: edited("Filename: pool/app_2", "Filename: /tmp/"+escaped)},
		{Name: "a package in the place of an index, signed", attack: edited("Filename: pool/app_2_amd64.deb", "Filename: dists/stable/InRelease")},
		{Name: "a dependency that is withheld, signed", says: "lib", attack: signed(func(_ *rig, n *release) { delete(n.packages, "lib") })},
		{Name: "a redirect to another host", says: "another host", attack: updated(func(r *rig) {
			r.up.put("elsewhere", []byte("the program, mended"))
			r.up.handle(app, func(w http.ResponseWriter, req *http.Request) {
				http.Redirect(w, req, r.second+"/elsewhere", http.StatusFound)
			})
		})},
		{Name: "a redirect in a circle", attack: updated(func(r *rig) {
			r.up.handle(app, func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, r.url+"/"+app, http.StatusFound) })
		})},
		{Name: "a single file with other bytes", says: "firmware", attack: func(ctx context.Context, r *rig) error {
			r.up.put("firmware.bin", []byte("firmware of somebody else..."))
			return r.site("firmware that the site wants now")
		}},
		{Name: "an honest image under a new tag", accept: true, attack: newImage(func(*rig, string, string) {})},
		{Name: "another image under the same tag", says: "upstream", attack: func(_ context.Context, r *rig) error {
			_, _, err := r.up.image("the files of another image")
			return err
		}},
		{Name: "an image whose layer has other bytes", attack: newImage(func(r *rig, _, blob string) { r.up.put(blob, []byte("the files of a newer imagf")) })},
		{Name: "an image whose layer has no end", attack: newImage(func(r *rig, _, blob string) { r.up.endless(blob) })},
		{Name: "a manifest that has not the digest that it is said to have", attack: newImage(func(r *rig, manifest, _ string) {
			text := `{"schemaVersion":2,"mediaType":"` + manifestType + `","config":{"mediaType":"` + configType + `","digest":"sha256:` + hexSum("x") + `","size":1},"layers":[]}`
			_, digest, _ := strings.Cut(manifest, "sha256:")
			for _, ref := range []string{"2", "sha256:" + digest} {
				r.up.manifest("v2/"+imageName+"/manifests/"+ref, text, digest)
			}
		})},
		{Name: "an honest bundle", accept: true, attack: tampered(func(string) error { return nil }), run: verify},
		{Name: "a bundle with a flipped bit in its packages", attack: tampered(edit("*.fvol", flip(func(n int) int { return n / 3 }))), run: verify},
		{Name: "a bundle with a flipped bit in a table", attack: tampered(edit("*.fvol", flip(func(n int) int { return n - 100 }))), run: verify},
		{Name: "a bundle with a flipped bit in its index", attack: tampered(edit("bundle.json", flip(func(n int) int { return n / 2 }))), run: verify},
		{Name: "a bundle with a flipped bit in its signature", attack: tampered(edit("bundle.sig", flip(func(n int) int { return n - 10 }))), run: verify},
		{Name: "a bundle that is cut short", attack: tampered(edit("*.fvol", func(b []byte) []byte { return b[:len(b)/2] })), run: verify},
		{Name: "a bundle with bytes at its end", attack: tampered(edit("*.fvol", func(b []byte) []byte { return append(b, 0) })), run: verify},
		{Name: "a bundle whose volume is lost", attack: tampered(func(dir string) error {
			return os.Remove(filepath.Join(dir, "volume-0001.fvol"))
		}), run: verify},
		{Name: "a bundle of another key", says: "trusts", attack: tampered(func(string) error { return nil }), run: bundleCommand("verify", "another-key")},
		{Name: "an older bundle, replayed", says: "older", attack: func(ctx context.Context, r *rig) error {
			for _, step := range []func() error{
				func() error { return r.bundle(ctx, "old") },
				func() error { return r.update(nil) },
				func() error { return r.must(ctx, r.syncArgs()...) },
				func() error { return r.bundle(ctx, "bundle") },
				func() error { return r.must(ctx, bundleCommand("import", "key")(ctx, r)...) },
				func() error { return os.RemoveAll(r.path("bundle")) },
				func() error { return os.Rename(r.path("old"), r.path("bundle")) },
			} {
				if err := step(); err != nil {
					return err
				}
			}
			return nil
		}, run: bundleCommand("import", "key")},
	}
}

// rewrite changes a file of the upstream.
func (r *rig) rewrite(ctx context.Context, path string, change func([]byte) []byte) error {
	b, err := r.get(ctx, path)
	if err != nil {
		return err
	}
	r.up.put(path, change(b))
	return nil
}

// must runs what has to succeed.
func (r *rig) must(ctx context.Context, args ...string) error {
	status, said, err := r.d.Run(ctx, args...)
	if err == nil && status != 0 {
		err = fmt.Errorf("%s ended with status %d: %s", strings.Join(args[:2], " "), status, lastLine(said))
	}
	return err
}

// get is what the upstream serves at path.
func (r *rig) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

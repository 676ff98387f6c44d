package images

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
	"syscall"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

// AptConfig says where packages come from. The zero value is the machine's own
// configuration below /etc/apt.
type AptConfig struct {
	Etc     string   // apt's configuration folder; "" = /etc/apt
	Sources []Source // when set, only these, as they are
}

// ErrNoSuite says that apt's configuration has no source for a suite.
var ErrNoSuite = errors.New("no package source")

// apt is a private state of apt for one suite: its own lists, cache and
// configuration below the builder's cache folder. The host's package state is
// neither read nor changed, and no root is needed. apt verifies signatures and
// resolves dependencies; nothing here ever turns that off.
type apt struct {
	b       *Builder
	name    string // of the release that it works for, in progress reports
	dir     string
	sources []Source
	acquire []string // lines of configuration: proxies and the like
	arch    string
	unlock  func()
}

// host is the distribution and release of this machine, or of the builder.
func (b *Builder) host() (Host, error) {
	if b.Host != (Host{}) {
		return b.Host, nil
	}
	return readHost("")
}

// hostSources are the sources of the machine's own apt configuration for a
// suite.
func (b *Builder) hostSources(suite, arch string, components []string) ([]Source, error) {
	if len(b.Apt.Sources) > 0 {
		return b.Apt.Sources, nil
	}
	etc := b.Apt.Etc
	if etc == "" {
		etc = "/etc/apt"
	}
	all, err := readSources(etc)
	if err != nil {
		return nil, err
	}
	sources := archiveSources(all, suite, arch, components)
	if hasSuite(sources, suite) {
		return sources, nil
	}
	what := fmt.Sprintf("suite %s", suite)
	if anyArch := archiveSources(all, suite, "", components); len(anyArch) > 0 {
		what += " and architecture " + arch
	}
	return nil, fmt.Errorf("%w for %s in %s (sources.list, sources.list.d)%s: add a source of that suite, signed by the distribution's archive keyring; or say in the site's image from which apt mirrors of the site it is built (mirrors:), or that it is the machine's own release (os: host)",
		ErrNoSuite, what, etc, b.have(all, arch))
}

// have tells which release the sources have instead.
func (b *Builder) have(all []Source, arch string) string {
	h, err := b.host()
	if err != nil || !hasSuite(archiveSources(all, h.Suite, arch, nil), h.Suite) {
		return ""
	}
	return fmt.Sprintf(", which have %s (%s)", h.Suite, h.Pretty)
}

func hasSuite(sources []Source, suite string) bool {
	return slices.ContainsFunc(sources, func(s Source) bool { return s.Suite == suite })
}

// openApt prepares apt for a suite and brings its lists up to date when they
// are old. close must be called. Where sources lack the suite itself, those of
// the machine are added.
func (b *Builder) openApt(ctx context.Context, name, suite, arch string, components []string, sources []Source) (*apt, error) {
	if !hasSuite(sources, suite) {
		own, err := b.hostSources(suite, arch, components)
		if err != nil {
			return nil, err
		}
		sources = append(slices.Clone(own), sources...)
	}
	acquire, err := b.acquireOptions(ctx)
	if err != nil {
		return nil, err
	}
	a := &apt{b: b, name: name, sources: sources, acquire: acquire, arch: arch}
	key, err := inputs(struct {
		Sources []Source
		Acquire []string
		Arch    string
	}{sources, acquire, arch})
	if err != nil {
		return nil, err
	}
	a.dir = filepath.Join(b.Cache, "apt", suite+"-"+arch+"-"+key.Hex()[:12])
	if err := a.prepare(ctx); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *apt) close() {
	if a.unlock != nil {
		a.unlock()
		a.unlock = nil
	}
}

// acquireOptions are the host's settings of how to fetch (proxies, retries,
// date checks) without those that would switch off verification or run hooks.
func (b *Builder) acquireOptions(ctx context.Context) ([]string, error) {
	out, err := b.output(ctx, tool{args: []string{"apt-config", "dump"}, pkg: "apt"})
	if err != nil {
		return nil, err
	}
	return pickAcquire(string(out)), nil
}

func pickAcquire(dump string) []string {
	prefixes := []string{"Acquire::http::", "Acquire::https::", "Acquire::ftp::", "Acquire::tor::",
		"Acquire::Check-Valid-Until ", "Acquire::Check-Date ", "Acquire::Max-ValidTime", "Acquire::Min-ValidTime",
		"Acquire::Retries ", "Acquire::ForceIPv4 ", "Acquire::ForceIPv6 ", "Acquire::Queue-Mode "}
	never := []string{"verify-peer", "verify-host", "allowredirect"}
	var out []string
	for line := range strings.Lines(dump) {
		line = strings.TrimSpace(line)
		low := strings.ToLower(line)
		if strings.HasSuffix(line, ` "";`) || !strings.HasSuffix(line, ";") ||
			slices.ContainsFunc(never, func(s string) bool { return strings.Contains(low, s) }) {
			continue
		}
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(low, strings.ToLower(p)) }) {
			out = append(out, line)
		}
	}
	return out
}

func (a *apt) path(elem ...string) string {
	return filepath.Join(append([]string{a.dir}, elem...)...)
}

func (a *apt) prepare(ctx context.Context) error {
	for _, d := range []string{a.path("etc", "empty"), a.path("state", "lists", "partial"), a.path("cache", "archives", "partial"), a.debDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("preparing apt: %w", err)
		}
	}
	var err error
	if a.unlock, err = lockFile(ctx, a.path("lock")); err != nil {
		return fmt.Errorf("waiting for another build that uses the same package lists: %w", err)
	}
	lines, err := a.sourceLines(a.path("etc"))
	if err != nil {
		return err
	}
	conf := fmt.Sprintf(`Dir::Etc::main %[1]q;
Dir::Etc::parts %[2]q;
Dir::Etc::sourcelist %[3]q;
Dir::Etc::sourceparts %[2]q;
Dir::Etc::preferences %[1]q;
Dir::Etc::preferencesparts %[2]q;
Dir::State %[4]q;
Dir::State::lists %[5]q;
Dir::State::status %[6]q;
Dir::Cache %[7]q;
APT::Architecture %[8]q;
APT::Architectures { %[8]q; };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
APT::Get::Always-Include-Phased-Updates "true";
Acquire::Languages "none";
Acquire::Retries "3";
%[9]s
`, a.path("etc", "none"), a.path("etc", "empty"), a.path("etc", "sources.list"), a.path("state"), a.path("state", "lists")+"/",
		a.path("state", "status"), a.path("cache"), a.arch, strings.Join(a.acquire, "\n"))
	for file, text := range map[string]string{"etc/apt.conf": conf, "etc/sources.list": strings.Join(lines, "\n") + "\n", "state/status": "", "etc/none": ""} {
		if err := os.WriteFile(a.path(file), []byte(text), 0o644); err != nil {
			return fmt.Errorf("preparing apt: %w", err)
		}
	}
	return a.update(ctx)
}

// sourceLines is sources.list. Keys that are written into a source, or are in
// files that are not the distribution's, become files of dir: apt inside a user
// namespace cannot enter everybody's home.
func (a *apt) sourceLines(dir string) ([]string, error) {
	var lines []string
	for i, s := range a.sources {
		keys, err := s.keys()
		if err != nil {
			return nil, err
		}
		var paths []string
		for j, k := range keys {
			if k.data != nil {
				k.path = filepath.Join(dir, fmt.Sprintf("key-%d-%d%s", i, j, k.ext))
				if err := os.WriteFile(k.path, k.data, 0o644); err != nil {
					return nil, fmt.Errorf("preparing apt: %w", err)
				}
			}
			paths = append(paths, k.path)
		}
		s.SignedBy = strings.Join(paths, ",")
		lines = append(lines, s.Line())
	}
	return lines, nil
}

// keyring is one of those that a source is signed with: a file that stays where
// it is, or its content with the extension by which apt knows its form.
type keyring struct {
	path string
	data []byte
	ext  string
}

func (s Source) keys() ([]keyring, error) {
	if strings.Contains(s.SignedBy, "\n") {
		text := strings.ReplaceAll(strings.TrimSpace(s.SignedBy), "\n.\n", "\n\n") + "\n"
		return []keyring{{data: []byte(text), ext: ".asc"}}, nil
	}
	var out []keyring
	for path := range strings.SplitSeq(s.SignedBy, ",") {
		k := keyring{path: path}
		if filepath.IsAbs(path) && !strings.HasPrefix(path, "/usr/share/keyrings/") && !strings.HasPrefix(path, "/etc/apt/") {
			data, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("the keyring of source %s %s: %w", s.URI, s.Suite, err)
			}
			if k.data, k.ext = data, ".gpg"; bytes.HasPrefix(data, []byte("-----BEGIN PGP")) {
				k.ext = ".asc"
			}
		}
		out = append(out, k)
	}
	return out, nil
}

func (a *apt) tool(args ...string) tool {
	return tool{args: args, pkg: "apt", env: []string{"APT_CONFIG=" + a.path("etc", "apt.conf"), "DEBIAN_FRONTEND=noninteractive"}}
}

// update brings the lists up to date, unless they are young. When that fails
// and there are older lists, the build goes on with them and says so.
func (a *apt) update(ctx context.Context) error {
	stamp := a.path("state", "updated")
	maxAge := a.b.MaxAge
	if maxAge == 0 {
		maxAge = 24 * time.Hour
	}
	fi, statErr := os.Stat(stamp)
	if statErr != nil || a.b.Refresh || a.b.now().Sub(fi.ModTime()) > maxAge {
		a.b.progress(Progress{Name: a.name, Stage: StageIndex, Text: "bringing package lists up to date"})
		err := a.b.run(ctx, a.tool("apt-get", "update", "-q"))
		switch {
		case ctx.Err() != nil:
			return err
		case err != nil && (statErr != nil || a.b.Refresh):
			return fmt.Errorf("fetching package lists for %s: %w; see that apt-get update works on this machine", a.name, err)
		case err != nil:
			fmt.Fprintf(a.b.log(), "package lists could not be brought up to date, those of %s are used: %v\n", fi.ModTime().Format(time.RFC3339), err)
		default:
			if err := os.WriteFile(stamp, nil, 0o644); err != nil {
				return fmt.Errorf("updating package lists: %w", err)
			}
			if err := os.Chtimes(stamp, a.b.now(), a.b.now()); err != nil {
				return fmt.Errorf("updating package lists: %w", err)
			}
		}
	}
	return nil
}

// pkg is one package as apt resolved it.
type pkg struct {
	Name    string
	Version string
	Arch    string
	Size    int64
	SHA256  string
}

func (p pkg) fileName() string {
	return p.Name + "_" + strings.ReplaceAll(p.Version, ":", "%3a") + "_" + p.Arch + ".deb"
}

// resolve asks apt for everything that must be installed on an empty system
// for args (package names or apt patterns), without recommended packages, in
// order of names.
func (a *apt) resolve(ctx context.Context, args ...string) ([]pkg, error) {
	a.b.progress(Progress{Name: a.name, Stage: StageResolve})
	out, err := a.b.output(ctx, a.tool(append([]string{"apt-get", "install", "-y", "-qq", "--print-uris", "--"}, args...)...))
	if err != nil {
		return nil, fmt.Errorf("resolving the packages of %s: %w", a.name, err)
	}
	names, err := parseURIs(out)
	if err != nil {
		return nil, fmt.Errorf("resolving the packages of %s: %w", a.name, err)
	}
	show, err := a.b.output(ctx, a.tool(append([]string{"apt-cache", "show", "--no-all-versions", "--"}, names...)...))
	if err != nil {
		return nil, fmt.Errorf("describing the packages of %s: %w", a.name, err)
	}
	return parseShow(show, names)
}

// parseURIs reads apt-get --print-uris: 'URI' FILE SIZE HASH. The answer is
// name=version; the hash may be absent or MD5, so it is taken from apt-cache.
func parseURIs(out []byte) ([]string, error) {
	var names []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "'") {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 3 {
			return nil, fmt.Errorf("apt-get printed %q; want an address, a file and a size", line)
		}
		parts := strings.Split(strings.TrimSuffix(f[1], ".deb"), "_")
		if len(parts) != 3 {
			return nil, fmt.Errorf("apt-get printed the file name %q; want name_version_architecture.deb", f[1])
		}
		version := strings.NewReplacer("%3a", ":", "%3A", ":", "%7e", "~", "%2b", "+").Replace(parts[1])
		names = append(names, parts[0]+"="+version)
	}
	if len(names) == 0 {
		return nil, errors.New("apt-get would install nothing; the package lists look empty")
	}
	slices.Sort(names)
	return names, nil
}

// parseShow reads the stanzas of apt-cache show and finds the package of each
// name=version.
func parseShow(out []byte, names []string) ([]pkg, error) {
	stanzas, err := parseStanzas(bytes.NewReader(out))
	if err != nil {
		return nil, fmt.Errorf("reading apt-cache's answer: %w", err)
	}
	found := map[string]pkg{}
	for _, st := range stanzas {
		p := pkg{Name: st["package"], Version: st["version"], Arch: st["architecture"], SHA256: st["sha256"]}
		if _, err := fmt.Sscan(st["size"], &p.Size); err != nil || p.Name == "" {
			continue
		}
		if _, dup := found[p.Name+"="+p.Version]; !dup {
			found[p.Name+"="+p.Version] = p
		}
	}
	pkgs := make([]pkg, 0, len(names))
	for _, n := range names {
		p, ok := found[n]
		if !ok {
			return nil, fmt.Errorf("apt-cache does not describe %s", n)
		}
		if err := blob.Digest("sha256:" + p.SHA256).Validate(); err != nil {
			return nil, fmt.Errorf("the archive gives no SHA256 for %s: %w", n, err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs, nil
}

// known tells which of the packages the archive has.
func (a *apt) known(ctx context.Context, names ...string) (map[string]bool, error) {
	out, err := a.b.output(ctx, a.tool(append([]string{"apt-cache", "madison", "--"}, names...)...))
	if err != nil {
		return nil, fmt.Errorf("looking for the packages of %s: %w", a.name, err)
	}
	have := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if name, _, ok := strings.Cut(line, "|"); ok {
			have[strings.TrimSpace(name)] = true
		}
	}
	return have, nil
}

// findPkg finds a resolved package by name.
func findPkg(pkgs []pkg, name string) (pkg, bool) {
	i := slices.IndexFunc(pkgs, func(p pkg) bool { return p.Name == name })
	if i < 0 {
		return pkg{}, false
	}
	return pkgs[i], true
}

// debDir is where fetched packages are kept; all builds share them.
func (a *apt) debDir() string { return filepath.Join(a.b.Cache, "debs") }

// lockFile takes an exclusive lock on a file, waiting for its holder.
func lockFile(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/site"
)

// imageCommands are the commands about what machines boot and what is written
// to their disks.
func imageCommands(e *env) []*cli.Command {
	return []*cli.Command{{
		Name: "image", Usage: "build, import, check and remove images",
		Subcommands: []*cli.Command{
			{
				Name: "build", Usage: "build the agent, the boot loaders and OS images", ArgsUsage: "[agent|loaders|agent-arm64|loaders-arm64|IMAGE...|all]",
				Description: "Packages come from this machine's own apt configuration; apt verifies them.\n" +
					"IMAGE is an image of the site. It is built as each profile needs it, with the\nprofile's packages. all is every image, with the agent and the loaders of the\narchitectures of its machines and images. An image of another architecture than\nthis machine's takes an emulator: fettle doctor. What was built from the same\ninputs before is not built again.",
				Flags: []cli.Flag{siteFlag(), storeFlag(),
					&cli.BoolFlag{Name: "refresh", Usage: "bring package lists up to date first, however young they are"},
					&cli.BoolFlag{Name: "show-tools", Usage: "print what the tools say to standard error"}},
				Action: e.imageBuild,
			},
			{Name: "ls", Usage: "list images", Flags: []cli.Flag{storeFlag()}, Action: e.imageList},
			{Name: "show", Usage: "show an image", ArgsUsage: "NAME", Flags: []cli.Flag{storeFlag()}, Action: e.imageShow},
			{Name: "verify", Usage: "read images and compare them with their digests", ArgsUsage: "[NAME...]", Flags: []cli.Flag{storeFlag()}, Action: e.imageVerify},
			{
				Name: "import", Usage: "keep a disk image that was made elsewhere", ArgsUsage: "NAME FILE",
				Description: "FILE is raw or qcow2, also compressed with zstd. It has a GUID partition table\nwhose last partition is the root file system, its own boot loaders, and cloud-init.",
				Flags:       []cli.Flag{storeFlag(), &cli.StringFlag{Name: "arch", Value: site.AMD64, Usage: "of the machines that it is for: amd64 or arm64"}}, Action: e.imageImport,
			},
			{
				Name: "rm", Usage: "remove images", ArgsUsage: "NAME...",
				Flags: []cli.Flag{storeFlag(), &cli.BoolFlag{Name: "yes", Usage: "do not ask"}}, Action: e.imageRemove,
			},
		},
	}}
}

// imageFail gives errors of images their exit status.
func imageFail(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, images.ErrMissingTool), errors.Is(err, images.ErrNoAgent), errors.Is(err, images.ErrNoSuite), errors.Is(err, images.ErrNoNamespace), errors.Is(err, images.ErrForeign):
		return fail(exitMissing, err)
	case errors.Is(err, images.ErrDamaged):
		return fail(exitInput, err)
	case errors.Is(err, syscall.ENOSPC):
		return fail(exitMissing, fmt.Errorf("no space is left for images: make room, or choose another folder with --store (%w)", err))
	}
	return err
}

// builds is what image build was asked for.
type builds struct {
	agent, loaders []string // architectures
	specs          []images.DiskSpec
}

// pickBuilds reads the arguments of image build. load reads the site, which is
// needed only for images.
func pickBuilds(args []string, load func() (*site.Site, error)) (builds, error) {
	if len(args) == 0 {
		args = []string{"all"}
	}
	var b builds
	var s *site.Site
	for _, a := range args {
		switch a {
		case images.NameAgent:
			b.agent = append(b.agent, site.AMD64)
			continue
		case images.NameLoaders:
			b.loaders = append(b.loaders, site.AMD64)
			continue
		case images.AgentName(site.ARM64):
			b.agent = append(b.agent, site.ARM64)
			continue
		case images.LoadersName(site.ARM64):
			b.loaders = append(b.loaders, site.ARM64)
			continue
		}
		if s == nil {
			var err error
			if s, err = load(); err != nil {
				return builds{}, err
			}
		}
		if a == "all" {
			archs := site.Archs(s.Machines, s.Images)
			b.agent, b.loaders = append(b.agent, archs...), append(b.loaders, archs...)
		} else if _, ok := s.Image(a); !ok {
			var names []string
			for _, i := range s.Images {
				names = append(names, i.Name)
			}
			return builds{}, usage("the site has no image %q; it has: %s", a, strings.Join(names, ", "))
		}
		specs, err := specsOf(s, a)
		if err != nil {
			return builds{}, fail(exitInput, err)
		}
		for _, spec := range specs {
			if !slices.ContainsFunc(b.specs, func(x images.DiskSpec) bool { return x.Name == spec.Name }) {
				b.specs = append(b.specs, spec)
			}
		}
	}
	return b, nil
}

// specsOf is an image as each profile needs it, or plain when no profile does.
func specsOf(s *site.Site, image string) ([]images.DiskSpec, error) {
	var out []images.DiskSpec
	for _, img := range s.Images {
		if image != "all" && img.Name != image {
			continue
		}
		profiles := slices.DeleteFunc(slices.Clone(s.Profiles), func(p site.Profile) bool { return p.Image != img.Name })
		if len(profiles) == 0 {
			profiles = []site.Profile{{Name: "(none)", Image: img.Name}}
		}
		for _, p := range profiles {
			spec, err := images.SpecFor(s, p)
			if err != nil {
				return nil, err
			}
			out = append(out, spec)
		}
	}
	return out, nil
}

func (e *env) imageBuild(c *cli.Context) error {
	picked, err := pickBuilds(c.Args().Slice(), func() (*site.Site, error) { return e.loadSite(c) })
	if err != nil {
		return err
	}
	b, err := e.builder(c)
	if err != nil {
		return err
	}
	b.Refresh = c.Bool("refresh")
	if c.Bool("show-tools") {
		b.Log = e.stderr
	}
	var jobs []func(context.Context) (images.Release, bool, error)
	for _, arch := range picked.agent {
		jobs = append(jobs, func(ctx context.Context) (images.Release, bool, error) { return b.AgentFor(ctx, arch) })
	}
	for _, arch := range picked.loaders {
		jobs = append(jobs, func(ctx context.Context) (images.Release, bool, error) { return b.LoadersFor(ctx, arch) })
	}
	for _, spec := range picked.specs {
		jobs = append(jobs, func(ctx context.Context) (images.Release, bool, error) { return b.Disk(ctx, spec) })
	}
	return e.runBuilds(c.Context, jobs)
}

func (e *env) runBuilds(ctx context.Context, jobs []func(context.Context) (images.Release, bool, error)) error {
	for _, build := range jobs {
		r, cached, err := build(ctx)
		if err != nil {
			return imageFail(err)
		}
		if e.json {
			if err := e.printJSON(map[string]any{"cached": cached, "release": r}); err != nil {
				return err
			}
			continue
		}
		how := "built"
		if cached {
			how = "is up to date"
		}
		fmt.Fprintf(e.stdout, "%s %s: %s, %s\n", r.Name, how, bytesText(r.Size()), factsText(r))
	}
	return nil
}

// factsText is the fact about a release that people look for.
func factsText(r images.Release) string {
	for _, k := range []string{"kernel", "ipxe", "imported"} {
		if v := r.Facts[k]; v != "" {
			return k + " " + v
		}
	}
	return r.Inputs.Short()
}

func (e *env) imageList(c *cli.Context) error {
	s, err := images.OpenStore(storeDir(c, e))
	if err != nil {
		return err
	}
	rs, err := s.List(c.Context)
	if err != nil {
		return imageFail(err)
	}
	if e.json {
		return e.printJSON(append([]images.Release{}, rs...))
	}
	if len(rs) == 0 {
		fmt.Fprintf(e.stdout, "No images in %s: fettle image build\n", s.Dir())
		return nil
	}
	rows := [][]string{{"NAME", "KIND", "ARCH", "SIZE", "CREATED", "INPUTS", "ABOUT"}}
	last := ""
	for _, r := range rs {
		name := r.Name
		if name == last {
			name = "  older"
		}
		last = r.Name
		rows = append(rows, []string{name, string(r.Kind), r.Arch, bytesText(r.Size()), r.Created.Local().Format(time.DateTime), r.Inputs.Short(), factsText(r)})
	}
	table(e.stdout, rows)
	return nil
}

// release finds the image that a command names.
func release(c *cli.Context, s *images.Store, name string) (images.Release, error) {
	r, ok, err := s.Latest(c.Context, name)
	if err != nil {
		return images.Release{}, imageFail(err)
	}
	if !ok {
		return images.Release{}, fmt.Errorf("no image %s in %s: see fettle image ls", name, s.Dir())
	}
	return r, nil
}

func (e *env) imageShow(c *cli.Context) error {
	if err := nargs(c, 1); err != nil {
		return err
	}
	s, err := images.OpenStore(storeDir(c, e))
	if err != nil {
		return err
	}
	r, err := release(c, s, c.Args().First())
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(r)
	}
	rows := [][]string{{"name", r.Name}, {"kind", string(r.Kind)}, {"arch", r.Arch}, {"inputs", string(r.Inputs)}, {"created", r.Created.Local().Format(time.DateTime)}}
	for _, k := range slices.Sorted(maps.Keys(r.Facts)) {
		rows = append(rows, []string{k, r.Facts[k]})
	}
	for _, f := range r.Files {
		rows = append(rows, []string{"file " + f.Name, fmt.Sprintf("%s  %s", f.Digest, bytesText(f.Size))})
	}
	table(e.stdout, rows)
	return nil
}

func (e *env) imageVerify(c *cli.Context) error {
	s, err := images.OpenStore(storeDir(c, e))
	if err != nil {
		return err
	}
	rs, err := s.List(c.Context)
	if err != nil {
		return imageFail(err)
	}
	for _, name := range c.Args().Slice() {
		if _, err := release(c, s, name); err != nil {
			return err
		}
	}
	bars := newBuildProgress(e, time.Now)
	var bad []error
	checked := 0
	for _, r := range rs {
		if c.NArg() > 0 && !slices.Contains(c.Args().Slice(), r.Name) {
			continue
		}
		err := s.VerifyProgress(c.Context, r, bars.step)
		if c.Context.Err() != nil {
			return c.Context.Err()
		}
		checked++
		if err != nil {
			bad = append(bad, err)
		}
		if e.json {
			if perr := e.printJSON(map[string]any{"name": r.Name, "inputs": r.Inputs, "intact": err == nil}); perr != nil {
				return perr
			}
			continue
		}
		if err == nil {
			bars.step(images.Progress{Name: r.Name, Stage: images.StageDone})
			fmt.Fprintf(e.stdout, "%s %s is intact (%s)\n", r.Name, r.Inputs.Short(), bytesText(r.Size()))
		}
	}
	if checked == 0 && !e.json {
		fmt.Fprintf(e.stdout, "No images in %s: fettle image build\n", s.Dir())
	}
	return imageFail(errors.Join(bad...))
}

func (e *env) imageImport(c *cli.Context) error {
	if err := nargs(c, 2); err != nil {
		return err
	}
	b, err := e.builder(c)
	if err != nil {
		return err
	}
	return e.runBuilds(c.Context, []func(context.Context) (images.Release, bool, error){
		func(ctx context.Context) (images.Release, bool, error) {
			return b.Import(ctx, c.Args().Get(0), c.String("arch"), c.Args().Get(1))
		},
	})
}

func (e *env) imageRemove(c *cli.Context) error {
	if c.NArg() == 0 {
		return usage("%s takes NAME...", c.Command.HelpName)
	}
	s, err := images.OpenStore(storeDir(c, e))
	if err != nil {
		return err
	}
	for _, name := range c.Args().Slice() {
		if _, err := release(c, s, name); err != nil {
			return err
		}
	}
	rs, err := s.List(c.Context)
	if err != nil {
		return imageFail(err)
	}
	var doomed []images.Release
	var bytes int64
	for _, r := range rs {
		if slices.Contains(c.Args().Slice(), r.Name) {
			doomed = append(doomed, r)
			bytes += r.Size()
		}
	}
	question := fmt.Sprintf("Remove %s from %s (%d releases, %s)", strings.Join(c.Args().Slice(), ", "), s.Dir(), len(doomed), bytesText(bytes))
	if err := e.confirm(c.Bool("yes"), question); err != nil {
		return err
	}
	for _, r := range doomed {
		if err := s.Remove(c.Context, r); err != nil {
			return err
		}
		if !e.json {
			fmt.Fprintf(e.stdout, "removed %s %s\n", r.Name, r.Inputs.Short())
		}
	}
	return nil
}

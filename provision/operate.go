package provision

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// Plan tells what deploying machines would do: which disk is wiped, what is
// written to it, what restarts. It changes nothing.
func (p *Provisioner) Plan(ctx context.Context, machines []string) (state.Plan, error) {
	return p.plan(ctx, p.c.Site(), machines)
}

func (p *Provisioner) plan(ctx context.Context, s *site.Site, machines []string) (state.Plan, error) {
	ms, err := s.Select(machines...)
	if err != nil {
		return state.Plan{}, err
	}
	plan := state.Plan{Revision: s.Revision()}
	if err := p.bootable(ctx, ms); err != nil {
		return state.Plan{}, err
	}
	var errs []error
	for _, m := range ms {
		mp, err := p.planMachine(ctx, s, m)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		plan.Machines = append(plan.Machines, mp)
	}
	if err := errors.Join(errs...); err != nil {
		return state.Plan{}, err
	}
	b, err := json.Marshal(plan)
	if err != nil {
		return state.Plan{}, fmt.Errorf("encoding the plan: %w", err)
	}
	sum := sha256.Sum256(b)
	plan.Digest = "sha256:" + hex.EncodeToString(sum[:])
	return plan, nil
}

// bootable tells what is missing to boot machines into the agent, before one
// is switched on in vain.
func (p *Provisioner) bootable(ctx context.Context, ms []site.Machine) error {
	checked := map[string]bool{}
	for _, m := range ms {
		arch := archOf(m.Arch)
		if checked[arch] {
			continue
		}
		checked[arch] = true
		who := "machines"
		if arch != site.AMD64 {
			who = arch + " machines"
		}
		for _, name := range []string{images.AgentName(arch), images.LoadersName(arch)} {
			_, ok, err := p.c.Releases.Latest(ctx, name)
			if err != nil {
				return fmt.Errorf("finding image %s: %w", name, err)
			}
			if !ok {
				return fmt.Errorf("%s cannot boot from the network: image %s is not built: fettle image build %s", who, name, name)
			}
		}
	}
	return nil
}

// archOf is an architecture, where unsaid means amd64: in a Site that no file
// was read for, and in releases and inventories of before there were others.
func archOf(arch string) string { return cmp.Or(arch, site.AMD64) }

func (p *Provisioner) planMachine(ctx context.Context, s *site.Site, m site.Machine) (state.MachinePlan, error) {
	prof, ok := s.Profile(m.Profile)
	if !ok {
		return state.MachinePlan{}, fmt.Errorf("machine %s has no profile: name one in %s:%d", m.Name, m.Pos.File, m.Pos.Line)
	}
	disks, err := targetDisks(m, prof)
	if err != nil {
		return state.MachinePlan{}, err
	}
	rel, err := p.diskRelease(ctx, s, m, prof)
	if err != nil {
		return state.MachinePlan{}, err
	}
	st, err := p.c.Store.Status(ctx, m.Name)
	if err != nil {
		return state.MachinePlan{}, fmt.Errorf("reading the status of %s: %w", m.Name, err)
	}
	mp := state.MachinePlan{
		Machine: m.Name, Image: rel.Name, ImageDigest: string(rel.Inputs), Reboots: true, Phase: st.Phase,
		Disk: planDisk(disks[0]),
	}
	if len(disks) > 1 {
		mirror := planDisk(disks[1])
		mp.Mirror = &mirror
		mp.Changes = append(mp.Changes, fmt.Sprintf("disks %s and %s are wiped and get image %s, as mirrors of each other (RAID 1)", disks[0].Serial, disks[1].Serial, rel.Name))
	} else {
		mp.Changes = append(mp.Changes, fmt.Sprintf("disk %s is wiped and gets image %s", disks[0].Serial, rel.Name))
	}
	mp.Changes = append(mp.Changes, "the machine is restarted twice by its BMC")
	for _, d := range disks {
		if lostDisk(st.Health, d.Serial) {
			mp.Changes = append(mp.Changes, fmt.Sprintf("disk %s was missing or had failed when the machine last told of it: without it nothing is written", d.Serial))
		}
	}
	if st.Phase == state.Ready {
		mp.Changes = append([]string{fmt.Sprintf("it is ready with image %s: what is on it is lost", st.Image)}, mp.Changes...)
	}
	return mp, nil
}

func planDisk(d site.Disk) state.PlanDisk {
	return state.PlanDisk{Serial: d.Serial, Model: d.Model, Bytes: int64(d.Size)}
}

// targetDisks are the disks that a profile's layout chooses on a machine: one,
// or two that mirror each other.
func targetDisks(m site.Machine, prof site.Profile) ([]site.Disk, error) {
	if len(m.Disks) == 0 {
		return nil, fmt.Errorf("machine %s lists no disk: an image is only written to a disk that the site file names by serial", m.Name)
	}
	disks := m.Targets(prof.Layout)
	switch {
	case len(disks) == 0:
		return nil, fmt.Errorf("machine %s has no disk %q, which the layout of profile %s names", m.Name, prof.Layout.Disk, prof.Name)
	case len(disks) <= prof.Layout.RAID:
		return nil, fmt.Errorf("machine %s has no second disk for the mirror that the layout of profile %s wants", m.Name, prof.Name)
	}
	return disks, nil
}

// diskRelease is the built image of a machine's profile.
func (p *Provisioner) diskRelease(ctx context.Context, s *site.Site, m site.Machine, prof site.Profile) (images.Release, error) {
	spec, err := images.SpecFor(s, prof)
	if err != nil {
		return images.Release{}, fmt.Errorf("image of profile %s: %w", prof.Name, err)
	}
	rel, ok, err := p.c.Releases.Latest(ctx, spec.Name)
	if err != nil {
		return images.Release{}, fmt.Errorf("finding image %s: %w", spec.Name, err)
	}
	if !ok {
		return images.Release{}, fmt.Errorf("image %s is not built: fettle image build %s", spec.Name, prof.Image)
	}
	if arch := archOf(m.Arch); archOf(rel.Arch) != arch {
		return images.Release{}, fmt.Errorf("machine %s is %s, and the image %s that there is was made for %s: fettle image build %s, or fettle image import --arch %s", m.Name, arch, spec.Name, archOf(rel.Arch), prof.Image, arch)
	}
	return rel, nil
}

// Deploy starts a deployment of each machine, if the plan made now is still
// the one that digest names. It returns the ids of the runs.
func (p *Provisioner) Deploy(ctx context.Context, actor, digest string, machines []string) ([]string, error) {
	if err := p.wait(ctx); err != nil {
		return nil, err
	}
	s := p.c.Site() // one site for the plan and what is done by it
	plan, err := p.plan(ctx, s, machines)
	if err != nil {
		return nil, err
	}
	if plan.Digest != digest {
		return nil, state.ErrPlanChanged
	}
	var ids []string
	var errs []error
	for _, mp := range plan.Machines {
		m, _ := s.Machine(mp.Machine)
		d, err := p.deployRun(ctx, s, m, mp)
		if err == nil {
			d.Actor = actor
			d, err = p.start(ctx, s, d)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ids = append(ids, d.ID)
	}
	return ids, errors.Join(errs...)
}

// deployRun prepares a deployment: all that the agent will be told, but for
// the seed, which needs the run's id and token (see seedRun).
func (p *Provisioner) deployRun(ctx context.Context, s *site.Site, m site.Machine, mp state.MachinePlan) (Run, error) {
	prof, _ := s.Profile(m.Profile)
	rel, err := p.diskRelease(ctx, s, m, prof)
	if err != nil {
		return Run{}, err
	}
	if string(rel.Inputs) != mp.ImageDigest {
		return Run{}, fmt.Errorf("image %s: %w", rel.Name, state.ErrPlanChanged)
	}
	n, err := bootNetworkOf(s, m)
	if err != nil {
		return Run{}, err
	}
	base := releasePath(rel)
	dep := &wire.Deploy{
		DiskSerial: mp.Disk.Serial,
		IndexURL:   p.fileURL(n, base+"/index.json"),
		DataURL:    p.fileURL(n, base+"/disk.zst"),
		RootBytes:  int64(prof.Layout.Root),
		SwapBytes:  int64(prof.Layout.Swap),
		KernelArgs: consoleArgs(archOf(m.Arch), prof.KernelArgs),
	}
	if mp.Mirror != nil {
		dep.MirrorSerial = mp.Mirror.Serial
	}
	for _, f := range rel.Files {
		if f.Name == "index.json" {
			dep.IndexDigest = string(f.Digest)
		}
	}
	if dep.IndexDigest == "" {
		return Run{}, fmt.Errorf("release %s has no index.json: it is not a disk image", rel.Name)
	}
	return Run{
		Machine: m.Name, Action: ActionDeploy, Revision: s.Revision(),
		Image: rel.Name, Digest: string(rel.Inputs), Deploy: dep,
	}, nil
}

// seedRun fills in the seed of a deployment.
func (p *Provisioner) seedRun(s *site.Site, d *Run) error {
	if d.Deploy == nil {
		return nil
	}
	m, ok := s.Machine(d.Machine)
	if !ok {
		return fmt.Errorf("machine %s is not in the site file", d.Machine)
	}
	prof, _ := s.Profile(m.Profile)
	n, err := bootNetworkOf(s, m)
	if err != nil {
		return err
	}
	var clients []wire.SeedFile
	if p.c.Clients != nil {
		if clients, err = p.c.Clients(n.Here()); err != nil {
			return fmt.Errorf("what is served here cannot be used by %s: %w", m.Name, err)
		}
	}
	trust := p.c.CA
	if !slices.ContainsFunc(clients, func(f wire.SeedFile) bool { return bytes.Contains(f.Content, []byte("https://")) }) {
		trust = nil
	}
	if d.Deploy.Files, err = seedFiles(s, m, prof, *d, p.agentURL(n), p.c.CA, trust); err != nil {
		return err
	}
	d.Deploy.Files = append(d.Deploy.Files, clients...)
	if clock := timeFile(n, len(clients) > 0); clock != nil {
		d.Deploy.Files = append(d.Deploy.Files, *clock)
	}
	return nil
}

// bootNetworkOf is the network that a machine boots from.
func bootNetworkOf(s *site.Site, m site.Machine) (site.Network, error) {
	for _, nic := range m.NICs {
		if nic.Boot {
			if n, ok := s.Network(nic.Network); ok {
				return n, nil
			}
		}
	}
	return site.Network{}, fmt.Errorf("machine %s has no port with boot: true on a network of the site", m.Name)
}

// Inspect boots machines into the agent, records what they are, and puts them
// back. Nothing is written to a disk.
func (p *Provisioner) Inspect(ctx context.Context, actor string, machines []string) ([]string, error) {
	s := p.c.Site()
	ms, err := s.Select(machines...)
	if err != nil {
		return nil, err
	}
	if err := p.bootable(ctx, ms); err != nil {
		return nil, err
	}
	var ids []string
	var errs []error
	for _, m := range ms {
		d, err := p.start(ctx, s, Run{Machine: m.Name, Action: ActionInspect, Actor: actor, Revision: s.Revision()})
		if err != nil {
			errs = append(errs, fmt.Errorf("inspecting %s: %w", m.Name, err))
			continue
		}
		ids = append(ids, d.ID)
	}
	return ids, errors.Join(errs...)
}

// Abort ends a machine's run. The machine is left as it is.
func (p *Provisioner) Abort(ctx context.Context, actor, machine string) error {
	if err := p.wait(ctx); err != nil {
		return err
	}
	r, ok := p.latest(machine)
	if !ok || r.doc().Ended() {
		return fmt.Errorf("%s: no run is under way", machine)
	}
	return p.fail(ctx, r, actor, fmt.Sprintf("aborted by %s in phase %s", actor, r.doc().Phase))
}

// HostKeys are the SSH host keys that a machine's installed system reported.
func (p *Provisioner) HostKeys(machine string) []string {
	r, ok := p.latest(machine)
	if !ok {
		return nil
	}
	return r.doc().SSHKeys
}

// StoreReleases makes an images.Store a Releases.
type StoreReleases struct{ Store *images.Store }

// Latest is the newest release of that name.
func (s StoreReleases) Latest(ctx context.Context, name string) (images.Release, bool, error) {
	return s.Store.Latest(ctx, name)
}

// Find is the release of that name whose inputs' digest is, in hex, inputs.
func (s StoreReleases) Find(ctx context.Context, name, inputs string) (images.Release, bool, error) {
	all, err := s.Store.List(ctx)
	for _, r := range all {
		if r.Name == name && r.Inputs.Hex() == inputs {
			return r, true, nil
		}
	}
	return images.Release{}, false, err
}

// OpenFile opens one file of a release.
func (s StoreReleases) OpenFile(ctx context.Context, r images.Release, file string) (io.ReadSeekCloser, int64, error) {
	return s.Store.OpenFile(ctx, r, file)
}

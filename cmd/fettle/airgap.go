package main

import (
	"github.com/urfave/cli/v2"
)

// airgapCommands are the commands about the gap as a whole.
func airgapCommands(e *env) []*cli.Command {
	public := &cli.StringFlag{Name: "public-key", EnvVars: []string{"FETTLE_PUBLIC_KEY"}, Required: true,
		Usage: "the site's public key, or a file with it: never take it from the medium itself"}
	return []*cli.Command{{
		Name: "airgap", Usage: "prove that the other side of a gap can live on a bundle",
		Subcommands: []*cli.Command{{
			Name: "rehearse", Usage: "play the other side in a lab with no way out", ArgsUsage: "DIR...",
			Description: `An empty disconnected side, which has the site folder and the public key and
nothing else, verifies and imports the bundle, serves it, and installs a virtual
machine of the site from bare metal. The machine then brings its package lists up
to date, installs packages, and tries what else is mirrored. Whatever asks for
something that is not in the bundle - a name, an address outside, a file that the
mirrors have not - fails the rehearsal and is named. The virtual machine, its disk
and the imported copy are removed at the end.`,
			Flags: []cli.Flag{
				siteFlag(), public, bundleIdentityFlag(), labsFlag(),
				&cli.StringSliceFlag{Name: "base", Usage: "folder of a bundle that this one builds on, imported before it (may be repeated, the oldest first)", TakesFile: true},
				&cli.StringFlag{Name: "machine", Usage: "machine of the site to install (default: the first that has a profile)"},
				&cli.StringSliceFlag{Name: "install", Usage: "Debian package that the machine must be able to install (default: those that the site's mirrors and the machine's profile name)"},
				&cli.StringSliceFlag{Name: "run", Usage: "command that must succeed on the machine (may be repeated)"},
				&cli.StringFlag{Name: "result", Usage: "file for the result, JSON", TakesFile: true},
				&cli.StringFlag{Name: "accel", Usage: "kvm or tcg (default: kvm where a guest runs with it)"},
				&cli.StringFlag{Name: "connect", Usage: "libvirt URI (default: qemu:///session, or qemu:///system for root)"},
				&cli.BoolFlag{Name: "keep", Usage: "leave the lab and the imported copy for looking at"},
			},
			Action: e.rehearse,
		}},
	}}
}

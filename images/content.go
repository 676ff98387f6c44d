package images

import (
	"fmt"
	"slices"
	"strings"
)

// initramfsModules are what an image's own ramdisk carries: enough to find and
// mount a root file system on a local disk of any server, and no more, because
// the boot loader reads it through the firmware.
var initramfsModules = []string{
	"ext4", "crc32c_generic", "crc32c_intel", "virtio_pci", "virtio_blk", "virtio_scsi", "nvme", "vmd", "ahci", "ata_piix", "ata_generic",
	"sd_mod", "megaraid_sas", "mpt3sas", "mpi3mr", "mptsas", "mptspi", "aacraid", "hpsa", "smartpqi", "arcmsr", "isci", "pm80xx", "mvsas",
	"vmw_pvscsi", "hv_storvsc", "xen_blkfront", "sr_mod", "usb_storage", "uas", "xhci_pci", "ehci_pci", "usbhid", "hid_generic",
}

// initramfsHook adds initramfsModules to the ramdisk: initramfs-tools(7).
// Modules that are listed in its configuration instead are all loaded at every
// boot, which took half a minute of processor time in an emulated machine;
// those of a hook are loaded when udev finds the hardware.
func initramfsHook(arch string) string {
	return `#!/bin/sh
# Written by fettle image build: drivers of local disks for any server.
if [ "$1" = prereqs ]; then exit 0; fi
. /usr/share/initramfs-tools/hook-functions
manual_add_modules ` + strings.Join(append(slices.Clone(initramfsModules), archs[arch].drivers...), " ") + "\n"
}

// imageFiles are the files that every image of an architecture has, whatever its
// packages.
func imageFiles(arch string) []Entry {
	file := func(path, text string) Entry { return Entry{Path: path, Mode: 0o644, Data: []byte(text)} }
	link := func(path, to string) Entry { return Entry{Path: path, Link: to} }
	return []Entry{
		file("etc/machine-id", ""), // systemd makes one on the first boot: machine-id(5)
		file("etc/hostname", "localhost\n"),
		link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
		file("etc/default/locale", "LANG=C.UTF-8\n"),
		file("etc/default/grub.d/40-fettle.cfg", grubDefaults(arch)),
		file("etc/cloud/cloud.cfg.d/90-fettle.cfg", cloudConfig),
		// The seed is always there, so cloud-init is enabled here and not by
		// its generator, a long shell script that looks for data sources:
		// systemd.generator(7), "mask".
		link("etc/systemd/system-generators/cloud-init-generator", "/dev/null"),
		link("etc/systemd/system/multi-user.target.wants/cloud-init.target", "/lib/systemd/system/cloud-init.target"),
		file("etc/tmpfiles.d/fettle-cloud-init.conf", "d /run/cloud-init 0755\nf /run/cloud-init/enabled 0644\n"),
		// A getty on a serial line waits for the line's device, which comes
		// late on slow machines, and then times out; console-getty does not.
		link("etc/systemd/system/serial-getty@.service", "/dev/null"),
		link("etc/systemd/system/getty.target.wants/console-getty.service", "/lib/systemd/system/console-getty.service"),
		link("etc/systemd/system/multi-user.target.wants/systemd-networkd.service", "/lib/systemd/system/systemd-networkd.service"),
		link("etc/systemd/system/sockets.target.wants/systemd-networkd.socket", "/lib/systemd/system/systemd-networkd.socket"),
		link("etc/systemd/system/network-online.target.wants/systemd-networkd-wait-online.service", "/lib/systemd/system/systemd-networkd-wait-online.service"),
		file("etc/systemd/system/systemd-networkd-wait-online.service.d/fettle.conf", "[Service]\nExecStart=\nExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=60\n"),
		{Path: "boot/efi", Dir: true, Mode: 0o755},
		{Path: "boot/grub", Dir: true, Mode: 0o755},
	}
}

// grubDefaults are grub-mkconfig's settings. The firmware of an arm64 machine
// shows GRUB on its serial port by itself.
func grubDefaults(arch string) string {
	lines := []string{
		`GRUB_TIMEOUT=1`,
		`GRUB_CMDLINE_LINUX_DEFAULT=""`,
		`GRUB_CMDLINE_LINUX="` + archs[arch].consoles + `"`,
	}
	if archs[arch].bios {
		lines = append(lines, `GRUB_TERMINAL="console serial"`, `GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"`)
	} else {
		lines = append(lines, `GRUB_TERMINAL=console`)
	}
	return strings.Join(append(lines, `GRUB_DISABLE_OS_PROBER=true`, ""), "\n")
}

// cloudConfig makes cloud-init look nowhere but into the seed that the agent
// wrote, and run only the modules that such a seed can ask for: each stage is
// a Python program, and each module costs.
const cloudConfig = `# Written by fettle image build.
datasource_list: [NoCloud, None]
datasource:
  NoCloud:
    fs_label: null
users: []
manage_etc_hosts: true
preserve_hostname: false
ssh_genkeytypes: [ed25519, ecdsa]
system_info:
  network:
    renderers: [netplan]
apt:
  preserve_sources_list: true
cloud_init_modules:
 - bootcmd
 - write-files
 - disk_setup
 - mounts
 - set_hostname
 - update_hostname
 - update_etc_hosts
 - ca-certs
 - users-groups
 - ssh
cloud_config_modules:
 - set-passwords
 - ntp
 - timezone
 - runcmd
cloud_final_modules:
 - write-files-deferred
 - scripts-per-once
 - scripts-per-boot
 - scripts-per-instance
 - scripts-user
 - final-message
 - power-state-change
`

// machineFiles are the files that depend on the image's identity or sources.
func machineFiles(a *apt, spec DiskSpec, ids diskIDs) ([]Entry, error) {
	d := distros[spec.OS]
	out := []Entry{
		{Path: "etc/fstab", Mode: 0o644, Data: []byte(fstab(ids))},
		{Path: "boot/grub/grub.cfg", Mode: 0o644, Data: []byte(grubConfig(d.title, spec.Arch, ids))},
	}
	var lines []string
	for i, s := range a.sources {
		switch {
		case strings.HasPrefix(s.SignedBy, "/usr/share/keyrings/"+d.keyring):
		case !slices.ContainsFunc(spec.Sources, func(x Source) bool { return x.SignedBy == s.SignedBy }):
			// Keyrings elsewhere are this machine's; the image has its
			// distribution's keys in apt's own trust store.
			s.SignedBy = ""
		default: // the site's mirror, which may have keys of its own
			keys, err := s.keys()
			if err != nil {
				return nil, err
			}
			var paths []string
			for j, k := range keys {
				if k.data != nil {
					path := fmt.Sprintf("etc/apt/keyrings/fettle-%d-%d%s", i, j, k.ext)
					out = append(out, Entry{Path: path, Mode: 0o644, Data: k.data})
					k.path = "/" + path
				}
				paths = append(paths, k.path)
			}
			s.SignedBy = strings.Join(paths, ",")
		}
		lines = append(lines, s.Line())
	}
	return append(out, Entry{Path: "etc/apt/sources.list", Mode: 0o644, Data: []byte(strings.Join(lines, "\n") + "\n")}), nil
}

func fstab(ids diskIDs) string {
	return fmt.Sprintf("UUID=%s / ext4 errors=remount-ro 0 1\nUUID=%s /boot/efi vfat umask=0077,noauto,nofail 0 0\n", ids.root, ids.espFSTab())
}

// grubConfig is the image's first grub.cfg. It boots by the links that the
// distribution keeps to the newest kernel and the one before, Debian at / and
// Ubuntu in /boot, so upgrades need no update-grub; who runs it gets the
// distribution's own, with the same arguments from /etc/default/grub.d.
// fettle-args.cfg is written by the agent.
func grubConfig(title, arch string, ids diskIDs) string {
	consoles, serial := "", ""
	if c := archs[arch].consoles; c != "" {
		consoles = c + " "
	}
	if archs[arch].bios {
		serial = `if serial --unit=0 --speed=115200; then
	terminal_input console serial
	terminal_output console serial
fi
`
	}
	entry := func(title, suffix string) string {
		return fmt.Sprintf(`menuentry '%[1]s' {
	search --no-floppy --fs-uuid --set=root %[2]s
	linux $links/vmlinuz%[3]s root=UUID=%[2]s ro %[4]s$fettle_args
	initrd $links/initrd.img%[3]s
}
`, title, ids.root, suffix, consoles)
	}
	return `# Written by fettle image build; update-grub may replace it.
set default=0
set timeout=1
set fettle_args=""
set links=""
` + serial + `if [ -f /boot/grub/fettle-args.cfg ]; then
	source /boot/grub/fettle-args.cfg
fi
if [ ! -e /vmlinuz -a -e /boot/vmlinuz ]; then
	set links=/boot
fi
` + entry(title, "") + `if [ -e $links/vmlinuz.old ]; then
` + entry(title+", previous kernel", ".old") + "fi\n"
}

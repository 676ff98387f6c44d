package provision

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMirrorDiskScript runs fettle-mirror-disk on directories that look like the
// kernel's, with tools that only tell what they were asked: what it does to
// which disk, and that it does nothing to one that holds anything. (That the
// disk boots is TestEndToEnd's.)
func TestMirrorDiskScript(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Fatal(err)
	}
	const table = "vdb: label: gpt|label-id: 1111|device: /dev/vdb|unit: sectors|first-lba: 6|last-lba: 99|sector-size: 4096||" +
		`/dev/vdb1 : start=256, size=256, type=21686148, uuid=AAAA, name="bios"|/dev/vdb2 : start=512, size=6, type=C12A, uuid=BBBB, name="esp"|`
	for _, tt := range []struct {
		name, disk string
		change     func(put func(name, text string))
		err        string   // "" = none
		did        []string // what the tools were asked that changes something, in order
	}{
		{"an empty disk", "vda", nil, "", []string{
			`sfdisk --quiet --wipe-partitions always /dev/vda <label: gpt|unit: sectors|first-lba: 6|sector-size: 4096||/dev/vdb1 : start=256, size=256, type=21686148, name="bios"|/dev/vdb2 : start=512, size=6, type=C12A, name="esp"|>`,
			"udevadm settle",
			"dd if=/dev/vdb of=/dev/vda bs=440 count=1 conv=notrunc,fsync status=none",
			"dd if=/dev/vdb1 of=/dev/vda1 bs=1M conv=fsync status=none",
			"dd if=/dev/vdb2 of=/dev/vda2 bs=1M conv=fsync status=none",
			"mdadm --quiet /dev/md126 --add /dev/vda4", "mdadm --quiet /dev/md127 --add /dev/vda3",
			"systemctl --no-block restart fettle-health.service"}},
		{"it was in the mirror", "vda", func(put func(string, string)) {
			for _, p := range []string{"vda1/partition=1", "vda2/partition=2", "vda3/partition=3", "vda4/partition=4", "vda3/uuid=root", "vda4/uuid=swap"} {
				name, text, _ := strings.Cut(p, "=")
				put("vda/"+name, text)
			}
			put("vda/refuses", "vda4") // re-adding
		}, "", []string{"mdadm --quiet /dev/md126 --re-add /dev/vda4", "mdadm --quiet /dev/md126 --add /dev/vda4", "mdadm --quiet /dev/md127 --re-add /dev/vda3",
			"systemctl --no-block restart fettle-health.service"}},
		{"it has failed and is still there", "vda", func(put func(string, string)) {
			for _, p := range []string{"vda3/partition=3", "vda4/partition=4", "vda3/uuid=root", "vda4/uuid=swap"} {
				name, text, _ := strings.Cut(p, "=")
				put("vda/"+name, text)
			}
			put("md127/md/dev-vda3/state", "faulty,blocked")
			put("md127/md/dev-vda3/block", "->vda/vda3")
		}, "", []string{"mdadm --quiet /dev/md127 --remove /dev/vda3", "mdadm --quiet /dev/md126 --re-add /dev/vda4", "mdadm --quiet /dev/md127 --re-add /dev/vda3",
			"systemctl --no-block restart fettle-health.service"}},
		{"one partition has failed", "vda", func(put func(string, string)) {
			for _, p := range []string{"vda3/partition=3", "vda4/partition=4", "vda3/uuid=root", "vda4/uuid=swap"} {
				name, text, _ := strings.Cut(p, "=")
				put("vda/"+name, text)
			}
			put("md126/md/dev-vda4/state", "faulty")
			put("md126/md/dev-vda4/block", "->vda/vda4")
			put("md127/md/dev-vda3/state", "in_sync")
			put("md127/md/dev-vda3/block", "->vda/vda3")
		}, "", []string{"mdadm --quiet /dev/md126 --remove /dev/vda4", "mdadm --quiet /dev/md126 --re-add /dev/vda4", "systemctl --no-block restart fettle-health.service"}},
		{"a disk that was pulled out is remembered", "vda", func(put func(string, string)) {
			put("md127/md/dev-vdx3/state", "faulty")
			put("md127/md/dev-vdx3/block", "->gone/vdx3")
			put("vda/signature", "DOS")
		}, "/dev/vda is not empty. If nothing on it is needed: wipefs --all /dev/vda, and then", nil},
		{"it has partitions", "vda", func(put func(string, string)) { put("vda/vda1/partition", "1"); put("vda/vda7/partition", "7") },
			"wipefs --all /dev/vda1 /dev/vda7 /dev/vda, and then", nil},
		{"it has one of another mirror", "vda", func(put func(string, string)) {
			put("vda/vda3/partition", "3")
			put("vda/vda3/uuid", "other")
			put("vda/vda4/partition", "4")
			put("vda/vda4/uuid", "swap")
		}, "is not empty", nil},
		{"the table does not fit", "vda", func(put func(string, string)) { put("vda/small", "1") }, "/dev/vda cannot have the partitions of /dev/vdb: is it smaller?", nil},
		{"the disk that is left", "vdb", nil, "is part of md126 md127 already", nil},
		{"other sectors", "vda", func(put func(string, string)) { put("vda/queue/logical_block_size", "512") }, "sectors of 512 bytes, /dev/vdb of 4096", nil},
		{"the mirror is whole", "vdc", func(put func(string, string)) {
			put("vdc/queue/logical_block_size", "4096")
			put("vda/vda3/partition", "3")
			put("md127/md/dev-vda3/state", "in_sync")
			put("md127/md/dev-vda3/block", "->vda/vda3")
		}, "more disks than one without", nil},
		{"no mirror", "vda", func(put func(string, string)) { put("md126/md/level", "raid5"); put("md127/md/level", "raid0") }, "no mirror", nil},
		{"no such disk", "vdq", nil, "name the disk", nil},
		{"a partition", "vdb3", nil, "no whole disk", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			put := func(name, text string) {
				t.Helper()
				path := filepath.Join(dir, "block", name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if to, ok := strings.CutPrefix(text, "->"); ok {
					if err := os.Symlink(filepath.Join(dir, "block", to), path); err != nil {
						t.Fatal(err)
					}
					return
				}
				if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for name, text := range map[string]string{
				"vda/queue/logical_block_size": "4096", "vdb/queue/logical_block_size": "4096",
				"vdb/vdb1/partition": "1", "vdb/vdb2/partition": "2", "vdb/vdb3/partition": "3", "vdb/vdb3/uuid": "root", "vdb/vdb4/partition": "4", "vdb/vdb4/uuid": "swap",
				"md126/md/level": "raid1", "md126/md/dev-vdb4/state": "in_sync", "md126/md/dev-vdb4/block": "->vdb/vdb4",
				"md127/md/level": "raid1", "md127/md/dev-vdb3/state": "in_sync", "md127/md/dev-vdb3/block": "->vdb/vdb3",
			} {
				put(name, text)
			}
			if tt.change != nil {
				tt.change(put)
			}
			for _, dev := range []string{"vda", "vdb", "vdb3", "vdc"} {
				if err := os.MkdirAll(filepath.Join(dir, "dev"), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "dev", dev), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			// The tools: what changes something is a line of the log.
			tools := `log() { echo "$*" >>LOG; }
id() { echo 0; }
udevadm() { log udevadm "$@"; for n in 1 2 3 4; do mkdir -p BLOCK/vda/vda$n; echo $n >BLOCK/vda/vda$n/partition; done; }
dd() { log dd "$@"; }
systemctl() { log systemctl "$@"; }
wipefs() { cat "BLOCK/${2##*/}/signature" 2>/dev/null || true; }
sfdisk() {
	if [ "$1" = --dump ]; then printf '%s' '` + table + `' | sed 's/^vdb: //' | tr '|' '\n'; return; fi
	[ ! -e "BLOCK/${4##*/}/small" ] || { cat >/dev/null; return 1; }
	log sfdisk "$@" "<$(tr '\n' '|')>"
}
mdadm() {
	case "$1 $2" in
	"--examine --export") d=${3##*/}; echo "MD_UUID=$(cat BLOCK/"${d%?}"/"$d"/uuid)"; return ;;
	esac
	log mdadm "$@"
	[ "$3" != --re-add ] || [ "$(cat BLOCK/vda/refuses 2>/dev/null)" != "${4##*/}" ]
}
`
			script := strings.NewReplacer("LOG", dir+"/log", "BLOCK", dir+"/block").Replace(tools) +
				strings.NewReplacer("/sys/block", dir+"/block", `[ -b "$1" ]`, `[ -e "$1" ]`).Replace(string(mirrorDiskScript))
			out, err := exec.CommandContext(t.Context(), "sh", "-c", script, "fettle-mirror-disk", filepath.Join(dir, "dev", tt.disk)).CombinedOutput()
			if (err == nil) != (tt.err == "") || !strings.Contains(strings.ReplaceAll(string(out), dir, ""), tt.err) {
				t.Errorf("fettle-mirror-disk %s = %v; want %q\n%s", tt.disk, err, tt.err, out)
			}
			did, err := os.ReadFile(filepath.Join(dir, "log"))
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			want := strings.Join(tt.did, "\n")
			if want != "" {
				want += "\n"
			}
			if string(did) != want {
				t.Errorf("fettle-mirror-disk %s did\n%swant\n%s", tt.disk, did, want)
			}
		})
	}
}

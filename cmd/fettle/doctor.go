package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/site"
)

func doctorCommands(e *env) []*cli.Command {
	return []*cli.Command{{
		Name:  "doctor",
		Usage: "say what this machine lacks, and how to mend it",
		Flags: []cli.Flag{&cli.StringFlag{Name: "connect", Usage: "libvirt URI to look at"}, storeFlag(), siteFlag(),
			&cli.StringSliceFlag{Name: "network", Usage: "ask on this network of the site (NETWORK or NETWORK=INTERFACE) which other DHCP servers answer; takes no lease"}},
		Action: func(c *cli.Context) error { return doctor(c, e) },
	}}
}

// finding is one thing that doctor looked at.
type finding struct {
	Check string `json:"check"`
	For   string `json:"for"` // what needs it
	OK    bool   `json:"ok"`
	Text  string `json:"text"` // what was seen, or how to mend it

	Servers []dhcpServer `json:"servers,omitempty"` // of a network that was asked
}

// tools are programs that fettle runs, what for, and their Debian packages.
var tools = []struct{ program, use, pkg string }{
	{"qemu-system-x86_64", "labs", "qemu-system-x86"},
	{"qemu-img", "labs, images", "qemu-utils"},
	{"ssh", "lab ssh", "openssh-client"},
	{"mmdebstrap", "image build", "mmdebstrap"},
	{"sfdisk", "image build", "fdisk"},
	{"mke2fs", "image build", "e2fsprogs"},
	{"mkfs.vfat", "image build", "dosfstools"},
	{"mcopy", "image build", "mtools"},
	{"apt-get", "image build", "apt"},
	{"dpkg-deb", "image build", "dpkg"},
	{"tar", "image build", "tar"},
	{"newuidmap", "image build without root", "uidmap"},
}

func doctor(c *cli.Context, e *env) error {
	var out []finding
	for _, t := range tools {
		f := finding{Check: t.program, For: t.use}
		if path, err := lookTool(t.program); err == nil {
			f.OK, f.Text = true, path
		} else {
			f.Text = "apt-get install " + t.pkg
		}
		out = append(out, f)
	}
	dhcp, err := e.checkDHCP(c)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		f := finding{Check: "user namespace", For: "image build without root", OK: true, Text: "can be made"}
		if err := images.CheckMapped(c.Context); err != nil {
			f.OK, f.Text = false, err.Error()
		}
		out = append(out, f)
	}
	switch s, err := site.Load(c.String("site")); {
	case err == nil:
		out = append(out, checkImages(c.Context, s)...)
		out = append(out, checkNeighbours(s, os.DirFS("/proc"))...)
	case c.IsSet("site"): // doctor runs without a site, too
		return fail(exitInput, err)
	}
	out = append(out, checkLibvirt(c.Context, c.String("connect")), checkStore(storeDir(c, e)))
	out = append(out, dhcp...)
	if e.json {
		if err := e.printJSON(out); err != nil {
			return err
		}
	} else {
		rows := [][]string{{"", "CHECK", "FOR", ""}}
		for _, f := range out {
			mark := "ok"
			if !f.OK {
				mark = "--"
			}
			rows = append(rows, []string{mark, f.Check, f.For, f.Text})
		}
		table(e.stdout, rows)
	}
	for _, f := range out {
		if !f.OK {
			return fail(exitMissing, errors.New("this machine lacks something: see the lines marked --"))
		}
	}
	return nil
}

// checkImages tells of a site's images that are not for this machine's
// architecture whether they can be built here.
func checkImages(ctx context.Context, s *site.Site) (out []finding) {
	for _, arch := range site.Archs(nil, s.Images) {
		if arch == runtime.GOARCH {
			continue
		}
		f := finding{Check: "programs of " + arch, For: "image build of site " + s.Name, OK: true, Text: "run here, emulated"}
		if err := images.CheckArch(ctx, arch); err != nil {
			f.OK, f.Text = false, err.Error()
		}
		out = append(out, f)
	}
	return out
}

// checkNeighbours tells whether a site's machines and BMCs fit into the kernel's
// tables of neighbours, and whether one was full since the kernel started.
func checkNeighbours(s *site.Site, proc fs.FS) (out []finding) {
	for _, t := range neighbourTables(proc) {
		f := finding{Check: t.sysctl, For: "serve of site " + s.Name, OK: true, Text: fmt.Sprintf("%d neighbours", t.most)}
		if text, is := t.crowded(s); is {
			f.OK, f.Text = false, text
		} else if t.full > 0 {
			f.Text += fmt.Sprintf("; its table was full %d times since this kernel started: if machines get no packets, %s", t.full, t.mend(t.most))
		}
		out = append(out, f)
	}
	return out
}

// lookTool finds a program, also where only root's PATH looks.
func lookTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, d := range []string{"/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(d, name)); err == nil {
			return p, nil
		}
	}
	return "", err
}

func checkLibvirt(ctx context.Context, uri string) finding {
	f := finding{Check: "libvirt", For: "labs"}
	o := labs.Options{Name: "doctor", URI: uri}
	if err := labs.Check(ctx, o); err != nil {
		f.Text = err.Error()
		return f
	}
	f.OK, f.Text = true, "answers"
	return f
}

// checkStore looks whether the image store can be written.
func checkStore(dir string) finding {
	f := finding{Check: "image store " + dir, For: "images"}
	probe := dir
	for {
		st, err := os.Stat(probe)
		if err == nil && st.IsDir() {
			break
		}
		parent := filepath.Dir(probe)
		if parent == probe {
			break
		}
		probe = parent
	}
	tmp, err := os.CreateTemp(probe, ".fettle-doctor-*")
	if err != nil {
		f.Text = fmt.Sprintf("%s cannot be written (%v): say --store, or set FETTLE_STORE", probe, err)
		return f
	}
	tmp.Close()
	os.Remove(tmp.Name())
	f.OK, f.Text = true, "can be written"
	return f
}

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/site"
)

// TestLabSharedBMC: machines that share a BMC in the site have one in the lab,
// with a system each, over the fabric and at one port of loopback; what is done
// to one is not done to the other. The machines stay off.
func TestLabSharedBMC(t *testing.T) {
	if testing.Short() {
		t.Skip("a lab takes seconds to make: not with -short")
	}
	s, err := site.Load("../../examples/two-gpu")
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.Machines {
		b := &s.Machines[i].BMC
		b.Address, b.MAC, b.System = s.Machines[0].BMC.Address, s.Machines[0].BMC.MAC, fmt.Sprint("Node", i+1)
	}
	parent, err := os.MkdirTemp("/tmp", "fl") // short, and open to QEMU's user
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(parent, 0o711); err != nil {
		t.Fatal(err)
	}
	o := labs.Options{Name: fmt.Sprintf("shared-%d", os.Getpid()), Dir: filepath.Join(parent, "lab"), Accel: labs.TCG, Memory: 256 << 20, DiskSize: 64 << 20}
	e2eNeed(t, labs.Check(t.Context(), o), "labs do not run here")
	keys, err := openLabKeys(filepath.Join(t.TempDir(), "keys"), o.Name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	plan, err := labs.NewPlan(s, o)
	if err != nil {
		t.Fatal(err)
	}
	keys.ownersOf(plan)
	lab, err := labs.Open(t.Context(), labs.Config{Plan: plan})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Down(context.Background()); err != nil {
			t.Error(err)
		}
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
		if err := os.Remove(parent); err != nil {
			t.Errorf("after Down something is left: %v", err)
		}
	})
	if err := lab.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	g, ctx := errgroup.WithContext(ctx)
	defer func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	}()
	g.Go(func() error { return lab.Run(ctx) })
	d := &labServer{dir: t.TempDir(), lab: lab, plan: plan, keys: keys, bmcs: map[string]string{}, ipmi: map[string]string{}, virtual: map[string]*vbmc.Server{}}
	if err := os.MkdirAll(filepath.Join(d.dir, "bmc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.serveBMCs(ctx, g, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if d.bmcs["gpu-01"] != d.bmcs["gpu-02"] || d.bmcs["gpu-01"] == "" || d.ipmi["gpu-01"] == d.ipmi["gpu-02"] {
		t.Errorf("the BMCs are at %v and %v; want one for Redfish, two for IPMI", d.bmcs, d.ipmi)
	}
	status := map[string]bmc.Status{}
	for _, light := range []bool{true, false} {
		for _, m := range plan.Site.Machines {
			target, err := d.target(m)
			if err != nil {
				t.Fatal(err)
			}
			c, err := bmc.Open(t.Context(), target)
			if err != nil {
				t.Fatal(err)
			}
			if light && m.Name == "gpu-02" {
				err = c.Identify(t.Context(), true)
			}
			if err == nil {
				status[m.Name], err = c.Status(t.Context())
			}
			if cerr := c.Close(t.Context()); err != nil || cerr != nil {
				t.Fatal(err, cerr)
			}
		}
	}
	for _, m := range plan.Site.Machines {
		if st := status[m.Name]; st.Serial != m.Serial || st.Power != bmc.Off || st.Identify != (m.Name == "gpu-02") {
			t.Errorf("%s = %+v; want its serial number, off, and the light of gpu-02 alone", m.Name, st)
		}
	}
	if got := (labPasswords{keys.secrets, keys}).Secret("gpu-02"); got != "bmc-gpu-01" {
		t.Errorf("the secret of gpu-02's BMC is %s; want that of the BMC's first machine", got)
	}
}

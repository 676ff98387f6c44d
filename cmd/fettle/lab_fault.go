package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// noFault ends a machine's trouble.
const noFault = "none"

// faultCommand does to a lab's machine what a rack does to real ones.
func faultCommand(e *env) *cli.Command {
	says := make([]string, len(vbmc.TroubleKinds))
	for i, k := range vbmc.TroubleKinds {
		says[i] = fmt.Sprintf("  %-15s %s", k.Name, k.Says)
	}
	return &cli.Command{
		Name: "fault", Usage: "bring trouble over a machine: what a real rack does to you, on demand", ArgsUsage: "MACHINE KIND",
		Description: "KIND is one of\n" + strings.Join(says, "\n") + "\n  none            it ends\n\n" +
			"It shows in the machine's BMC, over Redfish and IPMI alike: sensors, health, event log. One kind at a time.\n" +
			"It ends with none, or with the lab's daemon. power-loss switches the machine off, and needs a yes; when it ends, the machine's\n" +
			"power restore policy says whether it is switched on.",
		Flags:  []cli.Flag{labFlag(), labsFlag(), &cli.BoolFlag{Name: "yes", Usage: "do it without asking"}},
		Action: func(c *cli.Context) error { return labFault(c, e) },
	}
}

// faultAnswer is what the daemon says of it.
type faultAnswer struct {
	Machine string `json:"machine"`
	Fault   string `json:"fault"`
	Says    string `json:"says"`
}

func labFault(c *cli.Context, e *env) error {
	if err := nargs(c, 2); err != nil {
		return err
	}
	dir, err := labDir(c)
	if err != nil {
		return err
	}
	machine, kind := c.Args().Get(0), c.Args().Get(1)
	if kind != noFault {
		if _, _, _, err := vbmc.NewTrouble(kind); err != nil {
			names := make([]string, len(vbmc.TroubleKinds))
			for i, k := range vbmc.TroubleKinds {
				names[i] = k.Name
			}
			return usage("%v: give one of %s, or none", err, strings.Join(names, ", "))
		}
	}
	if kind == "power-loss" {
		if err := e.confirm(c.Bool("yes"), "cut the power of "+machine); err != nil {
			return err
		}
	}
	var a faultAnswer
	if err := tellLab(c.Context, dir, http.MethodPost, "/fault?"+url.Values{"machine": {machine}, "kind": {kind}}.Encode(), &a); err != nil {
		return fail(exitFailed, err)
	}
	if e.json {
		return e.printJSON(a)
	}
	fmt.Fprintf(e.stdout, "%s: %s\n", a.Machine, a.Says)
	return nil
}

// fault answers lab fault.
func (d *labServer) fault(w http.ResponseWriter, req *http.Request) {
	machine, kind := req.URL.Query().Get("machine"), req.URL.Query().Get("kind")
	srv := d.virtual[machine]
	if srv == nil {
		http.Error(w, fmt.Sprintf("the lab has no machine %q", machine), http.StatusNotFound)
		return
	}
	if kind == noFault {
		srv.SetTrouble(vbmc.Trouble{}, "What was wrong is over.")
		if err := srv.ReturnPower(req.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answerJSON(w, faultAnswer{machine, kind, "nothing is wrong with it any more"})
		return
	}
	t, what, sel, err := vbmc.NewTrouble(kind)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if kind == "power-loss" {
		if err := srv.LosePower(req.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	srv.SetTrouble(t, what, sel...)
	says := kind
	for _, k := range vbmc.TroubleKinds {
		if k.Name == kind {
			says = k.Says
		}
	}
	answerJSON(w, faultAnswer{machine, kind, says})
}

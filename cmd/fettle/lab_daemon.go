package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/bmc/vbmc"
	"github.com/fettle-dev/fettle/images"
	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/provision"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// labFile is what a lab's daemon is started from; lab up writes it.
type labFile struct {
	SiteDir string       `json:"site_dir"`
	Store   string       `json:"store"`
	Options labs.Options `json:"options"`
}

// Names in a lab's folder, beside those of package labs.
const (
	labFileName   = "fettle.json"
	labDaemonLog  = "daemon.log"
	labAPISocket  = "api.sock"
	labCtlSocket  = "lab.sock"
	labKeysFolder = "keys"
)

func readLabFile(dir string) (labFile, error) {
	var f labFile
	b, err := os.ReadFile(filepath.Join(dir, labFileName))
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		return f, fmt.Errorf("reading the lab in %s: %w", dir, err)
	}
	return f, nil
}

// labDaemon holds a lab: its fabric, its virtual BMCs and all of serve.
func labDaemon(c *cli.Context, e *env) (err error) {
	dir := c.String("dir")
	// The parent waits on this descriptor for "ready" or an error.
	ready := os.NewFile(3, "ready")
	tell := func(s string) {
		if ready != nil {
			fmt.Fprintln(ready, s)
			ready.Close()
			ready = nil
		}
	}
	defer func() {
		if err != nil {
			tell(fmt.Sprintf("%d %v", exitStatus(err), err))
		}
	}()
	log := slog.New(slog.NewTextHandler(e.stderr, nil))
	f, err := readLabFile(dir)
	if err != nil {
		return err
	}
	keys, plan, err := planLab(f, dir)
	if err != nil {
		return err
	}
	bridge, err := bridgeStack(plan)
	if err != nil {
		return err
	}
	store, err := images.OpenStore(f.Store)
	if err != nil {
		return err
	}
	mirror, err := airgap.OpenStore(filepath.Join(f.Store, mirrorFolder))
	if err != nil {
		return err
	}
	lab, err := labs.Open(c.Context, labs.Config{Plan: plan, Logger: log, Progress: func(s labs.Step) { log.Info(s.Text, "machine", s.Machine) }})
	if err != nil {
		return labError(err)
	}
	defer lab.Close()
	if err := lab.Up(c.Context); err != nil {
		return labError(err)
	}
	ctx, stop := context.WithCancel(c.Context)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return lab.Run(ctx) })
	d := &labServer{dir: dir, lab: lab, plan: plan, keys: keys, bmcs: map[string]string{}, ipmi: map[string]string{}, virtual: map[string]*vbmc.Server{}}
	var ctl net.Listener
	err = d.serveBMCs(ctx, g, log)
	if err == nil {
		ctl, err = listenUnix(filepath.Join(dir, labCtlSocket))
	}
	if err != nil {
		stop()
		return errors.Join(err, g.Wait())
	}
	sv := &services{
		site: func() *site.Site { return plan.Site }, images: store, ca: keys.ca, log: log,
		state: state.Config{Dir: lab.StateDir(), Logger: log},
		stack: labStack{lab, bridge}, target: d.target, apiPath: filepath.Join(dir, labAPISocket),
		limits: d.limits(), mirror: mirror, bmcDir: filepath.Join(dir, "bmc"),
		passwords: labPasswords{keys.secrets, keys},
	}
	if f.Options.Trap {
		d.watch = newMirrorWatch()
		sv.watch = d.watch.handler
	}
	sv.started = func(p *provision.Provisioner, _ *state.Store) {
		d.provision = p
		serveHTTP(ctx, g, ctl, d.handler())
		log.Info("lab is up", "lab", plan.Name, "machines", len(plan.Machines), "revision", plan.Site.Revision())
		tell("ready")
	}
	g.Go(func() error { return sv.run(ctx) })
	return g.Wait()
}

// planLab makes a lab's plan: the site scaled for this machine, with the lab's
// key for its users.
func planLab(f labFile, dir string) (*labKeys, *labs.Plan, error) {
	s, err := site.Load(f.SiteDir)
	if err != nil {
		return nil, nil, fail(exitInput, err)
	}
	keys, err := openLabKeys(filepath.Join(dir, labKeysFolder), f.Options.Name, time.Now())
	if err != nil {
		return nil, nil, err
	}
	o := f.Options
	o.SSHKey = strings.TrimSpace(keys.sshPub)
	plan, err := labs.NewPlan(s, o)
	if err != nil {
		return nil, nil, fail(exitInput, err)
	}
	keys.ownersOf(plan)
	return keys, plan, nil
}

// labError gives an error of package labs its exit status.
func labError(err error) error {
	switch {
	case errors.Is(err, labs.ErrMissing), errors.Is(err, labs.ErrCapacity):
		return fail(exitMissing, err)
	case errors.Is(err, labs.ErrForeign):
		return fail(exitRefused, err)
	}
	return err
}

// labServer is what a lab's daemon offers beyond serve: virtual BMCs, and the
// control socket that lab's commands use.
type labServer struct {
	lab       *labs.Lab
	plan      *labs.Plan
	keys      *labKeys
	provision *provision.Provisioner
	bmcs      map[string]string // by machine: URL of its BMC on loopback
	ipmi      map[string]string // by machine: its BMC's UDP address on loopback
	virtual   map[string]*vbmc.Server
	dir       string       // the lab's
	watch     *mirrorWatch // of a lab with a trap
}

// limits are longer where guests are slow.
func (d *labServer) limits() provision.Limits {
	if d.lab.Accel() == labs.KVM {
		return provision.Limits{PowerPoll: 10 * time.Second}
	}
	return provision.Limits{
		Firmware: 10 * time.Minute, Netboot: 15 * time.Minute, Agent: 10 * time.Minute,
		FirstBoot: 30 * time.Minute, PowerPoll: 10 * time.Second,
	}
}

// labInfo is what the control socket tells of a running lab.
type labInfo struct {
	Name     string       `json:"name"`
	Accel    string       `json:"accel"`
	Revision string       `json:"revision"`
	PID      int          `json:"pid"`
	Machines []labMachine `json:"machines"`
}

type labMachine struct {
	Name     string   `json:"name"`
	Domain   string   `json:"domain"`
	Firmware string   `json:"firmware"`
	Address  string   `json:"address,omitempty"` // on its boot network, of IPv6 where that has no IPv4
	IPv6     string   `json:"ipv6,omitempty"`    // on its boot network
	User     string   `json:"user,omitempty"`    // for ssh
	BMC      string   `json:"bmc"`               // on the fabric
	BMCLocal string   `json:"bmc_local"`         // URL on loopback
	IPMI     string   `json:"ipmi_local"`        // UDP address on loopback
	HostKeys []string `json:"host_keys,omitempty"`
}

func (d *labServer) info() labInfo {
	inf := labInfo{Name: d.plan.Name, Accel: string(d.lab.Accel()), Revision: string(d.plan.Site.Revision()), PID: os.Getpid()}
	for _, mp := range d.plan.Machines {
		m, _ := d.plan.Site.Machine(mp.Name)
		lm := labMachine{
			Name: mp.Name, Domain: mp.Domain, Firmware: string(mp.Firmware), BMC: mp.BMC.Address.String(),
			BMCLocal: d.bmcs[mp.Name], IPMI: d.ipmi[mp.Name], HostKeys: d.provision.HostKeys(mp.Name),
		}
		lm.Address, lm.IPv6 = bootAddresses(m)
		if prof, ok := d.plan.Site.Profile(m.Profile); ok {
			lm.User = labs.LoginUser(prof)
		}
		inf.Machines = append(inf.Machines, lm)
	}
	return inf
}

// handler is the control socket: GET /lab, GET /outside, and CONNECT to an address on the
// fabric (RFC 9110 §9.3.6).
func (d *labServer) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.Method == http.MethodConnect:
			d.connect(w, req)
		case req.Method == http.MethodGet && req.URL.Path == "/lab":
			answerJSON(w, d.info())
		case req.Method == http.MethodPost && req.URL.Path == "/fault":
			d.fault(w, req)
		case req.Method == http.MethodGet && req.URL.Path == "/outside" && d.watch != nil:
			answerJSON(w, d.outside())
		default:
			http.NotFound(w, req)
		}
	})
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Write(b.Bytes())
}

// connect joins the client with an address on the fabric.
func (d *labServer) connect(w http.ResponseWriter, req *http.Request) {
	ctx, cancel := context.WithTimeout(req.Context(), 20*time.Second)
	far, err := d.lab.DialContext(ctx, "tcp", req.Host)
	cancel()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer far.Close()
	hj, ok := w.(http.Hijacker)
	if !ok {
		http.Error(w, "no hijacking", http.StatusInternalServerError)
		return
	}
	near, rw, err := hj.Hijack()
	if err != nil {
		return
	}
	defer near.Close()
	if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	splice(near, rw.Reader, far)
}

// splice copies both ways until both ends are done.
func splice(near net.Conn, nearReader io.Reader, far net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(far, nearReader)
		closeWrite(far)
	}()
	io.Copy(near, far)
	closeWrite(near)
	<-done
}

func closeWrite(c net.Conn) {
	if cw, ok := c.(interface{ CloseWrite() error }); ok {
		cw.CloseWrite()
		return
	}
	c.Close()
}

// Package drill is a hostile upstream and a tampered medium, on loopback, with
// what must come of each: a [Case] is one way to lie. It judges a program that
// it is given to run, the installed fettle, and nothing of its insides: after
// every attack the program must have refused with an error, and must serve what
// it served before.
package drill

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Result is how one case ended.
type Result struct {
	Name    string  `json:"name"`
	Want    string  `json:"want"` // "refuses" or "accepts"
	Passed  bool    `json:"passed"`
	Status  int     `json:"status"`        // of the program
	Said    string  `json:"said"`          // the last line of what it said
	Why     string  `json:"why,omitempty"` // why the case is not passed
	Seconds float64 `json:"seconds"`
}

// Drill runs cases.
type Drill struct {
	// Run runs the program under test with arguments, and returns its exit
	// status and what it said.
	Run func(ctx context.Context, args ...string) (status int, output string, err error)
	// Dir is an empty folder for what the cases make.
	Dir string
	Now time.Time
	// Each is told of every result, in the order of the cases; it may be nil.
	Each func(Result)
}

// Case is one way in which an upstream or a medium can lie.
type Case struct {
	Name   string
	accept bool // the honest ones, without which refusing everything would pass
	attack attack
	run    command // instead of a sync
	says   string  // part of what the program must say; "" = anything
}

// attack changes what was honest.
type attack func(ctx context.Context, r *rig) error

// command is the program's arguments.
type command func(ctx context.Context, r *rig) []string

// rig is one case being run.
type rig struct {
	d      *Drill
	up     *upstream
	dir    string // the case's own folder
	url    string
	tag    string // of the image that the site wants
	second string // the same server under another name: another host
}

// All runs every case, a few at once.
func (d *Drill) All(ctx context.Context) ([]Result, error) {
	cases := Cases()
	out := make([]Result, len(cases))
	done := make([]chan struct{}, len(cases))
	for i := range done {
		done[i] = make(chan struct{})
	}
	var wg sync.WaitGroup
	places := make(chan struct{}, 4)
	for i, c := range cases {
		wg.Go(func() {
			defer close(done[i])
			places <- struct{}{}
			defer func() { <-places }()
			out[i] = d.One(ctx, c, filepath.Join(d.Dir, fmt.Sprintf("%02d", i)))
		})
	}
	for i := range cases {
		<-done[i]
		if d.Each != nil && ctx.Err() == nil {
			d.Each(out[i])
		}
	}
	wg.Wait()
	return out, ctx.Err()
}

// One runs one case in a folder of its own, which it makes.
func (d *Drill) One(ctx context.Context, c Case, dir string) Result {
	start := time.Now()
	res := Result{Name: c.Name, Want: "refuses"}
	if c.accept {
		res.Want = "accepts"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := d.one(ctx, c, dir, &res); err != nil {
		res.Passed, res.Why = false, err.Error()
	}
	res.Seconds = time.Since(start).Round(10 * time.Millisecond).Seconds()
	return res
}

func (d *Drill) one(ctx context.Context, c Case, dir string, res *Result) (err error) {
	r, stop, err := d.newRig(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := r.honest(ctx); err != nil {
		return err
	}
	if err := c.attack(ctx, r); err != nil {
		return fmt.Errorf("preparing the attack: %w", err)
	}
	before, err := r.served()
	if err != nil {
		return err
	}
	args := r.syncArgs()
	if c.run != nil {
		args = c.run(ctx, r)
	}
	status, said, err := d.Run(ctx, args...)
	if err != nil {
		return err
	}
	res.Status, res.Said = status, lastLine(said)
	if err := r.outside(); err != nil {
		return err
	}
	after, err := r.served()
	if err != nil {
		return err
	}
	switch {
	case c.accept && status != 0:
		return fmt.Errorf("an honest upstream is refused with status %d", status)
	case c.accept && c.run == nil && after == before:
		return errors.New("an honest change is not served")
	case c.accept:
	case status == 0:
		return errors.New("it was taken, with status 0")
	case after != before:
		return fmt.Errorf("it was refused, and yet what is served changed from %s to %s", before, after)
	case !strings.Contains(said, c.says):
		return fmt.Errorf("it was refused without a word of %q", c.says)
	}
	res.Passed = true
	return nil
}

// newRig starts an upstream for one case.
func (d *Drill) newRig(dir string) (*rig, func() error, error) {
	up, err := newUpstream(d.Now)
	if err != nil {
		return nil, nil, err
	}
	ring, err := up.keyring()
	if err != nil {
		return nil, nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, fmt.Errorf("opening a port on loopback: %w", err)
	}
	srv := &http.Server{Handler: up, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	stop := func() error {
		err := srv.Close()
		if end := <-done; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
		return err
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	r := &rig{d: d, up: up, dir: dir, tag: "1", url: "http://127.0.0.1:" + port, second: "http://127.0.0.2:" + port}
	if err := os.MkdirAll(r.path("site"), 0o755); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	if err := os.WriteFile(r.path("site", "ring.gpg"), ring, 0o644); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return r, stop, nil
}

func (r *rig) path(elem ...string) string { return filepath.Join(append([]string{r.dir}, elem...)...) }

// honest publishes what is in order and has the program take it.
func (r *rig) honest(ctx context.Context) error {
	r.up.put("firmware.bin", []byte(firmware))
	if _, _, err := r.up.image(layer); err != nil {
		return err
	}
	if err := r.up.publish(r.good()); err != nil {
		return err
	}
	if err := r.site(firmware); err != nil {
		return err
	}
	if status, said, err := r.d.Run(ctx, "bundle", "key", "--site", r.path("site"), "--key", r.path("key")); err != nil || status != 0 {
		return fmt.Errorf("making a key failed with status %d: %s: %w", status, lastLine(said), err)
	}
	status, said, err := r.d.Run(ctx, r.syncArgs()...)
	if err != nil {
		return err
	}
	if status != 0 {
		return fmt.Errorf("the honest upstream was refused with status %d: %s", status, lastLine(said))
	}
	return nil
}

const (
	firmware = "firmware that the site wants"
	layer    = "the files of an image"
)

func (r *rig) good() release {
	return release{suite: "stable", date: r.up.now.Add(-2 * time.Hour), packages: map[string]string{"app": "the program", "lib": "the library"}}
}

// site writes the site's folder: it wants a filtered archive and one file.
func (r *rig) site(fileContent string) error {
	text := fmt.Sprintf(`name: drill
domain: drill.example.org
mirrors:
  - name: archive
    format: apt
    urls: [%q]
    suites: [stable]
    archs: [amd64]
    packages: [app]
    keyrings: [ring.gpg]
  - name: single
    format: files
    files:
      - url: %q
        sha256: %s
  - name: containers
    format: oci
    images: [%q]
`, r.url, r.url+"/firmware.bin", hexSum(fileContent), strings.TrimPrefix(r.url, "http://")+"/"+imageName+":"+r.tag)
	return os.WriteFile(r.path("site", "site.yaml"), []byte(text), 0o644)
}

func (r *rig) syncArgs() []string {
	return []string{"mirror", "sync", "--site", r.path("site"), "--store", r.path("store"), "--key", r.path("key")}
}

// served is the name of what the program serves.
func (r *rig) served() (string, error) {
	b, err := os.ReadFile(r.path("store", "mirror", "served"))
	if err != nil {
		return "", fmt.Errorf("finding what is served: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// outside looks for files that were written where none belongs.
func (r *rig) outside() error {
	return filepath.WalkDir(r.dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && strings.Contains(e.Name(), escaped) {
			return fmt.Errorf("a file was written to %s", path)
		}
		return err
	})
}

// lastLine is the last sentence of a program, which may have several lines.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.LastIndex(s, "\nfettle: "); i >= 0 {
		return strings.ReplaceAll(s[i+1:], "\n", "; ")
	}
	return s[strings.LastIndexByte(s, '\n')+1:]
}

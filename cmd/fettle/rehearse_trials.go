package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/labs/fabric"
	"github.com/fettle-dev/fettle/site"
)

// trials are the commands by which the installed machine shows that it can live
// on the bundle.
func (r *rehearsal) trials(c *cli.Context) []airgap.Trial {
	var out []airgap.Trial
	apt := slices.ContainsFunc(r.snap.Trees, func(t airgap.Tree) bool { return t.Format == "apt" })
	install := c.StringSlice("install")
	if len(install) == 0 && apt {
		install = r.defaultPackages()
	}
	const get = "DEBIAN_FRONTEND=noninteractive apt-get -y -q -o Dpkg::Use-Pty=0 "
	if apt || len(install) > 0 {
		out = append(out, airgap.Trial{Name: "apt-get update", Command: "apt-get update -q -o APT::Update::Error-Mode=any"})
	}
	if len(install) > 0 {
		words := make([]string, len(install))
		for i, p := range install {
			words[i] = airgap.ShellWord(p)
		}
		out = append(out, airgap.Trial{Name: "apt-get install " + strings.Join(install, " "), Command: get + "install -- " + strings.Join(words, " ")})
	}
	if apt {
		out = append(out, airgap.Trial{Name: "apt-get dist-upgrade, fetched only", Command: get + "--download-only dist-upgrade"})
	}
	for _, f := range mirrorFormats("") {
		t, ok := f.(airgap.Trier)
		if !ok {
			continue
		}
		for _, lm := range r.snap.Lock.Mirrors {
			if lm.Format == f.Name() {
				out = append(out, t.Trials(lm, r.clientRequest())...)
			}
		}
	}
	for _, cmd := range c.StringSlice("run") {
		out = append(out, airgap.Trial{Name: cmd, Command: cmd})
	}
	return out
}

// withoutClient is the trial on a machine that lacks its program; when there is
// none, its name says so.
func withoutClient(t airgap.Trial) (airgap.Trial, bool) {
	if t.Else == "" {
		return airgap.Trial{Name: fmt.Sprintf("not tried, because the machine has no %s: %s", t.Needs, t.Name)}, false
	}
	return airgap.Trial{Name: fmt.Sprintf("%s (fetched and compared: the machine has no %s)", t.Name, t.Needs), Command: t.Else}, true
}

// clientRequest is where the machine finds what the rehearsal serves.
func (r *rehearsal) clientRequest() airgap.ClientRequest {
	out := airgap.ClientRequest{CAFile: siteCAFile, Snapshot: r.snap}
	if nic, ok := r.machine.BootNIC(); ok {
		if n, ok := r.site.Network(nic.Network); ok {
			out.HTTP, out.HTTPS = mirrorURL("http", n.Server, mirrorPort), mirrorURL("https", n.Server, mirrorTLSPort)
		}
	}
	return out
}

// defaultPackages are those that people named: in apt mirrors, and in the
// machine's profile.
func (r *rehearsal) defaultPackages() []string {
	var out []string
	for _, lm := range r.snap.Lock.Mirrors {
		if lm.Format == "apt" {
			out = append(out, lm.Spec.Packages...)
		}
	}
	if prof, ok := r.site.Profile(r.machine.Profile); ok {
		// Those that are not mirrored are not said to be installable again.
		for _, p := range prof.Packages {
			if slices.ContainsFunc(r.snap.Lock.Mirrors, func(lm airgap.LockedMirror) bool {
				return slices.ContainsFunc(lm.Spec.Needs, func(n airgap.Need) bool { return n.Name == p })
			}) {
				out = append(out, p)
			}
		}
	}
	out = slices.DeleteFunc(out, func(p string) bool { return strings.Contains(p, ":") })
	slices.Sort(out)
	return slices.Compact(out)
}

// lacked are apt's words for packages that no source has.
var lacked = []*regexp.Regexp{
	regexp.MustCompile(`(?m)^E: Unable to locate package (\S+)`),
	regexp.MustCompile(`(?m)^E: Package '([^']+)' has no installation candidate`),
	regexp.MustCompile(`(?m)(?:Pre)?Depends: (\S+) (?:\([^)]*\) )?but it is not (?:installable|going to be installed)`),
}

// lackedPackages are the packages that apt says it cannot have.
func lackedPackages(output string) []string {
	var out []string
	for _, re := range lacked {
		for _, m := range re.FindAllStringSubmatch(output, -1) {
			if !slices.Contains(out, m[1]) {
				out = append(out, m[1])
			}
		}
	}
	return out
}

// look asks the lab what was wanted that is not in it.
func (r *rehearsal) look(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	return r.step("look for requests that lead outside", func() (string, error) {
		var o outside
		if err := askLab(ctx, r.dir, "/outside", &o); err != nil {
			return "", err
		}
		r.Outside, r.Requests = &o, o.Served
		f := labFile{Options: labs.Options{Name: "x", Machines: []string{r.Machine}, Trap: true}}
		plan, err := labs.NewPlan(r.site, f.Options)
		if err != nil {
			return "", err
		}
		missing, notes := judge(plan, o)
		r.Missing, r.Notes = append(r.Missing, missing...), append(r.Notes, notes...)
		if o.Lost > 0 {
			r.Missing = append(r.Missing, fmt.Sprintf("%d more attempts, which were too many to remember", o.Lost))
		}
		if len(missing) > 0 {
			return "", fmt.Errorf("%d requests", len(missing))
		}
		return fmt.Sprintf("none; the mirrors fulfilled %d requests", o.Served), nil
	})
}

// judge says which attempts are failures and which are only worth knowing: what
// the site file itself sends machines to is not in the lab, and no call outside.
func judge(plan *labs.Plan, o outside) (missing, notes []string) {
	s := plan.Site
	for _, a := range o.Attempts {
		text := a.String()
		if a.Count > 1 {
			text += fmt.Sprintf(", %d times", a.Count)
		}
		switch {
		case a.Kind == "dns" && suffixed(s, a.Name, o.Attempts):
			// The search list made it of a name that was asked for alone too.
		case a.Kind == "dns" && ownName(s, a.Name):
			notes = append(notes, text+": a name of the site's own")
		case a.Kind != "dns" && ownServer(s, a.To.Addr()):
			notes = append(notes, text+": the site's own server, which is not in the lab")
		default:
			missing = append(missing, text)
		}
	}
	for _, m := range o.Missed {
		missing = append(missing, fmt.Sprintf("%s asked the mirrors for %s, which they do not have (%d)", m.From, m.Path, m.Status))
	}
	return missing, notes
}

// suffixed tells whether name is another one with the site's domain behind it.
func suffixed(s *site.Site, name string, all []fabric.Attempt) bool {
	bare, ok := strings.CutSuffix(name, "."+s.Domain)
	return ok && strings.Contains(bare, ".") && slices.ContainsFunc(all, func(a fabric.Attempt) bool { return a.Kind == "dns" && a.Name == bare })
}

// ownName tells whether a name is the site's own, or of an address (RFC 1035
// §3.5, RFC 3596 §2.5).
func ownName(s *site.Site, name string) bool {
	for _, d := range []string{s.Domain, "in-addr.arpa", "ip6.arpa"} {
		if d != "" && (name == d || strings.HasSuffix(name, "."+d)) {
			return true
		}
	}
	return slices.ContainsFunc(s.Machines, func(m site.Machine) bool { return m.Name == name })
}

func ownServer(s *site.Site, a netip.Addr) bool {
	for _, n := range s.Networks {
		if slices.Contains(n.NTP, a) || slices.Contains(n.DNS, a) || n.Gateway == a {
			return true
		}
	}
	return false
}

// report prints the result, and writes it to file unless that is "".
func (r *rehearsal) report(e *env, file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if file != "" {
		if err := replaceFile(file, append(data, '\n')); err != nil {
			return err
		}
	}
	if e.json {
		_, err := fmt.Fprintln(e.stdout, string(data))
		return err
	}
	verdict := "PASSED"
	if !r.Passed {
		verdict = "FAILED"
	}
	fmt.Fprintf(e.stdout, "\n%s: site %s, snapshot %s (serial %d), %s with image %s, in %.0f s\n\n", verdict, r.Site, r.Snapshot, r.Serial, r.Machine, r.Image, r.Seconds)
	rows := [][]string{}
	for _, s := range r.Steps {
		mark := "ok"
		if !s.Passed {
			mark = "FAILED"
		}
		rows = append(rows, []string{mark, fmt.Sprintf("%.0f s", s.Seconds), s.Name})
	}
	table(e.stdout, rows)
	for _, s := range r.Steps {
		if !s.Passed {
			fmt.Fprintf(e.stdout, "\n%s:\n%s\n", s.Name, indent(s.Text))
		}
	}
	list := func(head string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(e.stdout, "\n%s\n", head)
		}
		for _, l := range lines {
			fmt.Fprintf(e.stdout, "  %s\n", printable(l))
		}
	}
	list("Asked for, and not in the bundle:", r.Missing)
	list("Notes:", r.Notes)
	return nil
}

func indent(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString("  " + printable(strings.TrimRight(line, "\r\n")) + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

// printable keeps a machine's words from driving the terminal.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '\t' || unicode.IsPrint(c) {
			return c
		}
		return '?'
	}, s)
}

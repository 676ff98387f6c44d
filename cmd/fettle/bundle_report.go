package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/airgap/papers"
	"github.com/fettle-dev/fettle/site"
)

// policyOf is the site's policy about packages.
func policyOf(s *site.Site) airgap.Policy {
	p := s.Policy.Packages
	return airgap.Policy{Allow: p.Allow, Deny: p.Deny, AllowLicences: p.AllowLicences, DenyLicences: p.DenyLicences, MaxAge: p.MaxAge, OnlySigned: p.OnlySigned}
}

// papers makes create apply the policy and write the bundle's documents.
// Licences are read when --licences or the policy asks for that: it means to
// unpack every package once.
func (e *env) papers(c *cli.Context, s *site.Site, store *airgap.Store, o *airgap.CreateOptions) error {
	policy := policyOf(s)
	var licences func(airgap.Item) []string
	o.Check = func(in airgap.Carried) error {
		if policy.NeedsLicences() || c.Bool("licences") {
			bar := newTransferBar(e, "licences", time.Now)
			var err error
			licences, err = store.Licences(c.Context, in.Snapshot.Lock, mirrorFormats(s.Dir), func(done, total int64) { bar.step(done, total, "") })
			bar.end()
			if err != nil {
				return err
			}
		}
		return policy.Check(in.Snapshot.Lock, time.Now(), licences)
	}
	o.Documents = func(in airgap.Carried) ([]airgap.Document, error) {
		return papers.Documents(in, licences, "fettle-"+version)
	}
	return nil
}

func (e *env) bundleReport(c *cli.Context) error {
	b, err := e.openBundle(c)
	if err != nil {
		return err
	}
	r, err := papers.NewReport(c.Context, b)
	if err != nil {
		return airgapFail(err)
	}
	format := c.String("format")
	if e.json {
		format = "json"
	}
	var data []byte
	switch format {
	case "html":
		data, err = r.HTML()
	case "text":
		data = r.Text()
	case "json":
		data, err = r.JSON()
	default:
		return usage("--format is html, text or json, not %q", format)
	}
	if err != nil {
		return err
	}
	if out := c.String("out"); out != "" {
		if err := replaceFile(out, data); err != nil {
			return err
		}
		fmt.Fprintln(e.stderr, "Wrote "+out)
		return nil
	}
	_, err = e.stdout.Write(data)
	return err
}

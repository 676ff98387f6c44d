package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// baseOf is the snapshot that --since means.
func (e *env) baseOf(store *airgap.Store, siteName, to, since string) (string, blob.Digest, error) {
	if since == "sent" {
		r, err := store.Record(to)
		if err != nil {
			return "", "", err
		}
		held, ok := r.Holds()
		if !ok {
			return "", "", fail(exitInput, fmt.Errorf("nothing was sent to %s yet: make a full bundle without --since", to))
		}
		if held.State != airgap.StateArrived {
			fmt.Fprintf(e.stderr, "Note: %s is believed to hold %s, sent %s; no receipt said so.\n", to, held.Snapshot, held.At.Format(time.DateOnly))
		}
		return held.Snapshot, held.SHA256, nil
	}
	data, err := os.ReadFile(since)
	if err == nil {
		r, err := siteReceipt(siteName, since, data)
		if err != nil {
			return "", "", err
		}
		name, err := store.Base(r)
		return name, r.SHA256, err
	}
	if _, d, serr := store.Snapshot(since); serr == nil {
		return since, d, nil // the sender's own knowledge
	}
	if airgap.LooksLikeCode(since) {
		snap, d, err := store.BaseOfCode(siteName, since)
		return snap.Name, d, fail(exitInput, err)
	}
	return "", "", fail(exitInput, fmt.Errorf("--since is neither sent, nor a receipt's file (%w), its code, or a snapshot: fettle mirror ls", err))
}

func siteReceipt(siteName, path string, data []byte) (airgap.Receipt, error) {
	r, err := airgap.ParseReceipt(data)
	if err != nil {
		return r, fail(exitInput, fmt.Errorf("%s: %w", path, err))
	}
	if r.Site != siteName {
		return r, fail(exitInput, fmt.Errorf("%s is a receipt of site %s, and this is %s", path, r.Site, siteName))
	}
	return r, nil
}

func (e *env) bundleReceived(c *cli.Context) error {
	if c.NArg() == 0 {
		return usage("%s takes FILE or CODE", c.Command.FullName())
	}
	s, err := e.loadSite(c)
	if err != nil {
		return err
	}
	store, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	// A code may be typed in groups.
	text, to := strings.Join(c.Args().Slice(), ""), c.String("to")
	var name string
	var serial int64
	var digest blob.Digest
	if data, rerr := os.ReadFile(text); rerr == nil {
		r, err := siteReceipt(s.Name, text, data)
		if err != nil {
			return err
		}
		if _, err := store.Base(r); err != nil {
			fmt.Fprintf(e.stderr, "Note: %v\n", err)
		}
		name, serial, digest = r.Snapshot, r.Serial, r.SHA256
	} else {
		snap, d, err := store.BaseOfCode(s.Name, text)
		if err != nil {
			return fail(exitInput, err)
		}
		name, serial, digest = snap.Name, snap.Serial, d
	}
	if err := store.Learn(to, s.Name, name, serial, digest, time.Now()); err != nil {
		return airgapFail(err)
	}
	if e.json {
		return e.printJSON(map[string]any{"to": to, "holds": name, "serial": serial})
	}
	fmt.Fprintf(e.stdout, "%s holds snapshot %s (serial %d); bundle create --since sent builds on that\n", to, name, serial)
	return nil
}

func (e *env) bundleSent(c *cli.Context) error {
	store, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	records, err := store.Records()
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(append([]airgap.Record{}, records...))
	}
	rows := [][]string{{"TO", "SNAPSHOT", "SERIAL", "ON TOP OF", "SENT", "STATE"}}
	for _, r := range records {
		held, _ := r.Holds()
		for _, b := range r.Sent {
			state := string(b.State)
			if b == held {
				state += ", held"
			}
			rows = append(rows, []string{r.To, b.Snapshot, fmt.Sprint(b.Serial), b.Base, b.At.Local().Format(time.DateTime), state})
		}
	}
	if len(rows) == 1 {
		fmt.Fprintln(e.stdout, "Nothing was sent yet.")
		return nil
	}
	table(e.stdout, rows)
	return nil
}

// withCode is a receipt as it is printed.
func withCode(r airgap.Receipt) any {
	return struct {
		airgap.Receipt
		Code string `json:"code"`
	}{r, r.Code()}
}

func (e *env) bundleReceipt(c *cli.Context) error {
	store, err := mirrorStore(c, e)
	if err != nil {
		return err
	}
	all, err := store.Receipts()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("nothing was imported here yet: fettle bundle import")
	}
	r := all[len(all)-1]
	if e.json {
		return e.printJSON(withCode(r))
	}
	fmt.Fprintf(e.stdout, "%s\nsite %s, snapshot %s (serial %d)\non the connected side: fettle bundle received %s\n", r.Code(), r.Site, r.Snapshot, r.Serial, r.Code())
	return nil
}

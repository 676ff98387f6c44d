package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
)

// recordCommand writes what a BMC shows to a file that a virtual one can wear.
func (b *bmcCommand) recordCommand(which func(...cli.Flag) []cli.Flag) *cli.Command {
	return &cli.Command{
		Name: "record", Usage: "record everything that a machine's BMC shows by Redfish, without what identifies the machine",
		ArgsUsage: "MACHINE",
		Description: "Writes a tar archive (zstd) with one JSON file a resource. Serial numbers, UUIDs, MACs, addresses, host and user\n" +
			"names and certificates are replaced by others of the same form; read the file before you give it away.\n" +
			"fettle bmc serve-virtual --tree FILE shows it again. Takes minutes on most BMCs.",
		Flags:  which(&cli.StringFlag{Name: "out", Required: true, TakesFile: true, Usage: "the file to write, such as gpu-01.tar.zst"}),
		Action: b.record,
	}
}

func (b *bmcCommand) record(c *cli.Context) error {
	ts, err := b.pick(c, "")
	if err != nil {
		return err
	}
	if len(ts) != 1 {
		return usage("record one machine at a time; %d were selected", len(ts))
	}
	out := c.String("out")
	f, err := os.CreateTemp(filepath.Dir(out), ".record-")
	if err != nil {
		return fail(exitInput, fmt.Errorf("--out: %w", err))
	}
	defer os.Remove(f.Name()) // gone already when all went well
	defer f.Close()
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	var mu sync.Mutex
	var said time.Time
	progress := func(read, known int) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); !b.e.json && now.Sub(said) >= time.Second {
			said = now
			if b.e.tty {
				fmt.Fprintf(b.e.stderr, "\r%d of %d resources\x1b[K", read, known)
			} else {
				fmt.Fprintf(b.e.stderr, "%d of %d resources\n", read, known)
			}
		}
	}
	res := bmc.Each(c.Context, ts, bmc.EachOptions{Parallel: 1}, func(ctx context.Context, cl *bmc.Client) (bmc.Recording, error) {
		return cl.Record(ctx, f, key, progress)
	})
	if b.e.tty && !b.e.json {
		fmt.Fprint(b.e.stderr, "\r\x1b[K")
	}
	if res[0].Err == nil {
		if err := f.Sync(); err != nil {
			return fail(exitFailed, fmt.Errorf("writing %s: %w", out, err))
		}
		if err := os.Rename(f.Name(), out); err != nil {
			return fail(exitFailed, err)
		}
		if err := os.Chmod(out, 0o644); err != nil {
			return fail(exitFailed, err)
		}
	}
	return report(b.e, res, "recording", []string{"MACHINE", "RESOURCES", "REPLACED VALUES", "NOT READ"}, func(r bmc.Recording) []string {
		return []string{fmt.Sprint(r.Resources), fmt.Sprint(r.Redacted), fmt.Sprint(len(r.Missing))}
	})
}

package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

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
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	return writeOne(b, c, c.String("out"), bmcOrder[bmc.RecordKey, bmc.Recording]{op: bmc.OpRecord, args: bmc.RecordKey{Key: key}, what: "recording",
		head: []string{"RESOURCES", "REPLACED VALUES", "NOT READ"},
		row: func(r bmc.Recording) []string {
			return []string{fmt.Sprint(r.Resources), fmt.Sprint(r.Redacted), fmt.Sprint(len(r.Missing))}
		}})
}

// writeOne does an operation at one machine that writes a file, which appears
// when it is whole.
func writeOne[A, T any](b *bmcCommand, c *cli.Context, out string, o bmcOrder[A, T]) error {
	w, err := b.pick(c, "")
	if err != nil {
		return err
	}
	if len(w.names) != 1 {
		return usage("one machine at a time; %d were selected", len(w.names))
	}
	f, err := os.CreateTemp(filepath.Dir(out), ".fettle-")
	if err != nil {
		return noFolder(out, err)
	}
	defer os.Remove(f.Name()) // gone already when all went well
	defer f.Close()
	o.out = f
	res, err := do(b, c, w, o)
	if err != nil {
		return err
	}
	if res[0].Err == nil {
		if err := errors.Join(f.Chmod(0o644), f.Sync(), os.Rename(f.Name(), out)); err != nil {
			return fail(exitFailed, fmt.Errorf("writing %s: %w", out, err))
		}
	}
	return show(b, res, o)
}

// screenshotCommand writes a picture of a machine's screen.
func (b *bmcCommand) screenshotCommand(which func(...cli.Flag) []cli.Flag) *cli.Command {
	return &cli.Command{
		Name: "screenshot", Usage: "write a picture of what a machine's screen shows, where its BMC can (Dell, Supermicro)", ArgsUsage: "MACHINE",
		Flags: which(&cli.StringFlag{Name: "out", Required: true, TakesFile: true, Usage: "the file to write, such as gpu-01.png"}),
		Action: func(c *cli.Context) error {
			return writeOne(b, c, c.String("out"), bmcOrder[bmc.None, bmc.Screenshot]{op: bmc.OpScreenshot, what: "screenshot", head: []string{"TYPE", "BYTES"},
				row: func(s bmc.Screenshot) []string { return []string{s.Type, fmt.Sprint(s.Bytes)} }})
		},
	}
}

package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/bmc"
)

// secureBootKeysCommand reads and changes the databases of Secure Boot.
func (b *bmcCommand) secureBootKeysCommand(which func(...cli.Flag) []cli.Flag, yes cli.Flag) *cli.Command {
	const sel = "SELECTOR..."
	db := &cli.StringFlag{Name: "db", Required: true, Usage: "`DATABASE`: PK, KEK, db or dbx, as fettle bmc secure-boot keys show lists them"}
	return &cli.Command{Name: "keys", Usage: "show and change the keys: whose boot loaders are trusted, and which are not any more", Subcommands: []*cli.Command{
		{Name: "show", Usage: "show the entries of all databases", ArgsUsage: sel, Flags: which(), Action: b.keysShow},
		{Name: "add", Usage: "add a certificate, or the digest of a program", ArgsUsage: sel,
			Flags: which(yes, db, &cli.StringFlag{Name: "file", TakesFile: true, Usage: "the certificate, in PEM"}, &cli.StringFlag{Name: "digest", Usage: "SHA-256 of a program, in `HEX`"},
				&cli.StringFlag{Name: "owner", Usage: "`GUID` of whose it is"}), Action: b.keysAdd},
		{Name: "delete", Usage: "delete an entry; without a platform key (PK) nothing is checked any more", ArgsUsage: sel,
			Flags: which(yes, db, &cli.StringFlag{Name: "id", Required: true, Usage: "`ID` of the entry"}), Action: b.keysDelete},
	}}
}

func (b *bmcCommand) keysShow(c *cli.Context) error {
	return ask(b, c, bmcOrder[bmc.None, bmc.SecureBootKeys]{op: bmc.OpSecureBootList, what: "secure_boot_keys", head: []string{"DATABASE", "ID", "CERTIFICATE OR DIGEST", "BY", "UNTIL"}, rows: func(ks bmc.SecureBootKeys) (rows [][]string) {
		for _, k := range ks.Keys {
			what := k.Subject
			if what == "" {
				what = k.Digest
			}
			rows = append(rows, []string{k.Database, k.ID, what, k.Issuer, k.Until})
		}
		for _, m := range ks.Missing {
			rows = append(rows, []string{"missing", "", m, "", ""})
		}
		return rows
	}})
}

func (b *bmcCommand) keysAdd(c *cli.Context) error {
	o := bmc.KeyOrder{Database: c.String("db"), Digest: c.String("digest"), Owner: c.String("owner")}
	file := c.String("file")
	if (file == "") == (o.Digest == "") {
		return usage("give --file with a certificate, or --digest")
	}
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return fail(exitInput, fmt.Errorf("--file: %w", err))
		}
		if o.Certificate = string(text); o.Certificate == "" {
			return fail(exitInput, fmt.Errorf("--file %s is empty: give a certificate in PEM", file))
		}
	}
	if err := o.Check(); err != nil {
		from := "--digest " + o.Digest
		if file != "" {
			from = "--file " + file
		}
		return fail(exitInput, fmt.Errorf("%s: %w", from, err))
	}
	return ask(b, c, bmcOrder[bmc.KeyOrder, string]{op: bmc.OpSecureBootAdd, args: o, asks: "add to the Secure Boot database " + o.Database + " of", what: "database", head: []string{"ADDED TO"}, row: holds})
}

func (b *bmcCommand) keysDelete(c *cli.Context) error {
	n := bmc.KeyName{Database: c.String("db"), ID: c.String("id")}
	return ask(b, c, bmcOrder[bmc.KeyName, string]{op: bmc.OpSecureBootDelete, args: n, asks: "delete " + n.ID + " of the Secure Boot database " + n.Database + " of", what: "database", head: []string{"DELETED FROM"}, row: holds})
}

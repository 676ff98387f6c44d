package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/fettle-dev/fettle/web"
)

// tokenCommands is fettle token: who may use the API over the network.
func tokenCommands(e *env) []*cli.Command {
	return []*cli.Command{{
		Name: "token", Usage: "who may use the API over the network",
		Subcommands: []*cli.Command{{
			Name: "add", Usage: "make a token and print it, once", ArgsUsage: "NAME",
			Description: "Only the token's hash is kept, as a line of the tokens file. Remove the line to\n" +
				"shut its bearer out; a running fettle serve notices.",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "tokens", Required: true, EnvVars: []string{"FETTLE_TOKENS"}, Usage: "tokens `FILE`, as given to fettle serve", TakesFile: true},
				&cli.StringFlag{Name: "role", Value: string(web.RoleViewer), Usage: "viewer, operator or admin"},
			},
			Action: func(c *cli.Context) error {
				if c.NArg() != 1 {
					return usage("fettle token add takes one name")
				}
				secret, err := web.AddToken(c.String("tokens"), c.Args().First(), web.Role(c.String("role")))
				if err != nil {
					return fail(exitInput, err)
				}
				if e.json {
					return e.printJSON(map[string]string{"name": c.Args().First(), "role": c.String("role"), "token": secret})
				}
				_, err = fmt.Fprintln(e.stdout, secret)
				return err
			},
		}},
	}}
}

package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst moves flags that stand behind a command's arguments before them,
// where package flag looks for them: "image build all --site DIR" is what
// people type. Nothing moves behind "--", nor in a command that runs another
// one's words (its usage says COMMAND).
func flagsFirst(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	out, at := []string{args[0]}, args[1:]
	commands, flags, usage := app.Commands, app.Flags, ""
	var moved, words []string
	for i := 0; i < len(at); i++ {
		a := at[i]
		switch {
		case a == "--", len(words) > 0 && strings.Contains(usage, "COMMAND"):
			return slices.Concat(out, moved, words, at[i:])
		case len(a) > 1 && a[0] == '-':
			takesValue, known := flagKind(flags, a)
			if !known {
				return args // the command line's own error names it
			}
			moved = append(moved, a)
			if takesValue && i+1 < len(at) {
				i++
				moved = append(moved, at[i])
			}
		default:
			c := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(a) })
			if c < 0 || len(words) > 0 {
				words = append(words, a)
				continue
			}
			out = slices.Concat(out, moved, []string{a})
			moved = nil
			commands, flags, usage = commands[c].Subcommands, commands[c].Flags, commands[c].ArgsUsage
		}
	}
	return slices.Concat(out, moved, words)
}

// flagKind tells whether an argument is one of flags, and whether the next
// argument is its value.
func flagKind(flags []cli.Flag, arg string) (takesValue, known bool) {
	name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	if name == "help" || name == "h" {
		return false, true
	}
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			_, isBool := f.(*cli.BoolFlag)
			return !isBool && !hasValue, true
		}
	}
	return false, false
}

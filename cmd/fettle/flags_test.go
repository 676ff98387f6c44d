package main

import (
	"io"
	"log/slog"
	"strings"
	"testing"
)

func TestFlagsFirst(t *testing.T) {
	e := &env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }, log: slog.New(slog.DiscardHandler)}
	app := newApp(e)
	for _, tc := range []struct{ name, args, want string }{
		{"nothing to move", "site check --site x", "site check --site x"},
		{"a flag with a value", "image build all --site x", "image build --site x all"},
		{"a flag with = and a value", "image build all --site=x agent", "image build --site=x all agent"},
		{"a flag without a value", "machine deploy gpu-01 --yes gpu-02", "machine deploy --yes gpu-01 gpu-02"},
		{"a flag of the program", "--verbose machine ls", "--verbose machine ls"},
		{"help", "machine deploy gpu-01 --help", "machine deploy --help gpu-01"},
		{"an argument that is a command's name", "machine why ls", "machine why ls"},
		{"an unknown flag stays", "machine deploy gpu-01 --yess", "machine deploy gpu-01 --yess"},
		{"a value is missing", "image build all --site", "image build --site all"},
		{"somebody else's flags", "lab ssh gpu-02 ls --lab x", "lab ssh gpu-02 ls --lab x"},
		{"own flags of such a command", "lab ssh --lab x gpu-02 ls -l", "lab ssh --lab x gpu-02 ls -l"},
		{"behind --", "lab exec gpu-02 -- ls --lab", "lab exec gpu-02 -- ls --lab"},
		{"a lone -", "image import base - --store x", "image import --store x base -"},
	} {
		got := strings.Join(flagsFirst(app, append([]string{"fettle"}, strings.Fields(tc.args)...)), " ")
		if got != "fettle "+tc.want {
			t.Errorf("%s: flagsFirst(%s) = %s; want fettle %s", tc.name, tc.args, got, tc.want)
		}
	}
}

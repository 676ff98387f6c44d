package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWrongInput gives commands what they can do nothing with: one sentence says
// what it is, where, and what to do.
func TestWrongInput(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("empty", "")
	write("text", "hello\n")
	write("half/bundle.json", "{}\n")
	const key = "fettle-public-key-1:eskuTAY6YZFDScVsRsMN3Bk4e0WWidy3XiFJ2NuuiEU="
	write("pub", key+"\n")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"doctor of no site", []string{"doctor", "--site", at("none")}, exitInput, at("none") + ": cannot open the site folder"},
		{"no port", []string{"mirror", "serve", "--store", at("store"), "--listen", "somewhere"}, exitUsage, `--listen is ADDRESS:PORT, such as 192.0.2.10:8480, not "somewhere"`},
		{"a port too high", []string{"mirror", "serve", "--store", at("store"), "--listen", "127.0.0.1:99999"}, exitUsage, `not "127.0.0.1:99999"`},
		{"another's address", []string{"mirror", "serve", "--store", at("store"), "--listen", "192.0.2.10:8480"}, exitMissing, "no interface of this machine has the address 192.0.2.10:"},
		{"a port that is taken", []string{"mirror", "serve", "--store", at("store"), "--listen", taken.Addr().String()}, exitMissing, "another program has that port"},
		{"a virtual BMC at a port that is taken", []string{"bmc", "serve-virtual", "--listen", taken.Addr().String()}, exitMissing, "another program has that port"},
		{"a key where none can be", []string{"bundle", "key", "--key", at("none/key")}, exitInput, "--key: the new key cannot be kept there: open " + at("none/key")},
		{"a public key that is no file", []string{"bundle", "verify", "--public-key", at("none"), at("half")}, exitUsage, "--public-key " + at("none") + " is neither a file nor a key"},
		{"a file that is no public key", []string{"bundle", "verify", "--public-key", at("text"), at("half")}, exitUsage, "--public-key " + at("text") + ": the site's public key is malformed"},
		{"no such folder", []string{"bundle", "verify", "--public-key", at("pub"), at("none")}, exitInput, "no bundle is there: " + at("none") + " has no bundle.json: name the folder that fettle bundle create wrote"},
		{"half a bundle", []string{"bundle", "import", "--store", at("store"), "--public-key", key, at("half")}, exitInput, at("half") + " has no bundle.sig"},
		{"an empty certificate", []string{"bmc", "secure-boot", "keys", "add", "--db", "db", "--file", at("empty"), "node-01"}, exitInput, "--file " + at("empty") + " is empty"},
		{"no certificate", []string{"bmc", "secure-boot", "keys", "add", "--db", "db", "--file", at("text"), "node-01"}, exitInput, "--file " + at("text") + ": it is no certificate in PEM"},
		{"no digest", []string{"bmc", "secure-boot", "keys", "add", "--db", "dbx", "--digest", "abc", "node-01"}, exitInput, "--digest abc: a digest is a SHA-256: 64 hex digits"},
		{"an empty firmware image", []string{"bmc", "firmware", "update", "--file", at("empty"), "node-01"}, exitInput, "--file: " + at("empty") + " is no firmware image"},
		{"a folder as firmware", []string{"bmc", "firmware", "update", "--file", at("half"), "node-01"}, exitInput, "--file: " + at("half") + " is no firmware image"},
		{"an empty name", []string{"site", "diff", at("a"), ""}, exitUsage, "an argument is empty: it takes DIR_A DIR_B"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status, out, said := commandLine(t.Context(), "", false, tc.args...)
			said = strings.TrimSuffix(said, "\n")
			if status != tc.status || !strings.HasPrefix(said, "fettle: ") || !strings.Contains(said, tc.want) || strings.Contains(said, "\n") || out != "" {
				t.Errorf("fettle %s = %d %q %q; want %d, and one line with %q", strings.Join(tc.args, " "), status, out, said, tc.status, tc.want)
			}
		})
	}
}

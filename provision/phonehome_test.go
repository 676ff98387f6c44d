package provision

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/agent/wire"
)

// needTools skips a test of a script where its programs are missing, except in
// CI.
func needTools(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// The script that an installed system runs, against answers of all kinds: it
// forgets its token when fettle has answered for good, and only then.
func TestPhoneHomeScript(t *testing.T) {
	needTools(t, "sh", "curl")
	for _, tt := range []struct {
		name   string
		status int // of the answer, 0 = nobody is there
		ok     bool
		done   bool // the token is forgotten
	}{
		{"taken", http.StatusNoContent, true, true},
		{"the run has ended", http.StatusUnauthorized, true, true},
		{"the run failed by it", http.StatusConflict, true, true},
		{"not expected yet", http.StatusBadRequest, false, false},
		{"not its address", http.StatusForbidden, false, false},
		{"server in trouble", http.StatusInternalServerError, false, false},
		{"nobody there", 0, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got wire.PhoneHome
			var auth string
			ts := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				auth = req.Header.Get("Authorization")
				b, err := io.ReadAll(req.Body)
				if err != nil || json.Unmarshal(b, &got) != nil {
					t.Errorf("phone-home sent %q, %v; want JSON", b, err)
				}
				w.WriteHeader(tt.status)
			}))
			defer ts.Close()
			dir := t.TempDir()
			write := func(name, text string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ts.Certificate().Raw})))
			write("phone-home", "URL="+ts.URL+wire.PathPhoneHome+"\nTOKEN=secret\n")
			write("ssh_host_rsa_key.pub", "ssh-rsa AAAA root@x\n")
			write("ssh_host_ed25519_key.pub", "ssh-ed25519 BBBB root@x\n")
			if tt.status == 0 {
				ts.Close()
			}
			script := strings.NewReplacer("/etc/fettle", dir, "/etc/ssh", dir).Replace(string(phoneHomeScript))
			out, err := exec.CommandContext(t.Context(), "sh", "-c", "sync() { :; }\n"+script).CombinedOutput() // other tests' disks are left in peace
			if (err == nil) != tt.ok {
				t.Errorf("phone-home = %v; want success %v\n%s", err, tt.ok, out)
			}
			if _, err := os.Stat(filepath.Join(dir, "phone-home")); os.IsNotExist(err) != tt.done {
				t.Errorf("the token is forgotten: %v; want %v", os.IsNotExist(err), tt.done)
			}
			if tt.status == 0 {
				return
			}
			host, err := os.Hostname()
			if err != nil {
				t.Fatal(err)
			}
			if auth != "Bearer secret" || got.Hostname != host || strings.Join(got.SSHKeys, ",") != "ssh-ed25519 BBBB,ssh-rsa AAAA" {
				t.Errorf("phone-home sent %q, %+v; want its token, %s and two keys", auth, got, host)
			}
			if strings.Contains(string(out), "secret") {
				t.Errorf("phone-home prints its token: %s", out)
			}
		})
	}
}

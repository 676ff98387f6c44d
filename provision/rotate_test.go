package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
)

// tinyBMC is the Redfish of a BMC with one account, over TLS.
type tinyBMC struct {
	*httptest.Server
	mu       sync.Mutex
	password string
	wrong    int // logins refused since the last that was not
	worst    int
	sessions int
	refuse   bool // every new password
	ignore   bool // new passwords, and say that they were taken
	hang     bool // in the answer to a change, which is made
	root     string
}

func newTinyBMC(t *testing.T, password string) *tinyBMC {
	t.Helper()
	b := &tinyBMC{password: password}
	b.Server = httptest.NewTLSServer(http.HandlerFunc(b.serve))
	t.Cleanup(b.Close)
	return b
}

func (b *tinyBMC) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case r.URL.Path == "/redfish/v1/" && b.root != "":
		fmt.Fprint(w, b.root)
	case r.URL.Path == "/redfish/v1/Systems":
		fmt.Fprint(w, `{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}`)
	case r.URL.Path == "/redfish/v1/Systems/1":
		fmt.Fprint(w, `{"@odata.id":"/redfish/v1/Systems/1","SerialNumber":"CN123","SKU":"SN-77","PowerState":"On","Boot":{},"Actions":{"#ComputerSystem.Reset":{"target":"/r"}}}`)
	case r.URL.Path == "/redfish/v1/":
		fmt.Fprint(w, `{"RedfishVersion":"1.15.0","AccountService":{"@odata.id":"/redfish/v1/AccountService"},"Links":{"Sessions":{"@odata.id":"/redfish/v1/SessionService/Sessions"}}}`)
	case r.Method == http.MethodPost:
		var body struct{ UserName, Password string }
		_ = json.NewDecoder(r.Body).Decode(&body)
		if body.UserName != "root" || body.Password != b.password {
			b.wrong++
			b.worst = max(b.worst, b.wrong)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		b.wrong = 0
		b.sessions++
		w.Header().Set("X-Auth-Token", "t")
		w.Header().Set("Location", "/redfish/v1/SessionService/Sessions/1")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{}`)
	case r.Method == http.MethodDelete:
		b.sessions--
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == "/redfish/v1/AccountService":
		fmt.Fprint(w, `{"Accounts":{"@odata.id":"/redfish/v1/AccountService/Accounts"}}`)
	case r.URL.Path == "/redfish/v1/AccountService/Accounts":
		fmt.Fprint(w, `{"Members":[{"@odata.id":"/redfish/v1/AccountService/Accounts/1"}]}`)
	case r.Method == http.MethodPatch && b.refuse:
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":{"code":"Base.1.8.PropertyValueFormatError","message":"too weak"}}`)
	case r.Method == http.MethodPatch:
		var body struct{ Password string }
		_ = json.NewDecoder(r.Body).Decode(&body)
		if !b.ignore {
			b.password = body.Password
		}
		if b.hang {
			b.mu.Unlock()
			<-r.Context().Done()
			b.mu.Lock()
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		fmt.Fprint(w, `{"@odata.id":"/redfish/v1/AccountService/Accounts/1","Id":"1","UserName":"root","Enabled":true}`)
	}
}

func (b *tinyBMC) now() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.password
}

// rotation is of the BMC at addr, with the secrets of a folder.
func rotation(addr string, sec *site.Secrets) Rotation {
	return Rotation{Vault: sec, Secret: "bmc-gpu-05", User: "root", Was: "calvin",
		Login: func(ctx context.Context, user string, pw bmc.Password) (Accounts, error) {
			return bmc.Open(ctx, bmc.Target{Name: "gpu-05", Address: netip.MustParseAddrPort(addr), User: user, Password: pw, Insecure: true, Timeout: 2 * time.Second})
		}}
}

func rotateSecrets(t *testing.T) (*site.Secrets, string) {
	t.Helper()
	dir := t.TempDir()
	sec, _, err := site.InitSecrets(dir, filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	return sec, dir
}

// someKnownWorks fails unless a password that is stored is the BMC's.
func someKnownWorks(t *testing.T, b *tinyBMC, sec *site.Secrets) {
	t.Helper()
	known := []string{"root:calvin"} // what the operator typed, or the factory's
	if v, err := sec.Get("bmc-gpu-05"); err == nil {
		known = []string{v.Reveal()}
	}
	if p, ok, err := sec.GetPending("bmc-gpu-05"); err != nil {
		t.Fatal(err)
	} else if ok {
		known = append(known, p.Was.Reveal(), p.Next.Reveal())
	}
	if !slices.Contains(known, "root:"+b.now()) {
		t.Fatal("nobody knows the BMC's password")
	}
}

var rotateSteps = []RotateStep{StepLoggedIn, StepStaged, StepChanged, StepVerified, StepStored}

// TestRotateKilled kills the process at each step, without any mercy, and shows
// that a password that is stored still opens the BMC, and that the same
// rotation, run again, ends it.
func TestRotateKilled(t *testing.T) {
	if dir := os.Getenv("FETTLE_TEST_ROTATE_DIR"); dir != "" {
		sec, err := site.OpenSecrets(dir, filepath.Join(dir, "identity"))
		if err != nil {
			t.Fatal(err)
		}
		r := rotation(os.Getenv("FETTLE_TEST_ROTATE_BMC"), sec)
		r.Step = func(s RotateStep) error {
			if string(s) == os.Getenv("FETTLE_TEST_ROTATE_STEP") {
				return syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
			return nil
		}
		t.Fatalf("Rotate() = %v; want to be killed", r.Rotate(t.Context()))
	}
	for _, step := range rotateSteps {
		t.Run(string(step), func(t *testing.T) {
			b := newTinyBMC(t, "calvin")
			sec, dir := rotateSecrets(t)
			addr := b.Listener.Addr().String()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRotateKilled$")
			cmd.Env = append(os.Environ(), "FETTLE_TEST_ROTATE_DIR="+dir, "FETTLE_TEST_ROTATE_BMC="+addr, "FETTLE_TEST_ROTATE_STEP="+string(step))
			out, err := cmd.CombinedOutput()
			var ee *exec.ExitError
			if !errors.As(err, &ee) || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the process = %v; want it killed\n%s", err, out)
			}
			someKnownWorks(t, b, sec)
			r := rotation(addr, sec)
			if step == StepStored {
				r.Was = bmc.Password(b.now()) // it was done: the next one begins with what is stored
			}
			before := b.now()
			if err := r.Rotate(t.Context()); err != nil {
				t.Fatalf("Rotate() after the kill = %v", err)
			}
			v, err := sec.Get("bmc-gpu-05")
			if err != nil || v.Reveal() != "root:"+b.now() || b.now() == "calvin" {
				t.Errorf("the secret is not the BMC's password (%v), or that is the old one", err)
			}
			if (step == StepChanged || step == StepVerified) && b.now() != before {
				t.Error("the password was changed twice; want the pending one kept")
			}
			if names, err := sec.ListPending(); err != nil || len(names) != 0 {
				t.Errorf("pending after the end: %v, %v; want nothing", names, err)
			}
			if b.worst > 1 {
				t.Errorf("%d wrong passwords in a row; want 1 at most", b.worst)
			}
		})
	}
}

// TestRotateErrors: whatever a BMC does, a stored password opens it.
func TestRotateErrors(t *testing.T) {
	for _, tc := range []struct {
		name    string
		bmc     func(*tinyBMC)
		change  func(*Rotation)
		want    error  // of the first try
		says    string // in it
		pending bool   // after it
		mended  func(*tinyBMC)
		then    error // of the second try
	}{
		{name: "the old password is wrong", bmc: func(b *tinyBMC) { b.password = "another" }, want: bmc.ErrPassword, then: bmc.ErrPassword},
		{name: "the new one is refused", bmc: func(b *tinyBMC) { b.refuse = true }, want: bmc.ErrPasswordRefused, mended: func(b *tinyBMC) { b.refuse = false }},
		{name: "it says yes and does nothing", bmc: func(b *tinyBMC) { b.ignore = true }, want: bmc.ErrPassword, says: "both passwords are kept", pending: true, mended: func(b *tinyBMC) { b.ignore = false }},
		{name: "no answer to the change", bmc: func(b *tinyBMC) { b.hang = true }, want: context.DeadlineExceeded, says: "not known whether", pending: true, mended: func(b *tinyBMC) { b.hang = false }},
		{name: "somebody else changes it meanwhile", bmc: func(b *tinyBMC) { b.ignore = true }, want: bmc.ErrPassword, pending: true, mended: func(b *tinyBMC) { b.password = "theirs" }, then: ErrNoPasswordWorks},
		{name: "no user of that name", change: func(r *Rotation) { r.User = "nobody" }, want: bmc.ErrPassword, then: nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newTinyBMC(t, "calvin")
			sec, _ := rotateSecrets(t)
			r := rotation(b.Listener.Addr().String(), sec)
			if tc.bmc != nil {
				tc.bmc(b)
			}
			first := r
			if tc.change != nil {
				tc.change(&first)
			}
			err := first.Rotate(t.Context())
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("Rotate() = %v; want %v, with %q", err, tc.want, tc.says)
			}
			if tc.then == nil {
				someKnownWorks(t, b, sec)
			}
			if _, ok, err := sec.GetPending("bmc-gpu-05"); err != nil || ok != tc.pending {
				t.Errorf("pending after it: %v, %v; want %v", ok, err, tc.pending)
			}
			if tc.mended != nil {
				b.mu.Lock()
				tc.mended(b)
				b.mu.Unlock()
			}
			err = r.Rotate(t.Context())
			if tc.then == nil && err != nil || tc.then != nil && !errors.Is(err, tc.then) {
				t.Fatalf("Rotate() again = %v; want %v", err, tc.then)
			}
			if tc.then == nil {
				if v, err := sec.Get("bmc-gpu-05"); err != nil || v.Reveal() != "root:"+b.now() {
					t.Errorf("the secret is not the BMC's password: %v", err)
				}
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.sessions != 0 {
				t.Errorf("%d sessions are open; want none", b.sessions)
			}
			if b.worst > 3 { // of two rotations
				t.Errorf("%d wrong passwords in a row; want 3 at most", b.worst)
			}
		})
	}
}

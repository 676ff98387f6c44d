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
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

func TestDiagnose(t *testing.T) {
	listed := site.Machine{Disks: []site.Disk{{Serial: "SN-A"}, {Serial: "SN-B"}, {Serial: "DATA"}}}
	const both = "root and swap run on 1 of 2 disks, as disk SN-A is missing"
	const replace = "replace the disk, write the new one's serial number into the machine's disks in the site file, and run on the machine: sudo fettle-mirror-disk /dev/NAME; or deploy the machine anew"
	for _, tt := range []struct {
		name, text string
		what, todo string
	}{
		{"whole", twoDisks, "root and swap have all their disks", ""},
		{"one array", without(twoDisks, "md126"), "root has all its disks", ""},
		{"no array", "disk vda SN-A\nend\n", "its system runs on no array of disks", ""},
		{"a disk is gone", without(twoDisks, " vda"), both, replace},
		{"a disk that the site lists is beside it", swapped(without(twoDisks, " vda"), "end\n", "disk vdc DATA\nend\n"), both, replace},
		{"it is back, empty", without(twoDisks, " vda3", " vda4"), both, "that disk is there as vda, empty or out of date: if it is sound, run on the machine: sudo fettle-mirror-disk /dev/vda"},
		{"a new one is there", swapped(without(twoDisks, " vda"), "end\n", "disk vda NEW\nend\n"), both,
			"disk NEW (vda) is new: if it is to take the place, write its serial number into the site file instead of the lost one's, and run on the machine: sudo fettle-mirror-disk /dev/vda"},
		{"a reader of cards is no disk", swapped(without(twoDisks, " vda"), "end\n", "disk sda\nend\n"), both, replace},
		{"one partition failed", swapped(twoDisks, "vda3 state in_sync", "vda3 state faulty", "vda3 slot 0", "vda3 slot none"), "root runs on 1 of 2 disks, as disk SN-A has failed", replace},
		{"filled, the other waits", swapped(twoDisks, "vda3 state in_sync", "vda3 state spare", "vda4 state in_sync", "vda4 state spare",
			"md127 sync_action idle", "md127 sync_action recover", "md127 sync_completed none", "md127 sync_completed 2 / 5"),
			"root runs on 1 of 2 disks, as disk SN-A is being filled (40 %); swap runs on 1 of 2 disks, as disk SN-A is being filled", "leave the disks in until disk SN-A is filled"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rep, err := parseDisks(strings.NewReader(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			remember(rep.arrays, nil, []string{"SN-A", "SN-B"})
			what, todo := diagnose(rep.arrays, rep.disks, listed)
			if what != tt.what || todo != tt.todo {
				t.Errorf("diagnose() = %q, %q; want %q, %q", what, todo, tt.what, tt.todo)
			}
		})
	}
}

// mirrored makes a bench's machine one with a mirrored system disk, deployed,
// and gives the token of its system.
func mirroredBench(t *testing.T) (b *bench, token string) {
	t.Helper()
	b = newBench(t, nil)
	b.site.Profiles[0].Layout.RAID = 1
	b.site.Images[0].Packages = append(b.site.Images[0].Packages, "mdadm")
	b.install("gpu-01")
	r, _ := b.p.latest("gpu-01")
	if r.doc().Watched == nil {
		t.Fatal("the system of a mirrored machine was given nothing to tell of its disks with")
	}
	return b, r.doc().Watched.Token
}

// say posts a report as the machine does.
func (b *bench) say(token, report string) int {
	b.t.Helper()
	req := httptest.NewRequest("POST", wire.PathHealth, strings.NewReader(report))
	req.RemoteAddr = b.from
	req.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	b.p.Handler().ServeHTTP(w, req)
	return w.Code
}

func (b *bench) healthEvents() []state.Event {
	b.t.Helper()
	events, err := b.store.Events(b.t.Context(), state.Query{Machine: "gpu-01", Kinds: []state.Kind{state.KindHealth}})
	if err != nil {
		b.t.Fatal(err)
	}
	return events
}

// TestHealth: a mirror's story, from whole over a lost disk to whole again, as
// the timeline, the status, a plan and why have it.
func TestHealth(t *testing.T) {
	b, token := mirroredBench(t)
	disks := func(s string) string { return swapped(s, "SN-A", "DISK1", "SN-B", "DISK2") }
	filled := swapped(disks(twoDisks), "DISK1", "NEW", "vda3 state in_sync", "vda3 state spare", "md127 sync_action idle", "md127 sync_action recover", "md127 sync_completed none", "md127 sync_completed 1 / 5")
	for _, step := range []struct {
		name, report string
		event        string // "" = none
		why          string // ends so
	}{
		{"whole", disks(twoDisks), "root and swap have all their disks", ""},
		{"said again", disks(twoDisks), "", ""},
		{"lost", disks(without(twoDisks, " vda")), "root and swap run on 1 of 2 disks, as disk DISK1 is missing", " root and swap run on 1 of 2 disks, as disk DISK1 is missing: replace the disk, write the new one's serial number into the machine's disks in the site file, and run on the machine: sudo fettle-mirror-disk /dev/NAME; or deploy the machine anew."},
		{"lost, said again", disks(without(twoDisks, " vda")), "", "deploy the machine anew."},
		{"filled", filled, "root runs on 1 of 2 disks, as disk NEW is being filled (20 %)", "leave the disks in until disk NEW is filled."},
		{"filled further", swapped(filled, "1 / 5", "3 / 5"), "root runs on 1 of 2 disks, as disk NEW is being filled (60 %)", "leave the disks in until disk NEW is filled."},
		{"whole again", swapped(disks(twoDisks), "DISK1", "NEW"), "root and swap have all their disks again", ""},
		{"the new one is lost", disks(without(twoDisks, " vda")), "root and swap run on 1 of 2 disks, as disk NEW is missing", "deploy the machine anew."},
	} {
		before := len(b.healthEvents())
		if got := b.say(token, step.report); got != http.StatusNoContent {
			t.Fatalf("%s: report = %d; want 204", step.name, got)
		}
		events := b.healthEvents()
		got := ""
		if len(events) > before {
			got = events[len(events)-1].Text
		}
		if got != step.event {
			t.Errorf("%s: event %q; want %q", step.name, got, step.event)
		}
		why, err := b.p.Why(t.Context(), "gpu-01")
		if err != nil {
			t.Fatal(err)
		}
		last := why[len(why)-1]
		if !strings.HasPrefix(last, "gpu-01 is ready with image debian-12") || !strings.HasSuffix(last, step.why) || strings.Contains(last, "disk") != (step.why != "") {
			t.Errorf("%s: why ends %q; want it to be ready, then %q", step.name, last, step.why)
		}
		plan, err := b.p.Plan(t.Context(), []string{"gpu-01"})
		if err != nil {
			t.Fatal(err)
		}
		if warns := strings.Contains(strings.Join(plan.Machines[0].Changes, "\n"), "disk DISK1 was missing or had failed"); warns != strings.HasPrefix(step.name, "lost") {
			t.Errorf("%s: the plan warns of DISK1: %v\n%q", step.name, warns, plan.Machines[0].Changes)
		}
	}
	var d state.HealthData
	events := b.healthEvents()
	since := events[1].Time.Truncate(time.Second)
	for _, i := range []int{1, 2, 3} { // one trouble, from the disk's loss on
		if err := json.Unmarshal(events[i].Data, &d); err != nil || !d.Since.Equal(since) {
			t.Errorf("event %q has a problem since %s, %v; want since %s", events[i].Text, d.Since, err, since)
		}
	}
}

// TestHealthIsTheMachinesOwn: who may tell, and until when.
func TestHealthIsTheMachinesOwn(t *testing.T) {
	b, token := mirroredBench(t)
	here := b.from
	if got := b.say("wrong", twoDisks); got != http.StatusUnauthorized {
		t.Errorf("report with a wrong token = %d; want 401", got)
	}
	if r, _ := b.p.latest("gpu-01"); b.say(r.doc().Token, twoDisks) != http.StatusUnauthorized {
		t.Error("a report with the token of the run is taken; want 401")
	}
	b.from = "10.77.0.12:999"
	if got := b.say(token, twoDisks); got != http.StatusForbidden {
		t.Errorf("report from another address = %d; want 403", got)
	}
	b.from = here
	if got := b.say(token, "array md0 level raid1\n"); got != http.StatusBadRequest {
		t.Errorf("half a report = %d; want 400", got)
	}
	if got := b.say(token, strings.Repeat("x\n", maxHealth)); got != http.StatusBadRequest {
		t.Errorf("a huge report = %d; want 400", got)
	}
	if got := b.healthEvents(); len(got) != 0 {
		t.Errorf("events %+v of reports that were refused; want none", got)
	}
	if got := b.say(token, twoDisks); got != http.StatusNoContent {
		t.Fatalf("report = %d; want 204", got)
	}
	for _, v := range []any{b.healthEvents()} {
		if j, err := json.Marshal(v); err != nil || strings.Contains(string(j), token) {
			t.Errorf("the system's token is on the timeline, or %v", err)
		}
	}
	// An inspection leaves the system, and its token; a deployment makes another.
	if _, err := b.p.Inspect(t.Context(), "user:test", []string{"gpu-01"}); err != nil {
		t.Fatal(err)
	}
	if got := b.say(token, twoDisks); got != http.StatusNoContent {
		t.Errorf("report during an inspection = %d; want 204", got)
	}
	if err := b.p.Abort(t.Context(), "user:test", "gpu-01"); err != nil {
		t.Fatal(err)
	}
	if got := b.say(token, twoDisks); got != http.StatusNoContent {
		t.Errorf("report after an inspection = %d; want 204", got)
	}
	b.deploy("gpu-01")
	if got := b.say(token, twoDisks); got != http.StatusUnauthorized {
		t.Errorf("report of the system before = %d; want 401", got)
	}
	if st, err := b.store.Status(t.Context(), "gpu-01"); err != nil || st.Health != nil {
		t.Errorf("health of a machine that is deployed anew = %+v, %v; want none yet", st.Health, err)
	}
}

// TestHealthScript runs the script of installed systems on directories that
// look like the kernel's, against answers of all kinds.
func TestHealthScript(t *testing.T) {
	needTools(t, "sh", "curl")
	for _, tt := range []struct {
		name   string
		status int // of the answer, 0 = nobody is there
		ok     bool
	}{
		{"taken", http.StatusNoContent, true},
		{"another system is there now", http.StatusUnauthorized, true},
		{"a server that does not know it", http.StatusNotFound, true},
		{"not its address", http.StatusForbidden, false},
		{"server in trouble", http.StatusInternalServerError, false},
		{"nobody there", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got, auth string
			ts := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				b, err := io.ReadAll(req.Body)
				if err != nil {
					t.Error(err)
				}
				got, auth = string(b), req.Header.Get("Authorization")
				w.WriteHeader(tt.status)
			}))
			defer ts.Close()
			dir := t.TempDir()
			write := func(name, text string, mode os.FileMode) {
				t.Helper()
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), mode); err != nil {
					t.Fatal(err)
				}
			}
			write("etc/ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ts.Certificate().Raw})), 0o600)
			for _, f := range watchFiles(Watched{Token: "secret"}, ts.URL) {
				if f.Path == "/etc/fettle/health" {
					write("etc/health", strings.ReplaceAll(string(f.Content), "/etc/fettle", dir+"/etc"), 0o600)
				}
			}
			for name, text := range map[string]string{
				"vda/serial": "SN-A\n", "vda/vda3/partition": "3", "nvme0n1/device/serial": "SN-B   \n", "nvme0n1/nvme0n1p3/partition": "3", "nvme0c0n1/hidden": "1",
				"sda/device/vpd_pg80": "\x00\x80\x00\x06 SN C ", "sdb/device/wwid": "t10.ATA     QEMU HARDDISK                           QM00001   \n",
				"sdc/wwid": "naa.5000\n", "loop0/size": "0", "sdd/size": "1",
				"md127/md/level": "raid1\n", "md127/md/array_state": "clean\n", "md127/md/raid_disks": "2\n", "md127/md/sync_action": "recover\n", "md127/md/sync_completed": "1 / 4\n",
				"md127/md/dev-vda3/state": "spare\n", "md127/md/dev-vda3/slot": "0\n", "md127/md/dev-nvme0n1p3/state": "in_sync\n", "md127/md/dev-nvme0n1p3/slot": "1\n",
			} {
				write("block/"+name, text, 0o600)
			}
			for part, at := range map[string]string{"vda3": "vda/vda3", "nvme0n1p3": "nvme0n1/nvme0n1p3"} {
				if err := os.Symlink(filepath.Join(dir, "block", at), filepath.Join(dir, "block/md127/md/dev-"+part+"/block")); err != nil {
					t.Fatal(err)
				}
			}
			write("bin/mdadm", "#!/bin/sh\n[ \"$*\" = '--detail --export /dev/md127' ] && echo MD_LEVEL=raid1 && echo MD_NAME=any:root\n", 0o755)
			if tt.status == 0 {
				ts.Close()
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.NewReplacer("/etc/fettle", dir+"/etc", "/sys/block", dir+"/block").Replace(string(healthScript)))
			cmd.Env = append(os.Environ(), "PATH="+dir+"/bin:"+os.Getenv("PATH"))
			out, err := cmd.CombinedOutput()
			if (err == nil) != tt.ok {
				t.Errorf("health = %v; want success %v\n%s", err, tt.ok, out)
			}
			if strings.Contains(string(out), "secret") {
				t.Errorf("health prints its token: %s", out)
			}
			if tt.status == 0 {
				return
			}
			rep, err := parseDisks(strings.NewReader(got))
			if err != nil || auth != "Bearer secret" {
				t.Fatalf("health sent %q with %q: %v", got, auth, err)
			}
			var serials []string
			for _, name := range []string{"vda", "nvme0n1", "sda", "sdb", "sdc", "sdd"} {
				serials = append(serials, rep.disks[name].serial)
			}
			if s := strings.Join(serials, "|"); s != "SN-A|SN-B|SN C|QM00001|naa.5000|" || len(rep.disks) != 6 {
				t.Errorf("serial numbers %q of %v; want those of six disks", s, rep.disks)
			}
			j, err := json.Marshal(rep.arrays)
			if want := `[{"name":"root","device":"md127","level":"raid1","members":[{"serial":"SN-A","device":"vda3","state":"rebuilding"},{"serial":"SN-B","device":"nvme0n1p3","state":"working"}],"sync":"recover","percent":25}]`; err != nil || string(j) != want {
				t.Errorf("arrays %s, %v; want %s", j, err, want)
			}
		})
	}
}

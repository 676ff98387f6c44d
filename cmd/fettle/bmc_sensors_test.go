package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

func TestBMCSensors(t *testing.T) {
	r := newBMCRig(t)
	if got := r.run(t, "", nil, "power", "on", "gpu-01"); got.status != exitOK {
		t.Fatal(got.err)
	}
	r.mem["gpu-01"].SetFault(vbmc.Fault{Sensors: map[string]float64{"Fan3": 120, "GPU8Temp": 91.5}})
	got := r.run(t, "", nil, "sensors", "gpu-01")
	for _, want := range []string{"gpu-01   Inlet Temp", "temperature  23", "GPU8 Temp", "91.5", "Fan3", "fan", "RPM", "12V Rail"} {
		if got.status != exitOK || !strings.Contains(got.stdout, want) {
			t.Errorf("bmc sensors = %d, %q; want %q in it", got.status, got.stdout, want)
		}
	}
	got = r.run(t, "", nil, "sensors", "--problems", "gpu-01")
	if lines := strings.Split(strings.TrimSpace(got.stdout), "\n"); len(lines) != 3 || !strings.Contains(got.stdout, "Fan3") || !strings.Contains(got.stdout, "GPU8 Temp") {
		t.Errorf("bmc sensors --problems = %q; want Fan3 and GPU8 Temp alone", got.stdout)
	}
	got = r.run(t, "", func(e *env) { e.json = true }, "sensors", "--problems", "gpu-02")
	if !json.Valid([]byte(got.stdout)) || !strings.Contains(got.stdout, `"sensors": []`) {
		t.Errorf("bmc sensors --problems of a sound machine = %s; want an empty list", got.stdout)
	}
}

func TestBMCSEL(t *testing.T) {
	r := newBMCRig(t)
	for _, tc := range []struct {
		args   string
		status int
		want   string
		not    string
	}{
		{"power on gpu-01", exitOK, "on", ""},
		{"sel gpu-01", exitOK, "Reset On by root.", "Log cleared"},
		{"sel --clear gpu-01", exitRefused, "", "Reset On"},
		{"sel gpu-01", exitOK, "Reset On by root.", "Log cleared"},
		{"sel --clear --yes gpu-01", exitOK, "Reset On by root.", "Log cleared"},
		{"sel gpu-01", exitOK, "Log cleared by root.", "Reset On"},
		{"sel gpu-01 gpu-03", exitFailed, "gpu-03   failed", ""},
	} {
		got := r.run(t, "", nil, strings.Fields(tc.args)...)
		if got.status != tc.status || !strings.Contains(got.stdout, tc.want) || tc.not != "" && strings.Contains(got.stdout, tc.not) {
			t.Errorf("bmc %s = %d, %q (%v); want %d with %q and without %q", tc.args, got.status, got.stdout, got.err, tc.status, tc.want, tc.not)
		}
	}
	for name, s := range r.srv {
		if n := s.Sessions(); n != 0 {
			t.Errorf("%d sessions left on %s", n, name)
		}
	}
}

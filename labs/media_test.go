package labs

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

func TestChassisMedia(t *testing.T) {
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/short.iso" {
			w.Header().Set("Content-Length", "1000")
		}
		if r.URL.Path == "/none.iso" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "an image")
	}))
	defer files.Close()
	m, hv := chassisUnderTest(t, 1)
	if err := os.MkdirAll(m.lab.r.dir.disks(), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"none.iso", "short.iso"} {
		if err := m.SetMedia(t.Context(), vbmc.Media{Image: files.URL + "/" + name}); !errors.Is(err, vbmc.ErrMedia) {
			t.Errorf("SetMedia(%s) = %v; want %v", name, err, vbmc.ErrMedia)
		}
	}
	if err := m.SetMedia(t.Context(), vbmc.Media{Image: files.URL + "/rescue.iso"}); err != nil {
		t.Fatal(err)
	}
	if err := m.SetBoot(t.Context(), vbmc.Boot{Target: vbmc.BootCd, Enabled: once}); err != nil {
		t.Fatal(err)
	}
	again, err := newMachine(m.lab, m.plan) // a BMC that restarts remembers
	if err != nil {
		t.Fatal(err)
	}
	cd := func() string {
		if i := strings.Index(hv.xml, `device="cdrom"`); i >= 0 {
			return hv.xml[i : i+strings.Index(hv.xml[i:], "</disk>")]
		}
		return ""
	}
	for _, st := range []struct {
		name  string
		first bool
	}{{"once from the CD", true}, {"then from the disk", false}} {
		if err := again.Reset(t.Context(), vbmc.ResetForceRestart); err != nil {
			t.Fatal(err)
		}
		if d := cd(); !strings.Contains(d, m.lab.r.dir.media(m.plan.Name)) || strings.Contains(d, `<boot order="1">`) != st.first {
			t.Errorf("%s: the drive is %q; want the image, first: %v", st.name, d, st.first)
		}
	}
	if b, err := os.ReadFile(m.lab.r.dir.media(m.plan.Name)); err != nil || string(b) != "an image" {
		t.Errorf("the image is %q, %v", b, err)
	}
	if err := again.SetMedia(t.Context(), vbmc.Media{}); err != nil {
		t.Fatal(err)
	}
	if err := again.Reset(t.Context(), vbmc.ResetForceRestart); err != nil {
		t.Fatal(err)
	}
	if d := cd(); d != "" {
		t.Errorf("after ejecting the drive is %q; want none", d)
	}
	if left, _ := os.ReadDir(m.lab.r.dir.disks()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

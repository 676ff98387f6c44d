package bmc

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"image"
	"image/jpeg"
	"image/png"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

func picture(t *testing.T, encode func(io.Writer, image.Image) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := encode(&b, image.NewGray(image.Rect(0, 0, 8, 8))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestScreenshotDell takes one of the crawled R750, whose iDRAC has the action.
func TestScreenshotDell(t *testing.T) {
	want := picture(t, png.Encode)
	r, _ := treeRig(t, "dell")
	answer := base64.StdEncoding.EncodeToString(want)
	r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.HasSuffix(q.URL.Path, "/DellLCService.ExportServerScreenShot") {
			return false
		}
		var body struct{ FileType string }
		if err := json.NewDecoder(q.Body).Decode(&body); err != nil || q.Method != http.MethodPost || body.FileType != "ServerScreenShot" {
			http.Error(w, "{}", http.StatusBadRequest)
			return true
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"ServerScreenShotFile": answer})
		return true
	})
	c := r.open(t)
	var got bytes.Buffer
	if s, err := c.Screenshot(t.Context(), &got); err != nil || s != (Screenshot{"png", len(want)}) || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("Screenshot() = %+v, %v, %d bytes; want the PNG of %d", s, err, got.Len(), len(want))
	}
	answer = base64.StdEncoding.EncodeToString([]byte("no signal"))
	got.Reset()
	if _, err := c.Screenshot(t.Context(), &got); err == nil || !strings.Contains(err.Error(), "no PNG, JPEG or BMP") || got.Len() > 0 {
		t.Errorf("Screenshot() of nonsense = %v, wrote %d bytes; want an error and nothing", err, got.Len())
	}
}

// TestScreenshotSupermicro takes one from a BMC that has Supermicro's pages, as
// bmclib's driver for them asks; older ones take the password as it is.
func TestScreenshotSupermicro(t *testing.T) {
	want := picture(t, func(w io.Writer, m image.Image) error { return jpeg.Encode(w, m, nil) })
	info := testInfo()
	info.Manufacturer = "Supermicro"
	b, err := vbmc.New(vbmc.Config{Chassis: vbmc.NewMemory(info), Accounts: []vbmc.Account{{User: "root", Password: "s3cret"}}})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{}
	r.serve(t, b)
	var asked []string
	login := "cm9vdA==" // base64
	early := true
	r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
		page, ok := strings.CutPrefix(q.URL.Path, "/cgi/")
		if !ok {
			return false
		}
		if name := q.URL.Query().Get("url_name"); name != "" {
			page = name
		}
		asked = append(asked, page)
		c, err := q.Cookie("SID")
		switch {
		case page == "login.cgi":
			if q.FormValue("name") == login {
				http.SetCookie(w, &http.Cookie{Name: "SID", Value: "x", Path: "/", Secure: true})
				_, _ = io.WriteString(w, `<script>url_redirect.cgi?url_name=topmenu</script>`)
			}
		case err != nil || c.Value != "x":
			http.Error(w, "who?", http.StatusForbidden)
		case page == "topmenu":
			_, _ = io.WriteString(w, `<script>SmcCsrfInsert ("CSRF_TOKEN", "tok+1");</script>`)
		case page == "op.cgi" && q.Header.Get("Csrf-Token") != "tok+1":
			http.Error(w, "forged", http.StatusForbidden)
		case page == "Snapshot" && early:
			early = false
			_, _ = io.WriteString(w, "<html>later</html>")
		case page == "Snapshot":
			_, _ = w.Write(want)
		}
		return true
	})
	for _, tc := range []struct{ login, asked string }{
		{"cm9vdA==", "login.cgi topmenu op.cgi Snapshot Snapshot logout.cgi"},
		{"root", "login.cgi login.cgi topmenu op.cgi Snapshot logout.cgi"},
		{"nobody", "login.cgi login.cgi"},
	} {
		login, asked = tc.login, nil
		c := r.open(t)
		var got bytes.Buffer
		s, err := c.Screenshot(t.Context(), &got)
		if tc.login == "nobody" {
			if err == nil || !strings.Contains(err.Error(), "do not take the login") {
				t.Errorf("Screenshot() of pages that know nobody = %v", err)
			}
		} else if err != nil || s != (Screenshot{"jpeg", len(want)}) || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("Screenshot() = %+v, %v, %d bytes; want the JPEG of %d", s, err, got.Len(), len(want))
		}
		if strings.Join(asked, " ") != tc.asked {
			t.Errorf("pages asked for %q; want %q", asked, tc.asked)
		}
	}
}

func TestScreenshotUnsupported(t *testing.T) {
	_, err := newRig(t).open(t).Screenshot(t.Context(), io.Discard)
	wantErr(t, err, ErrUnsupported, "no way to a picture")
	rig, _ := treeRig(t, "lenovo")
	_, err = rig.open(t).Screenshot(t.Context(), io.Discard)
	wantErr(t, err, ErrUnsupported, "of Lenovo")
}

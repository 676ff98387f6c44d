package bmc

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// piece is a part of a secret that stands in a text, of five characters or more.
func piece(text, of string) string {
	for n := len(of); n >= 5; n-- {
		for i := 0; i+n <= len(of); i++ {
			if strings.Contains(text, of[i:i+n]) {
				return of[i : i+n]
			}
		}
	}
	return ""
}

// TestQuotedAtTheCut: a BMC that repeats what it was told, so that it stands
// where errors cut a BMC's words off: no part of a password is left.
func TestQuotedAtTheCut(t *testing.T) {
	const next, login = Password("Kz7-fWq9_tMb4.xR"), "pL3.vN8-cY5_hJ2+"
	refuse := func(status int, text func() string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, q *http.Request) bool {
			if q.Method == http.MethodGet {
				return false
			}
			b, _ := json.Marshal(map[string]any{"error": map[string]any{"code": "Base.1.8.GeneralError", "message": "m",
				"@Message.ExtendedInfo": []any{map[string]string{"MessageId": "Base.1.8.GeneralError", "Message": text()}}}})
			w.WriteHeader(status)
			_, _ = w.Write(b)
			return true
		}
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, []byte("firmware"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, secret string
		do           func(c *Client) error
	}{
		{"a new password", string(next), func(c *Client) error { return c.ChangePassword(t.Context(), "root", next) }},
		{"the session's own", login, func(c *Client) error { return c.SetPower(t.Context(), PowerOn) }},
		{"a new password, told later", string(next), func(c *Client) error {
			if err := c.ChangePassword(t.Context(), "root", next); err == nil {
				return err
			}
			return c.SetPower(t.Context(), PowerOn)
		}},
		{"that of an image's URI", "uR1-sEcret_9", func(c *Client) error {
			return c.InsertMedia(t.Context(), "http://files:uR1-sEcret_9@files.example.org/rescue.iso")
		}},
		{"to a firmware push", login, func(c *Client) error {
			_, err := c.UpdateFirmware(t.Context(), fileSource(image, nil), nil)
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			first := r.open(t)
			if err := first.ChangePassword(t.Context(), "root", login); err != nil {
				t.Fatal(err)
			}
			target := r.target()
			target.Password = login
			c, err := Open(t.Context(), target)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(t.Context())
			pad, quoted := 0, tc.secret
			if strings.Contains(tc.name, "URI") {
				quoted = "http://files:" + tc.secret + "@files.example.org/rescue.iso"
			}
			r.intercept(refuse(http.StatusConflict, func() string { return strings.Repeat("x", pad) + " " + quoted + " is what you said" }))
			for pad = 0; pad < maxQuoted+4; pad += 3 {
				err := tc.do(c)
				if err == nil {
					t.Fatal("nil; want the BMC's refusal")
				}
				if p := piece(err.Error(), tc.secret); p != "" {
					t.Fatalf("after %d letters: %v; %q of the secret is left", pad, err, p)
				}
				if pad == 0 && !strings.Contains(err.Error(), secret) {
					t.Errorf("%v; want the BMC's words with %s in them", err, secret)
				}
			}
			r.intercept(nil)
		})
	}
}

// TestQuotedForms: a password is found however the BMC writes it.
func TestQuotedForms(t *testing.T) {
	const pw = `a"b\c<d>&e/f g  h+ü`
	d := &redfishDriver{t: Target{User: "root", Password: pw}, token: "0123456789abcdef"}
	quoted, _ := json.Marshal(pw)
	for name, text := range map[string]string{
		"plain": pw, "JSON": string(quoted), "HTML": html.EscapeString(pw), "a form": url.QueryEscape(pw), "a path": url.PathEscape(pw),
		"base64": base64.StdEncoding.EncodeToString([]byte(pw)), "the token": "0123456789abcdef",
		"basic authentication": base64.StdEncoding.EncodeToString([]byte("root:" + pw)),
	} {
		if got := d.quote("you said "+text, "so"); got != "you said "+secret+" so" && got != `you said "`+secret+`" so` {
			t.Errorf("%s: quote(%q) = %q", name, text, got)
		}
	}
	if got := d.quote("red \x1b[31malert\u009b1m\x9b\x00!"); got != "red [31malert1m!" {
		t.Errorf("quote() of what a terminal obeys = %q", got)
	}
}

// TestURIPasswords: of a URI nothing is left of a password that has an @ in it,
// nor where the URI cannot be parsed.
func TestURIPasswords(t *testing.T) {
	for _, uri := range []string{"http://u:pa@ssw0rd@h.example.org/x", "http://u:passw0rd%zz@h.example.org/x"} {
		for how, got := range map[string]string{
			"redacted": redacted(uri), "a recording": newRedaction([]byte("k")).text(uri), "quote": (&redfishDriver{}).quote(uri),
		} {
			if strings.Contains(got, "ssw0rd") || !strings.Contains(got, "h.example.org/x") {
				t.Errorf("%s of %s = %s; want it without the password", how, uri, got)
			}
		}
	}
}

// TestQuotedElsewhere: the log, and the errors of what is no HTTP.
func TestQuotedElsewhere(t *testing.T) {
	var log bytes.Buffer
	r := newRig(t)
	target := r.target()
	target.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c, err := Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method != http.MethodGet || q.URL.Path == "/redfish/v1/" || q.URL.Path == systemsPath || strings.HasPrefix(q.URL.Path, systemsPath+"/1") && strings.Count(q.URL.Path, "/") == 4 {
			return false
		}
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"error":{"message":"s3cret of `+strings.Repeat("x", 280)+` s3cret"}}`)
		return true
	})
	_, err = c.Inventory(t.Context())
	if err == nil || log.Len() == 0 {
		inv, _ := c.Inventory(context.WithoutCancel(t.Context()))
		if strings.Contains(fmt.Sprint(inv), "s3cret") || len(inv.Missing) == 0 {
			t.Errorf("the inventory repeats the password, or misses nothing: %v", inv.Missing)
		}
	} else if strings.Contains(err.Error(), "s3cret") {
		t.Errorf("Inventory() = %v", err)
	}
	if strings.Contains(log.String(), "s3cret") {
		t.Errorf("the log repeats the password: %s", log.String())
	}
	// What is no HTTP is repeated by net/http.
	r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "s3cret\r\n\r\n")
		return true
	})
	if _, err := c.Power(t.Context()); err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), secret) {
		t.Errorf("Power() of what is no HTTP = %v; want it repeated without the password", err)
	}
	r.intercept(nil)
}

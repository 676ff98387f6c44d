package bmc

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Screenshot says what a picture of a machine's screen is.
type Screenshot struct {
	Type  string `json:"type"` // "png", "jpeg", "bmp"
	Bytes int    `json:"bytes"`
}

// Screenshot writes a picture of what the machine's screen shows to w. Redfish
// has none: Dell's iDRAC has an action of its own, and Supermicro's BMC the
// preview of its pages. Others cannot, and say so.
func (c *Client) Screenshot(ctx context.Context, w io.Writer) (Screenshot, error) {
	const doing = "taking a screenshot"
	d, ctx, cancel, err := c.beginRedfish(ctx, doing)
	if err != nil {
		return Screenshot{}, err
	}
	defer cancel()
	image, err := d.screenshot(ctx)
	if err != nil {
		return Screenshot{}, c.t.own(ctx, doing, err)
	}
	kind := imageType(image)
	if kind == "" {
		return Screenshot{}, c.t.fail(doing, fmt.Errorf("the BMC answered with %d bytes that are no PNG, JPEG or BMP: the machine may be off", len(image)))
	}
	if _, err := w.Write(image); err != nil {
		return Screenshot{}, c.t.fail(doing, err)
	}
	return Screenshot{kind, len(image)}, nil
}

// imageType tells a picture by its first bytes; "" = it is none.
func imageType(b []byte) string {
	for _, x := range []struct{ kind, magic string }{{"png", "\x89PNG\r\n\x1a\n"}, {"jpeg", "\xff\xd8\xff"}, {"bmp", "BM"}} {
		if bytes.HasPrefix(b, []byte(x.magic)) {
			return x.kind
		}
	}
	return ""
}

func (d *redfishDriver) screenshot(ctx context.Context) ([]byte, error) {
	s, _, err := d.system(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range s.Links.ManagedBy {
		var mgr struct {
			Links struct {
				Oem struct {
					Dell struct{ DellLCService ref }
				}
			}
		}
		if _, err := d.get(ctx, m.path(), &mgr); err != nil {
			return nil, err
		}
		if at := mgr.Links.Oem.Dell.DellLCService.path(); at != "" {
			return d.dellScreenshot(ctx, at)
		}
	}
	vendor := d.facts(s).Vendor
	if strings.Contains(strings.ToLower(vendor), "supermicro") {
		return d.supermicroScreenshot(ctx)
	}
	if vendor == "" {
		vendor = "its maker, which it does not name,"
	}
	return nil, fmt.Errorf("%w: of %s no way to a picture of the screen is known; Dell's iDRAC and Supermicro's BMCs have one. Its serial console is fettle bmc console", ErrUnsupported, vendor)
}

// dellScreenshot asks iDRAC's lifecycle controller service.
func (d *redfishDriver) dellScreenshot(ctx context.Context, service string) ([]byte, error) {
	var svc struct {
		Actions struct {
			Export struct {
				Target string `json:"target"`
			} `json:"#DellLCService.ExportServerScreenShot"`
		}
	}
	if _, err := d.get(ctx, service, &svc); err != nil {
		return nil, err
	}
	at := localPath(svc.Actions.Export.Target)
	if at == "" {
		return nil, fmt.Errorf("%w: %s has no ExportServerScreenShot: the iDRAC is too old", ErrUnsupported, service)
	}
	a, err := d.do(ctx, http.MethodPost, at, map[string]string{"FileType": "ServerScreenShot"}, nil)
	if err != nil {
		return nil, err
	}
	var out struct{ ServerScreenShotFile []byte } // base64
	if err := json.Unmarshal(a.body, &out); err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", at, err)
	}
	return out.ServerScreenShotFile, nil
}

// smcToken is the token against forged requests in Supermicro's pages; those of
// older firmware have none.
var smcToken = regexp.MustCompile(`"CSRF[-_]TOKEN"\s*,\s*"([^"]+)"`)

// supermicroScreenshot asks for the preview that the BMC's own pages show, as
// bmclib's driver does; but over the connection whose certificate was verified,
// which that driver has no way for. The password is one that Redfish has just
// taken: the pages take it in base64, older ones as it is.
func (d *redfishDriver) supermicroScreenshot(ctx context.Context) (image []byte, err error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	hc := *d.hc
	hc.Jar = jar
	base, token := "https://"+hostPort(d.t.Address), ""
	ask := func(ctx context.Context, method, page, form string) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, method, base+"/cgi/"+page, strings.NewReader(form))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Referer", base)
		if form != "" {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		if token != "" {
			req.Header.Set("Csrf-Token", token)
		}
		resp, err := hc.Do(req)
		if err != nil {
			return nil, d.tells(err)
		}
		b, err := readAnswer(resp)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("the page /cgi/%s answered %s", page, statusText(resp.StatusCode))
		}
		return b, err
	}
	in := false
	for _, code := range []func(string) string{func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }, url.QueryEscape} {
		page, err := ask(ctx, http.MethodPost, "login.cgi", "name="+code(d.t.User)+"&pwd="+code(string(d.t.Password))+"&check=00")
		if err != nil {
			return nil, err
		}
		if in = bytes.Contains(page, []byte("url_name=topmenu")) || bytes.Contains(page, []byte("url_name=mainmenu")); in {
			break
		}
	}
	if !in {
		return nil, errors.New("the BMC's own pages do not take the login that its Redfish service takes")
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutTimeout)
		defer cancel()
		if _, lerr := ask(end, http.MethodGet, "logout.cgi", ""); lerr != nil {
			d.log.Debug("the session with the BMC's pages stays until it expires", "err", lerr)
		}
	}()
	menu, err := ask(ctx, http.MethodGet, "url_redirect.cgi?url_name=topmenu", "")
	if err != nil {
		return nil, err
	}
	if m := smcToken.FindSubmatch(menu); m != nil {
		token = string(m[1])
	}
	if _, err := ask(ctx, http.MethodPost, "op.cgi", "op=sys_preview&_="); err != nil {
		return nil, err
	}
	// It takes a moment until the picture is there.
	for pause := time.Duration(0); ; pause = 500 * time.Millisecond {
		sleep(ctx, pause)
		image, err = ask(ctx, http.MethodGet, "url_redirect.cgi?url_name=Snapshot&url_type=img", "")
		if err == nil && imageType(image) != "" || ctx.Err() != nil {
			return image, err
		}
	}
}

package web

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/state"
)

// fill makes a path of a route's pattern.
var fill = strings.NewReplacer("{name}", "gpu-01", "{network}", "boot", "{addr}", "192.0.2.9", "{file}", "style.css", "{operation}", "power", "{$}", "")

// body is a good request for a route.
func body(path string) string {
	switch path {
	case "/api/v1/plan", "/api/v1/inspect", "/api/v1/bmc/{operation}":
		return `{"machines":["gpu-01"]}`
	case "/api/v1/discovered/scan":
		return `{"prefixes":["192.0.2.0/30"]}`
	case "/api/v1/deploy":
		return `{"plan":"sha256:1","machines":["gpu-01"]}`
	default:
		return ""
	}
}

func (b *bench) do(t *testing.T, method, path, token, body string, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.http.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// Every route answers who may, refuses who may not, and is in openapi.json
// with the role that it needs.
func TestRoutesAndRoles(t *testing.T) {
	b := newBench(t)
	b.phase(t, "gpu-01", state.Ready, "")
	var doc struct {
		Paths map[string]map[string]struct {
			Role      Role                       `json:"x-role"`
			Responses map[string]json.RawMessage `json:"responses"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		t.Fatal(err)
	}
	documented := 0
	for _, ops := range doc.Paths {
		documented += len(ops)
	}
	if n := len(b.server.apiRoutes()); n != documented {
		t.Errorf("openapi.json has %d operations; the server has %d routes", documented, n)
	}
	roles := []Role{"", RoleViewer, RoleOperator, RoleAdmin}
	for _, rt := range b.server.apiRoutes() {
		op, ok := doc.Paths[rt.path][strings.ToLower(rt.method)]
		if !ok {
			t.Errorf("%s %s is not in openapi.json", rt.method, rt.path)
			continue
		}
		if op.Role != rt.role {
			t.Errorf("openapi.json says that %s %s needs role %q; the server wants %q", rt.method, rt.path, op.Role, rt.role)
		}
		for _, role := range roles {
			resp := b.do(t, rt.method, fill.Replace(rt.path), b.secret[role], body(rt.path))
			want := func(status int) bool { _, ok := op.Responses[fmt.Sprint(status)]; return ok }
			switch {
			case rt.role != "" && role == "":
				want = func(status int) bool { return status == http.StatusUnauthorized }
			case rt.role != "" && !role.includes(rt.role):
				want = func(status int) bool { return status == http.StatusForbidden }
			case rt.method == http.MethodDelete && strings.Contains(rt.path, "leases"):
				want = func(status int) bool { return status == http.StatusNotFound } // nothing is leased
			}
			if !want(resp.StatusCode) {
				t.Errorf("%s %s as %q = %s", rt.method, rt.path, role, resp.Status)
			}
			if resp.StatusCode >= 400 {
				var p Problem
				if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || p.Detail == "" || p.Status != resp.StatusCode ||
					resp.Header.Get("Content-Type") != "application/problem+json" {
					t.Errorf("%s %s as %q answered %+v, %v; want a problem", rt.method, rt.path, role, p, err)
				}
			}
		}
	}
}

func TestPages(t *testing.T) {
	b := newBench(t)
	b.phase(t, "gpu-01", state.Failed, `disk <script>alert("x")</script> is missing`)
	const lost = "root runs on 1 of 2 disks, as disk SN-A is missing: replace it"
	if _, err := b.store.Append(t.Context(), state.Event{Machine: "gpu-01", Kind: state.KindHealth, Text: lost, Data: json.RawMessage(`{"arrays":[{"name":"root","device":"md127","level":"raid1",
		"members":[{"serial":"SN-A","state":"missing"},{"serial":"<script>alert(1)</script>","device":"vdb3","state":"working"}]}],"problem":"` + lost + `"}`)}); err != nil {
		t.Fatal(err)
	}
	for _, rt := range b.server.pageRoutes() {
		if rt.method != http.MethodGet {
			continue
		}
		path := fill.Replace(rt.path)
		resp := b.do(t, rt.method, path, b.secret[RoleViewer], "")
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("GET %s = %s, %v; want 200", path, resp.Status, err)
		}
		if path == "/machines/gpu-01" && (!strings.Contains(string(text), lost) || !strings.Contains(string(text), "1 of 2 disks:")) {
			t.Errorf("GET %s does not tell of the lost disk:\n%s", path, text)
		}
		if strings.Contains(string(text), "<script>alert") {
			t.Errorf("GET %s lets an event's text run", path)
		}
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("GET %s has the policy %q", path, csp)
		}
		for _, inline := range []string{" style=", " onclick=", "<style", "http://", "https://"} {
			if strings.Contains(string(text), inline) {
				t.Errorf("GET %s has %q: nothing inline, nothing from elsewhere", path, inline)
			}
		}
		if resp := b.do(t, rt.method, path, "", ""); rt.role != "" && resp.Header.Get("Location") != "/login" {
			t.Errorf("GET %s without a token = %s; want the login page", path, resp.Status)
		}
	}
	for path, want := range map[string]int{"/machines/gpu-77": 404, "/nowhere": 404, "/static/../web.go": 404, "/static/none.js": 404, "/api/v1/nowhere": 404} {
		if resp := b.do(t, "GET", path, b.secret[RoleViewer], ""); resp.StatusCode != want && resp.StatusCode/100 != 3 {
			t.Errorf("GET %s = %s; want %d", path, resp.Status, want)
		}
	}
}

func TestLogin(t *testing.T) {
	b := newBench(t)
	form := func(token string) *http.Response {
		return b.do(t, "POST", "/login", "", url.Values{"token": {token}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	}
	if resp := form("fettle_wrong"); resp.StatusCode != http.StatusUnauthorized || len(resp.Cookies()) != 0 {
		t.Errorf("login with a wrong token = %s; want 401 and no cookie", resp.Status)
	}
	resp := form(b.secret[RoleOperator])
	if resp.StatusCode != http.StatusSeeOther || len(resp.Cookies()) != 1 {
		t.Fatalf("login = %s with %v; want 303 and a cookie", resp.Status, resp.Cookies())
	}
	c := resp.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode {
		t.Errorf("the cookie is %+v; want HttpOnly and SameSite=Strict", c)
	}
	cookie := c.Name + "=" + c.Value
	if resp := b.do(t, "GET", "/", "", "", "Cookie", cookie); resp.StatusCode != http.StatusOK {
		t.Errorf("GET / with the cookie = %s; want 200", resp.Status)
	}
	// Another site's page cannot use the cookie to act.
	resp = b.do(t, "POST", "/api/v1/inspect", "", body("/api/v1/inspect"), "Cookie", cookie, "Sec-Fetch-Site", "cross-site")
	if resp.StatusCode != http.StatusForbidden || len(b.op.asked) != 0 {
		t.Errorf("a cross-site POST = %s, asked %q; want it refused", resp.Status, b.op.asked)
	}
	resp = b.do(t, "POST", "/api/v1/inspect", "", body("/api/v1/inspect"), "Cookie", cookie, "Sec-Fetch-Site", "same-origin")
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the site's own POST = %s; want 200", resp.Status)
	}
}

func TestBadRequests(t *testing.T) {
	b := newBench(t)
	tests := []struct {
		name, method, path, body string
		header                   []string
		want                     int
	}{
		{"not JSON", "POST", "/api/v1/plan", `{"machines":`, nil, 400},
		{"unknown key", "POST", "/api/v1/plan", `{"machine":["gpu-01"]}`, nil, 400},
		{"two objects", "POST", "/api/v1/plan", body("/api/v1/plan") + "{}", nil, 400},
		{"another content type", "POST", "/api/v1/plan", body("/api/v1/plan"), []string{"Content-Type", "text/plain"}, 415},
		{"too large", "POST", "/api/v1/plan", `{"machines":["` + strings.Repeat("x", maxBody) + `"]}`, nil, 413},
		{"no plan", "POST", "/api/v1/deploy", `{"machines":["gpu-01"]}`, nil, 400},
		{"an old plan", "POST", "/api/v1/deploy", `{"plan":"x","machines":["gpu-01"]}`, nil, 409},
		{"after is no number", "GET", "/api/v1/events?after=x", "", nil, 400},
		{"negative limit", "GET", "/api/v1/events?limit=-1", "", nil, 400},
		{"unknown parameter", "GET", "/api/v1/events?folow=1", "", nil, 400},
		{"no address", "DELETE", "/api/v1/leases/boot/x", "", nil, 400},
		{"events of nobody", "GET", "/api/v1/machines/gpu-77/events", "", nil, 404},
		{"abort of nobody", "POST", "/api/v1/machines/gpu-77/abort", "", nil, 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp := b.do(t, tt.method, tt.path, b.secret[RoleAdmin], tt.body, tt.header...)
			var p Problem
			if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || resp.StatusCode != tt.want || p.Detail == "" {
				t.Errorf("%s %s = %s %+v, %v; want %d", tt.method, tt.path, resp.Status, p, err, tt.want)
			}
		})
	}
}

func TestTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	alice, err := AddToken(path, "alice", RoleAdmin)
	if err != nil {
		t.Fatal(err)
	}
	bob, err := AddToken(path, "bob", RoleViewer)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the tokens file has mode %v, %v; want 0600", info.Mode(), err)
	}
	file, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(file), alice) {
		t.Errorf("the tokens file holds a token itself: %s, %v", file, err)
	}
	tokens, err := OpenTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	if who, err := tokens.Identify(bob); err != nil || who != (Identity{"bob", RoleViewer}) {
		t.Errorf("Identify(bob's) = %v, %v; want bob, viewer", who, err)
	}
	if _, err := tokens.Identify(bob + "x"); !errors.Is(err, ErrNobody) {
		t.Errorf("Identify of no token = %v; want ErrNobody", err)
	}
	for name, role := range map[string]Role{"alice": RoleViewer, "a b": RoleViewer, "carol": "root"} {
		if _, err := AddToken(path, name, role); err == nil {
			t.Errorf("AddToken(%q, %q) = nil; want an error", name, role)
		}
	}
	// Removing a line shuts its bearer out of a running server.
	lines := slices.DeleteFunc(strings.SplitAfter(string(file), "\n"), func(l string) bool { return strings.HasPrefix(l, "alice") })
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Identify(alice); !errors.Is(err, ErrNobody) {
		t.Errorf("Identify of a removed token = %v; want ErrNobody", err)
	}
}

func TestParseTokens(t *testing.T) {
	hash := fmt.Sprintf("%x", sha256.Sum256([]byte("x")))
	tests := []struct{ name, file, want string }{
		{"good", "# comment\n\nalice admin " + hash + " # until May\n", ""},
		{"two words", "alice admin\n", "tokens:1: there are 2 words"},
		{"role", "\nalice root " + hash, `tokens:2: there is no role "root"`},
		{"short hash", "alice admin abcd", "tokens:1: the hash of alice"},
		{"long hash", "alice admin " + hash + "00", "tokens:1: the hash of alice"},
		{"twice", "alice admin " + hash + "\nalice admin " + hash, "tokens:2: alice is there twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list, err := parseTokens("tokens", []byte(tt.file))
			if tt.want == "" && (err != nil || len(list) != 1) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("parseTokens(%q) = %v, %v; want %q", tt.file, list, err, tt.want)
			}
		})
	}
}

func FuzzParseTokens(f *testing.F) {
	f.Add([]byte("alice admin " + strings.Repeat("ab", 32)))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseTokens("tokens", b)
		for _, tk := range list {
			if err != nil || tk.Role.rank() == 0 || tk.Name == "" {
				t.Errorf("parseTokens(%q) = %v, %v", b, tk, err)
			}
		}
	})
}

func TestMetrics(t *testing.T) {
	b := newBench(t)
	b.phase(t, "gpu-01", state.Ready, "")
	b.phase(t, "gpu-02", state.Ready, "")
	for machine, problem := range map[string]string{"gpu-01": "root runs on 1 of 2 disks, as disk SN-A is missing: replace it", "gpu-02": ""} {
		if _, err := b.store.Append(t.Context(), state.Event{Machine: machine, Kind: state.KindHealth, Text: problem, Data: json.RawMessage(`{"arrays":[],"problem":"` + problem + `"}`)}); err != nil {
			t.Fatal(err)
		}
	}
	b.do(t, "GET", "/api/v1/machines/gpu-02", b.secret[RoleViewer], "")
	text, err := io.ReadAll(b.do(t, "GET", "/metrics", b.secret[RoleViewer], "").Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`fettle_machines{phase="ready"} 2`, "fettle_events_total 4", "fettle_state_up 1", "fettle_machines_degraded 1",
		`fettle_http_requests_total{method="GET",route="/api/v1/machines/{name}",status="200"} 1`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("metrics lack %q:\n%s", want, text)
		}
	}
}

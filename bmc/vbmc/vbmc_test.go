package vbmc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func testInfo() Info {
	return Info{
		Name: "gpu-01", UUID: "4c4c4544-0035-3410-8050-c6c04f314733", Serial: "SN1", SKU: "SKU1", Manufacturer: "Acme", Model: "GX", BIOSVersion: "1.2",
		CPUs: 64, CPUModel: "Xeon", MemoryMiB: 2048,
		NICs:   []NIC{{ID: "NIC1", MAC: "52:54:00:00:00:01", Link: true}},
		Drives: []Drive{{ID: "Disk.Bay 0/1", Serial: "S1", Model: "M1", Bytes: 1 << 40, Protocol: "NVMe"}},
		GPUs:   []GPU{{ID: "GPU1", Model: "H100", PCI: "10de:2330"}, {ID: "GPU2", Model: "H100", PCI: "10de:2330"}},
	}
}

// service is a Server over a Memory, called without a socket.
type service struct {
	*Server
	mem *Memory
	t   testing.TB
}

func newService(t testing.TB, mod func(*Config)) service {
	t.Helper()
	m := NewMemory(testInfo())
	c := Config{Chassis: m, Accounts: []Account{{User: "root", Password: "s3cret"}, {"op", "op", Operator}, {"ro", "ro", ReadOnly}}}
	if mod != nil {
		mod(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return service{s, m, t}
}

type response struct {
	*http.Response
	text string
	body obj
}

// do sends one request; who is "user:password", a token, or "" for nobody.
func (s service) do(method, path, who, body string, hdr ...string) response {
	s.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if user, pass, ok := strings.Cut(who, ":"); ok {
		r.SetBasicAuth(user, pass)
	} else if who != "" {
		r.Header.Set("X-Auth-Token", who)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(hdr); i += 2 {
		r.Header.Set(hdr[i], hdr[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	res := response{Response: w.Result(), text: w.Body.String()}
	if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(w.Body.Bytes(), &res.body); err != nil {
			s.t.Fatalf("%s %s answered bad JSON: %v", method, path, err)
		}
	}
	infos, _ := at(res.body, "error/@Message.ExtendedInfo").([]any)
	for _, i := range infos {
		if wrong := checkMessage(i.(obj)); wrong != "" {
			s.t.Errorf("%s %s: %s", method, path, wrong)
		}
	}
	if res.Header.Get("OData-Version") != "4.0" {
		s.t.Errorf("%s %s: no OData-Version", method, path)
	}
	return res
}

const admin = "root:s3cret"

// at reads a value by its path in JSON.
func at(o obj, path string) any {
	var v any = o
	for _, k := range strings.Split(path, "/") {
		m, ok := v.(obj)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

func (r response) messageIDs() string {
	var ids []string
	infos, _ := at(r.body, "error/@Message.ExtendedInfo").([]any)
	for _, i := range infos {
		id := fmt.Sprint(at(i.(obj), "MessageId"))
		ids = append(ids, id[strings.LastIndex(id, ".")+1:])
	}
	return strings.Join(ids, " ")
}

// TestEveryLink walks the whole service from its root: every link leads to a
// resource that names itself, has a type that the metadata knows, an ETag that
// GET with If-None-Match honours, and an answer under a trailing slash.
func TestEveryLink(t *testing.T) {
	s := newService(t, nil)
	meta := s.do("GET", root+"/$metadata", "", "").text
	n := s.walk(func(p string, r response) {
		if r.StatusCode != 200 {
			t.Errorf("GET %s = %d %s", p, r.StatusCode, r.text)
			return
		}
		if r.body["@odata.id"] != p {
			t.Errorf("%s names itself %v", p, r.body["@odata.id"])
		}
		typ := strings.TrimPrefix(fmt.Sprint(r.body["@odata.type"]), "#")
		ns := typ[:strings.LastIndex(typ, ".")]
		if !strings.Contains(meta, `Namespace="`+ns+`"`) {
			t.Errorf("the metadata does not know %s of %s", ns, p)
		}
		if !strings.Contains(r.Header.Get("Link"), "describedby") {
			t.Errorf("%s has no Link to its schema", p)
		}
		if r.Header.Get("Allow") == "" || r.Header.Get("Cache-Control") == "" {
			t.Errorf("%s lacks Allow or Cache-Control", p)
		}
		tag := r.Header.Get("ETag")
		if tag == "" || tag != r.body["@odata.etag"] {
			t.Errorf("%s: ETag %q, @odata.etag %v", p, tag, r.body["@odata.etag"])
		}
		if c := s.do("GET", p+"/", admin, "", "If-None-Match", tag).StatusCode; c != 304 && !strings.Contains(p, "Log/Entries") {
			t.Errorf("GET %s/ with its ETag = %d; want 304", p, c)
		}
		if h := s.do("HEAD", p, admin, ""); h.StatusCode != 200 {
			t.Errorf("HEAD %s = %d", p, h.StatusCode)
		}
		if c := s.do("PUT", p, admin, "{}"); c.StatusCode != 405 || c.Header.Get("Allow") == "" {
			t.Errorf("PUT %s = %d, Allow %q; want 405 with Allow", p, c.StatusCode, c.Header.Get("Allow"))
		}
		if p != root+"/" {
			if c := s.do("GET", p, "", ""); c.StatusCode != 401 || c.messageIDs() == "" {
				t.Errorf("GET %s by nobody = %d; want 401 with a message", p, c.StatusCode)
			}
		}
	})
	if n < 120 {
		t.Errorf("walked %d resources; want at least 120", n)
	}
}

func TestAnswers(t *testing.T) {
	const sys, rst = systemPath, systemPath + "/Actions/ComputerSystem.Reset"
	for _, tc := range []struct {
		name, method, path, who, body string
		hdr                           []string
		status                        int
		id                            string // MessageId
		allow                         string
	}{
		{name: "root by nobody", method: "GET", path: "/redfish/v1", status: 200},
		{name: "version by nobody", method: "GET", path: "/redfish", status: 200},
		{name: "odata by nobody", method: "GET", path: root + "/odata", status: 200},
		{name: "metadata by nobody", method: "GET", path: root + "/$metadata", status: 200},
		{name: "wrong password", method: "GET", path: sys, who: "root:no", status: 401, id: "NoValidSession"},
		{name: "unknown user", method: "GET", path: sys, who: "nobody:no", status: 401, id: "NoValidSession"},
		{name: "empty user", method: "GET", path: sys, who: ":", status: 401, id: "NoValidSession"},
		{name: "wrong token", method: "GET", path: sys, who: "abc", status: 401, id: "NoValidSession"},
		{name: "unknown path by nobody", method: "GET", path: root + "/Nope", status: 401, id: "NoValidSession"},
		{name: "unknown path", method: "GET", path: root + "/Nope", who: admin, status: 404, id: "ResourceMissingAtURI"},
		{name: "unknown member", method: "GET", path: root + "/Systems/2", who: admin, status: 404, id: "ResourceMissingAtURI"},
		{name: "delete a system", method: "DELETE", path: sys, who: admin, status: 405, id: "OperationNotAllowed", allow: "GET, HEAD, PATCH"},
		{name: "get an action", method: "GET", path: rst, who: admin, status: 405, id: "OperationNotAllowed", allow: "POST"},
		{name: "unknown method", method: "BREW", path: sys, who: admin, status: 501, id: "NotImplemented"},
		{name: "unsupported query", method: "GET", path: sys + "?$orderby=x", who: admin, status: 501, id: "QueryParameterUnsupported"},
		{name: "filter of a system", method: "GET", path: sys + "?$filter=Id%20eq%20'1'", who: admin, status: 400, id: "QueryNotSupportedOnResource"},
		{name: "filter that is none", method: "GET", path: root + "/Systems?$filter=x", who: admin, status: 400, id: "QueryParameterValueFormatError"},
		{name: "excerpt of a system", method: "GET", path: sys + "?excerpt", who: admin, status: 400, id: "QueryNotSupportedOnResource"},
		{name: "only with a value", method: "GET", path: root + "/Systems?only=1", who: admin, status: 400, id: "QueryParameterValueFormatError"},
		{name: "only and expand", method: "GET", path: root + "/Systems?only&$expand=.", who: admin, status: 400, id: "QueryCombinationInvalid"},
		{name: "top of a word", method: "GET", path: root + "/Systems?$top=x", who: admin, status: 400, id: "QueryParameterValueFormatError"},
		{name: "a picture", method: "GET", path: sys, who: admin, hdr: []string{"Accept", "image/png"}, status: 406, id: "NotAcceptable"},
		{name: "any application", method: "GET", path: sys, who: admin, hdr: []string{"Accept", "image/png;q=0.5, application/*"}, status: 200},
		{name: "bad expand", method: "GET", path: sys + "?$expand=yes", who: admin, status: 400, id: "QueryParameterValueFormatError"},
		{name: "deep expand", method: "GET", path: sys + "?$expand=.($levels=99)", who: admin, status: 400, id: "QueryParameterValueFormatError"},
		{name: "other query", method: "GET", path: sys + "?speed=high", who: admin, status: 200},
		{name: "OData version", method: "GET", path: sys, who: admin, hdr: []string{"OData-Version", "3.0"}, status: 412, id: "HeaderInvalid"},
		{name: "reset without type", method: "POST", path: rst, who: admin, body: "{}", status: 400, id: "ActionParameterMissing"},
		{name: "reset of no type", method: "POST", path: rst, who: admin, body: `{"ResetType":"Explode"}`, status: 400, id: "ActionParameterValueNotInList"},
		{name: "reset of a number", method: "POST", path: rst, who: admin, body: `{"ResetType":7}`, status: 400, id: "ActionParameterValueNotInList"},
		{name: "bad JSON", method: "POST", path: rst, who: admin, body: `{"ResetType"`, status: 400, id: "MalformedJSON"},
		{name: "a list", method: "PATCH", path: sys, who: admin, body: `[]`, status: 400, id: "MalformedJSON"},
		{name: "other media", method: "POST", path: rst, who: admin, body: `{}`, hdr: []string{"Content-Type", "text/xml"}, status: 415, id: "MediaTypeNotSupported"},
		{name: "too long", method: "PATCH", path: sys, who: admin, body: `{"x":"` + strings.Repeat("x", maxBody) + `"}`, status: 413, id: "PayloadTooLarge"},
		{name: "reset by operator", method: "POST", path: rst, who: "op:op", body: `{"ResetType":"On"}`, status: 204},
		{name: "reset by reader", method: "POST", path: rst, who: "ro:ro", body: `{"ResetType":"On"}`, status: 403, id: "InsufficientPrivilege"},
		{name: "patch by reader", method: "PATCH", path: sys, who: "ro:ro", body: `{"LocationIndicatorActive":true}`, status: 403, id: "InsufficientPrivilege"},
		{name: "stale ETag", method: "PATCH", path: sys, who: admin, body: `{"LocationIndicatorActive":true}`, hdr: []string{"If-Match", `"old"`}, status: 412, id: "PreconditionFailed"},
		{name: "any ETag", method: "PATCH", path: sys, who: admin, body: `{"LocationIndicatorActive":true}`, hdr: []string{"If-Match", "*"}, status: 200},
		{name: "unknown property", method: "PATCH", path: sys, who: admin, body: `{"Nope":1}`, status: 400, id: "PropertyUnknown"},
		{name: "read-only property", method: "PATCH", path: sys, who: admin, body: `{"SerialNumber":"x"}`, status: 400, id: "PropertyNotWritable"},
		{name: "nothing", method: "PATCH", path: sys, who: admin, body: `{}`, status: 400, id: "NoOperation"},
		{name: "annotations only", method: "PATCH", path: sys, who: admin, body: `{"@odata.id":"x"}`, status: 400, id: "NoOperation"},
		{name: "light of a number", method: "PATCH", path: sys, who: admin, body: `{"LocationIndicatorActive":1}`, status: 400, id: "PropertyValueTypeError"},
		{name: "light of no colour", method: "PATCH", path: chassisPath, who: admin, body: `{"IndicatorLED":"Green"}`, status: 400, id: "PropertyValueNotInList"},
		{name: "boot of no target", method: "PATCH", path: sys, who: admin, body: `{"Boot":{"BootSourceOverrideTarget":"Tape"}}`, status: 400, id: "PropertyValueNotInList"},
		{name: "boot of a number", method: "PATCH", path: sys, who: admin, body: `{"Boot":{"BootSourceOverrideTarget":7}}`, status: 400, id: "PropertyValueTypeError"},
		{name: "boot of nothing known", method: "PATCH", path: sys, who: admin, body: `{"Boot":{"X":1}}`, status: 400, id: "PropertyUnknown"},
		{name: "boot is text", method: "PATCH", path: sys, who: admin, body: `{"Boot":"Pxe"}`, status: 400, id: "PropertyValueTypeError"},
		{name: "legacy HTTP boot", method: "PATCH", path: sys, who: admin, body: `{"Boot":{"BootSourceOverrideTarget":"UefiHttp","BootSourceOverrideMode":"Legacy"}}`, status: 400, id: "PropertyValueConflict"},
		{name: "accounts by operator", method: "POST", path: accountsPath, who: "op:op", body: `{"UserName":"x","Password":"y","RoleId":"Administrator"}`, status: 403, id: "InsufficientPrivilege"},
		{name: "role by oneself", method: "PATCH", path: accountsPath + "/2", who: "op:op", body: `{"RoleId":"Administrator"}`, status: 400, id: "PropertyNotWritable"},
		{name: "another's password", method: "PATCH", path: accountsPath + "/1", who: "op:op", body: `{"Password":"x"}`, status: 403, id: "InsufficientPrivilege"},
		{name: "own password", method: "PATCH", path: accountsPath + "/2", who: "op:op", body: `{"Password":"x"}`, status: 200},
		{name: "account twice", method: "POST", path: accountsPath, who: admin, body: `{"UserName":"op","Password":"y","RoleId":"Operator"}`, status: 400, id: "ResourceAlreadyExists"},
		{name: "account without role", method: "POST", path: accountsPath, who: admin, body: `{"UserName":"x","Password":"y"}`, status: 400, id: "PropertyMissing"},
		{name: "account of no role", method: "POST", path: accountsPath, who: admin, body: `{"UserName":"x","Password":"y","RoleId":"King"}`, status: 400, id: "PropertyValueNotInList"},
		{name: "delete oneself", method: "DELETE", path: accountsPath + "/1", who: admin, status: 400, id: "ResourceCannotBeDeleted"},
		{name: "login without password", method: "POST", path: sessionsPath, body: `{"UserName":"root"}`, status: 400, id: "PropertyMissing"},
		{name: "login of a number", method: "POST", path: sessionsPath, body: `{"UserName":1,"Password":2}`, status: 400, id: "PropertyValueTypeError"},
		{name: "login refused", method: "POST", path: sessionsPath, body: `{"UserName":"root","Password":"no"}`, status: 401, id: "ResourceAtUriUnauthorized"},
		{name: "login without a body", method: "POST", path: sessionsPath, status: 400, id: "PropertyMissing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newService(t, nil)
			r := s.do(tc.method, tc.path, tc.who, tc.body, tc.hdr...)
			if r.StatusCode != tc.status || tc.id != "" && r.messageIDs() != tc.id {
				t.Errorf("%s %s = %d %s; want %d %s", tc.method, tc.path, r.StatusCode, r.text, tc.status, tc.id)
			}
			if tc.allow != "" && r.Header.Get("Allow") != tc.allow {
				t.Errorf("Allow = %q; want %q", r.Header.Get("Allow"), tc.allow)
			}
			if tc.status == 401 && r.Header.Get("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
			if strings.Contains(r.text, "s3cret") {
				t.Error("the answer shows a password")
			}
		})
	}
}

func TestExpandAndSelect(t *testing.T) {
	s := newService(t, nil)
	r := s.do("GET", systemPath+"/Processors?$expand=.($levels=1)", admin, "")
	m, _ := r.body["Members"].([]any)
	if len(m) != 3 || at(m[1].(obj), "ProcessorType") != "GPU" {
		t.Errorf("expanded processors = %s", r.text)
	}
	if l := at(m[1].(obj), "Links/PCIeDevice").(obj); len(l) != 1 {
		t.Errorf("$expand=. expanded Links: %v", l)
	}
	r = s.do("GET", systemPath+"?$expand=*($levels=2)", admin, "")
	if at(r.body, "Storage/Members") == nil || at(r.body, "Links/Chassis") == nil {
		t.Errorf("$expand=* = %.300s", r.text)
	}
	r = s.do("GET", systemPath+"?$select=PowerState", admin, "")
	if r.body["PowerState"] != "Off" || r.body["Model"] != nil || r.body["@odata.id"] == nil {
		t.Errorf("$select = %s", r.text)
	}
}

func TestFaults(t *testing.T) {
	s := newService(t, nil)
	rst := systemPath + "/Actions/ComputerSystem.Reset"
	s.mem.SetFault(Fault{Err: errors.New("boom")})
	if r := s.do("GET", systemPath, admin, ""); r.StatusCode != 500 || r.messageIDs() != "InternalError" || strings.Contains(r.text, "boom") {
		t.Errorf("broken chassis = %d %s", r.StatusCode, r.text)
	}
	s.mem.SetFault(Fault{RefuseReset: []ResetType{ResetNmi}})
	if r := s.do("POST", rst, admin, `{"ResetType":"Nmi"}`); r.StatusCode != 400 || r.messageIDs() != "ActionParameterValueNotInList" {
		t.Errorf("refused reset = %d %s", r.StatusCode, r.text)
	}
	s.mem.SetFault(Fault{Lie: true})
	if r := s.do("POST", rst, admin, `{"ResetType":"On"}`); r.StatusCode != 204 {
		t.Errorf("lying reset = %d", r.StatusCode)
	}
	if p, _ := s.mem.Power(t.Context()); p != Off {
		t.Errorf("power after a lie = %s; want Off", p)
	}
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(testInfo())
		m.SetFault(Fault{PowerDelay: time.Minute})
		if err := m.Reset(t.Context(), ResetOn); err != nil {
			t.Fatal(err)
		}
		if p, _ := m.Power(t.Context()); p != Off {
			t.Errorf("power at once = %s; want Off", p)
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if p, _ := m.Power(t.Context()); p != On {
			t.Errorf("power after a minute = %s; want On", p)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	m := NewMemory(Info{})
	for _, tc := range []struct {
		name string
		c    Config
	}{
		{"no chassis", Config{Accounts: []Account{{"a", "b", ""}}}},
		{"no account", Config{Chassis: m}},
		{"no password", Config{Chassis: m, Accounts: []Account{{"a", "", ""}}}},
		{"twice", Config{Chassis: m, Accounts: []Account{{"a", "b", ""}, {"a", "c", ""}}}},
		{"no such role", Config{Chassis: m, Accounts: []Account{{"a", "b", "King"}}}},
	} {
		if _, err := New(tc.c); err == nil {
			t.Errorf("New(%s) gave no error", tc.name)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v", Account{"a", "hunter2", ""}, Account{"a", "hunter2", ""}, Account{"a", "hunter2", ""}); strings.Contains(s, "hunter2") {
		t.Errorf("an Account prints its password: %s", s)
	}
}

// FuzzServe: no request makes the service panic, change power without a login,
// or answer with something that is not JSON.
func FuzzServe(f *testing.F) {
	f.Add("GET", systemPath, "", "{}")
	f.Add("POST", sessionsPath, "$expand=.", `{"UserName":"root","Password":7}`)
	f.Add("PATCH", systemPath, "", `{"Boot":{"BootSourceOverrideTarget":"Pxe"}}`)
	f.Add("POST", systemPath+"/Actions/ComputerSystem.Reset", "", `{"ResetType":"On"}`)
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		s := newService(t, nil)
		for _, who := range []bool{false, true} {
			r, err := http.NewRequest(method, "http://x/", bytes.NewReader([]byte(body)))
			if err != nil {
				t.Skip()
			}
			r.URL.Path, r.URL.RawQuery = path, query
			if who {
				r.SetBasicAuth("root", "s3cret")
			}
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if p, _ := s.mem.Power(t.Context()); !who && (p != Off || w.Code == 204) {
				t.Errorf("%s %s without a login = %d, power %s", method, path, w.Code, p)
			}
			b, err := io.ReadAll(w.Body)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) > 0 && strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") && !json.Valid(b) {
				t.Errorf("%s %s answered %q", method, path, b)
			}
		}
	})
}

// TestServerIsSmall: a thousand BMCs live in one process (issue 4: 60 MB in all,
// sockets and stacks too; bmc/BENCH.md). What a Server keeps is bounded here.
func TestServerIsSmall(t *testing.T) {
	const many, most = 200, 8 << 10
	live := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, tree := range []*Tree{nil, personality(t, "dgx-h100")} {
		before := live()
		keep := make([]service, many)
		for i := range keep {
			keep[i] = newService(t, func(c *Config) { c.Tree = tree })
		}
		if n := (live() - before) / many; n > most {
			t.Errorf("a Server with its chassis keeps %d bytes (a tree: %v); want at most %d", n, tree != nil, most)
		} else {
			t.Logf("%d bytes (a tree: %v)", n, tree != nil)
		}
		runtime.KeepAlive(keep)
	}
}

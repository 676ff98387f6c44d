package bmc

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// maker is a small Redfish service written by hand: resources by path, as JSON,
// and what that maker's firmware does with requests. Each holds a few resources
// in the form in which a maker's BMCs have them, with values of our own.
type maker struct {
	res      map[string]string
	noLogin  bool // no sessions: basic authentication alone
	ifMatch  bool // PATCH and POST without If-Match are answered 428 (AMI)
	location string
	patch    func(path string, body map[string]any) int // 0 = 405
	post     func(path string, body map[string]any) int

	mu   sync.Mutex
	sent []string
}

func (m *maker) get(path string) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.res[path]
	return b, ok
}

func (m *maker) put(path, body string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.res[path] = body
}

func (m *maker) did() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.sent)
}

func (m *maker) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	p := strings.TrimRight(q.URL.Path, "/")
	user, pw, basic := q.BasicAuth()
	in := q.Header.Get("X-Auth-Token") == "tok" || m.noLogin && basic && user == "root" && pw == "s3cret"
	var body map[string]any
	raw, _ := io.ReadAll(q.Body)
	_ = json.Unmarshal(raw, &body)
	switch {
	case p == sessionsURI && q.Method == http.MethodPost && !m.noLogin:
		w.Header().Set("X-Auth-Token", "tok")
		if m.location != "none" {
			w.Header().Set("Location", sessionsURI+"/7")
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"Id":"7","Name":"Session"}`)
		return
	case p != "/redfish/v1" && !in:
		w.WriteHeader(http.StatusUnauthorized)
		return
	case q.Method == http.MethodDelete:
		m.mu.Lock()
		m.sent = append(m.sent, "DELETE "+p)
		m.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
		return
	}
	b, ok := m.get(q.URL.RequestURI())
	if !ok {
		b, ok = m.get(p)
	}
	do := map[string]func(string, map[string]any) int{http.MethodPatch: m.patch, http.MethodPost: m.post}[q.Method]
	switch {
	case q.Method == http.MethodGet && ok:
		_, _ = io.WriteString(w, b)
	case q.Method == http.MethodGet:
		http.NotFound(w, q)
	case do == nil:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case m.ifMatch && q.Header.Get("If-Match") == "":
		w.WriteHeader(http.StatusPreconditionRequired)
	default:
		m.mu.Lock()
		m.sent = append(m.sent, q.Method+" "+p+" "+string(raw))
		m.mu.Unlock()
		if status := do(p, body); status != 0 {
			w.WriteHeader(status)
			return
		}
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// open serves m and logs in.
func (m *maker) open(t *testing.T, change ...func(*Target)) *Client {
	t.Helper()
	r := &rig{}
	r.serve(t, m)
	target := r.target()
	for _, f := range change {
		f(&target)
	}
	c, err := Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	c.poll = 1e6
	t.Cleanup(func() { _ = c.Close(t.Context()) })
	return c
}

// coll is a collection of links.
func coll(paths ...string) string {
	var ms []string
	for _, p := range paths {
		ms = append(ms, `{"@odata.id":"`+p+`"}`)
	}
	return `{"Members":[` + strings.Join(ms, ",") + `]}`
}

const v1 = "/redfish/v1"

// simple is a server with one system, one chassis and one manager; more is put
// over it.
func simple(more map[string]string) map[string]string {
	res := map[string]string{
		v1:              `{"Systems":{"@odata.id":"/redfish/v1/Systems"},"Chassis":{"@odata.id":"/redfish/v1/Chassis"},"Managers":{"@odata.id":"/redfish/v1/Managers"}}`,
		v1 + "/Systems": coll(v1 + "/Systems/1"),
		v1 + "/Systems/1": `{"@odata.id":"/redfish/v1/Systems/1","Id":"1","Manufacturer":"Acme","Model":"GX","SerialNumber":"SN1","PowerState":"On","Status":{"Health":"OK"},
			"Links":{"Chassis":[{"@odata.id":"/redfish/v1/Chassis/1"}],"ManagedBy":[{"@odata.id":"/redfish/v1/Managers/1"}]}}`,
		v1 + "/Chassis":    coll(v1 + "/Chassis/1"),
		v1 + "/Chassis/1":  `{"@odata.id":"/redfish/v1/Chassis/1","Id":"1"}`,
		v1 + "/Managers":   coll(v1 + "/Managers/1"),
		v1 + "/Managers/1": `{"@odata.id":"/redfish/v1/Managers/1","Id":"1","FirmwareVersion":"1.0"}`,
	}
	maps.Copy(res, more)
	return res
}

// with is simple's system with more properties.
func with(properties string) string {
	return `{"@odata.id":"/redfish/v1/Systems/1","Id":"1","Manufacturer":"Acme","Model":"GX","SerialNumber":"SN1","PowerState":"On","Status":{"Health":"OK"},
		"Links":{"Chassis":[{"@odata.id":"/redfish/v1/Chassis/1"}],"ManagedBy":[{"@odata.id":"/redfish/v1/Managers/1"}]},` + properties + `}`
}

// inChassis is simple's chassis with more properties.
func inChassis(properties string) string {
	return `{"@odata.id":"/redfish/v1/Chassis/1","Id":"1",` + properties + `}`
}

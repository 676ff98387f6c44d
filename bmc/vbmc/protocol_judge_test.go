package vbmc

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the DMTF's Redfish protocol validator does to a service, in its order
// (read in its source, 2026-11-22): it reads the usual resources, reads them
// again without a login, changes accounts and sessions in every way, and
// keeps all answers; then every assertion looks at them, or asks some more.

// asked is the kind of a request, as the validator sorts them.
type asked int

const (
	normal asked = iota
	noAuth
	basicAuth
	badAuth
	badETag
	mixedProps
	badProp
	odataProps
	readOnlyResource
	patchCollection
	unsupported
	modifyOther
	pwdChange
	subscription
	streaming
	openapi
)

// answer is an answer with what was asked.
type answer struct {
	kind         asked
	method, uri  string
	sent, header http.Header
	request      string
	status       int
	text         string
	body         obj // nil: no JSON object
	account      bool
	role         bool
}

func (a answer) ok() bool { return a.status >= 200 && a.status < 400 }

// protocolJudge is the system under test.
type protocolJudge struct {
	t       *testing.T
	s       service
	url     string
	client  *http.Client
	token   string
	answers []answer
	secrets []string
	// of the service
	sessions, accounts, roles, netProto, sse, subs, certService, certs, privileges, systems string
	accountService                                                                          string
	root                                                                                    obj
	users                                                                                   int
}

const judgeUser, judgePassword = "root", "s3cret"

func newProtocolJudge(t *testing.T, mod func(*Config)) *protocolJudge {
	s := newService(t, mod)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.DeliverEvents(ctx, func(context.Context, Subscription, []byte) error { return nil })
	}()
	waitFor(t, "deliveries to run", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.delivering > 0 })
	srv := httptest.NewUnstartedServer(s)
	srv.EnableHTTP2 = false
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close(); cancel(); <-done })
	c := srv.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &protocolJudge{t: t, s: s, url: srv.URL, client: c, secrets: []string{judgePassword}}
}

// open sends a request; who is "user:password", a token, or "" for nobody.
func (j *protocolJudge) open(ctx context.Context, method, uri, who, body string, hdr ...string) *http.Response {
	j.t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, j.url+uri, strings.NewReader(body))
	if err != nil {
		j.t.Fatal(err)
	}
	if user, pass, ok := strings.Cut(who, ":"); ok {
		r.SetBasicAuth(user, pass)
	} else if who != "" {
		r.Header.Set("X-Auth-Token", who)
	}
	r.Header.Set("User-Agent", "python-requests/2")
	r.Header.Set("Accept", "*/*")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(hdr); i += 2 {
		if r.Header.Del(hdr[i]); hdr[i+1] != "" {
			r.Header.Set(hdr[i], hdr[i+1])
		}
	}
	res, err := j.client.Do(r)
	if err != nil {
		j.t.Fatalf("%s %s: %v", method, uri, err)
	}
	return res
}

// do sends a request and reads the answer.
func (j *protocolJudge) do(kind asked, method, uri, who, body string, hdr ...string) answer {
	j.t.Helper()
	ctx, cancel := context.WithTimeout(j.t.Context(), 20*time.Second)
	defer cancel()
	res := j.open(ctx, method, uri, who, body, hdr...)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		j.t.Fatalf("%s %s: %v", method, uri, err)
	}
	a := answer{kind: kind, method: method, uri: uri, sent: res.Request.Header, header: res.Header, request: body, status: res.StatusCode, text: string(b)}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") && json.Unmarshal(b, &a.body) != nil {
		a.body = nil
	}
	a.account = strings.HasPrefix(uri, j.accounts+"/") && j.accounts != ""
	a.role = strings.HasPrefix(uri, j.roles+"/") && j.roles != ""
	return a
}

// keep is do, and the answer counts.
func (j *protocolJudge) keep(kind asked, method, uri, who, body string, hdr ...string) answer {
	j.t.Helper()
	a := j.do(kind, method, uri, who, body, hdr...)
	j.answers = append(j.answers, a)
	return a
}

func (j *protocolJudge) get(uri string) answer { return j.keep(normal, "GET", uri, j.token, "") }

// of are the answers of a kind and a method ("": any).
func (j *protocolJudge) of(kind asked, method string) []answer {
	var out []answer
	for _, a := range j.answers {
		if a.kind == kind && (method == "" || a.method == method) {
			out = append(out, a)
		}
	}
	return out
}

// last is the last such answer of a URI.
func (j *protocolJudge) last(kind asked, method, uri string) *answer {
	for i := len(j.answers) - 1; i >= 0; i-- {
		if a := j.answers[i]; a.kind == kind && a.method == method && a.uri == uri {
			return &a
		}
	}
	return nil
}

func ref(o obj, path string) string {
	id, _ := at(o, path+"/@odata.id").(string)
	return id
}

func members(o obj) []string {
	l, _ := o["Members"].([]any)
	var out []string
	for _, m := range l {
		if m, ok := m.(obj); ok {
			out = append(out, fmt.Sprint(m["@odata.id"]))
		}
	}
	return out
}

// login is how the validator begins.
func (j *protocolJudge) login() {
	r := j.do(normal, "GET", root+"/", "", "", "OData-Version", "4.0")
	j.sessions = ref(r.body, "Links/Sessions")
	a := j.do(normal, "POST", j.sessions, "", j.credentials(judgeUser, judgePassword))
	j.token = a.header.Get("X-Auth-Token")
	if j.token == "" {
		j.t.Fatalf("login = %d %s", a.status, a.text)
	}
	j.secrets = append(j.secrets, j.token)
}

func (j *protocolJudge) credentials(user, password string) string {
	b, _ := json.Marshal(obj{"UserName": user, "Password": password}) // a map of strings
	return string(b)
}

// readAll are the default resources.
func (j *protocolJudge) readAll() {
	for _, uri := range []string{"/redfish", root + "/odata", root} {
		j.get(uri)
	}
	j.keep(normal, "GET", root+"/$metadata", j.token, "", "Accept", "application/xml")
	j.keep(openapi, "GET", root+"/openapi.yaml", j.token, "", "Accept", "application/yaml")
	j.keep(normal, "HEAD", root+"/", j.token, "")
	j.root = j.get(root + "/").body
	for _, prop := range []string{"Systems", "Chassis", "Managers"} {
		list := j.get(ref(j.root, prop))
		for i, m := range members(list.body) {
			if i > 0 && prop != "Managers" {
				break
			}
			r := j.get(m)
			if np := ref(r.body, "NetworkProtocol"); np != "" && prop == "Managers" {
				j.netProto = np
				n := j.get(np)
				if j.certs = ref(n.body, "HTTPS/Certificates"); j.certs != "" {
					j.get(j.certs)
				}
			}
		}
	}
	j.systems = ref(j.root, "Systems")
	j.accountService = ref(j.root, "AccountService")
	as := j.get(j.accountService).body
	j.accounts, j.roles, j.privileges = ref(as, "Accounts"), ref(as, "Roles"), ref(as, "PrivilegeMap")
	for _, m := range members(j.get(j.accounts).body) {
		if j.get(m).body["UserName"] == judgeUser {
			break
		}
	}
	for _, m := range members(j.get(j.roles).body) {
		j.get(m)
	}
	ss := j.get(ref(j.root, "SessionService")).body
	for _, m := range members(j.get(ref(ss, "Sessions")).body)[:1] {
		j.get(m)
	}
	if es := ref(j.root, "EventService"); es != "" {
		e := j.get(es).body
		j.subs = ref(e, "Subscriptions")
		j.sse, _ = e["ServerSentEventUri"].(string)
	}
	if j.certService = ref(j.root, "CertificateService"); j.certService != "" {
		j.get(j.certService)
	}
	for _, a := range j.of(normal, "GET") {
		j.keep(noAuth, "GET", a.uri, "", "")
	}
}

// etagOf is the present ETag of a resource, as a header.
func (j *protocolJudge) etagOf(uri, who string) []string {
	if tag := j.do(normal, "GET", uri, who, "").header.Get("ETag"); tag != "" {
		return []string{"If-Match", tag}
	}
	return nil
}

// addAccount makes an account, and tells its name, password and URI.
func (j *protocolJudge) addAccount(kind asked, who string) (user, password, uri string) {
	j.users++
	user, password = fmt.Sprintf("rfpv%04x", j.users), fmt.Sprintf("Abcdefg%03d", j.users)
	j.secrets = append(j.secrets, password)
	b, _ := json.Marshal(obj{"UserName": user, "Password": password, "RoleId": "ReadOnly"}) // a map of strings
	a := j.keep(kind, "POST", j.accounts, who, string(b))
	if a.status != 201 {
		return user, password, ""
	}
	uri = a.header.Get("Location")
	j.keep(kind, "GET", uri, who, "")
	return user, password, uri
}

// modify is everything that the validator changes.
func (j *protocolJudge) modify() {
	session := func() string {
		a := j.keep(normal, "POST", j.sessions, "", j.credentials(judgeUser, judgePassword), "Content-Type", "application/json;charset=utf-8")
		a.kind = noAuth
		j.answers = append(j.answers, a)
		return a.header.Get("Location")
	}
	one := session()
	j.keep(readOnlyResource, "PATCH", one, j.token, `{"UserName":"pRoToVAl"}`, j.etagOf(one, j.token)...)
	j.keep(normal, "DELETE", one, j.token, "")
	j.keep(patchCollection, "PATCH", j.sessions, j.token, `{"Name":"My Collection"}`, j.etagOf(j.sessions, j.token)...)

	user, password, uri := j.addAccount(normal, j.token)
	if uri == "" {
		j.t.Fatalf("no account could be made: %s", j.answers[len(j.answers)-1].text)
	}
	password = j.passwordChange(user, password, uri)
	password = j.patchAccount(uri, password)
	_, _, other := j.addAccount(normal, j.token)
	j.keep(modifyOther, "PATCH", other, user+":"+password, `{"Password":"Otherpass1"}`, j.etagOf(other, user+":"+password)...)
	j.keep(normal, "DELETE", uri, j.token, "")
	j.keep(normal, "DELETE", other, j.token, "")

	// without a login
	two := session()
	if a := j.keep(noAuth, "DELETE", two, "", ""); !a.ok() {
		j.keep(normal, "DELETE", two, j.token, "")
	}
	j.addAccount(noAuth, "")
	_, _, uri = j.addAccount(normal, j.token)
	j.keep(noAuth, "PATCH", uri, "", `{"Password":"Nobodys123"}`)
	j.keep(noAuth, "DELETE", uri, "", "")
	j.keep(normal, "DELETE", uri, j.token, "")

	j.keep(unsupported, "DELETE", root+"/", j.token, "")
	j.keep(unsupported, "FAKEMETHODFORTEST", root+"/", j.token, "")
	j.keep(basicAuth, "GET", j.sessions, judgeUser+":"+judgePassword, "", "OData-Version", "4.0")
	j.secrets = append(j.secrets, "WrongPass99", "rfpv9e40b1f54c8a")
	j.keep(badAuth, "GET", j.sessions, "rfpvbad:WrongPass99", "", "OData-Version", "4.0")
	j.keep(badAuth, "GET", root+"/RPVfoobar", "rfpv9e40b1f54c8a", "", "OData-Version", "4.0")
	j.keep(badAuth, "POST", j.sessions, "", j.credentials("rfpvbad", "WrongPass99"))
}

func (j *protocolJudge) patchAccount(uri, password string) string {
	set := func(kind asked, body string, hdr ...string) answer {
		return j.keep(kind, "PATCH", uri, j.token, body, hdr...)
	}
	if set(mixedProps, `{"Password":"Mixedprop1","BogusProp":"foo"}`, j.etagOf(uri, j.token)...).ok() {
		password = "Mixedprop1"
	}
	set(badProp, `{"BogusProp":"foo"}`, j.etagOf(uri, j.token)...)
	set(odataProps, `{"@odata.id":"`+uri+`/"}`, j.etagOf(uri, j.token)...)
	if set(normal, `{"Password":"Normalset1"}`, j.etagOf(uri, j.token)...).ok() {
		password = "Normalset1"
	}
	set(badETag, `{"Password":"Badetag123"}`, "If-Match", j.etagOf(uri, j.token)[1]+"foobar")
	return password
}

// passwordChange goes through what an account may do whose password must change.
func (j *protocolJudge) passwordChange(user, password, uri string) string {
	a := j.keep(normal, "PATCH", uri, j.token, `{"PasswordChangeRequired":true}`, j.etagOf(uri, j.token)...)
	if !a.ok() {
		return password
	}
	who := user + ":" + password
	j.keep(pwdChange, "POST", j.sessions, "", j.credentials(user, password))
	j.keep(pwdChange, "GET", uri, who, "")
	j.keep(pwdChange, "GET", j.sessions, who, "")
	j.keep(pwdChange, "PATCH", uri, who, `{"Password":"Changed123"}`, j.etagOf(uri, who)...)
	return "Changed123"
}

// sharedText is written by one goroutine and read by another.
type sharedText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (x *sharedText) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(p)
}

func (x *sharedText) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

// stream opens the server-sent events and reads them until ctx ends.
func (j *protocolJudge) stream(ctx context.Context, who, query string) (*http.Response, *sharedText, chan struct{}) {
	res := j.open(ctx, "GET", j.sse+query, who, "")
	text := &sharedText{}
	ended := make(chan struct{})
	go func() { _, _ = io.Copy(text, res.Body); close(ended) }()
	return res, text, ended
}

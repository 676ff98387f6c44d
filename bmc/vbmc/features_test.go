package vbmc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// step is a request and what it must answer.
type step struct {
	name, method, path, body string
	status                   int
	want                     map[string]any // by path in the answer's JSON
}

// run makes requests as the administrator, one after the other.
func (s service) run(t *testing.T, steps []step) {
	t.Helper()
	for _, st := range steps {
		r := s.do(st.method, st.path, admin, st.body)
		if r.StatusCode != st.status {
			t.Errorf("%s: %s %s = %d %s; want %d", st.name, st.method, st.path, r.StatusCode, r.text, st.status)
			continue
		}
		for k, want := range st.want {
			if got := fmt.Sprint(at(r.body, k)); got != fmt.Sprint(want) {
				t.Errorf("%s: %s %s: %s = %s; want %v", st.name, st.method, st.path, k, got, want)
			}
		}
	}
}

func TestVirtualMedia(t *testing.T) {
	const slot = managerPath + "/VirtualMedia/Cd"
	const sys = systemPath + "/VirtualMedia/Cd"
	s := newService(t, nil)
	s.run(t, []step{
		{"empty", "GET", slot, "", 200, map[string]any{"Inserted": false, "Image": nil, "ConnectedVia": "NotConnected"}},
		{"no image", "POST", slot + "/Actions/VirtualMedia.InsertMedia", `{}`, 400, nil},
		{"no URI", "POST", slot + "/Actions/VirtualMedia.InsertMedia", `{"Image":"disk.iso"}`, 400, nil},
		{"other scheme", "POST", slot + "/Actions/VirtualMedia.InsertMedia", `{"Image":"gopher://x/y"}`, 400, nil},
		{"unknown parameter", "POST", slot + "/Actions/VirtualMedia.InsertMedia", `{"Image":"http://x/y","Speed":1}`, 400, nil},
		{"not to be reached", "POST", slot + "/Actions/VirtualMedia.InsertMedia", `{"Image":"http://unreachable/y.iso"}`, 400, nil},
		{"still empty", "GET", slot, "", 200, map[string]any{"Inserted": false}},
		{"insert", "POST", slot + "/Actions/VirtualMedia.InsertMedia", `{"Image":"http://files.example.org/a/rescue.iso","Inserted":true,"WriteProtected":true}`, 204, nil},
		{"in the manager", "GET", slot, "", 200, map[string]any{"Inserted": true, "ImageName": "rescue.iso", "ConnectedVia": "URI", "TransferProtocolType": "HTTP"}},
		{"in the system too", "GET", sys, "", 200, map[string]any{"Inserted": true, "Image": "http://files.example.org/a/rescue.iso"}},
		{"eject", "POST", sys + "/Actions/VirtualMedia.EjectMedia", "", 204, nil},
		{"empty again", "GET", slot, "", 200, map[string]any{"Inserted": false, "Image": nil}},
		{"insert by PATCH", "PATCH", slot, `{"Image":"https://files.example.org/b.iso","Inserted":true}`, 200, map[string]any{"ImageName": "b.iso"}},
		{"eject by PATCH", "PATCH", slot, `{"Inserted":false}`, 200, map[string]any{"Inserted": false}},
	})
	if m, err := s.mem.Media(t.Context()); err != nil || m.Image != "" {
		t.Errorf("the drive holds %q, %v; want nothing", m.Image, err)
	}
}

func TestSecureBoot(t *testing.T) {
	s := newService(t, nil)
	s.run(t, []step{
		{"off", "GET", secureBootPath, "", 200, map[string]any{"SecureBootEnable": false, "SecureBootCurrentBoot": "Disabled", "SecureBootMode": "UserMode"}},
		{"on", "PATCH", secureBootPath, `{"SecureBootEnable":true}`, 200, map[string]any{"SecureBootEnable": true, "SecureBootCurrentBoot": "Disabled"}},
		{"boot", "POST", systemPath + "/Actions/ComputerSystem.Reset", `{"ResetType":"On"}`, 204, nil},
		{"holds", "GET", secureBootPath, "", 200, map[string]any{"SecureBootCurrentBoot": "Enabled"}},
		{"no such reset", "POST", secureBootPath + "/Actions/SecureBoot.ResetKeys", `{"ResetKeysType":"All"}`, 400, nil},
		{"no keys", "POST", secureBootPath + "/Actions/SecureBoot.ResetKeys", `{"ResetKeysType":"DeleteAllKeys"}`, 204, nil},
		{"setup mode", "GET", secureBootPath, "", 200, map[string]any{"SecureBootMode": "SetupMode"}},
		{"default keys", "POST", secureBootPath + "/Actions/SecureBoot.ResetKeys", `{"ResetKeysType":"ResetAllKeysToDefault"}`, 204, nil},
		{"user mode", "GET", secureBootPath, "", 200, map[string]any{"SecureBootMode": "UserMode"}},
		{"no such database", "GET", secureBootPath + "/SecureBootDatabases/nope", "", 404, nil},
	})
}

func TestPowerLimit(t *testing.T) {
	s := newService(t, nil)
	s.run(t, []step{
		{"none", "GET", limitPath, "", 200, map[string]any{"ControlMode": "Disabled", "SetPoint": nil, "AllowableMax": 1750}},
		{"too low", "PATCH", limitPath, `{"SetPoint":1}`, 400, nil},
		{"text", "PATCH", limitPath, `{"SetPoint":"much"}`, 400, nil},
		{"by the control", "PATCH", limitPath, `{"SetPoint":900,"ControlMode":"Automatic"}`, 200, map[string]any{"SetPoint": 900, "ControlMode": "Automatic"}},
		{"seen by the metrics", "GET", chassisPath + "/EnvironmentMetrics", "", 200, map[string]any{"PowerLimitWatts/SetPoint": 900}},
		{"by the metrics", "PATCH", chassisPath + "/EnvironmentMetrics", `{"PowerLimitWatts":{"SetPoint":800}}`, 200, map[string]any{"PowerLimitWatts/SetPoint": 800}},
		{"by the old resource", "PATCH", chassisPath + "/Power", `{"PowerControl":[{"PowerLimit":{"LimitInWatts":700}}]}`, 200, nil},
		{"seen", "GET", limitPath, "", 200, map[string]any{"SetPoint": 700}},
		{"lifted", "PATCH", limitPath, `{"ControlMode":"Disabled"}`, 200, map[string]any{"SetPoint": nil}},
		{"lifted by null", "PATCH", chassisPath + "/Power", `{"PowerControl":[{"PowerLimit":{"LimitInWatts":null}}]}`, 200, nil},
	})
}

func TestBootOrder(t *testing.T) {
	s := newService(t, nil)
	s.run(t, []step{
		{"first", "GET", systemPath, "", 200, map[string]any{"Boot/BootOrder": "[Boot0001 Boot0002]"}},
		{"no such option", "PATCH", systemPath, `{"Boot":{"BootOrder":["Boot0009"]}}`, 400, nil},
		{"twice", "PATCH", systemPath, `{"Boot":{"BootOrder":["Boot0001","Boot0001"]}}`, 400, nil},
		{"an option", "GET", bootOptionsPath + "/Boot0002", "", 200, map[string]any{"BootOptionEnabled": true}},
		{"disabled", "PATCH", bootOptionsPath + "/Boot0002", `{"BootOptionEnabled":false}`, 200, map[string]any{"BootOptionEnabled": false}},
		{"the other", "GET", bootOptionsPath + "/Boot0001", "", 200, map[string]any{"BootOptionEnabled": true}},
		{"with what cannot be written", "PATCH", bootOptionsPath + "/Boot0002", `{"BootOptionEnabled":true,"Alias":"Pxe"}`, 200, map[string]any{"BootOptionEnabled": true, "Alias": "Hdd"}},
		{"its alias alone", "PATCH", bootOptionsPath + "/Boot0002", `{"Alias":"Pxe"}`, 400, nil},
		{"no boolean", "PATCH", bootOptionsPath + "/Boot0002", `{"BootOptionEnabled":"no"}`, 400, nil},
		{"another option", "PATCH", bootOptionsPath + "/Boot0009", `{"BootOptionEnabled":false}`, 404, nil},
		{"disk first", "PATCH", systemPath, `{"Boot":{"BootOrder":["Boot0002","Boot0001"]}}`, 200, map[string]any{"Boot/BootOrder": "[Boot0002 Boot0001]", "Boot/BootSourceOverrideEnabled": "Disabled"}},
		{"the option", "GET", bootOptionsPath + "/Boot0002", "", 200, map[string]any{"Alias": "Hdd"}},
	})
}

func TestVolumes(t *testing.T) {
	s := newService(t, func(c *Config) {
		in := testInfo()
		in.Drives = nil
		for i := range 4 {
			in.Drives = append(in.Drives, Drive{ID: fmt.Sprintf("D%d", i), Bytes: 1000})
		}
		c.Chassis = NewMemory(in)
	})
	drives := func(ids ...string) string {
		var l []string
		for _, id := range ids {
			l = append(l, `{"@odata.id":"`+storagePath+"/Drives/"+id+`"}`)
		}
		return `"Links":{"Drives":[` + strings.Join(l, ",") + `]}`
	}
	s.run(t, []step{
		{"none", "GET", volumesPath, "", 200, map[string]any{"Members@odata.count": 0}},
		{"mirror of one", "POST", volumesPath, `{"RAIDType":"RAID1",` + drives("D0") + `}`, 400, nil},
		{"no such drive", "POST", volumesPath, `{"RAIDType":"RAID0",` + drives("D9") + `}`, 400, nil},
		{"no such kind", "POST", volumesPath, `{"RAIDType":"RAID42",` + drives("D0") + `}`, 400, nil},
		{"too large", "POST", volumesPath, `{"RAIDType":"RAID1","CapacityBytes":1001,` + drives("D0", "D1") + `}`, 400, nil},
		{"mirror", "POST", volumesPath, `{"RAIDType":"RAID1","Name":"os",` + drives("D0", "D1") + `}`, 201, map[string]any{"CapacityBytes": 1000, "Name": "os"}},
		{"drive in use", "POST", volumesPath, `{"RAIDType":"RAID0",` + drives("D1") + `}`, 400, nil},
		{"stripes", "POST", volumesPath, `{"RAIDType":"RAID0",` + drives("D2", "D3") + `}`, 201, map[string]any{"CapacityBytes": 2000}},
		{"two", "GET", volumesPath, "", 200, map[string]any{"Members@odata.count": 2}},
		{"deleted", "DELETE", volumesPath + "/1", "", 204, nil},
		{"deleted twice", "DELETE", volumesPath + "/1", "", 404, nil},
	})
}

func TestManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, nil)
		set := time.Now().Add(48 * time.Hour).UTC().Format(time.RFC3339)
		s.run(t, []step{
			{"no time", "PATCH", managerPath, `{"DateTime":"tomorrow"}`, 400, nil},
			{"clock", "PATCH", managerPath, `{"DateTime":"` + set + `"}`, 200, map[string]any{"DateTime": set}},
			{"time servers", "PATCH", protocolPath, `{"NTP":{"ProtocolEnabled":true,"NTPServers":["ntp.example.org"]}}`, 200, map[string]any{"NTP/NTPServers": "[ntp.example.org]"}},
			{"no IPMI to enable", "PATCH", protocolPath, `{"IPMI":{"ProtocolEnabled":true}}`, 400, nil},
			{"bad address", "PATCH", ethernetPath + "/1", `{"IPv4StaticAddresses":[{"Address":"x","SubnetMask":"255.255.255.0"}]}`, 400, nil},
			{"bad mask", "PATCH", ethernetPath + "/1", `{"IPv4StaticAddresses":[{"Address":"192.0.2.9","SubnetMask":"255.0.255.0"}]}`, 400, nil},
			{"bad name", "PATCH", ethernetPath + "/1", `{"HostName":"a b"}`, 400, nil},
			{"address", "PATCH", ethernetPath + "/1", `{"HostName":"bmc-1","IPv4StaticAddresses":[{"Address":"192.0.2.9","SubnetMask":"255.255.255.0","Gateway":"192.0.2.1"}]}`, 200,
				map[string]any{"HostName": "bmc-1", "DHCPv4/DHCPEnabled": false}},
			{"tagged", "PATCH", ethernetPath + "/1", `{"VLAN":{"VLANEnable":true,"VLANId":78}}`, 200, map[string]any{"VLAN/VLANId": 78}},
		})
		if l, err := s.mem.LAN(t.Context()); err != nil || l.Address.String() != "192.0.2.9/24" || l.Gateway.String() != "192.0.2.1" || l.VLAN != 78 {
			t.Errorf("LAN = %+v, %v", l, err)
		}
		tok := s.do("POST", sessionsPath, "", `{"UserName":"op","Password":"op"}`).Header.Get("X-Auth-Token")
		s.run(t, []step{
			{"reset of no type", "POST", managerPath + "/Actions/Manager.Reset", `{"ResetType":"Nmi"}`, 400, nil},
			{"reset", "POST", managerPath + "/Actions/Manager.Reset", `{"ResetType":"GracefulRestart"}`, 204, nil},
		})
		if c := s.do("GET", systemPath, tok, "").StatusCode; c != 401 {
			t.Errorf("session after a reset of the BMC = %d; want 401", c)
		}
	})
}

func TestUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		images := map[string][]byte{"http://files.example.org/bios": append(FirmwareImage("BIOS", "9.9"), make([]byte, 1<<20)...), "http://files.example.org/junk": []byte("PK")}
		s := newService(t, func(c *Config) {
			c.UpdateTime = 10 * time.Second
			c.FetchImage = func(_ context.Context, uri string) (io.ReadCloser, error) {
				b, ok := images[uri]
				if !ok {
					return nil, fmt.Errorf("404")
				}
				return io.NopCloser(bytes.NewReader(b)), nil
			}
		})
		const simple = updatePath + "/Actions/UpdateService.SimpleUpdate"
		s.run(t, []step{
			{"no image", "POST", simple, `{}`, 400, nil},
			{"no URL", "POST", simple, `{"ImageURI":"bios"}`, 400, nil},
			{"not there", "POST", simple, `{"ImageURI":"http://files.example.org/nope"}`, 400, nil},
			{"other target", "POST", simple, `{"ImageURI":"http://files.example.org/bios","Targets":["/redfish/v1/x"]}`, 400, nil},
			{"before", "GET", systemPath, "", 200, map[string]any{"BiosVersion": "1.2"}},
		})
		r := s.do("POST", simple, admin, `{"ImageURI":"http://files.example.org/bios"}`)
		monitor := r.Header.Get("Location")
		if r.StatusCode != 202 || !strings.HasSuffix(monitor, "/Monitor") {
			t.Fatalf("SimpleUpdate = %d %s, monitor %q; want 202 with a task", r.StatusCode, r.text, monitor)
		}
		task := strings.TrimSuffix(monitor, "/Monitor")
		s.run(t, []step{{"second at once", "POST", simple, `{"ImageURI":"http://files.example.org/bios"}`, 409, nil}, {"deleted while it runs", "DELETE", task, "", 409, nil}})
		time.Sleep(5 * time.Second)
		s.run(t, []step{
			{"half", "GET", task, "", 200, map[string]any{"TaskState": "Running", "PercentComplete": 50}},
			{"monitor", "GET", monitor, "", 202, nil},
			{"old version", "GET", systemPath, "", 200, map[string]any{"BiosVersion": "1.2"}},
		})
		time.Sleep(6 * time.Second)
		s.run(t, []step{
			{"done", "GET", task, "", 200, map[string]any{"TaskState": "Completed", "TaskStatus": "OK"}},
			{"monitor done", "GET", monitor, "", 204, nil},
			{"new version", "GET", systemPath, "", 200, map[string]any{"BiosVersion": "9.9"}},
			{"inventory", "GET", firmwarePath + "/BIOS", "", 200, map[string]any{"Version": "9.9"}},
		})
		// A wrong image fails in its task, as on real BMCs.
		r = s.do("POST", simple, admin, `{"ImageURI":"http://files.example.org/junk"}`)
		time.Sleep(11 * time.Second)
		s.run(t, []step{{"junk", "GET", strings.TrimSuffix(r.Header.Get("Location"), "/Monitor"), "", 200, map[string]any{"TaskState": "Exception", "TaskStatus": "Critical"}}})
		// Pushed, plain and in parts.
		var form bytes.Buffer
		mw := multipart.NewWriter(&form)
		w, err := mw.CreateFormField("UpdateParameters")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, `{"Targets":[%q]}`, firmwarePath+"/BMC")
		if w, err = mw.CreateFormFile("UpdateFile", "bmc.bin"); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(FirmwareImage("BMC", "2.0"))
		mw.Close()
		if r := s.do("POST", updatePath+"/upload", admin, form.String(), "Content-Type", mw.FormDataContentType()); r.StatusCode != 202 {
			t.Errorf("multipart push = %d %s", r.StatusCode, r.text)
		}
		time.Sleep(11 * time.Second)
		s.run(t, []step{{"BMC", "GET", managerPath, "", 200, map[string]any{"FirmwareVersion": "2.0"}}})
		if r := s.do("POST", updatePath+"/push", admin, string(FirmwareImage("BIOS", "10")), "Content-Type", "application/octet-stream"); r.StatusCode != 202 {
			t.Errorf("push = %d %s", r.StatusCode, r.text)
		}
		if r := s.do("POST", updatePath+"/push", "ro:ro", string(FirmwareImage("BIOS", "11"))); r.StatusCode != 403 {
			t.Errorf("push by a reader = %d; want 403", r.StatusCode)
		}
	})
}

func TestServerSentEvents(t *testing.T) {
	s := newService(t, nil)
	srv := httptest.NewServer(s.Server)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	open := func(query string) *bufio.Scanner {
		r, err := http.NewRequestWithContext(ctx, "GET", srv.URL+ssePath+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("root", "s3cret")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		if ct := res.Header.Get("Content-Type"); res.StatusCode != 200 || ct != "text/event-stream" {
			t.Fatalf("GET SSE = %d %s", res.StatusCode, ct)
		}
		return bufio.NewScanner(res.Body)
	}
	next := func(sc *bufio.Scanner) obj {
		for sc.Scan() {
			if data, ok := strings.CutPrefix(sc.Text(), "data: "); ok {
				var o obj
				if err := json.Unmarshal([]byte(data), &o); err != nil {
					t.Fatal(err)
				}
				return o
			}
		}
		t.Fatalf("the stream ended: %v", sc.Err())
		return nil
	}
	all, system := open(""), open("?$filter=OriginResource%20eq%20'"+systemPath+"'")
	s.run(t, []step{
		{"test event", "POST", eventsPath + "/Actions/EventService.SubmitTestEvent", `{"Message":"hello"}`, 204, nil},
		{"reset", "POST", systemPath + "/Actions/ComputerSystem.Reset", `{"ResetType":"On"}`, 204, nil},
		{"bad filter", "GET", ssePath + "?$filter=Colour%20eq%20'red'", "", 400, nil},
	})
	first := at(next(all)["Events"].([]any)[0].(obj), "Message")
	second := at(next(system)["Events"].([]any)[0].(obj), "Message")
	if first != "hello" || !strings.Contains(fmt.Sprint(second), "Reset On") {
		t.Errorf("events %q, %q; want hello, and the reset alone for the system", first, second)
	}
}

func TestSubscriptions(t *testing.T) {
	s := newService(t, nil)
	body := `{"Destination":"http://listener.example.org/events","Protocol":"Redfish","Context":"mine","HttpHeaders":[{"X-Key":"k"}]}`
	s.run(t, []step{{"nobody delivers", "POST", subscriptionsPath, body, 503, nil}})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- s.DeliverEvents(ctx, func(_ context.Context, to Subscription, b []byte) error {
			got <- to.Destination + " " + to.Headers.Get("X-Key") + " " + string(b)
			return nil
		})
	}()
	waitFor(t, "deliveries to run", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.delivering > 0 })
	s.run(t, []step{
		{"no destination", "POST", subscriptionsPath, `{"Protocol":"Redfish"}`, 400, nil},
		{"bad destination", "POST", subscriptionsPath, `{"Destination":"x","Protocol":"Redfish"}`, 400, nil},
		{"bad protocol", "POST", subscriptionsPath, `{"Destination":"http://x/","Protocol":"SNMPv3"}`, 400, nil},
		{"unknown", "POST", subscriptionsPath, `{"Destination":"http://x/","Protocol":"Redfish","Nope":1}`, 400, nil},
	})
	r := s.do("POST", subscriptionsPath, admin, body)
	if r.StatusCode != 201 {
		t.Fatalf("subscribe = %d %s", r.StatusCode, r.text)
	}
	s.run(t, []step{
		{"subscription", "GET", r.Header.Get("Location"), "", 200, map[string]any{"Context": "mine", "HttpHeaders": "[]"}},
		{"event", "POST", eventsPath + "/Actions/EventService.SubmitTestEvent", "", 204, nil},
	})
	select {
	case g := <-got:
		if !strings.HasPrefix(g, "http://listener.example.org/events k ") || !strings.Contains(g, `"Context":"mine"`) {
			t.Errorf("delivered %s", g)
		}
	case <-time.After(10 * time.Second):
		t.Error("no event was delivered")
	}
	s.run(t, []step{{"unsubscribe", "DELETE", r.Header.Get("Location"), "", 204, nil}, {"twice", "DELETE", r.Header.Get("Location"), "", 404, nil}})
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("DeliverEvents ended with %v; want %v", err, context.Canceled)
	}
}

// waitFor polls until ok, ten seconds at most.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("waited too long for %s", what)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

func TestTelemetry(t *testing.T) {
	s := newService(t, nil)
	s.do("POST", systemPath+"/Actions/ComputerSystem.Reset", admin, `{"ResetType":"On"}`)
	r := s.do("GET", reportsPath+"/"+platformReport, admin, "")
	values, _ := r.body["MetricValues"].([]any)
	if len(values) != 15 {
		t.Errorf("the report has %d values; want 15: %s", len(values), r.text)
	}
	s.run(t, []step{
		{"GPU", "GET", systemPath + "/Processors/GPU2/EnvironmentMetrics", "", 200, map[string]any{"TemperatureCelsius/Reading": 34, "PowerWatts/Reading": 72}},
		{"no GPU", "GET", systemPath + "/Processors/CPU1/EnvironmentMetrics", "", 404, nil},
	})
}

func TestCertificates(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(cn string, pub any) []byte {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	id := NewIdentity(tls.Certificate{Certificate: [][]byte{sign("old", &key.PublicKey)}, PrivateKey: key})
	s := newService(t, func(c *Config) { c.Identity = id })
	r := s.do("POST", certificatesPath+"/Actions/CertificateService.GenerateCSR", admin,
		`{"CommonName":"bmc-1.example.org","AlternativeNames":["192.0.2.9","bmc-1.example.org"],"CertificateCollection":{"@odata.id":"`+httpsCerts+`"}}`)
	b, _ := pem.Decode([]byte(fmt.Sprint(r.body["CSRString"])))
	if r.StatusCode != 200 || b == nil {
		t.Fatalf("GenerateCSR = %d %s", r.StatusCode, r.text)
	}
	csr, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil || csr.CheckSignature() != nil || csr.Subject.CommonName != "bmc-1.example.org" || len(csr.IPAddresses) != 1 {
		t.Fatalf("the signing request: %v, %+v", err, csr)
	}
	replace := func(der []byte) response {
		text, err := json.Marshal(obj{"CertificateString": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), "CertificateType": "PEM",
			"CertificateUri": link(httpsCert)})
		if err != nil {
			t.Fatal(err)
		}
		return s.do("POST", certificatesPath+"/Actions/CertificateService.ReplaceCertificate", admin, string(text))
	}
	if r := replace(sign("foreign", &key.PublicKey)); r.StatusCode != 400 {
		t.Errorf("a certificate for another key = %d %s; want 400", r.StatusCode, r.text)
	}
	if r := replace(sign("new", csr.PublicKey)); r.StatusCode != 204 {
		t.Errorf("the signed certificate = %d %s; want 204", r.StatusCode, r.text)
	}
	s.run(t, []step{{"shown", "GET", httpsCert, "", 200, map[string]any{"Subject/CommonName": "new", "SerialNumber": "07"}}})
}

// fetchFixed gives the same image for every URI.
func fetchFixed(b []byte) func(context.Context, string) (io.ReadCloser, error) {
	return func(context.Context, string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

package vbmc

import "testing"

// TestPasswordChange: who must change the password can do that, and nothing else.
func TestPasswordChange(t *testing.T) {
	s := newService(t, nil)
	if r := s.do("PATCH", accountsPath+"/2", admin, `{"PasswordChangeRequired":true}`); r.StatusCode != 200 || r.body["PasswordChangeRequired"] != true {
		t.Fatalf("PATCH = %d %s", r.StatusCode, r.text)
	}
	login := s.do("POST", sessionsPath, "", `{"UserName":"op","Password":"op"}`)
	token, own := login.Header.Get("X-Auth-Token"), login.Header.Get("Location")
	for _, tc := range []struct {
		name, method, path, body string
		status                   int
	}{
		{"the service root", "GET", root, "", 200},
		{"a system", "GET", systemPath, "", 403},
		{"a reset", "POST", systemPath + "/Actions/ComputerSystem.Reset", `{"ResetType":"On"}`, 403},
		{"another account", "GET", accountsPath + "/1", "", 403},
		{"itself", "GET", accountsPath + "/2", "", 200},
		{"its role", "PATCH", accountsPath + "/2", `{"RoleId":"Administrator"}`, 400},
		{"the duty itself", "PATCH", accountsPath + "/2", `{"PasswordChangeRequired":false}`, 400},
		{"another's session", "DELETE", sessionsPath + "/999", "", 403},
		{"its password", "PATCH", accountsPath + "/2", `{"Password":"new"}`, 200},
		{"a system then", "GET", systemPath, "", 200},
	} {
		r := s.do(tc.method, tc.path, token, tc.body)
		if r.StatusCode != tc.status || tc.status == 403 && r.messageIDs() != "PasswordChangeRequired" {
			t.Errorf("%s: %s %s = %d %s; want %d", tc.name, tc.method, tc.path, r.StatusCode, r.text, tc.status)
		}
	}
	s.do("PATCH", accountsPath+"/2", admin, `{"PasswordChangeRequired":true}`)
	if r := s.do("DELETE", own, token, ""); r.StatusCode != 204 {
		t.Errorf("logging out = %d %s; want 204", r.StatusCode, r.text)
	}
	if r := s.do("GET", accountsPath+"/1", "ro:ro", ""); r.StatusCode != 403 || r.messageIDs() != "InsufficientPrivilege" {
		t.Errorf("a reader reads another account: %d %s; want 403", r.StatusCode, r.text)
	}
}

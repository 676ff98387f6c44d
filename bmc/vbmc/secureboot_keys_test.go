package vbmc

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// members are the URIs in a collection.
func (s service) members(path string) []string {
	s.t.Helper()
	r := s.do("GET", path, admin, "")
	l, ok := r.body["Members"].([]any)
	if !ok {
		s.t.Fatalf("GET %s = %d %s; want a collection", path, r.StatusCode, r.text)
	}
	out := make([]string, len(l))
	for i, m := range l {
		out[i], _ = m.(obj)["@odata.id"].(string)
	}
	return out
}

func certificateJSON(t *testing.T) string {
	t.Helper()
	cert, err := testIdentity(t).Certificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return jsonText(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
}

// TestSecureBootKeys: databases hold what the firmware came with, take and lose
// entries, and are put back; without a platform key the firmware is in setup
// mode.
func TestSecureBootKeys(t *testing.T) {
	s := newService(t, nil)
	base := secureBootPath + "/SecureBootDatabases/"
	count := func(want string) {
		t.Helper()
		var got []string
		for _, db := range keyDatabases {
			for _, kind := range keyKinds(db) {
				if n := len(s.members(base + db + "/" + kind)); n > 0 {
					got = append(got, fmt.Sprintf("%s/%s %d", db, kind[:4], n))
				}
			}
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("the databases hold %s; want %s", strings.Join(got, ", "), want)
		}
	}
	mode := func(want string) {
		t.Helper()
		if got := s.do("GET", secureBootPath, admin, "").body["SecureBootMode"]; got != want {
			t.Errorf("SecureBootMode = %v; want %s", got, want)
		}
	}
	const first = "PK/Cert 1, KEK/Cert 1, db/Cert 1, dbx/Sign 1"
	count(first)
	if r := s.do("GET", base+"db/Certificates/1", admin, ""); !strings.Contains(r.text, `"CommonName":"fettle virtual firmware UEFI CA"`) || r.body["CertificateType"] != "PEM" {
		t.Errorf("the firmware's own certificate: %d %s", r.StatusCode, r.text)
	}
	const owner = "77fa9abd-0359-4d32-bd60-28f4e78f784b"
	text := strings.ReplaceAll(certificateJSON(t), "\n", `\n`)
	cert := fmt.Sprintf(`{"CertificateString":"%s","CertificateType":"PEM","UefiSignatureOwner":"%s"}`, text, owner)
	digest := fmt.Sprintf(`{"SignatureString":"%s","SignatureType":"EFI_CERT_SHA256_GUID","SignatureTypeRegistry":"UEFI"}`, strings.Repeat("ab", 32))
	for _, tc := range []struct {
		name, method, path, who, body string
		status                        int
		ids                           string
	}{
		{"a certificate", "POST", "db/Certificates", admin, cert, 201, ""},
		{"the same again", "POST", "db/Certificates", admin, cert, 400, "ResourceAlreadyExists"},
		{"as an operator", "POST", "KEK/Certificates", "ro:ro", cert, 403, "InsufficientPrivilege"},
		{"a digest", "POST", "dbx/Signatures", admin, digest, 201, ""},
		{"a second platform key", "POST", "PK/Certificates", admin, cert, 400, "CreateLimitReachedForResource"},
		{"no certificate", "POST", "db/Certificates", admin, `{"CertificateString":"x","CertificateType":"PEM"}`, 400, "PropertyValueFormatError"},
		{"two certificates", "POST", "KEK/Certificates", admin, fmt.Sprintf(`{"CertificateString":"%s%s","CertificateType":"PEM"}`, text, text), 400, "PropertyValueFormatError"},
		{"another form", "POST", "db/Certificates", admin, strings.Replace(cert, `"PEM"`, `"PKCS7"`, 1), 400, "PropertyValueNotInList"},
		{"no type", "POST", "db/Certificates", admin, `{"CertificateString":"x"}`, 400, "PropertyMissing"},
		{"no owner", "POST", "db/Certificates", admin, strings.Replace(cert, owner, "me", 1), 400, "PropertyValueFormatError"},
		{"an unknown property", "POST", "db/Signatures", admin, strings.Replace(digest, "{", `{"Nope":"x",`, 1), 400, "PropertyUnknown"},
		{"half a digest", "POST", "db/Signatures", admin, strings.Replace(digest, "abab", "", 1), 400, "PropertyValueFormatError"},
		{"signatures of the platform key", "POST", "PK/Signatures", admin, digest, 404, "ResourceMissingAtURI"},
		{"nothing", "POST", "db/Certificates", admin, `{}`, 400, "MalformedJSON"},
		{"another database", "POST", "dbz/Certificates", admin, cert, 404, "ResourceMissingAtURI"},
		{"what is not there", "DELETE", "db/Certificates/77", admin, "", 404, "ResourceMissingAtURI"},
		{"a digest as a certificate", "DELETE", "dbx/Certificates/1", admin, "", 404, "ResourceMissingAtURI"},
	} {
		r := s.do(tc.method, base+tc.path, tc.who, tc.body)
		if r.StatusCode != tc.status || tc.ids != "" && r.messageIDs() != tc.ids {
			t.Errorf("%s: %s %s = %d %s; want %d %s", tc.name, tc.method, tc.path, r.StatusCode, r.text, tc.status, tc.ids)
		}
		if at := r.Header.Get("Location"); tc.status == 201 {
			if got := s.do("GET", at, admin, ""); got.StatusCode != 200 || !slices.Contains(s.members(base+tc.path), at) {
				t.Errorf("%s: what was made is not at %s: %d %s", tc.name, at, got.StatusCode, got.text)
			}
		}
	}
	count("PK/Cert 1, KEK/Cert 1, db/Cert 2, dbx/Sign 2")
	do := func(method, path, body string) {
		t.Helper()
		if r := s.do(method, path, admin, body); r.StatusCode != http.StatusNoContent {
			t.Fatalf("%s %s = %d %s", method, path, r.StatusCode, r.text)
		}
	}
	do("DELETE", s.members(base + "db/Certificates")[1], "")
	do("POST", base+"dbx/Actions/SecureBootDatabase.ResetKeys", `{"ResetKeysType":"ResetAllKeysToDefault"}`)
	count(first)
	do("POST", base+"KEK/Actions/SecureBootDatabase.ResetKeys", `{"ResetKeysType":"DeleteAllKeys"}`)
	count("PK/Cert 1, db/Cert 1, dbx/Sign 1")
	mode("UserMode")
	do("DELETE", base+"PK/Certificates/1", "")
	mode("SetupMode")
	if r := s.do("POST", base+"PK/Certificates", admin, cert); r.StatusCode != 201 {
		t.Errorf("a platform key in setup mode = %d %s", r.StatusCode, r.text)
	}
	mode("UserMode")
	do("POST", secureBootPath+"/Actions/SecureBoot.ResetKeys", `{"ResetKeysType":"DeleteAllKeys"}`)
	count("")
	mode("SetupMode")
	do("POST", secureBootPath+"/Actions/SecureBoot.ResetKeys", `{"ResetKeysType":"ResetAllKeysToDefault"}`)
	count(first)
	mode("UserMode")
	do("POST", secureBootPath+"/Actions/SecureBoot.ResetKeys", `{"ResetKeysType":"DeletePK"}`)
	count("KEK/Cert 1, db/Cert 1, dbx/Sign 1")
	mode("SetupMode")
	if r := s.do("POST", base+"db/Actions/SecureBootDatabase.ResetKeys", admin, `{"ResetKeysType":"DeletePK"}`); r.StatusCode != 400 {
		t.Errorf("DeletePK of db = %d %s; want 400", r.StatusCode, r.text)
	}
}

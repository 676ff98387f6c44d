package vbmc

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"
)

const passwords = "an account whose password must be changed "

var securityAssertions = []assertion{
	{name: "SEC_TLS_1_1", asks: "TLS 1.1 or later is spoken", check: func(j *protocolJudge) []string {
		a := j.open(j.t.Context(), "GET", root+"/", j.token, "")
		defer a.Body.Close()
		if a.TLS == nil || a.TLS.Version < tls.VersionTLS11 {
			return wrongf("%+v", a.TLS)
		}
		return nil
	}},
	{name: "SEC_DEFAULT_CERT_REPLACE", asks: "the certificate can be replaced", check: func(j *protocolJudge) []string {
		if j.certs == "" {
			return notHere
		}
		a := j.last(normal, "GET", j.certService)
		if a == nil || at(a.body, "Actions/#CertificateService.ReplaceCertificate") == nil {
			return wrongf("no ReplaceCertificate")
		}
		return nil
	}},
	{name: "SEC_CERTS_CONFORM_X509V3", asks: "it is one of X.509 version 3", check: func(j *protocolJudge) []string {
		a := j.open(j.t.Context(), "GET", root+"/", "", "")
		defer a.Body.Close()
		if v := a.TLS.PeerCertificates[0].Version; v != 3 {
			return wrongf("version %d", v)
		}
		return nil
	}},
	{name: "SEC_BOTH_AUTH_TYPES", asks: "basic authentication and sessions both work", check: func(j *protocolJudge) []string {
		return append(every(j.of(basicAuth, "GET"), successful), j.withURI(j.sessions, successful)...)
	}},
	{name: "SEC_BASIC_AUTH_STANDALONE", asks: "basic authentication needs no session", check: func(j *protocolJudge) []string { return every(j.of(basicAuth, "GET"), successful) }},
	{name: "SEC_WRITE_REQUIRES_AUTH", asks: "nobody writes but to log in", check: func(j *protocolJudge) []string {
		return every(where(j.of(noAuth, ""), func(a answer) bool { return a.method != "GET" && a.method != "HEAD" }), func(a answer) string {
			if a.ok() != (a.method == "POST" && a.uri == j.sessions) {
				return a.text
			}
			return ""
		})
	}},
	{name: "SEC_READ_REQUIRES_AUTH", asks: "nobody reads but what is open", check: func(j *protocolJudge) []string {
		return every(j.of(noAuth, "GET"), func(a answer) string {
			if a.ok() != slices.Contains(openURIs, a.uri) {
				return a.text
			}
			return ""
		})
	}},
	{name: "SEC_REDIRECT_ENFORCES_TARGET_PRIVS", na: "there is no HTTP to redirect from: the service speaks HTTPS alone"},
	{name: "SEC_REDIRECT_TO_HTTPS", na: "there is no HTTP to redirect from: the service speaks HTTPS alone"},
	{name: "SEC_NO_PRIV_INFO_IN_MSGS", asks: "a refused login tells no secrets", check: func(j *protocolJudge) []string {
		return every(j.of(badAuth, ""), func(a answer) string {
			if a.ok() {
				return "it was let in"
			}
			for _, s := range j.secrets {
				if strings.Contains(a.text, s) {
					return "the answer shows a secret"
				}
			}
			return ""
		})
	}},
	{name: "SEC_HEADERS_FIRST", asks: "who one is comes before ETags", check: func(j *protocolJudge) []string {
		var all []answer
		for _, a := range j.found(func(a answer) bool { return a.account }) {
			all = append(all, j.do(normal, "GET", a.uri, "", "", "If-None-Match", a.header.Get("ETag")))
		}
		return every(all, isStatus(401))
	}},
	{name: "SEC_NO_AUTH_COOKIES", asks: "no cookies are set", check: func(j *protocolJudge) []string {
		return every(j.of(normal, "POST"), func(a answer) string { return a.header.Get("Set-Cookie") })
	}},
	{name: "SEC_SUPPORT_BASIC_AUTH", asks: "basic authentication works", check: func(j *protocolJudge) []string { return every(j.of(basicAuth, ""), successful) }},
	{name: "SEC_BASIC_AUTH_OVER_HTTPS", na: "there is no HTTP: the service speaks HTTPS alone"},
	{name: "SEC_CHANNEL_AUTH_HEADER", na: "the validator does not test it"},
	{name: "SEC_REQUIRE_LOGIN_SESSIONS", asks: "a login gives a token and a place", check: func(j *protocolJudge) []string {
		return every(where(j.of(noAuth, "POST"), func(a answer) bool { return a.uri == j.sessions }), func(a answer) string { return hasHeader("Location")(a) + hasHeader("X-Auth-Token")(a) })
	}},
	{name: "SEC_SESSIONS_URI_LOCATION", asks: "the service root and the SessionService name one place to log in", check: func(j *protocolJudge) []string {
		if got := ref(j.last(normal, "GET", ref(j.root, "SessionService")).body, "Sessions"); got == "" || got != j.sessions {
			return wrongf("%q and %q", got, j.sessions)
		}
		return nil
	}},
	{name: "SEC_SESSION_POST_RESPONSE", asks: "201 with the session's representation", check: func(j *protocolJudge) []string {
		return every(where(j.of(noAuth, "POST"), func(a answer) bool { return a.uri == j.sessions }), func(a answer) string {
			for _, k := range []string{"@odata.id", "@odata.type", "Id", "Name", "UserName"} {
				if a.body[k] == nil {
					return "no " + k
				}
			}
			return isStatus(201)(a)
		})
	}},
	{name: "SEC_SESSION_CREATE_HTTPS_ONLY", na: "there is no HTTP: the service speaks HTTPS alone"},
	{name: "SEC_SESSION_TERMINATION_SIDE_EFFECTS", asks: "the end of a session does not end its stream", check: func(j *protocolJudge) []string {
		ctx, cancel := context.WithTimeout(j.t.Context(), 10*time.Second)
		defer cancel()
		a := j.do(normal, "POST", j.sessions, "", j.credentials(judgeUser, judgePassword))
		res, text, ended := j.stream(ctx, a.header.Get("X-Auth-Token"), "")
		defer res.Body.Close()
		wrong := every([]answer{j.do(normal, "DELETE", a.header.Get("Location"), j.token, "")}, successful)
		j.s.logEvent("system", "OK", "after the session")
		waitFor(j.t, "an event after the session's end", func() bool { return strings.Contains(text.String(), "after the session") })
		select {
		case <-ended:
			return append(wrong, "the stream ended")
		default:
		}
		return wrong
	}},
	{name: "SEC_ACCOUNTS_SUPPORT_ETAGS", asks: "a stale ETag keeps an account from being changed", check: func(j *protocolJudge) []string { return every(j.of(badETag, "PATCH"), isStatus(412)) }},
	{name: "SEC_PWD_CHANGE_REQ_ALLOW_SESSION_LOGIN", asks: passwords + "may log in, and is told", check: func(j *protocolJudge) []string {
		return every(j.of(pwdChange, "POST"), func(a answer) string {
			if !hasMessage(a, "PasswordChangeRequired") {
				return a.text
			}
			return isStatus(201)(a)
		})
	}},
	{name: "SEC_PWD_CHANGE_REQ_ALLOW_GET_ACCOUNT", asks: passwords + "may read itself", check: func(j *protocolJudge) []string {
		return every(where(j.of(pwdChange, "GET"), func(a answer) bool { return a.account }), successful)
	}},
	{name: "SEC_PWD_CHANGE_REQ_ALLOW_PATCH_PASSWORD", asks: passwords + "may change it, and is free then", check: func(j *protocolJudge) []string {
		return every(j.of(pwdChange, "PATCH"), func(a answer) string {
			if a.status != 200 || a.body["PasswordChangeRequired"] != false {
				return a.text
			}
			return ""
		})
	}},
	{name: "SEC_PWD_CHANGE_REQ_DISALLOW_ALL_OTHERS", asks: passwords + "may do nothing else", check: func(j *protocolJudge) []string {
		return every(where(j.of(pwdChange, "GET"), func(a answer) bool { return a.uri == j.sessions }), func(a answer) string {
			if !hasMessage(a, "PasswordChangeRequired") {
				return a.text
			}
			return isStatus(403)(a)
		})
	}},
	{name: "SEC_PRIV_EQUIVALENT_ROLES", na: "the validator does not test it; there are no roles but the predefined ones"},
	{name: "SEC_PRIV_ONE_ROLE_PRE_USER", asks: "an account has one role", check: func(j *protocolJudge) []string {
		return every(j.found(func(a answer) bool { return a.account }), func(a answer) string {
			if t, _ := a.body["RoleId"].(string); t == "" {
				return a.text
			}
			return ""
		})
	}},
	{name: "SEC_PRIV_SUPPORT_PREDEFINED_ROLES", asks: "the three predefined roles have their privileges", check: func(j *protocolJudge) []string {
		seen := 0
		wrong := every(j.found(func(a answer) bool { return a.role }), func(a answer) string {
			want := privileges(fmt.Sprint(a.body["Id"]))
			got, _ := a.body["AssignedPrivileges"].([]any)
			if seen++; len(got) != len(want) {
				return a.text
			}
			return ""
		})
		if seen != 3 {
			return append(wrong, fmt.Sprintf("%d roles", seen))
		}
		return wrong
	}},
	{name: "SEC_PRIV_PREDEFINED_ROLE_NOT_MODIFIABLE", asks: "and cannot be changed", check: func(j *protocolJudge) []string {
		return every([]answer{j.do(normal, "PATCH", j.roles+"/ReadOnly", j.token, `{"AssignedPrivileges":["Login","ConfigureManager"]}`)}, func(a answer) string {
			if a.ok() {
				return a.text
			}
			return ""
		})
	}},
	{name: "SEC_PRIV_ROLE_ASSIGNED_AT_ACCOUNT_CREATE", asks: "a new account has the role that was given", check: func(j *protocolJudge) []string {
		return every(j.found(func(a answer) bool { return a.account && strings.HasPrefix(fmt.Sprint(a.body["UserName"]), "rfpv") }), func(a answer) string {
			if a.body["RoleId"] != "ReadOnly" {
				return a.text
			}
			return ""
		})
	}},
	{name: "SEC_PRIV_MODEL_SAME_FOR_ETAG_AND_ITS_DATA", asks: "who may not read something gets no ETag of it", check: func(j *protocolJudge) []string {
		return every(where(j.of(noAuth, "GET"), func(a answer) bool { return a.status == 401 }), func(a answer) string { return a.header.Get("ETag") })
	}},
	{name: "SEC_PRIV_OPERATION_TO_PRIV_MAPPING", asks: "one reader cannot change another's account", check: func(j *protocolJudge) []string {
		return every(j.of(modifyOther, "PATCH"), isStatus(403, 404))
	}},
	{name: "SEC_PRIV_REDFISH_FORUM_PRIV_REGISTRY_DEF", asks: "the privilege registry is what is enforced", check: func(j *protocolJudge) []string { return j.privilegesHold() }},
}

// privilegesHold asks, of every entity of the privilege registry that is at a
// fixed place, whether a reader's PATCH is refused where the registry says so.
func (j *protocolJudge) privilegesHold() []string {
	r := j.do(normal, "GET", j.privileges, j.token, "")
	l, _ := r.body["Mappings"].([]any)
	if len(l) < 5 {
		return wrongf("%d mappings", len(l))
	}
	var all []answer
	for _, e := range entities {
		if !strings.Contains(e.pattern, "{") {
			if a := j.do(normal, "PATCH", e.pattern, "ro:ro", "{}"); a.status != 405 && a.status != 404 {
				all = append(all, a)
			}
		}
	}
	return every(all, isStatus(403))
}

package airgap

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/blob"
)

func TestWithLogins(t *testing.T) {
	var other []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		other = append(other, r.Header.Get("Authorization"))
		io.WriteString(w, "bytes")
	}))
	defer elsewhere.Close()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, pw, _ := r.BasicAuth()
		switch {
		case user != "me" || pw != "s3cret":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/away":
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		default:
			io.WriteString(w, "bytes")
		}
	}))
	defer up.Close()
	store, err := blob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	get := func(url string, kind Kind, logins map[string]Login) error {
		f := &Fetcher{Blobs: store, Dir: t.TempDir(), Tries: 2, Sleep: func(context.Context, time.Duration) error { return nil },
			Wrap: func(next http.RoundTripper) http.RoundTripper { return WithLogins(next, logins) }}
		d := blob.FromBytes([]byte("bytes"))
		if err := store.Remove(d); err != nil {
			t.Fatal(err)
		}
		return f.Get(t.Context(), Item{Path: "x", URL: url, Size: 5, SHA256: d, Kind: kind}, nil)
	}
	logins := map[string]Login{strings.TrimPrefix(up.URL, "http://"): {"me", "s3cret"}, "mirror.example.org": {"me", "s3cret"}}
	if err := get(up.URL+"/x", KindPackage, logins); err != nil {
		t.Errorf("with its login: %v", err)
	}
	if err := get(up.URL+"/x", KindPackage, nil); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without login: %v; want 401", err)
	}
	if err := get("http://mirror.example.org/x", KindPackage, logins); err == nil || !strings.Contains(err.Error(), "write https") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("over plain http: %v; want a refusal that does not show the secret", err)
	}
	// A file whose digest a person gave may come from another host, which has no
	// business with the secret.
	if err := get(up.URL+"/away", KindFile, logins); err != nil || len(other) != 1 || other[0] != "" {
		t.Errorf("redirect: %v; the other host was sent %q", err, other)
	}
	if s := fmt.Sprintf("%v %+v %#v %s", logins, Login{"me", "s3cret"}, Login{"me", "s3cret"}, Login{"me", "s3cret"}); strings.Contains(s, "s3cret") {
		t.Errorf("a login prints as %s", s)
	}
}

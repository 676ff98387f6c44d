package bmc

import (
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// TestSecureBootKeys: entries of the databases are read, added and deleted, and
// every change is read back.
func TestSecureBootKeys(t *testing.T) {
	matrix.Test(t, "fettle, Redfish", "Secure Boot databases: read, add, delete")
	r := newRig(t)
	c := r.open(t)
	mine := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}))
	has := func(want string) {
		t.Helper()
		all, err := c.SecureBootKeys(t.Context())
		keys, missing := all.Keys, all.Missing
		var got []string
		for _, k := range keys {
			got = append(got, fmt.Sprintf("%s %s%.4s", k.Database, k.Subject, k.Digest))
			if k.Digest == "" && (len(k.Fingerprint) != 64 || k.Until == "" || k.ID == "") {
				t.Errorf("a certificate without fingerprint, end or id: %+v", k)
			}
		}
		if s := strings.Join(got, ", "); err != nil || len(missing) > 0 || s != want {
			t.Errorf("SecureBootKeys() = %s, %v, %v; want %s", s, missing, err, want)
		}
	}
	const own = "PK fettle virtual firmware Platform Key, KEK fettle virtual firmware Key Exchange Key, db fettle virtual firmware UEFI CA"
	has(own + ", dbx 2277")
	digest := KeyOrder{Database: "dbx", Digest: strings.Repeat("ab", 32)}
	for _, o := range []KeyOrder{{Database: "db", Certificate: mine}, digest, digest} { // what is there stays
		if err := c.AddSecureBootKey(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	has(own + ", db Acme Co, dbx 2277, dbx ABAB")
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"no database":    {c.AddSecureBootKey(t.Context(), KeyOrder{Digest: digest.Digest}), "say which database"},
		"another":        {c.AddSecureBootKey(t.Context(), KeyOrder{Database: "dbz", Digest: digest.Digest}), "it has PK, KEK, db, dbx"},
		"half a digest":  {c.AddSecureBootKey(t.Context(), KeyOrder{Database: "db", Digest: "abab"}), "64 hex digits"},
		"both":           {c.AddSecureBootKey(t.Context(), KeyOrder{Database: "db", Digest: digest.Digest, Certificate: mine}), "a certificate or a digest"},
		"two in one":     {c.AddSecureBootKey(t.Context(), KeyOrder{Database: "db", Certificate: mine + mine}), "more than one certificate"},
		"DER":            {c.AddSecureBootKey(t.Context(), KeyOrder{Database: "db", Certificate: "0\x82"}), "openssl x509"},
		"digest of KEK":  {c.AddSecureBootKey(t.Context(), KeyOrder{Database: "KEK", Digest: digest.Digest}), "has no place for it"},
		"a second PK":    {c.AddSecureBootKey(t.Context(), KeyOrder{Database: "PK", Certificate: mine}), "400"},
		"delete nothing": {c.DeleteSecureBootKey(t.Context(), KeyName{"db", "77"}), "has no entry 77"},
		"of nothing":     {c.DeleteSecureBootKey(t.Context(), KeyName{"dbz", "1"}), "no such database"},
	} {
		if tc.err == nil || !strings.Contains(tc.err.Error(), tc.want) || !strings.HasPrefix(tc.err.Error(), "gpu-01: ") {
			t.Errorf("%s: %v; want %q", name, tc.err, tc.want)
		}
	}
	all, err := c.SecureBootKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range all.Keys {
		if k.Subject == "Acme Co" || k.Database == "dbx" {
			if err := c.DeleteSecureBootKey(t.Context(), KeyName{k.Database, k.ID}); err != nil {
				t.Error(err)
			}
		}
	}
	has(own)
	r.mem.SetFault(vbmc.Fault{Lie: true})
	c.t.Timeout = time.Second
	if err := c.AddSecureBootKey(t.Context(), digest); !errors.Is(err, errNothing) {
		t.Errorf("AddSecureBootKey to a liar: %v; want %v", err, errNothing)
	}
	if err := c.DeleteSecureBootKey(t.Context(), KeyName{"db", "1"}); !errors.Is(err, errNothing) {
		t.Errorf("DeleteSecureBootKey of a liar: %v; want %v", err, errNothing)
	}
}

// TestSecureBootKeysOfTrees: what the crawled servers show.
func TestSecureBootKeysOfTrees(t *testing.T) {
	for name, want := range map[string]string{
		"dell":         "db 4, dbx 78, KEK 1, PK 1; Microsoft Corporation UEFI CA 2011",
		"nvidia_gb200": "KEKDefault 1, PKDefault 1, dbDefault 2, dbxDefault 26; Microsoft Windows Production PCA 2011",
		"lenovo":       "",
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := treeRig(t, name)
			c := r.open(t)
			all, err := c.SecureBootKeys(t.Context())
			keys, missing := all.Keys, all.Missing
			if want == "" {
				if !errors.Is(err, ErrUnsupported) {
					t.Errorf("SecureBootKeys() = %v; want ErrUnsupported", err)
				}
				return
			}
			count := map[string]int{}
			var order []string
			subject := ""
			for _, k := range keys {
				if count[k.Database]++; count[k.Database] == 1 {
					order = append(order, k.Database)
				}
				if strings.HasPrefix(k.Database, "db") && !strings.HasPrefix(k.Database, "dbx") && subject == "" {
					subject = k.Subject
				}
			}
			var got []string
			for _, db := range order {
				got = append(got, fmt.Sprintf("%s %d", db, count[db]))
			}
			if s := strings.Join(got, ", ") + "; " + subject; err != nil || s != want {
				t.Errorf("SecureBootKeys() = %s, %v, %v; want %s", s, missing, err, want)
			}
		})
	}
}

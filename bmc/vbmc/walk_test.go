package vbmc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"
)

// walk visits every resource that the service root leads to.
func (s service) walk(visit func(path string, r response)) int {
	s.t.Helper()
	seen := map[string]bool{}
	todo := []string{root + "/"}
	var follow func(v any)
	follow = func(v any) {
		switch x := v.(type) {
		case obj:
			for k, y := range x {
				id, ok := y.(string)
				id, _, _ = strings.Cut(id, "#") // a part of a resource (DSP0266 §6.5)
				if ok && (k == "@odata.id" || k == "@Redfish.ActionInfo") && !seen[id] {
					seen[id] = true
					todo = append(todo, id)
				}
				follow(y)
			}
		case []any:
			for _, y := range x {
				follow(y)
			}
		}
	}
	n := 0
	for ; len(todo) > 0 && n < 5000; n++ {
		p := todo[0]
		todo = todo[1:]
		r := s.do("GET", p, admin, "")
		visit(p, r)
		follow(r.body)
	}
	return n
}

// testIdentity is a certificate of its own making.
func testIdentity(t *testing.T) *Identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bmc.example.org"}, DNSNames: []string{"bmc.example.org"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return NewIdentity(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
}

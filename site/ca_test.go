package site

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var caNow = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func TestCAServesTLS(t *testing.T) {
	ca, err := NewCA("test", caNow)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := NewCA("test", caNow)
	if err != nil {
		t.Fatal(err)
	}
	ip := netip.MustParseAddr("10.77.0.1")
	cert, err := ca.Issue([]string{"fettle.example.org"}, []netip.Addr{ip}, caNow, caNow.AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		host string
		pool *x509.CertPool
		at   time.Time
		ok   bool
	}{
		{"by name", "fettle.example.org", ca.Pool(), caNow, true},
		{"by address", "10.77.0.1", ca.Pool(), caNow, true},
		{"another name", "other.example.org", ca.Pool(), caNow, false},
		{"another CA", "fettle.example.org", stranger.Pool(), caNow, false},
		{"too late", "fettle.example.org", ca.Pool(), caNow.AddDate(2, 0, 0), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := net.Pipe()
			server := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{cert}, Time: func() time.Time { return tt.at }})
			client := tls.Client(b, &tls.Config{ServerName: tt.host, RootCAs: tt.pool, Time: func() time.Time { return tt.at }})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- server.HandshakeContext(ctx) }()
			err := client.HandshakeContext(ctx)
			if (err == nil) != tt.ok {
				t.Errorf("handshake = %v; want ok %v", err, tt.ok)
			}
			_ = b.Close() // ends the server's side
			<-done
			_ = a.Close()
		})
	}
}

func TestIssueRefuses(t *testing.T) {
	ca, err := NewCA("test", caNow)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(nil, nil, caNow, caNow.AddDate(1, 0, 0)); err == nil {
		t.Error("Issue() for nobody = nil; want an error")
	}
	if _, err := ca.Issue([]string{"a"}, nil, caNow.AddDate(30, 0, 0), caNow.AddDate(31, 0, 0)); err == nil || !strings.Contains(err.Error(), "would never be valid") {
		t.Errorf("Issue() after the CA's end = %v; want an error", err)
	}
	cert, err := ca.Issue([]string{strings.Repeat("a", 63) + ".example.org"}, nil, caNow, caNow.AddDate(50, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if !cert.Leaf.NotAfter.Equal(ca.cert.NotAfter) || len(cert.Leaf.Subject.CommonName) > 64 {
		t.Errorf("certificate ends %v, name %q; want the CA's end %v and at most 64 characters", cert.Leaf.NotAfter, cert.Leaf.Subject.CommonName, ca.cert.NotAfter)
	}
}

func TestCAInFolder(t *testing.T) {
	dir, _, secrets := secretsFolder(t)
	if _, err := LoadCA(dir, secrets); err == nil || !strings.Contains(err.Error(), "fettle init") {
		t.Errorf("LoadCA() of none = %v; want how to make one", err)
	}
	ca, err := InitCA(dir, "s", secrets, caNow)
	if err != nil {
		t.Fatal(err)
	}
	back, err := LoadCA(dir, secrets)
	if err != nil || string(back.PEM()) != string(ca.PEM()) {
		t.Fatalf("LoadCA() = %v; want the CA that InitCA made", err)
	}
	if _, err := back.Issue([]string{"a"}, nil, caNow, caNow.AddDate(0, 1, 0)); err != nil {
		t.Errorf("Issue() by the loaded CA = %v; want nil", err)
	}
	if _, err := InitCA(dir, "s", secrets, caNow); err == nil {
		t.Error("InitCA() again = nil; want a refusal")
	}
	text, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil || strings.Contains(string(text), "PRIVATE") {
		t.Errorf("ca.pem = %v; want the certificate only", err)
	}
	other, err := NewCA("other", caNow)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, caFile), other.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(dir, secrets); err == nil || !strings.Contains(err.Error(), "do not belong together") {
		t.Errorf("LoadCA() of another's certificate = %v; want a refusal", err)
	}
}

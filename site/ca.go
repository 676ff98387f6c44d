package site

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

const (
	caFile = "ca.pem"
	// caSecret is the name of the CA's key in the secrets file.
	caSecret = "ca-key"
	caYears  = 20
	caBits   = 3072
	leafBits = 2048 // of IssueRSA
)

// CA is a site's own certificate authority (RFC 5280): the agent's ramdisk
// and BMC clients trust its certificate and nothing else.
type CA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewCA makes a CA in memory, valid from a day before now. Its key is RSA:
// firmware that boots by HTTPS knows nothing else (OVMF of 2022 among it).
func NewCA(name string, now time.Time) (*CA, error) {
	key, err := rsa.GenerateKey(rand.Reader, caBits)
	if err != nil {
		return nil, fmt.Errorf("making the CA's key: %w", err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "fettle CA of " + name},
		NotBefore:             now.Add(-24 * time.Hour),
		NotAfter:              now.AddDate(caYears, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("making the CA's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the CA's certificate: %w", err)
	}
	return &CA{cert, key}, nil
}

// InitCA makes the CA of a site folder: ca.pem in the folder, its key among
// the secrets. It never replaces one.
func InitCA(dir, name string, secrets *Secrets, now time.Time) (*CA, error) {
	path := filepath.Join(dir, caFile)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is already there: remove it and the secret %s if every machine shall trust a new CA", path, caSecret)
	}
	ca, err := NewCA(name, now)
	if err != nil {
		return nil, err
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return nil, err
	}
	if err := secrets.Set(caSecret, key); err != nil {
		return nil, fmt.Errorf("keeping the CA's key: %w", err)
	}
	if err := writeFile(path, ca.PEM(), 0o644); err != nil {
		return nil, fmt.Errorf("writing the CA's certificate: %w", err)
	}
	return ca, nil
}

// LoadCA opens the CA of a site folder.
func LoadCA(dir string, secrets *Secrets) (*CA, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, fmt.Errorf("the site has no CA certificate; fettle init makes one: %w", err)
	}
	key, err := secrets.Get(caSecret)
	if err != nil {
		return nil, fmt.Errorf("the key of the site's CA: %w", err)
	}
	return ParseCA(certPEM, key)
}

// ParseCA reads a CA from its certificate and key in PEM.
func ParseCA(certPEM []byte, key Secret) (*CA, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("the CA's certificate is not PEM; take ca.pem from git")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the CA's certificate cannot be read; take ca.pem from git: %w", err)
	}
	keyBlock, _ := pem.Decode([]byte(key.Reveal()))
	if keyBlock == nil {
		return nil, fmt.Errorf("the CA's key is not PEM; take secrets.age from git, or make a new CA")
	}
	k, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		// The cause could quote the key.
		return nil, errors.New("the CA's key cannot be read; take secrets.age from git, or make a new CA")
	}
	signer, ok := k.(crypto.Signer)
	if !ok || !samePublic(signer, cert.PublicKey) {
		return nil, fmt.Errorf("ca.pem and the secret %s do not belong together; take both from one commit", caSecret)
	}
	return &CA{cert, signer}, nil
}

func samePublic(k crypto.Signer, cert crypto.PublicKey) bool {
	p, ok := k.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && p.Equal(cert)
}

// PEM is the certificate.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// KeyPEM is the private key (PKCS #8), for ParseCA.
func (ca *CA) KeyPEM() (Secret, error) {
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return Secret{}, fmt.Errorf("encoding the CA's key: %w", err)
	}
	return NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))), nil
}

// Pool trusts this CA only.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Issue makes a certificate for servers and clients with these names and
// addresses. It never outlives the CA.
func (ca *CA) Issue(names []string, ips []netip.Addr, notBefore, notAfter time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a key: %w", err)
	}
	return ca.issue(key, x509.KeyUsageDigitalSignature, names, ips, notBefore, notAfter)
}

// IssueRSA makes one with an RSA key, for servers of firmware.
func (ca *CA) IssueRSA(names []string, ips []netip.Addr, notBefore, notAfter time.Time) (tls.Certificate, error) {
	key, err := rsa.GenerateKey(rand.Reader, leafBits)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a key: %w", err)
	}
	return ca.issue(key, x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment, names, ips, notBefore, notAfter)
}

func (ca *CA) issue(key crypto.Signer, usage x509.KeyUsage, names []string, ips []netip.Addr, notBefore, notAfter time.Time) (tls.Certificate, error) {
	if len(names)+len(ips) == 0 {
		return tls.Certificate{}, errors.New("a certificate needs at least one name or address")
	}
	serial, err := serialNumber()
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		DNSNames:     names,
		NotBefore:    notBefore,
		NotAfter:     notAfter,
		KeyUsage:     usage,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, ip := range ips {
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.Unmap().AsSlice()))
	}
	// RFC 5280 section 4.1.2.6 lets the subject be empty if the alternative
	// names are critical, but old BMC clients want a common name.
	if len(names) > 0 {
		template.Subject.CommonName = names[0]
	} else {
		template.Subject.CommonName = ips[0].String()
	}
	if len(template.Subject.CommonName) > 64 { // ub-common-name, RFC 5280 appendix A.1
		template.Subject.CommonName = template.Subject.CommonName[:64]
	}
	if notBefore.Before(ca.cert.NotBefore) {
		template.NotBefore = ca.cert.NotBefore
	}
	if notAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	if !template.NotBefore.Before(template.NotAfter) {
		return tls.Certificate{}, fmt.Errorf("a certificate from %s to %s would never be valid: the CA is valid from %s to %s",
			notBefore.Format(time.RFC3339), notAfter.Format(time.RFC3339), ca.cert.NotBefore.Format(time.RFC3339), ca.cert.NotAfter.Format(time.RFC3339))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("signing the certificate of %s: %w", template.Subject.CommonName, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("signing the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// serialNumber is 127 random bits: positive and under 20 octets (RFC 5280
// section 4.1.2.2).
func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

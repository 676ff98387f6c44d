package vbmc

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
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	certificatesPath = root + "/CertificateService"
	httpsCerts       = protocolPath + "/HTTPS/Certificates"
	httpsCert        = httpsCerts + "/1"
)

// Identity is the certificate and key of an HTTPS listener, which
// CertificateService can replace while it serves: give its Certificate to
// [tls.Config.GetCertificate]. It is safe for concurrent use.
type Identity struct {
	mu      sync.Mutex
	now     tls.Certificate
	pending crypto.Signer // of a signing request that was made
}

// NewIdentity starts with cert.
func NewIdentity(cert tls.Certificate) *Identity { return &Identity{now: cert} }

// Certificate is the present one.
func (i *Identity) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.now
	return &c, nil
}

// request makes a key and a signing request for it (PKCS #10).
func (i *Identity) request(tmpl x509.CertificateRequest, rsaBits int) ([]byte, error) {
	var key crypto.Signer
	var err error
	if rsaBits > 0 {
		key, err = rsa.GenerateKey(rand.Reader, rsaBits)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &tmpl, key)
	if err != nil {
		return nil, fmt.Errorf("making the signing request: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pending = key
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// replace takes a certificate chain in PEM, with its key in PEM, or for the key
// of the last signing request.
func (i *Identity) replace(text []byte) error {
	if cert, err := tls.X509KeyPair(text, text); err == nil {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.now = cert
		return nil
	}
	var chain [][]byte
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type == "CERTIFICATE" {
			chain = append(chain, b.Bytes)
		}
	}
	if len(chain) == 0 {
		return errors.New("there is no certificate in the text")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return fmt.Errorf("the certificate cannot be read: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.pending == nil {
		return errors.New("the text has no key, and no signing request was made for one")
	}
	if pub, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(i.pending.Public()) {
		return errors.New("the certificate is not for the key of the last signing request")
	}
	i.now, i.pending = tls.Certificate{Certificate: chain, PrivateKey: i.pending, Leaf: leaf}, nil
	return nil
}

func (s *Server) certificateRoutes() []*resource {
	if s.identity == nil {
		return nil
	}
	act := certificatesPath + "/Actions/CertificateService."
	return []*resource{
		{pattern: certificatesPath, get: func(*call) (obj, error) {
			return obj{"@odata.id": certificatesPath, "@odata.type": "#CertificateService.v1_0_5.CertificateService", "Id": "CertificateService", "Name": "Certificate Service",
				"CertificateLocations": link(certificatesPath + "/CertificateLocations"),
				"Actions": obj{"#CertificateService.GenerateCSR": obj{"target": act + "GenerateCSR"},
					"#CertificateService.ReplaceCertificate": obj{"target": act + "ReplaceCertificate"}}}, nil
		}},
		{pattern: certificatesPath + "/CertificateLocations", get: func(c *call) (obj, error) {
			return obj{"@odata.id": c.path, "@odata.type": "#CertificateLocations.v1_0_4.CertificateLocations", "Id": "CertificateLocations", "Name": "Certificate Locations",
				"Links": obj{"Certificates": links(httpsCert), "Certificates@odata.count": 1}}, nil
		}},
		{pattern: httpsCerts, get: func(*call) (obj, error) {
			return collection(httpsCerts, "CertificateCollection", "HTTPS Certificates", httpsCert), nil
		}},
		{pattern: httpsCert, get: s.certificate},
		{pattern: act + "GenerateCSR", priv: privManager, post: s.generateCSR},
		{pattern: act + "ReplaceCertificate", priv: privManager, post: s.replaceCertificate},
	}
}

// identifier is a Certificate.Identifier: what the name says, no more.
func identifier(n pkix.Name) obj {
	o := obj{"CommonName": n.CommonName}
	for k, l := range map[string][]string{"Organization": n.Organization, "OrganizationalUnit": n.OrganizationalUnit, "City": n.Locality, "State": n.Province, "Country": n.Country} {
		if len(l) > 0 {
			o[k] = l[0]
		}
	}
	return o
}

func (s *Server) certificate(*call) (obj, error) {
	cert, err := s.identity.Certificate(nil)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("the service's certificate: %w", err)
	}
	var text []byte
	for _, der := range cert.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	kind := "PEM"
	if len(cert.Certificate) > 1 {
		kind = "PEMchain"
	}
	o := certificateBody(httpsCert, "1", "HTTPS Certificate", leaf)
	o["CertificateString"], o["CertificateType"] = string(text), kind
	return o, nil
}

// certificateBody is a Certificate (DSP0268) without its text.
func certificateBody(path, id, name string, leaf *x509.Certificate) obj {
	return obj{"@odata.id": path, "@odata.type": "#Certificate.v1_8_2.Certificate", "Id": id, "Name": name, "SerialNumber": colons(leaf.SerialNumber.Bytes()),
		"ValidNotBefore": leaf.NotBefore.UTC().Format(time.RFC3339), "ValidNotAfter": leaf.NotAfter.UTC().Format(time.RFC3339),
		"Subject": identifier(leaf.Subject), "Issuer": identifier(leaf.Issuer)}
}

// colons writes bytes as the schema wants a serial number: 0A:1B.
func colons(b []byte) string {
	parts := make([]string, len(b))
	for i, x := range b {
		parts[i] = fmt.Sprintf("%02X", x)
	}
	return strings.Join(parts, ":")
}

// isHTTPS checks an action's reference to the one certificate or collection.
func isHTTPS(v any, want string) bool {
	o, _ := v.(obj)
	return o["@odata.id"] == want || o["@odata.id"] == want+"/"
}

// generateCSR is CertificateService.GenerateCSR (DSP0268).
func (s *Server) generateCSR(c *call) (reply, error) {
	const action = "CertificateService.GenerateCSR"
	for _, k := range []string{"CommonName", "CertificateCollection"} {
		if _, ok := c.body[k]; !ok {
			return reply{}, msgActionParamMissing(action, k)
		}
	}
	tmpl, bits := x509.CertificateRequest{}, 0
	for k, v := range c.body {
		t, isText := v.(string)
		if k != "CertificateCollection" && k != "KeyBitLength" && k != "AlternativeNames" && k != "KeyUsage" && !isText {
			return reply{}, msgActionParamType(action, k, v)
		}
		switch k {
		case "CommonName":
			tmpl.Subject.CommonName = t
		case "Organization":
			tmpl.Subject.Organization = []string{t}
		case "OrganizationalUnit":
			tmpl.Subject.OrganizationalUnit = []string{t}
		case "City":
			tmpl.Subject.Locality = []string{t}
		case "State":
			tmpl.Subject.Province = []string{t}
		case "Country":
			tmpl.Subject.Country = []string{t}
		case "CertificateCollection":
			if !isHTTPS(v, httpsCerts) {
				return reply{}, msgActionParam(action, k, v)
			}
		case "AlternativeNames":
			l, ok := v.([]any)
			if !ok {
				return reply{}, msgActionParamType(action, k, v)
			}
			for _, x := range l {
				t, ok := x.(string)
				if !ok {
					return reply{}, msgActionParamType(action, k, v)
				}
				if ip := net.ParseIP(t); ip != nil {
					tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
				} else {
					tmpl.DNSNames = append(tmpl.DNSNames, t)
				}
			}
		case "KeyPairAlgorithm":
			switch t {
			case "TPM_ALG_RSA":
				bits = max(bits, 2048)
			case "TPM_ALG_ECDSA":
			default:
				return reply{}, msgActionParam(action, k, v)
			}
		case "KeyBitLength":
			n, ok := v.(float64)
			if !ok || n != 2048 && n != 3072 && n != 4096 {
				return reply{}, msgActionParam(action, k, v)
			}
			bits = int(n)
		case "KeyUsage", "KeyCurveId", "Email", "ContactPerson", "GivenName", "Surname", "Initials", "ChallengePassword", "UnstructuredName":
		default:
			return reply{}, msgActionParamUnknown(action, k)
		}
	}
	text, err := s.identity.request(tmpl, bits)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: obj{"@odata.type": "#CertificateService.v1_0_5.GenerateCSRResponse",
		"CertificateCollection": link(httpsCerts), "CSRString": string(text)}}, nil
}

// replaceCertificate is CertificateService.ReplaceCertificate (DSP0268).
func (s *Server) replaceCertificate(c *call) (reply, error) {
	const action = "CertificateService.ReplaceCertificate"
	for _, k := range []string{"CertificateString", "CertificateType", "CertificateUri"} {
		if _, ok := c.body[k]; !ok {
			return reply{}, msgActionParamMissing(action, k)
		}
	}
	text, ok := c.body["CertificateString"].(string)
	if !ok {
		return reply{}, msgActionParamType(action, "CertificateString", "(a value that is no string)")
	}
	if t := c.body["CertificateType"]; t != "PEM" && t != "PEMchain" {
		return reply{}, msgActionParam(action, "CertificateType", t)
	}
	if !isHTTPS(c.body["CertificateUri"], httpsCert) {
		return reply{}, msgActionParam(action, "CertificateUri", c.body["CertificateUri"])
	}
	if err := s.identity.replace([]byte(text)); err != nil {
		m := bad("ActionParameterValueError", "CertificateString", action)
		m.Resolution = fmt.Sprintf("Send a certificate with its key, or one for the last signing request: %v.", err)
		return reply{}, m
	}
	s.logEvent("manager", "OK", fmt.Sprintf("The HTTPS certificate was replaced by %s.", c.who.name))
	return reply{status: http.StatusNoContent, header: map[string]string{"Location": httpsCert}}, nil
}

package bmc

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// SecureBootKey is an entry of a database of UEFI Secure Boot (UEFI 2.10
// §32.4): a certificate, or the digest of a program.
type SecureBootKey struct {
	Database    string `json:"database"` // "PK", "KEK", "db", "dbx", "dbDefault", ...
	ID          string `json:"id"`
	Subject     string `json:"subject,omitempty"` // of a certificate
	Issuer      string `json:"issuer,omitempty"`
	Until       string `json:"until,omitempty"`       // as the BMC writes it
	Fingerprint string `json:"fingerprint,omitempty"` // SHA-256, where the BMC shows the certificate itself
	Digest      string `json:"digest,omitempty"`      // of a program, in the form of Form
	Form        string `json:"form,omitempty"`        // "EFI_CERT_SHA256_GUID", "SHA256", ...
	Owner       string `json:"owner,omitempty"`       // GUID

	path string
}

// KeyOrder is an entry to be added: a certificate in PEM, or the SHA-256 of a
// program in hex.
type KeyOrder struct {
	Database    string `json:"database"`
	Certificate string `json:"certificate,omitempty"`
	Digest      string `json:"digest,omitempty"`
	Owner       string `json:"owner,omitempty"` // GUID; "" = the BMC's choice
}

// KeyName names an entry.
type KeyName struct {
	Database string `json:"database"`
	ID       string `json:"id"`
}

// keyDatabase is what we use of SecureBootDatabase (DSP0268).
type keyDatabase struct {
	ID           text `json:"Id"`
	DatabaseID   text `json:"DatabaseId"`
	Certificates ref
	Signatures   ref
}

func (k keyDatabase) name() string { return string(cmp.Or(k.DatabaseID, k.ID)) }

// distinguished is what we use of Certificate.Identifier.
type distinguished struct {
	CommonName, Organization, DisplayString text
}

func (n distinguished) String() string {
	return string(cmp.Or(n.CommonName, n.DisplayString, n.Organization))
}

// keyResource is a Certificate or a Signature (DSP0268).
type keyResource struct {
	ID                text `json:"Id"`
	Path              text `json:"@odata.id"`
	CertificateString text
	Subject, Issuer   distinguished
	ValidNotAfter     text
	SignatureString   text
	SignatureType     text
	Owner             text `json:"UefiSignatureOwner"`
}

// SecureBootKeys are the entries of all databases.
type SecureBootKeys struct {
	Keys    []SecureBootKey `json:"keys"`
	Missing []string        `json:"missing,omitempty"` // what the BMC names and does not show
}

// SecureBootKeys reads the databases.
func (c *Client) SecureBootKeys(ctx context.Context) (SecureBootKeys, error) {
	const doing = "reading the Secure Boot keys"
	out := SecureBootKeys{Keys: []SecureBootKey{}}
	d, err := c.onlyRedfish(doing)
	if err != nil {
		return out, err
	}
	ctx, cancel, err := c.beginLong(ctx, doing)
	if err != nil {
		return out, err
	}
	defer cancel()
	r := &reader{redfishDriver: d, ctx: ctx}
	dbs, err := d.keyDatabases(r)
	if err != nil {
		return out, c.t.own(ctx, doing, err)
	}
	for _, db := range dbs {
		out.Keys = append(out.Keys, r.keys(db)...)
	}
	out.Missing = r.missing
	return out, c.t.own(ctx, doing, r.err)
}

// keyDatabases are those that the machine's Secure Boot names.
func (d *redfishDriver) keyDatabases(r *reader) ([]keyDatabase, error) {
	at, _, err := d.secureBoot(r.ctx)
	if err != nil {
		return nil, err
	}
	var sb struct{ SecureBootDatabases ref }
	if _, err := d.get(r.ctx, at, &sb); err != nil {
		return nil, err
	}
	if sb.SecureBootDatabases.path() == "" {
		return nil, fmt.Errorf("%w: its Secure Boot shows no databases of keys", ErrUnsupported)
	}
	dbs := list[keyDatabase](r, sb.SecureBootDatabases)
	if r.err == nil && len(dbs) == 0 {
		return nil, fmt.Errorf("%w: its Secure Boot shows no databases of keys%s", ErrUnsupported, because(r.missing))
	}
	return dbs, r.err
}

func because(missing []string) string {
	if len(missing) == 0 {
		return ""
	}
	return " (" + strings.Join(missing, "; ") + ")"
}

// keys are the entries of a database.
func (r *reader) keys(db keyDatabase) (out []SecureBootKey) {
	for _, of := range []ref{db.Certificates, db.Signatures} {
		for _, k := range list[keyResource](r, of) {
			key := SecureBootKey{Database: db.name(), ID: string(k.ID), Subject: k.Subject.String(), Issuer: k.Issuer.String(), Until: string(k.ValidNotAfter),
				Digest: string(k.SignatureString), Form: string(k.SignatureType), Owner: string(k.Owner), path: localPath(string(k.Path))}
			if cert, err := oneCertificate(string(k.CertificateString)); err == nil {
				sum := sha256.Sum256(cert.Raw)
				key.Fingerprint = hex.EncodeToString(sum[:])
				key.Subject, key.Issuer = cmp.Or(key.Subject, cert.Subject.CommonName), cmp.Or(key.Issuer, cert.Issuer.CommonName)
				key.Until = cmp.Or(key.Until, cert.NotAfter.UTC().Format("2006-01-02T15:04:05Z07:00"))
			}
			out = append(out, key)
		}
	}
	return out
}

// oneCertificate reads a text that is a certificate in PEM.
func oneCertificate(s string) (*x509.Certificate, error) {
	b, rest := pem.Decode([]byte(s))
	switch {
	case b == nil || b.Type != "CERTIFICATE":
		return nil, errors.New("it is no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----; openssl x509 makes one of other forms")
	case strings.TrimSpace(string(rest)) != "":
		return nil, errors.New("it holds more than one certificate: give one at a time")
	}
	cert, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the certificate in it cannot be read: %w", err)
	}
	return cert, nil
}

// Check looks at an order before anything is asked of a BMC.
func (o KeyOrder) Check() error {
	switch {
	case o.Database == "":
		return errors.New("say which database: PK, KEK, db or dbx")
	case (o.Certificate == "") == (o.Digest == ""):
		return errors.New("give a certificate or a digest")
	case o.Certificate != "":
		_, err := oneCertificate(o.Certificate)
		return err
	}
	if b, err := hex.DecodeString(o.Digest); err != nil || len(b) != sha256.Size {
		return errors.New("a digest is a SHA-256: 64 hex digits")
	}
	return nil
}

// body is the order as DSP0268 has it: where it goes, and what is said.
func (o KeyOrder) body(db keyDatabase) (ref, map[string]any) {
	to, body := db.Certificates, map[string]any{"CertificateString": o.Certificate, "CertificateType": "PEM"}
	if o.Digest != "" {
		to, body = db.Signatures, map[string]any{"SignatureString": strings.ToUpper(o.Digest), "SignatureType": "EFI_CERT_SHA256_GUID", "SignatureTypeRegistry": "UEFI"}
	}
	if o.Owner != "" {
		body["UefiSignatureOwner"] = o.Owner
	}
	return to, body
}

// is tells that an entry is what was ordered.
func (o KeyOrder) is(k SecureBootKey) bool {
	if o.Digest != "" {
		return strings.EqualFold(k.Digest, o.Digest)
	}
	cert, err := oneCertificate(o.Certificate)
	if err != nil {
		return false
	}
	if k.Fingerprint == "" { // some show no certificate
		return k.Subject != "" && k.Subject == cert.Subject.CommonName
	}
	sum := sha256.Sum256(cert.Raw)
	return k.Fingerprint == hex.EncodeToString(sum[:])
}

// AddSecureBootKey adds an entry to a database, and reads it back. What is there
// already stays.
func (c *Client) AddSecureBootKey(ctx context.Context, o KeyOrder) error {
	doing := "adding to the Secure Boot database " + o.Database
	if err := o.Check(); err != nil {
		return c.t.fail(doing, err)
	}
	return c.keyChange(ctx, doing, o.Database, o.is, true, func(ctx context.Context, d *redfishDriver, db keyDatabase, there []SecureBootKey) error {
		if len(there) > 0 {
			return nil
		}
		to, body := o.body(db)
		if to.path() == "" {
			return fmt.Errorf("%w: its database %s has no place for it", ErrUnsupported, o.Database)
		}
		_, err := d.post(ctx, to.path(), body)
		return err
	})
}

// DeleteSecureBootKey deletes an entry, and reads that it is gone.
func (c *Client) DeleteSecureBootKey(ctx context.Context, n KeyName) error {
	doing := "deleting " + n.ID + " of the Secure Boot database " + n.Database
	is := func(k SecureBootKey) bool { return k.ID == n.ID }
	return c.keyChange(ctx, doing, n.Database, is, false, func(ctx context.Context, d *redfishDriver, _ keyDatabase, there []SecureBootKey) error {
		switch {
		case len(there) == 0:
			return fmt.Errorf("the database has no entry %s: fettle bmc secure-boot keys show lists them", n.ID)
		case len(there) > 1:
			return fmt.Errorf("%w: it has a certificate and a digest of that id", ErrUnsupported)
		case there[0].path == "":
			return fmt.Errorf("%w: the entry has no place of its own", ErrUnsupported)
		}
		_, err := d.do(ctx, http.MethodDelete, there[0].path, nil, nil)
		return err
	})
}

// keyChange changes a database and waits until it has, or has not, an entry that
// is meant.
func (c *Client) keyChange(ctx context.Context, doing, database string, is func(SecureBootKey) bool, want bool,
	change func(context.Context, *redfishDriver, keyDatabase, []SecureBootKey) error) error {
	d, err := c.onlyRedfish(doing)
	if err != nil {
		return err
	}
	ctx, cancel, err := c.beginLong(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	r := &reader{redfishDriver: d, ctx: ctx}
	dbs, err := d.keyDatabases(r)
	if err != nil {
		return c.t.own(ctx, doing, err)
	}
	i := slices.IndexFunc(dbs, func(k keyDatabase) bool { return k.name() == database })
	if i < 0 {
		var names []string
		for _, k := range dbs {
			names = append(names, k.name())
		}
		return c.t.fail(doing, fmt.Errorf("there is no such database: it has %s", strings.Join(names, ", ")))
	}
	meant := func(ctx context.Context) ([]SecureBootKey, error) {
		r := &reader{redfishDriver: d, ctx: ctx}
		all := slices.DeleteFunc(r.keys(dbs[i]), func(k SecureBootKey) bool { return !is(k) })
		return all, r.err
	}
	there, err := meant(ctx)
	if err == nil {
		err = change(ctx, d, dbs[i], there)
	}
	if err != nil {
		return c.t.own(ctx, doing, err)
	}
	err = c.wait(ctx, doing, min(readBackWait, c.t.Timeout/2), func(ctx context.Context) (bool, error) {
		there, err := meant(ctx)
		return (len(there) > 0) == want, c.t.own(ctx, doing, err)
	})
	if errors.Is(err, errNothing) {
		return c.t.fail(doing, fmt.Errorf("%w: the database reads as before; some makers show it after the next boot", errNothing))
	}
	return err
}

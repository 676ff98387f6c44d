package vbmc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Key is an entry of a signature database (UEFI 2.10 §32.4.1): a certificate,
// or the digest of a program.
type Key struct {
	ID     string
	PEM    string // one certificate, or
	Digest string // SHA-256 in hex, upper case
	Owner  string // GUID of who put it there; may be empty
}

// KeyHolder is a SecureBooter whose signature databases ("PK", "KEK", "db",
// "dbx") can be read and written. ErrUnsupported: it does not take this one.
type KeyHolder interface {
	Keys(ctx context.Context, db string) ([]Key, error)
	// AddKey adds what is not there yet, and gives it an id.
	AddKey(ctx context.Context, db string, k Key) (id string, err error)
	// DeleteKey tells whether there was one.
	DeleteKey(ctx context.Context, db, id string) (bool, error)
	// ResetDatabase takes "ResetAllKeysToDefault" or "DeleteAllKeys".
	ResetDatabase(ctx context.Context, db, how string) error
}

// maxKeys bounds a database. Real ones are bounded by the firmware's flash.
const maxKeys = 512

// owner is who put the firmware's own keys there.
const keyOwner = "fe771e00-0000-4000-8000-000000000000"

// defaultKeys are certificates of a virtual firmware's maker, whose private keys
// nobody has: PK, KEK and db, in this order.
//
//go:embed keys/default.pem
var defaultKeys []byte

// firstKeys are a database as the firmware came.
func firstKeys(db string) []Key {
	n := slices.Index(keyDatabases[:3], db) // dbx has digests
	if n < 0 {
		sum := sha256.Sum256([]byte("a boot loader that was revoked"))
		return []Key{{ID: "1", Digest: strings.ToUpper(hex.EncodeToString(sum[:])), Owner: keyOwner}}
	}
	for rest := defaultKeys; ; n-- {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return nil
		}
		if n == 0 {
			return []Key{{ID: "1", PEM: string(pem.EncodeToMemory(b)), Owner: keyOwner}}
		}
	}
}

// keyKinds are what a database has: PK and KEK hold certificates.
func keyKinds(db string) []string {
	if db == "PK" || db == "KEK" {
		return []string{"Certificates"}
	}
	return []string{"Certificates", "Signatures"}
}

// keyRoutes are the signature databases (DSP0268, SecureBootDatabase). The
// contents are the chassis', where it can tell them.
func (s *Server) keyRoutes() []*resource {
	bases := secureBootPath + "/SecureBootDatabases"
	known := func(c *call) error {
		if !slices.Contains(keyDatabases, c.vars["db"]) {
			return msgNotFound(c.path)
		}
		return nil
	}
	h, _ := s.chassis.(KeyHolder)
	rs := []*resource{
		{pattern: bases, get: func(*call) (obj, error) {
			paths := make([]string, len(keyDatabases))
			for i, d := range keyDatabases {
				paths[i] = bases + "/" + d
			}
			return collection(bases, "SecureBootDatabaseCollection", "UEFI Secure Boot Databases", paths...), nil
		}},
		{pattern: bases + "/{db}", get: func(c *call) (obj, error) {
			if err := known(c); err != nil {
				return nil, err
			}
			o := obj{"@odata.id": c.path, "@odata.type": "#SecureBootDatabase.v1_0_3.SecureBootDatabase", "Id": c.vars["db"],
				"Name": "UEFI " + c.vars["db"] + " Database", "DatabaseId": c.vars["db"]}
			for _, kind := range keyKinds(c.vars["db"]) {
				o[kind] = link(c.path + "/" + kind)
			}
			if h != nil {
				o["Actions"] = obj{"#SecureBootDatabase.ResetKeys": obj{"target": c.path + "/Actions/SecureBootDatabase.ResetKeys",
					"ResetKeysType@Redfish.AllowableValues": keyResets[:2]}}
			}
			return o, nil
		}},
	}
	if h != nil {
		rs = append(rs, &resource{pattern: bases + "/{db}/Actions/SecureBootDatabase.ResetKeys", priv: privComponents, post: func(c *call) (reply, error) {
			if err := known(c); err != nil {
				return reply{}, err
			}
			return s.resetKeys(c, "SecureBootDatabase.ResetKeys", keyResets[:2], func(how string) error { return h.ResetDatabase(c.ctx, c.vars["db"], how) })
		}})
	}
	for kind, k := range map[string]struct {
		is    func(Key) bool
		body  func(path string, k Key) (obj, error)
		parse func(obj) (Key, error)
	}{
		"Certificates": {func(k Key) bool { return k.PEM != "" }, keyCertificate, parseKeyCertificate},
		"Signatures":   {func(k Key) bool { return k.Digest != "" }, keySignature, parseKeySignature},
	} {
		here := func(c *call) ([]Key, error) {
			if err := known(c); err != nil {
				return nil, err
			}
			if !slices.Contains(keyKinds(c.vars["db"]), kind) {
				return nil, msgNotFound(c.path)
			}
			if h == nil { // its databases cannot be read: the collections are empty
				return nil, nil
			}
			all, err := h.Keys(c.ctx, c.vars["db"])
			if err != nil {
				return nil, fmt.Errorf("reading Secure Boot's %s: %w", c.vars["db"], err)
			}
			return slices.DeleteFunc(all, func(x Key) bool { return !k.is(x) }), nil
		}
		all := &resource{pattern: bases + "/{db}/" + kind, priv: privComponents, get: func(c *call) (obj, error) {
			keys, err := here(c)
			if err != nil {
				return nil, err
			}
			paths := make([]string, len(keys))
			for i, x := range keys {
				paths[i] = c.path + "/" + x.ID
			}
			return collection(c.path, strings.TrimSuffix(kind, "s")+"Collection", kind, paths...), nil
		}}
		rs = append(rs, all)
		if h == nil {
			continue
		}
		all.post = func(c *call) (reply, error) {
			have, err := here(c)
			if err != nil {
				return reply{}, err
			}
			if len(c.body) == 0 {
				return reply{}, msgMalformed()
			}
			return s.addKey(c, h, have, k.parse, k.body)
		}
		rs = append(rs, &resource{pattern: all.pattern + "/{key}", priv: privComponents, get: func(c *call) (obj, error) {
			keys, err := here(c)
			if err != nil {
				return nil, err
			}
			i := slices.IndexFunc(keys, func(x Key) bool { return x.ID == c.vars["key"] })
			if i < 0 {
				return nil, msgNotFound(c.path)
			}
			return k.body(c.path, keys[i])
		}, del: func(c *call) (reply, error) {
			keys, err := here(c)
			if err != nil {
				return reply{}, err
			}
			found := slices.ContainsFunc(keys, func(x Key) bool { return x.ID == c.vars["key"] })
			if found {
				found, err = h.DeleteKey(c.ctx, c.vars["db"], c.vars["key"])
			}
			if err != nil {
				return reply{}, fmt.Errorf("deleting from Secure Boot's %s: %w", c.vars["db"], err)
			}
			if !found {
				return reply{}, msgNotFound(c.path)
			}
			s.logEvent("system", "OK", fmt.Sprintf("Secure Boot: an entry of %s was deleted by %s.", c.vars["db"], c.who.name))
			return reply{status: http.StatusNoContent}, nil
		}})
	}
	return rs
}

// addKey is a POST to the certificates or signatures of a database, which has
// these.
func (s *Server) addKey(c *call, h KeyHolder, have []Key, parse func(obj) (Key, error), body func(string, Key) (obj, error)) (reply, error) {
	k, err := parse(c.body)
	if err != nil {
		return reply{}, err
	}
	db := c.vars["db"]
	if i := slices.IndexFunc(have, func(x Key) bool { return x.PEM == k.PEM && x.Digest == k.Digest }); i >= 0 {
		return reply{}, msgExists(map[bool]string{true: "Certificate", false: "Signature"}[k.PEM != ""], "Id", have[i].ID)
	}
	if len(have) >= maxKeys || db == "PK" && len(have) > 0 { // there is one platform key (UEFI 2.10 §32.3)
		return reply{}, msgLimit()
	}
	k.ID, err = h.AddKey(c.ctx, db, k)
	if errors.Is(err, ErrUnsupported) {
		return reply{}, msgLimit()
	}
	if err != nil {
		return reply{}, fmt.Errorf("adding to Secure Boot's %s: %w", db, err)
	}
	s.logEvent("system", "OK", fmt.Sprintf("Secure Boot: an entry was added to %s by %s.", db, c.who.name))
	at := c.path + "/" + k.ID
	o, err := body(at, k)
	if err != nil {
		return reply{}, err
	}
	return created(at, o), nil
}

// guidForm is the form that the schemas give GUIDs.
var guidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// parseKey reads what a client gives of an entry: take is for what is its own;
// each of these must be given.
func parseKey(body obj, must []string, take func(name, text string) error) (owner string, err error) {
	for _, name := range must {
		if _, ok := body[name]; !ok {
			return "", msgMissing(name)
		}
	}
	for name, v := range body {
		if strings.HasPrefix(name, "@odata.") {
			continue
		}
		t, ok := v.(string)
		if !ok {
			return "", msgPropertyType(name, v)
		}
		if name == "UefiSignatureOwner" {
			if !guidForm.MatchString(t) {
				return "", msgPropertyFormat(name, t)
			}
			owner = t
		} else if err := take(name, t); err != nil {
			return "", err
		}
	}
	return owner, nil
}

func parseKeyCertificate(body obj) (k Key, err error) {
	k.Owner, err = parseKey(body, []string{"CertificateString", "CertificateType"}, func(name, t string) error {
		switch name {
		case "CertificateString":
			b, rest := pem.Decode([]byte(t))
			if b == nil || b.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
				return msgPropertyFormat(name, "(no single certificate in PEM)")
			}
			if _, err := x509.ParseCertificate(b.Bytes); err != nil {
				return msgPropertyFormat(name, "(a certificate that cannot be read)")
			}
			k.PEM = string(pem.EncodeToMemory(&pem.Block{Type: b.Type, Bytes: b.Bytes}))
		case "CertificateType":
			if t != "PEM" {
				return msgNotInList(name, t)
			}
		default:
			return msgUnknownProperty(name)
		}
		return nil
	})
	return k, err
}

// sha256Type is the signature type of a program's digest (UEFI 2.10 §32.4.1).
const sha256Type = "EFI_CERT_SHA256_GUID"

func parseKeySignature(body obj) (k Key, err error) {
	k.Owner, err = parseKey(body, []string{"SignatureString", "SignatureType", "SignatureTypeRegistry"}, func(name, t string) error {
		switch name {
		case "SignatureString":
			if b, err := hex.DecodeString(t); err != nil || len(b) != sha256.Size {
				return msgPropertyFormat(name, t)
			}
			k.Digest = strings.ToUpper(t)
		case "SignatureType":
			if t != sha256Type {
				return msgNotInList(name, t)
			}
		case "SignatureTypeRegistry":
			if t != "UEFI" {
				return msgNotInList(name, t)
			}
		default:
			return msgUnknownProperty(name)
		}
		return nil
	})
	return k, err
}

func keyCertificate(path string, k Key) (obj, error) {
	b, _ := pem.Decode([]byte(k.PEM))
	if b == nil {
		return nil, fmt.Errorf("entry %s of a signature database is no certificate", k.ID)
	}
	leaf, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("entry %s of a signature database: %w", k.ID, err)
	}
	o := certificateBody(path, k.ID, "Secure Boot Certificate", leaf)
	o["CertificateString"], o["CertificateType"] = k.PEM, "PEM"
	if k.Owner != "" {
		o["UefiSignatureOwner"] = k.Owner
	}
	return o, nil
}

func keySignature(path string, k Key) (obj, error) {
	o := obj{"@odata.id": path, "@odata.type": "#Signature.v1_0_3.Signature", "Id": k.ID, "Name": "Secure Boot Signature",
		"SignatureString": k.Digest, "SignatureType": sha256Type, "SignatureTypeRegistry": "UEFI"}
	if k.Owner != "" {
		o["UefiSignatureOwner"] = k.Owner
	}
	return o, nil
}

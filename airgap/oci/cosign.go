package oci

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

// ErrSignature says that no key that the site trusts signed an image.
var ErrSignature = errors.New("not signed by a key of the site's")

// Media types and the annotation of cosign's signatures: cosign's
// SIGNATURE_SPEC.md.
const (
	typeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureNote     = "dev.cosignproject.cosign/signature"
	maxPayload        = 1 << 20
	maxSignatures     = 100 // of one image
)

// key is a public key that images may be signed with.
type key struct {
	pub  crypto.PublicKey
	id   string // sha256 of its DER form, in hex
	file string // as the site writes it
}

// readKeys reads files of public keys in PEM.
func readKeys(dir string, files []string) ([]key, error) {
	var out []key
	for _, file := range files {
		path := file
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, file)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("keyrings: %w", err)
		}
		n := len(out)
		for {
			var b *pem.Block
			if b, data = pem.Decode(data); b == nil {
				break
			}
			pub, err := x509.ParsePKIXPublicKey(b.Bytes)
			if err != nil {
				return nil, fmt.Errorf("keyrings: %s: %w", file, err)
			}
			switch k := pub.(type) {
			case *ecdsa.PublicKey, ed25519.PublicKey:
			case *rsa.PublicKey:
				if k.N.BitLen() < 2048 {
					return nil, fmt.Errorf("keyrings: %s: an RSA key of %d bits; 2048 are the least", file, k.N.BitLen())
				}
			default:
				return nil, fmt.Errorf("keyrings: %s: a key of a kind that cosign does not have", file)
			}
			sum := sha256.Sum256(b.Bytes)
			out = append(out, key{pub, hex.EncodeToString(sum[:]), file})
		}
		if len(out) == n {
			return nil, fmt.Errorf("keyrings: %s holds no public key in PEM (cosign.pub)", file)
		}
	}
	return out, nil
}

// signed tells whether sig is the key's signature of message: by cosign 2, which
// hashes with SHA-256 whatever the key, or by cosign 3, which hashes as is usual
// for it.
func (k key) signed(message, sig []byte) bool {
	sum := sha256.Sum256(message)
	switch pub := k.pub.(type) {
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(pub, sum[:], sig) {
			return true
		}
		switch pub.Curve.Params().BitSize {
		case 384:
			sum := sha512.Sum384(message)
			return ecdsa.VerifyASN1(pub, sum[:], sig)
		case 521:
			sum := sha512.Sum512(message)
			return ecdsa.VerifyASN1(pub, sum[:], sig)
		}
	case ed25519.PublicKey:
		if len(sig) != ed25519.SignatureSize {
			return false
		}
		sum := sha512.Sum512(message)
		return ed25519.Verify(pub, message, sig) || ed25519.VerifyWithOptions(pub, sum[:], sig, &ed25519.Options{Hash: crypto.SHA512}) == nil
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(pub, crypto.SHA256, sum[:], sig) == nil
	}
	return false
}

// claim says that an image is signed: what signatures were made over, and they.
type claim struct {
	message []byte
	sigs    [][]byte
}

// verify finds a signature of the image d by one of the site's keys among what
// is attached to it.
func (t *tree) verify(ctx context.Context, d Digest) (key, error) {
	tried := 0
	for _, m := range t.signed {
		for _, l := range m.m.Layers {
			simple := l.MediaType == typeSimpleSigning
			if !simple && !strings.HasPrefix(l.MediaType, typeBundle) || l.Size > maxPayload || l.Digest.blob() == "" {
				continue
			}
			if tried++; tried > maxSignatures {
				return key{}, fmt.Errorf("%w: none of its first %d signatures is", ErrSignature, maxSignatures)
			}
			data, err := t.payload(ctx, l)
			if err != nil {
				return key{}, err
			}
			read := bundled
			if simple {
				read = l.simple
			}
			c := read(data, d)
			if c == nil {
				continue
			}
			for _, k := range t.keys {
				if slices.ContainsFunc(c.sigs, func(sig []byte) bool { return k.signed(c.message, sig) }) {
					return k, nil
				}
			}
		}
	}
	var files []string
	for _, k := range t.keys {
		files = append(files, k.file)
	}
	return key{}, fmt.Errorf("%w (%s): it has %d signatures of cosign's, and none of them is for %s by such a key", ErrSignature, strings.Join(files, ", "), tried, d)
}

// simple is the claim of a layer of cosign 2's, whose annotation has the
// signature; nil: it is about another image.
func (l descriptor) simple(payload []byte, d Digest) *claim {
	sig, err := base64.StdEncoding.DecodeString(l.Annotations[signatureNote])
	if err != nil || !about(payload, d) {
		return nil
	}
	return &claim{payload, [][]byte{sig}}
}

func (t *tree) payload(ctx context.Context, l descriptor) ([]byte, error) {
	it := airgap.Item{Path: l.Digest.path(), URL: t.source.url("blobs", string(l.Digest)), Size: l.Size, SHA256: blob.Digest(l.Digest), Kind: airgap.KindPart}
	if !t.env.Blobs.Has(it.SHA256) {
		if err := t.env.Fetch.Get(ctx, it, nil); err != nil {
			return nil, err
		}
	}
	return airgap.ReadBlob(ctx, t.env.Blobs, it.SHA256, maxPayload)
}

// about tells whether a payload is about the image d: Red Hat's simple signing,
// as cosign uses it.
func about(payload []byte, d Digest) bool {
	var p struct {
		Critical struct {
			Image struct {
				Digest Digest `json:"docker-manifest-digest"`
			} `json:"image"`
			Type string `json:"type"`
		} `json:"critical"`
	}
	return json.Unmarshal(payload, &p) == nil && p.Critical.Image.Digest == d && p.Critical.Type == "cosign container image signature"
}

// indented is JSON for people, always the same for the same value.
func indented(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

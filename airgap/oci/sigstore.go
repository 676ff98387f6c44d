package oci

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Sigstore bundles, which cosign 3 attaches where cosign 2 had signatures of a
// form of its own: cosign's BUNDLE_SPEC.md. In one is an envelope (DSSE) with a
// statement (in-toto) that says which image is signed.
const (
	typeBundle    = "application/vnd.dev.sigstore.bundle" // what all versions begin with
	typeStatement = "application/vnd.in-toto+json"
	predicateSign = "https://sigstore.dev/cosign/sign/v1" // other statements are about the image, and approve of nothing
)

// bundled is the statement in a bundle that the image d is signed, as it was
// signed, with its signatures; nil: it says nothing of the kind.
func bundled(data []byte, d Digest) *claim {
	var b struct {
		Envelope struct {
			Payload    []byte `json:"payload"`
			Type       string `json:"payloadType"`
			Signatures []struct {
				Sig []byte `json:"sig"`
			} `json:"signatures"`
		} `json:"dsseEnvelope"`
	}
	if json.Unmarshal(data, &b) != nil || b.Envelope.Type != typeStatement {
		return nil
	}
	var s struct {
		Type    string `json:"_type"`
		Subject []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
		Predicate string `json:"predicateType"`
	}
	if json.Unmarshal(b.Envelope.Payload, &s) != nil || s.Predicate != predicateSign || !strings.HasPrefix(s.Type, "https://in-toto.io/Statement/") {
		return nil
	}
	c := &claim{message: enveloped(b.Envelope.Type, b.Envelope.Payload)}
	for _, sig := range b.Envelope.Signatures {
		c.sigs = append(c.sigs, sig.Sig)
	}
	for _, subject := range s.Subject {
		if d.Hex() != "" && subject.Digest[d.Algorithm()] == d.Hex() {
			return c
		}
	}
	return nil
}

// enveloped is what the signatures of an envelope are over: the "pre-
// authentication encoding" of DSSE's protocol.md.
func enveloped(payloadType string, payload []byte) []byte {
	return append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(payloadType), payloadType, len(payload)), payload...)
}

package npm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

const (
	keysPath    = "-/npm/v1/keys"
	signedDir   = ".signatures/" // of evidence, in a lock
	ecdsaScheme = "ecdsa-sha2-nistp256"

	maxPackument = 128 << 20
)

// registryKey is a key that a registry signs packages with:
// https://docs.npmjs.com/about-registry-signatures.
type registryKey struct {
	Expires *time.Time `json:"expires"`
	KeyID   string     `json:"keyid"`
	KeyType string     `json:"keytype"`
	Scheme  string     `json:"scheme"`
	Key     string     `json:"key"`

	public *ecdsa.PublicKey
}

// signature is a registry's over NAME@VERSION:INTEGRITY.
type signature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// signed is what upstream's packument says of one version that its registry
// vouches for. The time is not signed.
type signed struct {
	Integrity  string      `json:"integrity"`
	Signatures []signature `json:"signatures"`
	Time       time.Time   `json:"time"`
}

// parseKeys reads keys as a registry lists them. Others than npm's kind are
// passed over.
func parseKeys(data []byte) ([]registryKey, error) {
	var list struct {
		Keys []registryKey `json:"keys"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	var out []registryKey
	for _, k := range list.Keys {
		if k.KeyType != ecdsaScheme || k.Scheme != ecdsaScheme {
			continue
		}
		der, err := base64.StdEncoding.DecodeString(k.Key)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", k.KeyID, err)
		}
		public, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", k.KeyID, err)
		}
		ec, ok := public.(*ecdsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("key %s is no ECDSA key", k.KeyID)
		}
		k.public = ec
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, errors.New("it has no key of the kind " + ecdsaScheme + ": it is to be what the registry has at " + keysPath)
	}
	return out, nil
}

// keys are those of a mirror's keyrings; none: signatures are not looked at.
func (f *Format) keys(m airgap.Mirror) (keys []registryKey, texts [][]byte, err error) {
	for _, name := range m.Keyrings {
		data, err := os.ReadFile(filepath.Join(f.Dir, name))
		if err != nil {
			return nil, nil, fmt.Errorf("reading the registry's keys: %w", err)
		}
		ks, err := parseKeys(data)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		keys, texts = append(keys, ks...), append(texts, data)
	}
	return keys, texts, nil
}

// verify tells which key vouches for a package, or why none does.
func (s signed) verify(name, version, integrity string, keys []registryKey) (string, error) {
	if !slices.ContainsFunc(sha512Sums(s.Integrity), func(sum string) bool { return slices.Contains(sha512Sums(integrity), sum) }) {
		return "", fmt.Errorf("the registry signed the integrity %q, and the lockfile has %q", s.Integrity, integrity)
	}
	if len(s.Signatures) == 0 {
		return "", errors.New("the registry has not signed it")
	}
	digest := sha256.Sum256([]byte(name + "@" + version + ":" + s.Integrity))
	why := errors.New("none of its signatures is by a key of keyrings")
	for _, sig := range s.Signatures {
		raw, err := base64.StdEncoding.DecodeString(sig.Sig)
		for _, k := range keys {
			switch {
			case k.KeyID != sig.KeyID:
			case err != nil || !ecdsa.VerifyASN1(k.public, digest[:], raw):
				why = fmt.Errorf("its signature by %s is wrong", k.KeyID)
			case k.Expires != nil && !s.Time.Before(*k.Expires):
				why = fmt.Errorf("it was published at %s, after its key %s had expired", s.Time.Format(time.RFC3339), k.KeyID)
			default:
				return k.KeyID, nil
			}
		}
	}
	return "", why
}

// signatures verifies what is wanted, and gives the evidence that clients ask
// for: the signatures of each package, and the keys. known are the items of the
// earlier lock.
func (f *Format) signatures(ctx context.Context, env airgap.Env, registry string, wants []wanted, keys []registryKey, known map[string]airgap.Item) (items []airgap.Item, signers []string, err error) {
	packuments := map[string]map[string]signed{}
	for _, w := range wants {
		at := registry + "/" + strings.ReplaceAll(w.name, "/", "%2f")
		p := signedDir + w.name + "@" + w.version + ".json"
		var s signed
		id, err := "", errors.New("not asked yet")
		if old, ok := known[p]; ok && json.Unmarshal([]byte(old.Text), &s) == nil {
			id, err = s.verify(w.name, w.version, w.integrity, keys)
		}
		if err != nil { // new, or signed anew by a key that is new
			if packuments[w.name] == nil {
				data, err := env.Fetch.Index(ctx, at, maxPackument)
				if err != nil {
					return nil, nil, fmt.Errorf("%s: %w", w.name, err)
				}
				if packuments[w.name], err = signedVersions(data); err != nil {
					return nil, nil, fmt.Errorf("%s: %w", at, err)
				}
			}
			s = packuments[w.name][w.version]
			if id, err = s.verify(w.name, w.version, w.integrity, keys); err != nil {
				return nil, nil, fmt.Errorf("%s %s: %w", w.name, w.version, err)
			}
		}
		if !slices.Contains(signers, id) {
			signers = append(signers, id)
		}
		text, err := json.Marshal(s)
		if err != nil {
			return nil, nil, err
		}
		items = append(items, evidence(p, at, string(text)))
	}
	slices.Sort(signers)
	list := struct {
		Keys []registryKey `json:"keys"`
	}{keys}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, nil, err
	}
	return append(items, evidence(signedDir+"keys.json", registry+"/"+keysPath, string(text))), signers, nil
}

func evidence(path, url, text string) airgap.Item {
	return airgap.Item{Path: path, URL: url, Size: int64(len(text)), SHA256: blob.FromBytes([]byte(text)), Kind: airgap.KindEvidence, Text: text}
}

// signedVersions reads a packument of a registry.
func signedVersions(data []byte) (map[string]signed, error) {
	var doc struct {
		Time     map[string]any `json:"time"`
		Versions map[string]struct {
			Dist signed `json:"dist"`
		} `json:"versions"`
	}
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&doc); err != nil {
		return nil, fmt.Errorf("reading what the registry says: %w", err)
	}
	out := map[string]signed{}
	for v, d := range doc.Versions {
		s := d.Dist
		text, _ := doc.Time[v].(string)
		s.Time, _ = time.Parse(time.RFC3339, text) // unsaid: before every key expired
		out[v] = s
	}
	return out, nil
}

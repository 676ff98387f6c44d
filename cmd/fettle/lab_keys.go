package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/fettle-dev/fettle/labs"
	"github.com/fettle-dev/fettle/site"
)

// labKeys are a lab's own secrets: a lab never needs production's. They live
// in the lab's folder and go with it.
type labKeys struct {
	dir     string // holds the key files
	ca      *site.CA
	bmcUser string
	bmcPass string        // of BMCs that have none of their own
	secrets *site.Secrets // bmc-NAME: USER:PASSWORD of a machine's BMC, see labPasswords
	sshPub  string        // authorized_keys line
	sshFile string        // private key file
	// bmcOwner is whose secret that of a machine's BMC is: the first of the nodes
	// that share it. nil: each has its own.
	bmcOwner func(machine string) string
}

const labBMCUser = "admin"

// openLabKeys reads the keys in dir, or makes them.
func openLabKeys(dir, lab string, now time.Time) (*labKeys, error) {
	identity := filepath.Join(dir, "identity.txt")
	k := &labKeys{dir: dir, bmcUser: labBMCUser, sshFile: filepath.Join(dir, "id_ed25519")}
	if _, err := os.Stat(filepath.Join(dir, "complete")); errors.Is(err, fs.ErrNotExist) {
		if err := makeLabKeys(dir, identity, lab, now, k.sshFile); err != nil {
			return nil, fmt.Errorf("making the keys of lab %s: %w", lab, err)
		}
	}
	sec, err := site.OpenSecrets(dir, identity)
	if err != nil {
		return nil, fmt.Errorf("keys of lab %s: %w", lab, err)
	}
	if k.ca, err = site.LoadCA(dir, sec); err != nil {
		return nil, fmt.Errorf("keys of lab %s: %w", lab, err)
	}
	pass, err := sec.Get("bmc")
	if err != nil {
		return nil, fmt.Errorf("keys of lab %s: %w", lab, err)
	}
	k.bmcPass, k.secrets = pass.Reveal(), sec
	pub, err := os.ReadFile(k.sshFile + ".pub")
	if err != nil {
		return nil, fmt.Errorf("keys of lab %s: %w", lab, err)
	}
	k.sshPub = string(pub)
	return k, nil
}

// labPasswords are those of a lab's BMCs: all alike, until one gets its own.
type labPasswords struct {
	*site.Secrets
	keys *labKeys
}

// Secret implements provision.Passwords.
func (p labPasswords) Secret(machine string) string { return p.keys.bmcSecret(machine) }

// ownersOf takes from a plan which machines share a BMC.
func (k *labKeys) ownersOf(plan *labs.Plan) {
	k.bmcOwner = func(machine string) string {
		if nodes := plan.SharedBMC(machine); len(nodes) > 0 {
			return nodes[0].Name
		}
		return machine
	}
}

func (k *labKeys) bmcSecret(machine string) string {
	if k.bmcOwner != nil {
		machine = k.bmcOwner(machine)
	}
	return "bmc-" + machine
}

// Shared implements provision.Passwords.
func (p labPasswords) Shared(machines []string) []string {
	have, err := p.List()
	if err != nil {
		return nil // whoever reads one next says so
	}
	return slices.DeleteFunc(slices.Clone(machines), func(m string) bool { return slices.Contains(have, p.Secret(m)) })
}

// Own implements provision.Passwords. One that a machine has stays.
func (p labPasswords) Own(machines []string) error {
	have, err := p.List()
	if err != nil {
		return err
	}
	for _, m := range machines {
		if slices.Contains(have, p.Secret(m)) {
			continue // somebody else was first, and its password may have changed since
		}
		if err := p.Set(p.Secret(m), site.NewSecret(p.keys.bmcUser+":"+p.keys.bmcPass)); err != nil {
			return err
		}
	}
	return nil
}

// bmcPassword is the password of a machine's BMC.
func (k *labKeys) bmcPassword(machine string) (string, error) {
	name := k.bmcSecret(machine)
	have, err := k.secrets.List()
	if err != nil {
		return "", err
	}
	if !slices.Contains(have, name) {
		return k.bmcPass, nil
	}
	v, err := k.secrets.Get(name)
	if err != nil {
		return "", err
	}
	_, pw, err := credentials(name, v.Reveal())
	return string(pw), err
}

// makeLabKeys makes all keys anew; a half-made set is thrown away.
func makeLabKeys(dir, identity, lab string, now time.Time, sshFile string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	sec, _, err := site.InitSecrets(dir, identity)
	if err != nil {
		return err
	}
	if _, err := site.InitCA(dir, "lab "+lab, sec, now); err != nil {
		return err
	}
	b := make([]byte, 10) // 20 hex digits: what IPMI takes
	rand.Read(b)
	if err := sec.Set("bmc", site.NewSecret(hex.EncodeToString(b))); err != nil {
		return err
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(priv, "fettle lab "+lab)
	if err != nil {
		return err
	}
	if err := os.WriteFile(sshFile, pem.EncodeToMemory(block), 0o600); err != nil {
		return err
	}
	sp, err := ssh.NewPublicKey(pub)
	if err != nil {
		return err
	}
	if err := os.WriteFile(sshFile+".pub", ssh.MarshalAuthorizedKey(sp), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644)
}

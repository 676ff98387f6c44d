package site

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// A secret whose value is being changed at the place where it counts (a BMC's
// password, say) is written ahead: the next value is stored as pending, beside
// the present one, before anything is changed there. So a crash at any moment
// leaves both values known: see provision.Rotate.

// Pending is a change of a secret that was begun.
type Pending struct {
	Was  Secret // the value before: what was tried first; may be zero
	Next Secret
}

// ErrPendingExists means that another change of the secret was begun and has
// not ended: it must be ended first.
var ErrPendingExists = errors.New("a change of this secret was begun and has not ended")

// pendingDoc is how a Pending is encrypted.
type pendingDoc struct {
	Was  []byte `json:"was,omitempty"`
	Next []byte `json:"next"`
}

// SetPending stores the next value of a name before it is made so. The value
// that Get gives stays. It is on disk when SetPending returns.
func (s *Secrets) SetPending(name string, p Pending) error {
	if _, err := kindName().parse(name); err != nil {
		return fmt.Errorf("a secret cannot be called so: %w", err)
	}
	if p.Next.IsZero() {
		return fmt.Errorf("the next value of secret %q is empty", name)
	}
	return s.changeAll(func(doc *secretsDoc) error {
		if old, ok := doc.Pending[name]; ok && (string(old.Next) != p.Next.Reveal() || string(old.Was) != p.Was.Reveal()) {
			return fmt.Errorf("secret %s: %w", name, ErrPendingExists)
		}
		doc.Pending[name] = pendingDoc{Was: []byte(p.Was.Reveal()), Next: []byte(p.Next.Reveal())}
		return nil
	})
}

// GetPending is the change of a name that was begun; ok is false when there is
// none.
func (s *Secrets) GetPending(name string) (p Pending, ok bool, err error) {
	doc, err := s.readDoc()
	if err != nil {
		return Pending{}, false, err
	}
	d, ok := doc.Pending[name]
	if !ok {
		return Pending{}, false, nil
	}
	return Pending{Was: NewSecret(string(d.Was)), Next: NewSecret(string(d.Next))}, true, nil
}

// ListPending is the names whose change was begun, sorted.
func (s *Secrets) ListPending() ([]string, error) {
	doc, err := s.readDoc()
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(doc.Pending)), nil
}

// CommitPending makes the next value the value, in one write.
func (s *Secrets) CommitPending(name string) error {
	return s.changeAll(func(doc *secretsDoc) error {
		d, ok := doc.Pending[name]
		if !ok {
			return fmt.Errorf("no change of secret %q was begun", name)
		}
		doc.Values[name] = d.Next
		delete(doc.Pending, name)
		return nil
	})
}

// DropPending forgets a change that was begun and is not so at the place where
// it counts. The value stays.
func (s *Secrets) DropPending(name string) error {
	return s.changeAll(func(doc *secretsDoc) error {
		delete(doc.Pending, name)
		return nil
	})
}

// encodeSecrets writes a document. One with pending changes has a version that
// a fettle which would lose them does not take.
func encodeSecrets(doc secretsDoc) ([]byte, error) {
	doc.Version = 1
	if len(doc.Pending) > 0 {
		doc.Version = 2
	}
	return json.Marshal(doc)
}

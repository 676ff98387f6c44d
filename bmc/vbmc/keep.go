package vbmc

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

// Keeper keeps what outlives the program: subscriptions, which a service has
// after a restart too (DSP0266 §13.6.1). It is called by one at a time. What
// Save was given is on disk when it returns, and holds the headers of
// subscriptions, which may be secrets. Load gives nothing where there is nothing.
type Keeper interface {
	Load() ([]byte, error)
	Save(data []byte) error
}

// keptState is what is kept.
type keptState struct {
	Subscriptions []keptSubscription `json:"subscriptions"`
}

type keptSubscription struct {
	ID          string      `json:"id"`
	Destination string      `json:"destination"`
	Context     string      `json:"context,omitempty"`
	Headers     http.Header `json:"headers,omitempty"`
	Format      string      `json:"format"`
	Prefixes    []string    `json:"prefixes,omitempty"`
	Messages    []string    `json:"messages,omitempty"`
	Kinds       []string    `json:"kinds,omitempty"`
	Origins     []string    `json:"origins,omitempty"`
	Below       bool        `json:"below,omitempty"`
}

// restore takes what was kept.
func (s *Server) restore() error {
	if s.keep == nil {
		return nil
	}
	b, err := s.keep.Load()
	if err != nil {
		return fmt.Errorf("reading what a virtual BMC kept: %w", err)
	}
	if len(b) == 0 {
		return nil
	}
	var k keptState
	if err := json.Unmarshal(b, &k); err != nil {
		return fmt.Errorf("what a virtual BMC kept cannot be read: %w", err)
	}
	for _, x := range k.Subscriptions[:min(len(k.Subscriptions), maxSubscriptions)] {
		sub := Subscription{ID: x.ID, Destination: x.Destination, Context: x.Context, Headers: x.Headers, Format: x.Format,
			choice: choice{x.Prefixes, x.Messages, x.Kinds, x.Origins, x.Below}}
		s.subscriptions = append(s.subscriptions, &receiver{sub: sub, filter: sub.condition()})
		if n, err := strconv.Atoi(x.ID); err == nil {
			s.nextID = max(s.nextID, n)
		}
	}
	return nil
}

// change changes the subscriptions, and keeps them: when that fails nothing has
// changed. s.mu is held.
func (s *Server) change(next []*receiver) error {
	if s.keep != nil {
		var k keptState
		for _, r := range next {
			x := r.sub
			k.Subscriptions = append(k.Subscriptions, keptSubscription{x.ID, x.Destination, x.Context, x.Headers, x.Format,
				x.choice.prefixes, x.choice.messages, x.choice.kinds, x.choice.origins, x.choice.below})
		}
		b, err := json.Marshal(k)
		if err == nil {
			err = s.keep.Save(b)
		}
		if err != nil {
			return fmt.Errorf("keeping the event subscriptions: %w", err)
		}
	}
	s.subscriptions = next
	return nil
}

// changeOne changes one subscription. s.mu is held.
func (s *Server) changeOne(id string, set func(*Subscription)) (found bool, err error) {
	i := slices.IndexFunc(s.subscriptions, func(r *receiver) bool { return r.sub.ID == id })
	if i < 0 {
		return false, nil
	}
	next, one := slices.Clone(s.subscriptions), *s.subscriptions[i]
	set(&one.sub)
	next[i] = &one
	return true, s.change(next)
}

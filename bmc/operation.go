package bmc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Effect is what an operation may do to a machine or its BMC.
type Effect string

// Effects, from the least.
const (
	Reads Effect = "reads"
	// Watches is what shows a machine's screen, as its console would: nothing
	// changes, and yet it is for those who may, and it is written down who did.
	Watches Effect = "watches"
	Changes Effect = "changes"
	// Owns is what may lock others out of the BMC.
	Owns Effect = "owns"
)

// Operation is one thing to do to a BMC, under a name that a request can carry:
// a command asks for it here or has a server do it, and both do the same. A are
// its arguments and T what comes of it; both survive JSON.
type Operation[A, T any] struct {
	Name   string
	Effect Effect
	Asks   string // what a person must agree to first, "power off"; "" = nothing
	Do     func(ctx context.Context, c *Client, args A, aid Aid) (T, error)
}

// Aid is what an operation may use beside its BMC. The zero Aid works for those
// that read no file and write none.
type Aid struct {
	Say  func(text string)                 // how far it is, for people; may be nil
	Out  io.Writer                         // what Record and Screenshot write to
	Open func() (io.ReadSeekCloser, error) // the firmware image
	Now  func() time.Time                  // nil = time.Now
}

func (a Aid) say(format string, args ...any) {
	if a.Say != nil {
		a.Say(fmt.Sprintf(format, args...))
	}
}

func (a Aid) now() time.Time {
	if a.Now != nil {
		return a.Now()
	}
	return time.Now()
}

// Task is an Operation whose arguments come as JSON.
type Task struct {
	Name   string
	Effect Effect
	Asks   string
	// Check reads arguments; nothing is asked of a BMC.
	Check func(args json.RawMessage) error
	// Do does it. Arguments with a key that the operation does not know are an
	// error.
	Do func(ctx context.Context, c *Client, args json.RawMessage, aid Aid) (any, error)
}

// Task is o for arguments in JSON.
func (o Operation[A, T]) Task() Task {
	return Task{o.Name, o.Effect, o.Asks,
		func(raw json.RawMessage) error { return o.read(raw, new(A)) },
		func(ctx context.Context, c *Client, raw json.RawMessage, aid Aid) (any, error) {
			var args A
			if err := o.read(raw, &args); err != nil {
				return nil, err
			}
			return o.Do(ctx, c, args, aid)
		}}
}

func (o Operation[A, T]) read(raw json.RawMessage, args *A) error {
	if len(raw) == 0 {
		return nil
	}
	if err := Unmarshal(raw, args); err != nil {
		return fmt.Errorf("the arguments of %s cannot be read: %w", o.Name, err)
	}
	return nil
}

// Unmarshal reads what an operation takes or gives, strictly; numbers of any
// type stay as they are written.
func Unmarshal(raw []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// None are no arguments.
type None struct{}

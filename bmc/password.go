package bmc

import (
	"fmt"
	"io"
	"log/slog"
)

// secret is how a Password prints.
const secret = "[secret]"

// Password prints as "[secret]" with every verb, in JSON, in YAML and in
// logs; its value is given to BMCs only, by a conversion to string.
type Password string

// Format prints "[secret]" for every verb.
func (Password) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, secret) }

// String is "[secret]".
func (Password) String() string { return secret }

// GoString is "[secret]".
func (Password) GoString() string { return secret }

// MarshalText is "[secret]": a password is never written by encoding/json.
func (Password) MarshalText() ([]byte, error) { return []byte(secret), nil }

// MarshalYAML is "[secret]".
func (Password) MarshalYAML() (any, error) { return secret, nil }

// LogValue is "[secret]".
func (Password) LogValue() slog.Value { return slog.StringValue(secret) }

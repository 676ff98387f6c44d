package bmc

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// opError says what failed on which machine. It is one sentence.
type opError struct {
	machine string
	doing   string
	err     error
}

func (e *opError) Error() string {
	if e.machine == "" { // who names it says so: Unnamed
		return e.doing + ": " + e.err.Error()
	}
	return e.machine + ": " + e.doing + ": " + e.err.Error()
}
func (e *opError) Unwrap() error { return e.err }

// Unnamed is an error of this package without the name of its machine, for
// whoever puts the name in front of more than the error. Other errors stay.
func Unnamed(err error) error {
	if oe := (*opError)(nil); errors.As(err, &oe) && error(oe) == err {
		return &opError{"", oe.doing, oe.err}
	}
	return err
}

// fail names the machine in err.
func (t Target) fail(doing string, err error) error {
	name := t.Name
	if name == "" {
		name = t.Address.String()
	}
	return &opError{name, doing, err}
}

// own turns what bmclib, gofish and net/http say into one sentence of ours.
// bmclib collects errors of its providers as text around them: the one of our
// driver is taken out again.
func (t Target) own(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	var oe *opError
	if errors.As(err, &oe) {
		return oe
	}
	return t.fail(doing, t.explain(ctx, err))
}

// answerError is what a BMC answered when it did not do what was asked. What
// is one of our errors, or nil.
type answerError struct {
	what   error
	status int
	answer string
}

func (e *answerError) Error() string {
	said := "it answered " + statusText(e.status)
	if e.answer != "" {
		said += ": " + e.answer
	}
	if e.what != nil {
		return e.what.Error() + ": " + said
	}
	return "the BMC refused: " + said
}
func (e *answerError) Unwrap() error { return e.what }

// statusOf is the HTTP status of an answer in err, or 0.
func statusOf(err error) int {
	var ae *answerError
	var rf *refusal
	switch {
	case errors.As(err, &ae):
		return ae.status
	case errors.As(err, &rf):
		return rf.status
	}
	return 0
}

// explain says what err means and what to do next.
func (t Target) explain(ctx context.Context, err error) error {
	var (
		ae     *answerError
		rf     *refusal
		pin    *pinError
		cert   *tls.CertificateVerificationError
		syntax *json.SyntaxError
		typ    *json.UnmarshalTypeError
		nerr   net.Error
		slow   *slowError
		record tls.RecordHeaderError
	)
	if ctx.Err() != nil && errors.As(context.Cause(ctx), &slow) && statusOf(err) == 0 {
		return slow
	}
	switch {
	case errors.As(err, &ae):
		return err
	case errors.As(err, &rf):
		return explainAnswer(rf)
	case errors.As(err, &pin):
		return pin
	case errors.As(err, &cert):
		fp := ""
		if len(cert.UnverifiedCertificates) > 0 {
			sum := sha256.Sum256(cert.UnverifiedCertificates[0].Raw)
			fp = hex.EncodeToString(sum[:])
		}
		return fmt.Errorf("the certificate of the BMC is not trusted (%w): trust the authority that signed it, or, when you are sure that this is the BMC, pin its certificate in the site file, fingerprint: %s", cert.Err, fp)
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return fmt.Errorf("what answers at %s does not speak TLS: check the port and that the BMC serves HTTPS: %w", t.Address, http.ErrSchemeMismatch)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("given up: %w", context.Canceled)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &nerr) && nerr.Timeout():
		return fmt.Errorf("the BMC at %s did not answer within %s: check that it is powered and reachable, or give it more time: %w", t.Address, t.Timeout, context.DeadlineExceeded)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing listens at %s: check the BMC's address and port, and that its service is enabled: %w", t.Address, syscall.ECONNREFUSED)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return fmt.Errorf("there is no way to %s from here (%w): check the BMC's address, its cable, and this machine's routes to the BMCs' network", t.Address, unreachable(err))
	case errors.As(err, &syntax), errors.As(err, &typ), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the BMC at %s answered with something that is not a Redfish resource (%w): check that a Redfish service runs there", t.Address, err)
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("the BMC at %s did not answer within %s: %w", t.Address, t.Timeout, context.DeadlineExceeded)
	}
	return err
}

// unreachable is what the kernel says in err, without the URL that net/http
// puts in front.
func unreachable(err error) error {
	if errors.Is(err, syscall.ENETUNREACH) {
		return syscall.ENETUNREACH
	}
	return syscall.EHOSTUNREACH
}

// unsupported are the ends of MessageIds (Base registry, DSP8011) by which
// BMCs say that they cannot do a thing at all.
var unsupported = []string{"ActionNotSupported", "ActionParameterNotSupported", "ActionParameterUnknown", "ActionParameterValueNotInList",
	"PropertyUnknown", "PropertyNotWritable", "PropertyValueNotInList", "NotSupported", "OperationNotAllowed"}

func explainAnswer(rf *refusal) error {
	e := &answerError{status: rf.status, answer: rf.said}
	switch e.status {
	case http.StatusUnauthorized:
		e.what = ErrSession // at login: ErrPassword, said there
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		e.what = ErrUnsupported
	case http.StatusBadRequest:
		for _, id := range unsupported {
			if strings.Contains(rf.ids, "."+id+" ") {
				e.what = ErrUnsupported
			}
		}
	}
	return e
}

package bmc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/bougou/go-ipmi/pkg/crypto"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// suites are those that are offered, the better one first.
var suites = []lanplus.Suite{lanplus.Suite17, lanplus.Suite3}

// Privilege levels (IPMI 2.0 §6.8).
const (
	privOperator = 3
	privAdmin    = 4
	nameOnly     = 0x10 // RAKP 1: look the user up by name alone
)

// statusError is an RMCP+ status code (IPMI 2.0 table 13-15) that ended a login.
type statusError struct {
	stage string
	code  types.RmcpStatusCode
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: the BMC answered status %02Xh (%s)", e.stage, byte(e.code), e.code)
}

// Unwrap is ErrPassword where the BMC refuses who logs in.
func (e *statusError) Unwrap() error {
	switch e.code {
	case types.RmcpStatusCodeUnauthorizedName, types.RmcpStatusCodeInvalidIntegrityCheckValue, types.RmcpStatusCodeUnauthorizedGUID:
		return ErrPassword
	default:
		return nil
	}
}

// noSuite: the BMC has no such cipher suite, which it says before it hears of
// any user.
func (e *statusError) noSuite() bool {
	switch e.code {
	case types.RmcpStatusCodeInvalidAuthAlg, types.RmcpStatusCodeInvalidIntegrityAlg, types.RmcpStatusCodeInvalidConfidentAlg,
		types.RmcpStatusCodeNoCipherSuiteMatch, types.RmcpStatusCodeNoMatchingAuthPayload, types.RmcpStatusCodeNoMatchingIntegrityPayload:
		return true
	default:
		return false
	}
}

// noRole: the user may not have the role, which the BMC says before it checks
// the password (IPMI 2.0 §13.21).
func (e *statusError) noRole() bool {
	return e.code == types.RmcpStatusCodeUnauthorizedRoleOfPriLevel || e.code == types.RmcpStatusCodeInvalidRole
}

// login opens a session: one attempt with one password. Cipher suite 3 follows
// 17, and operator follows administrator, only after an answer that precedes
// the check of the password.
func login(ctx context.Context, conn net.Conn, user, password string) (*rmcp, error) {
	if len(user) > maxIPMIUserName || len(password) > maxPassword20 {
		return nil, fmt.Errorf("the user name or password is too long for IPMI: it has %d and %d characters at most", maxIPMIUserName, maxPassword20)
	}
	r := &rmcp{conn: conn}
	role, which := byte(privAdmin), 0
	for {
		err := r.login(ctx, suites[which], role, user, crypto.PadPassword20([]byte(password)))
		var se *statusError
		switch {
		case err == nil:
			return r, r.raise(ctx, role)
		case errors.As(err, &se) && se.noSuite() && which+1 < len(suites):
			which++
		case errors.As(err, &se) && se.noRole() && role == privAdmin:
			role = privOperator
		default:
			return nil, err
		}
	}
}

// raise asks for the privilege level that commands need: a session starts as
// user (IPMI 2.0 §22.18).
func (r *rmcp) raise(ctx context.Context, role byte) error {
	if _, err := r.command(ctx, netApp, 0x3b, role); err != nil {
		_ = r.close(ctx)
		return fmt.Errorf("setting the session's privilege level: %w", err)
	}
	return nil
}

// login is Open Session and RAKP 1 to 4 (IPMI 2.0 §13.17 to §13.23).
func (r *rmcp) login(ctx context.Context, s lanplus.Suite, role byte, user string, key []byte) error {
	le := binary.LittleEndian
	r.active, r.Keys, r.rq = false, lanplus.Keys{Integrity: s.Integrity}, 0
	for r.Own == 0 {
		r.Own = le.Uint32(crypto.RandomBytes(4))
	}
	req := append(le.AppendUint32([]byte{0, 0, 0, 0}, r.Own), s.Payloads()...)
	got, err := r.setup(ctx, "opening the session", lanplus.Open, req, 36)
	if err != nil {
		return err
	}
	r.Peer = le.Uint32(got[8:])
	for i, alg := range s.Algorithms() {
		if got[12+8*i+4]&0x3f != alg {
			return fmt.Errorf("the BMC chose another cipher suite than %d, which was asked for: its firmware needs an update", s.ID)
		}
	}
	// RAKP 1 and 2: the BMC proves that it knows the password.
	crand := crypto.RandomBytes(16)
	role |= nameOnly
	req = append(le.AppendUint32([]byte{0, 0, 0, 0}, r.Peer), crand...)
	req = append(append(req, role, 0, 0, byte(len(user))), user...)
	n := crypto.RAKP2AuthCodeLen(s.Auth)
	if got, err = r.setup(ctx, "RAKP 1", lanplus.RAKP1, req, 40+n); err != nil {
		return err
	}
	brand, guid := got[8:24], got[24:40]
	want, err := crypto.RAKP2AuthCode(s.Auth, r.Own, r.Peer, crand, brand, guid, role, user, key)
	if err != nil {
		return err
	}
	req = le.AppendUint32([]byte{0, 0, 0, 0}, r.Peer)
	if !crypto.Equal(want, got[40:40+n]) {
		// The BMC is told, so that its slot is free again (IPMI 2.0 §13.22).
		req[1] = byte(types.RmcpStatusCodeInvalidIntegrityCheckValue)
		_, _ = r.conn.Write(lanplus.Packet(lanplus.RAKP3, 0, 0, req))
		return fmt.Errorf("%w: its answer was made with another password (RAKP 2)", ErrPassword)
	}
	sik, k1, k2, err := crypto.DeriveSessionKeys(s.Auth, crand, brand, role, user, key)
	if err != nil {
		return err
	}
	code, err := crypto.RAKP3AuthCode(s.Auth, brand, r.Own, role, user, key)
	if err != nil {
		return err
	}
	n = crypto.RAKP4ICVLen(s.Auth)
	if got, err = r.setup(ctx, "RAKP 3", lanplus.RAKP3, append(req, code...), 8+n); err != nil {
		return err
	}
	if want, err = crypto.RAKP4ICV(s.Auth, crand, r.Peer, guid, sik); err != nil {
		return err
	}
	if !crypto.Equal(want, got[8:8+n]) {
		return fmt.Errorf("what answers at %s did not prove that it is the BMC (RAKP 4): check its address", r.conn.RemoteAddr())
	}
	r.K1, r.K2, r.active = k1, k2, true
	return nil
}

// setup sends a message of the session set-up and returns the answer, of
// length n at least. Each sending has a tag of its own: a BMC makes a new
// random number for a RAKP 1 that is sent again, and an answer to the first
// would then look like a wrong password.
func (r *rmcp) setup(ctx context.Context, stage string, kind byte, msg []byte, n int) ([]byte, error) {
	var got []byte
	err := r.exchange(ctx, func() ([]byte, error) {
		r.tag++
		msg[0] = r.tag
		return lanplus.Packet(kind, 0, 0, msg), nil
	}, func(p []byte) bool {
		u, ok := lanplus.Unpack(p)
		body := u.Body
		if !ok || u.Kind != kind+1 || u.Session != 0 || len(body) < 2 || body[0] != r.tag {
			return false
		}
		// A refusal may end after its status: OpenIPMI's ipmi_sim answers so.
		if body[1] == 0 && (len(body) < n || binary.LittleEndian.Uint32(body[4:]) != r.Own) {
			return false
		}
		got = append([]byte(nil), body...)
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", stage, err)
	}
	if got[1] != 0 {
		return nil, &statusError{stage, types.RmcpStatusCode(got[1])}
	}
	return got, nil
}

// close ends the session (IPMI 2.0 §22.19), and its socket in any case.
func (r *rmcp) close(ctx context.Context) error {
	var err error
	if r.active {
		_, err = r.command(ctx, netApp, 0x3c, binary.LittleEndian.AppendUint32(nil, r.Peer)...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = false
	return errors.Join(err, r.conn.Close())
}

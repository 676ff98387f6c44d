package web

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/fettle-dev/fettle/state"
)

// BMCs does things to machines' BMCs. Its methods may be called concurrently.
type BMCs interface {
	// Operations lists what Operate does.
	Operations() []state.BMCOperation
	// Held lists who has which BMC.
	Held() []state.BMCHold
	// Operate does an operation at the BMCs that req names, and tells step how
	// it goes, one step at a time; of each machine the last one says Done. An
	// error before the first step means that nothing was begun.
	Operate(ctx context.Context, actor, operation string, req state.BMCRequest, step func(state.BMCStep)) error
	// Upload keeps a firmware image until an operation that names it has ended.
	Upload(r io.Reader) (id string, err error)
	// Console joins what attach returns with a machine's serial console, until
	// either ends. attach is called once the BMC has answered.
	Console(ctx context.Context, actor, machine string, take bool, port uint16, attach func() (io.ReadWriter, error)) error
}

// maxOrder bounds a request about BMCs: plans of ten thousand machines.
const maxOrder = 64 << 20

// BMCView is what can be done to BMCs here, and what is being done.
type BMCView struct {
	Operations []state.BMCOperation `json:"operations"`
	Held       []state.BMCHold      `json:"held"`
}

// Upload is a file that was uploaded.
type Upload struct {
	ID string `json:"id"`
}

func (s *Server) bmcs() (BMCs, error) {
	if s.c.BMCs == nil {
		return nil, problem(http.StatusNotImplemented, "ask a fettle serve", "this server speaks to no BMCs")
	}
	return s.c.BMCs, nil
}

// roleFor is the least role that may do an operation of that effect.
func roleFor(effect string) Role {
	switch effect {
	case "reads":
		return RoleViewer
	case "watches", "changes":
		return RoleOperator
	default:
		return RoleAdmin
	}
}

func (s *Server) getBMC(w http.ResponseWriter, _ *http.Request) error {
	b, err := s.bmcs()
	if err != nil {
		return err
	}
	return answer(w, BMCView{b.Operations(), append([]state.BMCHold{}, b.Held()...)})
}

func (s *Server) postBMCFile(w http.ResponseWriter, r *http.Request) error {
	b, err := s.bmcs()
	if err != nil {
		return err
	}
	id, err := b.Upload(r.Body)
	if err != nil {
		return refused(err, nil)
	}
	return answer(w, Upload{id})
}

// bmcLine is a line of an operation's answer: a step, or how it ended. Failed
// is the operation's as a whole; a step's error is a machine's.
type bmcLine struct {
	*state.BMCStep
	End    bool   `json:"end,omitempty"`
	Failed string `json:"failed,omitempty"`
}

// postBMC does an operation, and answers with a line of JSON for each step. It
// ends with the request: a BMC that is being asked is asked no further.
func (s *Server) postBMC(w http.ResponseWriter, r *http.Request) error {
	b, err := s.bmcs()
	if err != nil {
		return err
	}
	name := r.PathValue("operation")
	ops := b.Operations()
	i := slices.IndexFunc(ops, func(o state.BMCOperation) bool { return o.Name == name })
	if i < 0 {
		return problem(http.StatusNotFound, "see GET /api/v1/bmc", "there is no operation %q on BMCs", name)
	}
	who := identity(r)
	if need := roleFor(ops[i].Effect); !who.Role.includes(need) {
		return forbidden(who, need)
	}
	var req state.BMCRequest
	if err := s.read(r, &req); err != nil {
		return err
	}
	if err := s.check(req.Machines); err != nil {
		return err
	}
	out, ctx, stop := s.lines(w, r)
	defer stop()
	err = b.Operate(ctx, who.Actor(), name, req, func(st state.BMCStep) { out.send(bmcLine{BMCStep: &st}) })
	if err != nil && !out.begun {
		return refused(err, nil)
	}
	end := bmcLine{End: true}
	if err != nil {
		end.Failed = err.Error()
	}
	out.send(end)
	return nil
}

// consoleProtocol is what a console's connection is switched to (RFC 9110
// section 7.8): bytes as they are, both ways.
const consoleProtocol = "fettle-console"

func (s *Server) getConsole(w http.ResponseWriter, r *http.Request) error {
	b, err := s.bmcs()
	if err != nil {
		return err
	}
	name := s.nameOf(r.PathValue("name"))
	if err := s.check([]string{name}); err != nil {
		return err
	}
	if r.Header.Get("Upgrade") != consoleProtocol {
		w.Header().Set("Upgrade", consoleProtocol)
		return problem(http.StatusUpgradeRequired, "send Connection: Upgrade and Upgrade: "+consoleProtocol, "a console is no document")
	}
	port := uint64(0)
	if v := r.URL.Query().Get("port"); v != "" {
		if port, err = strconv.ParseUint(v, 10, 16); err != nil {
			return problem(http.StatusBadRequest, "", "port=%s is no port", v)
		}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context())) // a hijacked request has no end of its own
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	var conn net.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close() // the person has left, or is told why it ends
		}
	}()
	err = b.Console(ctx, identity(r).Actor(), name, r.URL.Query().Get("take") != "", uint16(port), func() (io.ReadWriter, error) {
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return nil, err
		}
		conn = c
		if err := c.SetDeadline(time.Time{}); err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // wakes who reads or writes
		_, err = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", consoleProtocol)
		return consoleConn{ctx, buf.Reader, c}, err
	})
	if conn == nil && err != nil {
		return refused(err, nil)
	}
	if err != nil {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second)) // they may have left
		_, _ = fmt.Fprintf(conn, "\r\nfettle: %v\r\n", err)
	}
	return nil
}

// consoleConn is a person's end of a console. Who reads nothing for long is
// gone: the BMC's session is not kept for them.
type consoleConn struct {
	ctx context.Context
	io.Reader
	conn net.Conn
}

func (c consoleConn) Write(p []byte) (int, error) {
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	if err := c.ctx.Err(); err != nil { // after the deadline was set: AfterFunc's may be gone
		return 0, err
	}
	return c.conn.Write(p)
}

// BMC tells what can be done to BMCs, and who has which.
func (c *Client) BMC(ctx context.Context) (BMCView, error) {
	var out BMCView
	return out, c.call(ctx, "GET", "/bmc", nil, &out)
}

// Where is the server, for people.
func (c *Client) Where() string { return c.where }

// Operate has the server do an operation at BMCs, and tells step how it goes.
func (c *Client) Operate(ctx context.Context, operation string, req state.BMCRequest, step func(state.BMCStep)) error {
	resp, err := c.send(ctx, "POST", "/bmc/"+url.PathEscape(operation), req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var l bmcLine
		err := dec.Decode(&l)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("fettle at %s broke off: what its BMCs did is in fettle events: %w", c.where, err)
		case l.End && l.Failed != "":
			return fmt.Errorf("fettle at %s: %s", c.where, l.Failed)
		case l.End:
			return nil
		case l.BMCStep != nil:
			step(*l.BMCStep)
		}
	}
}

// Upload gives the server a firmware image, for one operation.
func (c *Client) Upload(ctx context.Context, r io.Reader, size int64) (string, error) {
	req, err := http.NewRequestWithContext(ctx, "POST", c.base+"/api/v1/bmc/files", r)
	if err != nil {
		return "", fmt.Errorf("asking %s: %w", c.where, err)
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Expect", "100-continue") // who is refused hears why, and sends nothing (RFC 9110 section 10.1.1)
	resp, err := c.do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var out Upload
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return "", fmt.Errorf("%s answered with something that cannot be read: %w", c.where, err)
	}
	return out.ID, nil
}

// Console is a machine's serial console; the caller closes it.
func (c *Client) Console(ctx context.Context, machine string, take bool, port int) (io.ReadWriteCloser, error) {
	q := url.Values{}
	if take {
		q.Set("take", "1")
	}
	if port != 0 {
		q.Set("port", strconv.Itoa(port))
	}
	req, err := http.NewRequestWithContext(ctx, "GET", c.base+"/api/v1/machines/"+url.PathEscape(machine)+"/console?"+q.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", c.where, err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", consoleProtocol)
	resp, err := c.do(req)
	if err != nil {
		return nil, err
	}
	rw, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("fettle at %s has no consoles: is it as new as this?", c.where)
	}
	return rw, nil
}

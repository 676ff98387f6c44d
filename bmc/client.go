package bmc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/bmc-toolbox/bmclib/v2"
	"github.com/go-logr/logr"
	"github.com/jacobweinstock/registrar"
)

// Client is one BMC with an open session. Its methods may be called
// concurrently; each is bounded by Target.Timeout.
type Client struct {
	t    Target
	log  *slog.Logger
	lib  *bmclib.Client
	drv  driver
	poll time.Duration // between two looks while waiting

	mu     sync.Mutex
	closed bool
}

// driver is what fettle asks of a BMC beyond bmclib's vocabulary. The same
// value is registered with bmclib's registrar, which calls it to open, to
// close, to set and get power, and to set the boot device.
type driver interface {
	// ready reads what every operation but power needs.
	ready(ctx context.Context) error
	power(ctx context.Context) (string, error)
	status(ctx context.Context) (Status, error)
	// lastReset is when the machine was last reset; ok is false where the BMC
	// does not tell, or where the time does not follow such an action.
	lastReset(ctx context.Context, a Action) (when string, ok bool, err error)
	// nextBoot reads the override back.
	nextBoot(ctx context.Context) (nb NextBoot, modeKnown bool, err error)
	identify(ctx context.Context, on bool) error
	inventory(ctx context.Context) (Inventory, error)
	firmware(ctx context.Context) ([]Firmware, error)
	sensors(ctx context.Context) (Readings, error)
	eventLog(ctx context.Context) ([]LogEntry, error)
	clearLog(ctx context.Context) error
	bios(ctx context.Context) (BIOS, error)
	setBIOS(ctx context.Context, want map[string]any) error
	accounts(ctx context.Context) ([]Account, error)
	changePassword(ctx context.Context, user string, pw Password) error
	powerLimit(ctx context.Context) (PowerLimit, error)
	setPowerLimit(ctx context.Context, watts float64) error
	networks(ctx context.Context) ([]Network, error)
	clock(ctx context.Context) (time.Time, error)
	setClock(ctx context.Context, t time.Time) error
	resetBMC(ctx context.Context) error
}

// Defaults of a Target.
const (
	defaultTimeout   = 30 * time.Second
	defaultPowerWait = 60 * time.Second
	shutdownWait     = 5 * time.Minute
	logoutTimeout    = 5 * time.Second
	loginGrace       = 2 * time.Second // for the answer to a login that is no longer wanted
	readBackWait     = 10 * time.Second
	defaultPoll      = 500 * time.Millisecond
)

// Open logs in to a BMC: one attempt, with one driver. The session must be
// ended by Close. When ctx ends during the login, the session that may have
// come of it is ended before Open returns.
func Open(ctx context.Context, t Target) (*Client, error) {
	if t.Timeout <= 0 {
		t.Timeout = defaultTimeout
	}
	if !t.Address.IsValid() {
		return nil, t.fail("opening", errors.New("it has no BMC address: give it one in the site file"))
	}
	port := map[Protocol]uint16{Redfish: 443, "": 443, IPMI: 623}[t.Protocol]
	if t.Address.Port() == 0 {
		t.Address = netip.AddrPortFrom(t.Address.Addr(), port)
	}
	log := t.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Client{t: t, log: log.With("machine", t.Name, "bmc", t.Address.String()), poll: defaultPoll}
	reg := registrar.NewRegistry()
	hc, err := httpClient(t, c.log)
	if err != nil {
		return nil, t.fail("opening", err)
	}
	switch t.Protocol {
	case Redfish, "":
		d := &redfishDriver{t: t, hc: hc, log: c.log}
		reg.Register(redfishName, string(Redfish), redfishFeatures, nil, d)
		c.drv = d
	case IPMI:
		d, err := newIPMI(t, c.log)
		if err != nil {
			return nil, t.fail("opening", err)
		}
		reg.Register(ipmiName, string(IPMI), ipmiFeatures, nil, d)
		c.drv = d
	default:
		return nil, t.fail("opening", fmt.Errorf("it has the BMC protocol %q: use %s or %s", t.Protocol, Redfish, IPMI))
	}
	c.lib = bmclib.NewClient(t.Address.Addr().String(), t.User, string(t.Password),
		bmclib.WithRegistry(reg), bmclib.WithHTTPClient(hc), bmclib.WithPerProviderTimeout(t.Timeout),
		bmclib.WithLogger(logr.FromSlogHandler(c.log.Handler())))
	if err := c.lib.Open(ctx); err != nil {
		hc.CloseIdleConnections()
		return nil, t.own(ctx, "logging in", err)
	}
	return c, nil
}

// Close ends the session, also when ctx has ended, and may be called twice.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(logoutTimeout, c.t.Timeout))
	defer cancel()
	if err := c.lib.Close(ctx); err != nil {
		return c.t.own(ctx, "logging out", err)
	}
	return nil
}

// Name is the machine's name.
func (c *Client) Name() string { return c.t.Name }

// begin bounds one operation, and makes the driver ready for it.
func (c *Client) begin(ctx context.Context, doing string) (context.Context, context.CancelFunc, error) {
	ctx, cancel, err := c.bound(ctx, doing)
	if err != nil {
		return nil, nil, err
	}
	if err := c.drv.ready(ctx); err != nil {
		defer cancel()
		return nil, nil, c.t.own(ctx, doing, err)
	}
	return ctx, cancel, nil
}

// longReads is how much longer than one request an operation may take that
// reads a whole machine: a hundred requests at BMCs that need a second each.
const longReads = 5

// beginLong is begin for what takes many requests: each of them has
// Target.Timeout, and all of them longReads times that.
func (c *Client) beginLong(ctx context.Context, doing string) (context.Context, context.CancelFunc, error) {
	first, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return nil, nil, err
	}
	_ = first // it was for the service root
	cancel()
	limit := longReads * c.t.Timeout
	ctx, cancel = context.WithTimeoutCause(ctx, limit, &slowError{limit})
	return ctx, cancel, nil
}

// slowError means that a BMC answers, and too slowly for all that was asked.
type slowError struct{ limit time.Duration }

func (e *slowError) Error() string {
	return fmt.Sprintf("the BMC answers too slowly: after %s not everything was read: give it more time", e.limit)
}
func (e *slowError) Unwrap() error { return context.DeadlineExceeded }

// bound bounds one operation.
func (c *Client) bound(ctx context.Context, doing string) (context.Context, context.CancelFunc, error) {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return nil, nil, c.t.fail(doing, errors.New("the session is closed already"))
	}
	ctx, cancel := context.WithTimeout(ctx, c.t.Timeout)
	return ctx, cancel, nil
}

// Status is one look at the BMC.
func (c *Client) Status(ctx context.Context) (Status, error) {
	const doing = "reading the status"
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return Status{}, err
	}
	defer cancel()
	st, err := c.drv.status(ctx)
	return st, c.t.own(ctx, doing, err)
}

// Power is the power state.
func (c *Client) Power(ctx context.Context) (Power, error) {
	const doing = "reading the power state"
	ctx, cancel, err := c.bound(ctx, doing)
	if err != nil {
		return PowerUnknown, err
	}
	defer cancel()
	s, err := c.drv.power(ctx)
	if err != nil {
		return PowerUnknown, c.t.own(ctx, doing, err)
	}
	return parsePower(s), nil
}

// Identify switches the identify light, and reads it back.
func (c *Client) Identify(ctx context.Context, on bool) error {
	const doing = "switching the identify light"
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	return c.t.own(ctx, doing, c.drv.identify(ctx, on))
}

// Inventory is what the machine is made of, as its BMC tells.
func (c *Client) Inventory(ctx context.Context) (Inventory, error) {
	const doing = "reading the inventory"
	ctx, cancel, err := c.beginLong(ctx, doing)
	if err != nil {
		return Inventory{}, err
	}
	defer cancel()
	inv, err := c.drv.inventory(ctx)
	return inv, c.t.own(ctx, doing, err)
}

// Firmware are the versions of what is installed.
func (c *Client) Firmware(ctx context.Context) ([]Firmware, error) {
	const doing = "reading the firmware versions"
	ctx, cancel, err := c.beginLong(ctx, doing)
	if err != nil {
		return nil, err
	}
	defer cancel()
	fs, err := c.drv.firmware(ctx)
	return fs, c.t.own(ctx, doing, err)
}

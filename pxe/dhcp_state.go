package pxe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// exchange is one request on its way to an answer.
type exchange struct {
	s     *Server
	start time.Time
	on    *Network // where the packet came in, whose address we answer with
	n     *Network // the client's
	r     *request
	probe Prober // may be nil

	at time.Time // what it is now, for all of a batch; zero: the clock knows

	// Of a REQUEST: the address that it asks for, in which of its states, and
	// whether it answers an offer of ours and waits for us alone.
	addr     netip.Addr
	how      string
	selected bool
}

func (x *exchange) now() time.Time {
	if x.at.IsZero() {
		return x.s.now()
	}
	return x.at
}

func (x *exchange) record(kind, text string, err error) {
	x.s.record(x.start, x.n, x.r.client, kind, text, err)
}

// told records an offer or an acknowledgement of a boot file.
func (x *exchange) told(kind, file, text string) {
	x.s.recordFile(x.start, x.n, x.r.client, kind, file, text, nil)
}

// wanted reports whether there is any use in saying what is going on.
func (x *exchange) wanted() bool {
	return x.s.limit == nil || x.s.limit.Wants(x.r.client.MAC, x.r.client.Addr, x.now())
}

// discover answers DHCPDISCOVER (RFC 2131 §4.3.1).
func (x *exchange) discover(ctx context.Context) *reply {
	c := &x.r.client
	if x.wanted() {
		x.record("dhcp.discover", fmt.Sprintf("asked for an address on %s: %s", x.n.Name, c.describe()), nil)
	}
	x.s.noteDiscover(x.start, x.n, x.r.client, x.r.broadcast())
	lease, err := x.lease(ctx)
	if err != nil {
		x.refuse("dhcp.silent", "was offered no address", err)
		return nil
	}
	c.Addr = lease.Addr
	boot, err := x.boot(ctx)
	if err != nil {
		return nil
	}
	p := x.reply(msgOffer, lease, boot)
	x.s.noteStageAt(*c, stageOffered, boot.file, x.now())
	if x.wanted() {
		x.told("dhcp.offer", boot.file, fmt.Sprintf("was offered %v%s", lease.Addr, boot.sentence()))
	}
	return p
}

// request answers DHCPREQUEST.
func (x *exchange) request(ctx context.Context) *reply {
	p, ok := x.requested(ctx)
	if !ok {
		return p
	}
	lease, err := x.s.leases.Commit(ctx, x.r.client, x.addr)
	return x.committed(ctx, lease, err)
}

// requested finds out which address a DHCPREQUEST asks for, in its four states
// (RFC 2131 §4.3.2); ok is false when there is none to be committed, and p is
// the answer then.
func (x *exchange) requested(ctx context.Context) (p *reply, ok bool) {
	r := x.r
	switch {
	case r.server.IsValid(): // selecting
		if !x.ours(r.server) {
			x.s.noteRefused(r.client, r.server)
			x.record("dhcp.refused", fmt.Sprintf("took the offer of another DHCP server, %v: if that is not meant, stop that server or use ProxyDHCP", r.server), nil)
			return nil, false
		}
		if !r.want.IsValid() {
			// RFC 2131 table 5 demands option 50 here; take ciaddr's word.
			r.want = r.ciaddr
		}
		x.addr, x.how, x.selected = r.want, "selecting", true
	case r.want.IsValid(): // init-reboot: an address remembered from before
		if !x.n.Prefix.Contains(r.want) {
			return x.elsewhere(ctx), false
		}
		x.addr, x.how = r.want, "init-reboot"
	case r.ciaddr.IsValid(): // renewing (unicast) or rebinding (broadcast)
		if !x.n.Prefix.Contains(r.ciaddr) {
			return x.elsewhere(ctx), false
		}
		x.addr, x.how = r.ciaddr, "renewing"
	default:
		x.record("dhcp.drop", "sent a REQUEST that names no address at all", nil)
		return nil, false
	}
	if !x.addr.IsValid() || !x.n.Prefix.Contains(x.addr) {
		return x.nak(fmt.Sprintf("address %v is not of network %s", x.addr, x.n.Name)), false
	}
	r.client.Addr = x.addr
	return nil, true
}

// serverID is what a client knows this server by (option 54): our address on
// the interface, or the relay's own where the relay wants so (RFC 5107 §4).
func (x *exchange) serverID() netip.Addr {
	if x.r.giaddr.IsValid() {
		if a := addrOf(subOption(x.r.opt(optRelayInfo), relayServerID)); a.IsValid() {
			return a
		}
	}
	return x.on.Server
}

func (x *exchange) ours(server netip.Addr) bool {
	return x.s.serves(server) || server == x.serverID()
}

// elsewhere answers a client that remembers an address of another network:
// NAK if it is one of ours, silence if we know nothing of it (§4.3.2).
func (x *exchange) elsewhere(ctx context.Context) *reply {
	want := x.r.want
	if !want.IsValid() {
		want = x.r.ciaddr
	}
	if _, err := x.s.leases.Offer(ctx, x.r.client, netip.Addr{}); err != nil {
		x.refuse("dhcp.request", fmt.Sprintf("asked to keep %v of another network", want), err)
		return nil
	}
	return x.nak(fmt.Sprintf("address %v is not of network %s", want, x.n.Name))
}

// committed acknowledges an address that is the client's now, or says why it is
// not.
func (x *exchange) committed(ctx context.Context, lease Lease, err error) *reply {
	c := &x.r.client
	switch {
	case err == nil:
	case errors.Is(err, ErrWrongAddress), x.selected && errors.Is(err, ErrNoLease):
		return x.nak(fmt.Sprintf("address %v is not this client's", x.addr))
	default:
		x.refuse("dhcp.request", fmt.Sprintf("asked for %v (%s)", x.addr, x.how), err)
		return nil
	}
	boot, err := x.boot(ctx)
	if err != nil {
		return nil
	}
	x.s.noteStageAt(*c, boot.stage(*c), boot.file, x.now())
	if x.wanted() {
		x.told("dhcp.ack", boot.file, fmt.Sprintf("has %v for %v (%s)%s", x.addr, lease.Duration, x.how, boot.sentence()))
	}
	return x.reply(msgAck, lease, boot)
}

// nak refuses an address (RFC 2131 table 3).
func (x *exchange) nak(why string) *reply {
	x.record("dhcp.nak", "was refused: "+why+"; it will ask again from the start", nil)
	return x.nakReply(why)
}

// decline takes a DHCPDECLINE: the client found the address in use
// (RFC 2131 §4.3.3).
func (x *exchange) decline(ctx context.Context) *reply {
	if x.r.server.IsValid() && !x.ours(x.r.server) {
		return nil
	}
	if !x.r.want.IsValid() {
		x.record("dhcp.drop", "declined an address without naming it", nil)
		return nil
	}
	err := x.s.leases.Decline(ctx, x.r.client, x.r.want)
	if errors.Is(err, ErrWrongAddress) {
		x.record("dhcp.drop", fmt.Sprintf("declined %v, which it was not given", x.r.want), err)
		return nil
	}
	x.record("dhcp.decline", fmt.Sprintf("found %v in use by somebody else and declined it: look for a machine with that fixed address", x.r.want), err)
	return nil
}

// release takes a DHCPRELEASE (RFC 2131 §4.3.4).
func (x *exchange) release(ctx context.Context) *reply {
	if x.r.server.IsValid() && !x.ours(x.r.server) || !x.r.ciaddr.IsValid() {
		return nil
	}
	err := x.s.leases.Release(ctx, x.r.client, x.r.ciaddr)
	x.record("dhcp.release", fmt.Sprintf("gave %v back", x.r.ciaddr), err)
	return nil
}

// inform answers DHCPINFORM: options, no lease (RFC 2131 §4.3.5).
func (x *exchange) inform(ctx context.Context) *reply {
	if !x.r.ciaddr.IsValid() || !x.n.Prefix.Contains(x.r.ciaddr) {
		x.record("dhcp.drop", "asked for options without an address of this network", nil)
		return nil
	}
	boot, err := x.boot(ctx)
	if err != nil {
		return nil
	}
	x.record("dhcp.inform", fmt.Sprintf("asked for options for its own address %v", x.r.ciaddr), nil)
	return x.reply(msgAck, Lease{}, boot)
}

// refuse records why a client got no answer.
func (x *exchange) refuse(kind, text string, err error) {
	switch {
	case errors.Is(err, ErrNoLease):
		x.record(kind, text+": this server has none for it", nil)
	case errors.Is(err, context.Canceled):
	default:
		x.s.unanswered("DHCP", err)
		x.record(kind, text+": "+err.Error(), err)
	}
}

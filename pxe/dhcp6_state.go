package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// exchange6 is one DHCPv6 message on its way to an answer.
type exchange6 struct {
	s     *Server
	start time.Time
	on    *Network // where the packet came in, whose address we answer with
	n     *Network // the client's
	r     *request6
}

var errNotOurs6 = errors.New("the message is for another DHCPv6 server")

func (x *exchange6) record(kind, text string, err error) {
	x.s.record(x.start, x.n, x.r.client, kind, text, err)
}

// check is the validation of RFC 8415 §16.
func (r *request6) check(on *Network) error {
	needs, ours := false, bytes.Equal(r.serverID, on.serverDUID())
	switch r.kind {
	case msg6Solicit, msg6Confirm, msg6Rebind: // §16.2, §16.5, §16.7
		if r.serverID != nil {
			return fmt.Errorf("sent a DHCPv6 %s that names a server", kindName6(r.kind))
		}
	case msg6Request, msg6Renew, msg6Release, msg6Decline: // §16.4, §16.6, §16.8, §16.9
		needs = true
	case msg6Information: // §16.12
		if len(r.ias) > 0 {
			return errors.New("sent a DHCPv6 INFORMATION-REQUEST that asks for addresses")
		}
		if r.serverID != nil && !ours {
			return errNotOurs6
		}
		return nil
	default:
		return fmt.Errorf("sent a DHCPv6 %s, which no client sends to a server", kindName6(r.kind))
	}
	switch {
	case r.clientID == nil:
		return fmt.Errorf("sent a DHCPv6 %s without a client identifier", kindName6(r.kind))
	case needs && r.serverID == nil:
		return fmt.Errorf("sent a DHCPv6 %s that names no server", kindName6(r.kind))
	case needs && !ours:
		return errNotOurs6
	}
	return nil
}

// refused notes that the client takes another server's offer.
func (x *exchange6) refused() {
	if x.r.client.MAC == nil {
		return
	}
	other := fmt.Sprintf("with DUID %x", x.r.serverID)
	x.s.noteRefusedBy(x.r.client, other)
	x.record("dhcp.refused", "took the offer of another DHCPv6 server, "+other+": if that is not meant, stop that server", nil)
}

// answer is the server's part of RFC 8415 §18.3; nil is silence.
func (x *exchange6) answer(ctx context.Context) []byte {
	switch x.r.kind {
	case msg6Solicit:
		return x.solicit(ctx)
	case msg6Request:
		return x.lease(ctx, "requested")
	case msg6Renew:
		return x.lease(ctx, "renewed")
	case msg6Rebind:
		return x.lease(ctx, "rebound")
	case msg6Confirm:
		return x.confirm()
	case msg6Release, msg6Decline:
		return x.giveUp(ctx)
	case msg6Information:
		return x.information(ctx)
	}
	return nil
}

// wantsAddress is the first association that asks for an address; nil if none.
func (r *request6) wantsAddress() *ia6 {
	for i := range r.ias {
		if r.ias[i].kind == opt6NA {
			return &r.ias[i]
		}
	}
	return nil
}

// solicit answers with an offer, or at once with the address where the client
// wants so (§18.3.1): only an address that is this client's alone, because
// another server may do the same.
func (x *exchange6) solicit(ctx context.Context) []byte {
	c := &x.r.client
	x.record("dhcp.discover", fmt.Sprintf("asked for an address on %s by DHCPv6: %s", x.n.Name, c.describe()), nil)
	x.s.noteDiscover(x.start, x.n, *c, false)
	if x.r.wantsAddress() == nil {
		x.record("dhcp.silent", "asked by DHCPv6 for no address that is given here (IA_NA)", nil)
		return nil
	}
	lease, err := x.offer(ctx, x.wish())
	if err != nil {
		x.refuse("dhcp.silent", "was offered no IPv6 address", err)
		return nil
	}
	if x.r.rapid && !lease.Unproven {
		x.r.want = lease.Addr
		return x.lease(ctx, "rapid commit")
	}
	c.Addr = lease.Addr
	boot, err := x.boot(ctx)
	if err != nil {
		return nil
	}
	x.s.noteStage(*c, stageOffered, boot.file)
	x.told("dhcp.offer", boot.file, fmt.Sprintf("was offered %v%s", lease.Addr, boot.sentence()))
	e := x.encode(msg6Advertise)
	if c.boots() {
		// It need not wait for other servers' offers (§18.2.1).
		e = append6(e, opt6Preference, 255)
	}
	return x.options(x.associations(e, lease, netip.Addr{}), boot)
}

// offer asks for an address; one of another family is none.
func (x *exchange6) offer(ctx context.Context, want netip.Addr) (Lease, error) {
	l, err := x.s.leases.Offer(ctx, x.r.client, want)
	if err == nil && (!l.Addr.Is6() || l.Addr.Is4In6()) {
		return l, ErrNoLease
	}
	return l, err
}

// wish is the address that the client names, if it is of this network.
func (x *exchange6) wish() netip.Addr {
	if x.n.IPv6.Prefix.Contains(x.r.want) {
		return x.r.want
	}
	return netip.Addr{}
}

func (x *exchange6) boot(ctx context.Context) (bootInfo, error) {
	return x.s.boot(ctx, asking{start: x.start, n: x.n, on: x.on, client: x.r.client, http: true, first: x.r.kind == msg6Solicit})
}

func (x *exchange6) told(kind, file, text string) {
	x.s.recordFile(x.start, x.n, x.r.client, kind, file, text, nil)
}

// lease makes an address the client's and says so (§18.3.2, §18.3.4, §18.3.5).
// An address that it must not use has its lifetimes set to 0, beside the right
// one.
func (x *exchange6) lease(ctx context.Context, how string) []byte {
	c := &x.r.client
	if x.r.wantsAddress() == nil {
		if x.r.kind == msg6Rebind {
			return nil
		}
		return x.associations(x.encode(msg6Reply), Lease{}, netip.Addr{})
	}
	lease, err := Lease{}, ErrWrongAddress
	stale := x.r.want
	if want := x.wish(); want.IsValid() {
		c.Addr = want
		if lease, err = x.s.leases.Commit(ctx, *c, want); err == nil {
			stale = netip.Addr{}
		}
	}
	if errors.Is(err, ErrWrongAddress) {
		c.Addr = netip.Addr{}
		if lease, err = x.offer(ctx, netip.Addr{}); err == nil {
			c.Addr = lease.Addr
			lease, err = x.s.leases.Commit(ctx, *c, lease.Addr)
		}
	}
	if errors.Is(err, ErrNoLease) || errors.Is(err, ErrWrongAddress) {
		c.Addr = netip.Addr{}
		if x.r.kind == msg6Rebind { // another server may know it
			x.refuse("dhcp.request", "asked any server to go on with its IPv6 address", err)
			return nil
		}
		x.record("dhcp.nak", fmt.Sprintf("was refused an IPv6 address (%s): this server has none for it", how), nil)
		return x.options(x.associations(x.encode(msg6Reply), Lease{}, stale), bootInfo{})
	}
	if err != nil {
		x.refuse("dhcp.request", fmt.Sprintf("asked for an IPv6 address (%s)", how), err)
		return nil
	}
	boot, err := x.boot(ctx)
	if err != nil {
		return nil
	}
	x.s.noteStage(*c, boot.stage(*c), boot.file)
	x.s.noteIA(*c, x.r.wantsAddress().iaid)
	text := fmt.Sprintf("has %v for %v (%s)%s", lease.Addr, lease.Duration, how, boot.sentence())
	if stale.IsValid() {
		text += fmt.Sprintf("; %v, which it asked for, is not its own", stale)
	}
	x.told("dhcp.ack", boot.file, text)
	e := x.encode(msg6Reply)
	if x.r.kind == msg6Solicit {
		e = append6(e, opt6Rapid)
	}
	return x.options(x.associations(e, lease, stale), boot)
}

// confirm says whether a client's addresses are of the link that it is on now
// (§18.3.3).
func (x *exchange6) confirm() []byte {
	named := false
	for _, ia := range x.r.ias {
		for _, a := range ia.addrs {
			named = true
			if !x.n.IPv6.Prefix.Contains(a) {
				x.record("dhcp.nak", fmt.Sprintf("was refused: address %v is not of network %s; it will ask again from the start", a, x.n.Name), nil)
				return appendStatus6(x.encode(msg6Reply), status6NotOnLink, fmt.Sprintf("%v is not of this link", a))
			}
		}
	}
	if !named {
		return nil
	}
	x.record("dhcp.request", fmt.Sprintf("asked whether %v is of network %s: it is", x.r.want, x.n.Name), nil)
	return appendStatus6(x.encode(msg6Reply), status6Success, "on link")
}

// giveUp takes a RELEASE or a DECLINE (§18.3.7, §18.3.8): success whatever is
// known, and NoBinding for associations that name an address of elsewhere.
func (x *exchange6) giveUp(ctx context.Context) []byte {
	e := x.encode(msg6Reply)
	for _, ia := range x.r.ias {
		if ia.kind != opt6NA {
			continue
		}
		for _, a := range ia.addrs {
			if !x.n.IPv6.Prefix.Contains(a) {
				e = x.noBinding(e, ia)
				break
			}
			if x.r.kind == msg6Decline {
				err := x.s.leases.Decline(ctx, x.r.client, a)
				if errors.Is(err, ErrWrongAddress) {
					x.record("dhcp.drop", fmt.Sprintf("declined %v, which it was not given", a), err)
					e = x.noBinding(e, ia)
					break
				}
				x.record("dhcp.decline", fmt.Sprintf("found %v in use by somebody else and declined it: look for a machine with that fixed address", a), err)
				continue
			}
			if x.s.holdsBy(x.r.client, a, ia.iaid) {
				x.record("dhcp.release", fmt.Sprintf("gave %v back for one of its programs; another has it still", a), nil)
				continue
			}
			err := x.s.leases.Release(ctx, x.r.client, a)
			x.record("dhcp.release", fmt.Sprintf("gave %v back", a), err)
		}
	}
	return appendStatus6(e, status6Success, "done")
}

// information answers a client that has its address (§18.3.6).
func (x *exchange6) information(ctx context.Context) []byte {
	boot, err := x.boot(ctx)
	if err != nil {
		return nil
	}
	if x.r.client.boots() {
		x.s.noteDiscover(x.start, x.n, x.r.client, false)
		x.s.noteStage(x.r.client, boot.stage(x.r.client), boot.file)
	}
	x.told("dhcp.inform", boot.file, "asked by DHCPv6 for options alone: "+x.r.client.describe()+boot.sentence())
	return x.options(x.encode(msg6Reply), boot)
}

// noteIA remembers which association of a client has its address. A lease is
// the machine's, and its programs have associations of their own for the same
// address. Observed with OVMF 2022.11: its IPv6 configuration asks for an
// address and releases it when its PXE, with another IAID, has just been given
// the same.
func (s *Server) noteIA(c Client, iaid [4]byte) {
	s.clients.update(c.MAC, func(e *seen) { e.iaid = iaid })
}

// holdsBy reports whether another association than iaid has a client's address.
func (s *Server) holdsBy(c Client, a netip.Addr, iaid [4]byte) (yes bool) {
	s.clients.update(c.MAC, func(e *seen) { yes = e.addrs[familyOf(a)] == a && e.iaid != iaid })
	return yes
}

// refuse records why a client got no answer.
func (x *exchange6) refuse(kind, text string, err error) {
	switch {
	case errors.Is(err, ErrNoLease):
		x.record(kind, text+": this server has none for it", nil)
	case errors.Is(err, context.Canceled):
	default:
		x.s.unanswered("DHCPv6", err)
		x.record(kind, text+": "+err.Error(), err)
	}
}

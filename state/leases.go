package state

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/fettle-dev/fettle/site"
)

// PutLease writes a lease, new or renewed, and returns after it is on disk:
// only then may a DHCPACK be sent (RFC 2131 section 3.1, step 4). It fails
// with [ErrAddressTaken] when another MAC holds the address unexpired, and,
// whoever asks, while the address is quarantined.
//
// A MAC has one lease per network and address family: a new one on another
// address frees the former. A Declined lease belongs to no MAC; it keeps the address out of use
// until it expires.
func (s *Store) PutLease(ctx context.Context, l Lease) error {
	err := validLease(l)
	if err == nil && s.committer != nil {
		err = s.committer.submit(ctx, l, leasePut)
	}
	if err == nil && s.committer == nil {
		return s.putLease(ctx, l)
	}
	return s.leaseErr(ctx, err, "leasing", l)
}

// PutLeaseSoon is PutLease that does not wait: it returns true when w is told,
// once and by another goroutine, that the lease is on disk, or why it is not. It
// is false when nothing was done: of a cluster's store, of one that is closed,
// and while very many wait already.
func (s *Store) PutLeaseSoon(l Lease, w Waiter) bool {
	return s.committer != nil && validLease(l) == nil && s.committer.soon(l, w)
}

// Quick reports whether leases are read from memory.
func (s *Store) Quick() bool { return s.book != nil }

// leaseErr says what failed; the sentence is made only then.
func (s *Store) leaseErr(ctx context.Context, err error, doing string, l Lease) error {
	if err == nil {
		return nil
	}
	doing = fmt.Sprintf("%s %s on %s", doing, l.Addr, l.Network)
	if doing[0] == 'l' {
		doing += " to " + macText(l.MAC)
	}
	return s.wrap(ctx, doing, err)
}

// putLease writes a lease into a cluster that others write to as well.
func (s *Store) putLease(ctx context.Context, l Lease) error {
	doing := fmt.Sprintf("leasing %s on %s to %s", l.Addr, l.Network, macText(l.MAC))
	bounded, cancel := s.bound(ctx)
	defer cancel()
	for { // until nobody else wrote in between; bounded bounds it
		done, err := s.tryLease(bounded, l)
		if err != nil {
			return s.wrap(bounded, doing, err)
		}
		if done {
			return nil
		}
	}
}

// clusterOps is how many operations a transaction of a cluster may well have: 128
// by default.
const clusterOps = 100

// indexLeases gives leases that an embedded store wrote the form that they have
// in a cluster, a key each and an index by MAC: the state was moved to this one.
// Each step holds only while nobody else who opened the cluster has done them
// all: from then on leases are written, and what was read here is old.
func (s *Store) indexLeases(ctx context.Context) error {
	resp, err := s.txn(ctx, nil, clientv3.OpGet(keyLeaseSeq), clientv3.OpGet(prefixLeases, clientv3.WithPrefix()),
		clientv3.OpGet(prefixLeasePages, clientv3.WithPrefix()), clientv3.OpGet(prefixLeaseMACs, clientv3.WithPrefix(), clientv3.WithKeysOnly()),
		clientv3.OpGet(keyLeaseClock))
	if err != nil {
		return err
	}
	moved := one(resp.Responses[0].GetResponseRange().Kvs)
	if moved == nil {
		return nil
	}
	single, pages := resp.Responses[1].GetResponseRange().Kvs, resp.Responses[2].GetResponseRange().Kvs
	var clock leaseClock
	if kv := one(resp.Responses[4].GetResponseRange().Kvs); kv != nil {
		if err := json.Unmarshal(kv.Value, &clock); err != nil {
			return fmt.Errorf("%s is unreadable: %w", keyLeaseClock, err)
		}
	}
	leases, err := readLeases(single, pages, clock)
	if err != nil {
		return err
	}
	byAddr, newest := map[string]Lease{}, map[string]Lease{}
	for _, l := range leases {
		byAddr[leaseKey(l.Network, l.Addr)] = l
	}
	var ops []clientv3.Op
	for key, l := range byAddr {
		v, err := json.Marshal(l)
		if err != nil {
			return err
		}
		ops = append(ops, clientv3.OpPut(key, string(v)))
		mac := leaseMACKey(holder(l))
		if old, ok := newest[mac]; !l.Declined && (!ok || old.Expires.Before(l.Expires)) {
			newest[mac] = l
		}
	}
	for key, l := range newest {
		ops = append(ops, clientv3.OpPut(key, l.Addr.String()))
	}
	// The directory's data may have come from a cluster before: a MAC's next
	// lease would free the address that an old entry has, whoever has it by now.
	for _, kv := range resp.Responses[3].GetResponseRange().Kvs {
		if _, ok := newest[string(kv.Key)]; !ok {
			ops = append(ops, clientv3.OpDelete(string(kv.Key)))
		}
	}
	steps := append(slices.Collect(slices.Chunk(ops, clusterOps)), []clientv3.Op{
		clientv3.OpDelete(keyLeaseSeq), clientv3.OpDelete(keyLeaseClock), clientv3.OpDelete(prefixLeasePages, clientv3.WithPrefix()),
	})
	for _, step := range steps {
		done, err := s.txn(ctx, []clientv3.Cmp{sameRevision(keyLeaseSeq, moved)}, step...)
		if err != nil || !done.Succeeded {
			return err
		}
	}
	return nil
}

// tryLease decides on what it reads and writes if that is still so.
func (s *Store) tryLease(ctx context.Context, l Lease) (bool, error) {
	key, macKey := leaseKey(l.Network, l.Addr), leaseMACKey(holder(l))
	resp, err := s.txn(ctx, nil,
		clientv3.OpGet(key, s.reads()...), clientv3.OpGet(macKey, s.reads()...))
	if err != nil {
		return false, err
	}
	byAddr, byMAC := one(resp.Responses[0].GetResponseRange().Kvs), one(resp.Responses[1].GetResponseRange().Kvs)
	unchanged := []clientv3.Cmp{sameRevision(key, byAddr), sameRevision(macKey, byMAC)}
	var ops []clientv3.Op

	if byAddr != nil {
		var old Lease
		if err := json.Unmarshal(byAddr.Value, &old); err != nil {
			return false, fmt.Errorf("%s is unreadable: %w", key, err)
		}
		if err := refusal(old, s.now().Before(old.Expires), l); err != nil {
			return false, err
		}
		if old.MAC != l.MAC && !old.Declined {
			// The former holder's index entry goes, if it still points here;
			// whoever moves it also rewrites the key that is compared above.
			ops = append(ops, clientv3.OpDelete(leaseMACKey(holder(old))))
		}
	}
	value, err := json.Marshal(l)
	if err != nil {
		return false, err
	}
	ops = append(ops, clientv3.OpPut(key, string(value)))
	pointsHere := byMAC != nil && string(byMAC.Value) == l.Addr.String()
	switch {
	case !l.Declined:
		ops = append(ops, clientv3.OpPut(macKey, l.Addr.String()))
		if byMAC != nil && !pointsHere {
			if former, err := netip.ParseAddr(string(byMAC.Value)); err == nil {
				ops = append(ops, clientv3.OpDelete(leaseKey(l.Network, former)))
			}
		}
	case pointsHere:
		ops = append(ops, clientv3.OpDelete(macKey))
	}
	done, err := s.txn(ctx, unchanged, ops...)
	if err != nil {
		return false, err
	}
	return done.Succeeded, nil
}

// LeaseByMAC returns the lease of an IPv4 address that mac has on network,
// expired or not.
func (s *Store) LeaseByMAC(ctx context.Context, network string, mac site.MAC) (Lease, bool, error) {
	return s.leaseOf(ctx, leaseOf{network, mac, false})
}

// LeaseByMAC6 is LeaseByMAC of an IPv6 address.
func (s *Store) LeaseByMAC6(ctx context.Context, network string, mac site.MAC) (Lease, bool, error) {
	return s.leaseOf(ctx, leaseOf{network, mac, true})
}

func (s *Store) leaseOf(ctx context.Context, of leaseOf) (Lease, bool, error) {
	if s.book != nil {
		h, ok := s.book.of(of)
		return s.leaseFound(h, ok)
	}
	network, mac := of.network, of.mac
	doing := fmt.Sprintf("reading the lease of %s on %s", macText(mac), network)
	bounded, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.get(bounded, leaseMACKey(of))
	if err != nil {
		return Lease{}, false, s.wrap(bounded, doing, err)
	}
	kv := one(resp.Kvs)
	if kv == nil {
		return Lease{}, false, nil
	}
	addr, err := netip.ParseAddr(string(kv.Value))
	if err != nil {
		return Lease{}, false, fmt.Errorf("%s: %s is unreadable: %w", doing, kv.Key, err)
	}
	l, ok, err := s.LeaseByAddr(ctx, network, addr)
	if err != nil || !ok || l.MAC != mac || l.Declined { // it moved between the two reads
		return Lease{}, false, err
	}
	return l, true, nil
}

// LeaseByAddr returns the lease of an address, expired or not.
func (s *Store) LeaseByAddr(ctx context.Context, network string, addr netip.Addr) (Lease, bool, error) {
	if s.book != nil {
		h, ok := s.book.at(network, addr)
		return s.leaseFound(h, ok)
	}
	doing := fmt.Sprintf("reading the lease of %s on %s", addr, network)
	bounded, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.get(bounded, leaseKey(network, addr))
	if err != nil {
		return Lease{}, false, s.wrap(bounded, doing, err)
	}
	kv := one(resp.Kvs)
	if kv == nil {
		return Lease{}, false, nil
	}
	var l Lease
	if err := json.Unmarshal(kv.Value, &l); err != nil {
		return Lease{}, false, fmt.Errorf("%s: %s is unreadable: %w", doing, kv.Key, err)
	}
	return l, true, nil
}

// leaseFound is a lease of the book, until the store is closed: it holds what
// is on disk also while that cannot be written.
func (s *Store) leaseFound(h held, ok bool) (Lease, bool, error) {
	if s.ctx.Err() != nil {
		return Lease{}, false, s.wrap(s.ctx, "reading a lease", s.ctx.Err())
	}
	if !ok {
		return Lease{}, false, nil
	}
	return s.leaseOut(h), true, nil
}

// Leases returns every lease, by network, then by address.
func (s *Store) Leases(ctx context.Context) ([]Lease, error) {
	if s.book != nil {
		var out []Lease
		for _, h := range s.book.all() {
			l, _, err := s.leaseFound(h, true)
			if err != nil {
				return nil, err
			}
			out = append(out, l)
		}
		return out, nil
	}
	bounded, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.get(bounded, prefixLeases, clientv3.WithPrefix())
	if err != nil {
		return nil, s.wrap(bounded, "reading leases", err)
	}
	out := make([]Lease, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		var l Lease
		if err := json.Unmarshal(kv.Value, &l); err != nil {
			return nil, fmt.Errorf("reading leases: %s is unreadable: %w", kv.Key, err)
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Lease) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Addr.Compare(b.Addr))
	})
	return out, nil
}

// DropLease frees an address, whoever has it. Dropping what is not leased is no
// error.
func (s *Store) DropLease(ctx context.Context, network string, addr netip.Addr) error {
	return s.dropLease(ctx, Lease{Network: network, Addr: addr}, leaseDrop)
}

// ReleaseLease frees an address if mac has it, expired or not. It is decided
// when it is written: whoever got an expired lease's address meanwhile keeps it,
// and so does a quarantine.
func (s *Store) ReleaseLease(ctx context.Context, network string, addr netip.Addr, mac site.MAC) error {
	return s.dropLease(ctx, Lease{Network: network, Addr: addr, MAC: mac}, leaseRelease)
}

// heldBy reports whether the address is mac's, expired or not.
func (l Lease) heldBy(mac site.MAC) bool { return l.MAC == mac && !l.Declined }

func (s *Store) dropLease(ctx context.Context, of Lease, do leaseDo) error {
	if s.committer != nil {
		return s.leaseErr(ctx, s.committer.submit(ctx, of, do), "freeing", of)
	}
	network, addr := of.Network, of.Addr
	doing := fmt.Sprintf("freeing %s on %s", addr, network)
	key := leaseKey(network, addr)
	bounded, cancel := s.bound(ctx)
	defer cancel()
	for { // until nobody else wrote in between; bounded bounds it
		resp, err := s.get(bounded, key)
		if err != nil {
			return s.wrap(bounded, doing, err)
		}
		kv := one(resp.Kvs)
		if kv == nil {
			return nil
		}
		ops := []clientv3.Op{clientv3.OpDelete(key)}
		var l Lease
		err = json.Unmarshal(kv.Value, &l)
		var syntax *json.SyntaxError
		if err != nil && (do == leaseRelease || !errors.As(err, &syntax)) {
			return fmt.Errorf("%s: %s is unreadable: %w", doing, key, err)
		}
		if do == leaseRelease && !l.heldBy(of.MAC) {
			return nil
		}
		if err == nil && !l.Declined {
			ops = append(ops, clientv3.OpDelete(leaseMACKey(holder(l))))
		}
		done, err := s.txn(bounded, []clientv3.Cmp{sameRevision(key, kv)}, ops...)
		if err != nil {
			return s.wrap(bounded, doing, err)
		}
		if done.Succeeded {
			return nil
		}
	}
}

// sameRevision holds when key is still as it was read; nil means absent.
func sameRevision(key string, kv *mvccpb.KeyValue) clientv3.Cmp {
	revision := int64(0)
	if kv != nil {
		revision = kv.ModRevision
	}
	return clientv3.Compare(clientv3.ModRevision(key), "=", revision)
}

func one(kvs []*mvccpb.KeyValue) *mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	return kvs[0]
}

func leaseKey(network string, addr netip.Addr) string {
	return prefixLeases + url.PathEscape(network) + "/" + addr.String()
}

func leaseMACKey(of leaseOf) string {
	key := prefixLeaseMACs + url.PathEscape(of.network) + "/" + macText(of.mac)
	if of.six {
		key += "/6"
	}
	return key
}

func macText(m site.MAC) string {
	const hex = "0123456789abcdef"
	var b [17]byte
	for i, c := range m {
		if i > 0 {
			b[3*i-1] = ':'
		}
		b[3*i], b[3*i+1] = hex[c>>4], hex[c&15]
	}
	return string(b[:])
}

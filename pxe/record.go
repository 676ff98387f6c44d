package pxe

import (
	"fmt"
	"net/netip"
	"path"
	"time"
)

// record tells the recorder of an exchange with a client.
func (s *Server) record(start time.Time, n *Network, c Client, kind, text string, err error) {
	s.recordFile(start, n, c, kind, "", text, err)
}

// recordFile names a boot file too.
func (s *Server) recordFile(start time.Time, n *Network, c Client, kind, file, text string, err error) {
	s.recorder.Record(Exchange{
		Time: start, MAC: c.MAC, Addr: c.Addr, Network: n.Name, Kind: kind, Name: file, Client: c.describe(),
		Asker: Asker{VendorClass: c.VendorClass, Hostname: c.Hostname, UUID: c.UUID, Relay: c.Relay},
		Took:  s.now().Sub(start), Text: text, Err: err,
	})
}

// stallAfter is the number of DISCOVERs without a REQUEST after which the
// timeline says that something is wrong: clients ask at 4, 8, 16 and 32 s
// (FIELD-NOTES item 16).
const stallAfter = 4

// noteDiscover counts a DISCOVER, and explains on the timeline what became of
// the boot before it.
func (s *Server) noteDiscover(start time.Time, n *Network, c Client, broadcast bool) {
	var before seen
	s.clients.update(c.MAC, func(e *seen) {
		before = *e
		if c.boots() || !e.client.boots() {
			c.Addr = e.client.Addr
			e.client = c
		}
		e.asked++
		switch {
		case c.IPXE:
			e.distrusts = false
		case e.stage == stageLoader && c.UEFI && !signedLoader(e.what):
			e.distrusts = true
		}
		if !c.IPXE && e.stage > stageOffered {
			e.stage = stageNone // the firmware began again
		}
	})
	if before.asked+1 >= stallAfter && before.stage == stageOffered && (before.asked+1)%stallAfter == 0 {
		s.record(start, n, c, "boot.stalled", fmt.Sprintf("asked %d times and took no offer: %s", before.asked+1, before.whyNoOffer(n, c, broadcast)), nil)
	}
	// iPXE asks after its loader came: only its own stages end with its asking,
	// and it asks by IPv4 and IPv6 at once.
	if c.boots() && (!c.IPXE || (before.stage == stageIPXE || before.stage == stageScript) && before.stage6 == c.IPv6) {
		if why := before.whyEnded(start); why != "" {
			s.record(start, n, c, "boot.restarted", why, nil)
		}
	}
}

// whyNoOffer guesses why a client does not take offers, from what it sent.
func (before *seen) whyNoOffer(n *Network, c Client, broadcast bool) string {
	switch {
	case before.refused != "":
		return "before that it took an offer of another DHCP server, " + before.refused
	case n.bars(c) != "":
		return n.bars(c)
	case c.boots() && !c.IPXE && before.what == "":
		return fmt.Sprintf("%s was offered an address without a boot file, and firmware may want both", c.describe())
	case broadcast:
		return fmt.Sprintf("%s hears no broadcasts of ours, or does not like the offer: see whether the replies arrive at its switch port (filters such as DHCP snooping drop them)", c.describe())
	}
	return fmt.Sprintf("%s does not get our replies, or does not like the offer: see whether they arrive at its switch port (filters such as DHCP snooping drop them)", c.describe())
}

// whyEnded says how far a boot came before the firmware started again.
func (e *seen) whyEnded(now time.Time) string {
	ago := now.Sub(e.stageAt).Round(time.Second)
	switch e.stage {
	case stageAddress:
		return fmt.Sprintf("started again %v after it was given boot file %q, which it never fetched: TFTP or HTTP from it to this server may be filtered", ago, e.what)
	case stageLoader:
		if signedLoader(e.what) {
			return fmt.Sprintf("started again %v after it fetched %s: the firmware or shim refused it (its console says why), or it saw no link", ago, e.what)
		}
		return fmt.Sprintf("started again %v after it fetched %s: the loader did not start (is Secure Boot on?) or saw no link; UEFI firmware is given the signed loader from now on", ago, e.what)
	case stageIPXE:
		return fmt.Sprintf("started again %v after iPXE had its address: iPXE did not fetch its script; HTTP from it to this server may be filtered", ago)
	case stageScript:
		return fmt.Sprintf("started again %v after it fetched its script: it did not fetch its kernel", ago)
	case stageNone, stageOffered, stageKernel, stageDisk:
	}
	return ""
}

// noteRefusal remembers that a client's firmware did not let iPXE start its
// kernel. Unlike a loader that did not start, iPXE in the NIC's own ROM is no
// sign of the contrary.
func (s *Server) noteRefusal(n *Network, c Client, d Decision) {
	s.clients.update(c.MAC, func(e *seen) { e.refuses = true })
	s.record(s.now(), n, c, "boot.refused", fmt.Sprintf(
		"fetched %s and was not let start it: its firmware refuses unsigned kernels (Secure Boot on); it is given the signed loader from now on", path.Base(d.Kernel)), nil)
}

// noteStage remembers how far a client came.
func (s *Server) noteStage(c Client, st stage, what string) {
	s.noteStageAt(c, st, what, s.now())
}

func (s *Server) noteStageAt(c Client, st stage, what string, now time.Time) {
	s.clients.update(c.MAC, func(e *seen) {
		if c.Network == "" {
			c.Network = e.client.Network
		}
		// The same client speaks DHCP again from its operating system: what the
		// firmware said of itself stays known.
		if !c.boots() && e.client.boots() {
			addr := c.Addr
			c = e.client
			c.Addr = addr
		}
		if st != stageOffered {
			e.asked = 0
		}
		e.client, e.stage, e.stageAt, e.what, e.stage6 = c, st, now, what, c.IPv6
	})
}

// noteFetch moves the client at an address on to a stage.
func (s *Server) noteFetch(at netip.Addr, st stage, what string) {
	if c, ok := s.clients.at(at); ok {
		s.noteStage(c, st, what)
	}
}

// noteAddress remembers the address that a client has from another server, and
// that it took our boot file with it.
func (s *Server) noteAddress(c Client) {
	now := s.now()
	s.clients.update(c.MAC, func(e *seen) {
		e.client.Addr, e.asked = c.Addr, 0
		if e.stage == stageOffered {
			e.stage, e.stageAt = stageAddress, now
			if e.client.IPXE {
				e.stage = stageIPXE
			}
		}
	})
}

// noteRefused remembers that a client prefers another server.
func (s *Server) noteRefused(c Client, server netip.Addr) {
	s.noteRefusedBy(c, server.String())
}

func (s *Server) noteRefusedBy(c Client, server string) {
	s.clients.update(c.MAC, func(e *seen) {
		e.refused, e.asked = server, 0
	})
}

package bmc

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/bmc/lanplus"
)

// ProbeOptions bound a look at one address.
type ProbeOptions struct {
	// Dial opens TCP and UDP connections; nil = net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Timeout is how long one address may take, default 3 s.
	Timeout time.Duration
	// RootCAs tell whether a certificate would be trusted without a pin.
	RootCAs *x509.CertPool
}

// Answer is what an address tells without a login. Nobody vouches for it: it
// came from whoever answers there.
type Answer struct {
	Addr        netip.Addr
	Redfish     string // version of the service; "" = none
	Plain       bool   // it answered without TLS
	Vendor      string
	Product     string
	Serial      string // of the machine
	Firmware    string // of the BMC
	UUID        string
	MAC         string // of the BMC
	IPMI        bool   // it answered a presence ping
	Enterprise  uint32 // IANA number of who made its IPMI; 0 = it did not say
	Fingerprint string // SHA-256 of its certificate in hex
	Certificate string // the certificate's common name
	Trusted     bool   // RootCAs vouch for its certificate
}

const (
	probeTimeout = 3 * time.Second
	maxRoot      = 1 << 20 // bytes of a service root
)

// Probe looks whether a BMC is at an address: it reads the Redfish service
// root (DSP0266 §6: readable without authentication), over HTTPS, then HTTP,
// and sends an RMCP presence ping (ASF 2.0 §3.2.4). No login is tried. ok is
// false when nothing there is a BMC.
func Probe(ctx context.Context, addr netip.Addr, o ProbeOptions) (a Answer, ok bool) {
	if o.Timeout <= 0 {
		o.Timeout = probeTimeout
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	a.Addr = addr
	var wg sync.WaitGroup
	var pinged bool
	var enterprise uint32
	wg.Go(func() { pinged, enterprise = ping(ctx, addr, o) })
	err := a.root(ctx, "https", o)
	var refused *net.OpError
	if err != nil && (errors.As(err, &refused) || errors.Is(err, http.ErrSchemeMismatch)) && ctx.Err() == nil {
		if a.root(ctx, "http", o) == nil {
			a.Plain = true
		}
	}
	wg.Wait()
	a.IPMI, a.Enterprise = pinged, enterprise
	return a, a.Redfish != "" || a.IPMI
}

// root reads the service root.
func (a *Answer) root(ctx context.Context, scheme string, o ProbeOptions) error {
	t := &http.Transport{
		DialContext:            o.Dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}, // nothing secret is sent; the certificate is looked at below
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	hc := &http.Client{Transport: t, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > 2 || r.URL.Host != via[0].URL.Host {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	host := a.Addr.String()
	if a.Addr.Is6() {
		host = "[" + host + "]"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+host+"/redfish/v1/", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("OData-Version", "4.0")
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if s := resp.TLS; s != nil && len(s.PeerCertificates) > 0 {
		leaf := s.PeerCertificates[0]
		sum := sha256.Sum256(leaf.Raw)
		a.Fingerprint, a.Certificate = hex.EncodeToString(sum[:]), oneLine(leaf.Subject.CommonName)
		a.Trusted = vouched(leaf, s.PeerCertificates[1:], o.RootCAs, a.Addr)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxRoot))
	if err != nil {
		return err
	}
	return a.read(b)
}

// vouched tells whether roots vouch for a certificate of addr.
func vouched(leaf *x509.Certificate, rest []*x509.Certificate, roots *x509.CertPool, addr netip.Addr) bool {
	if roots == nil {
		return false
	}
	between := x509.NewCertPool()
	for _, c := range rest {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{DNSName: addr.String(), Roots: roots, Intermediates: between})
	return err == nil
}

// Serials that BMCs put into the name of the certificate that they make
// themselves: observed on iDRAC 9 ("idrac-F54P1G3") and iLO 5 ("ILOMXQ1234567",
// its host name).
var certificateSerial = regexp.MustCompile(`^(?i:idrac-)([0-9A-Z]{7})$|^ILO([0-9A-Z]{10})$`)

// oemKeys are makers by the key of their object in Oem, in small letters.
var oemKeys = map[string]string{"dell": "Dell", "hp": "HPE", "hpe": "HPE", "lenovo": "Lenovo", "supermicro": "Supermicro", "ami": "AMI", "huawei": "Huawei", "xfusion": "xFusion",
	"ts_fujitsu": "Fujitsu", "fujitsu": "Fujitsu", "cisco": "Cisco", "inspur": "Inspur", "nvidia": "NVIDIA", "openbmc": "OpenBMC", "gbt": "Gigabyte", "quanta": "Quanta", "h3c": "H3C"}

// read takes a service root (DSP0268 ServiceRoot) and what makers add to it.
func (a *Answer) read(b []byte) error {
	var r struct {
		RedfishVersion, Vendor, Product, UUID text
		Name                                  text
		Systems, Managers                     ref
		Oem                                   struct {
			Dell struct{ ServiceTag, ManagerMACAddress text }
			Hpe  struct {
				Manager []struct{ ManagerFirmwareVersion, ManagerType text }
			}
		}
	}
	if err := unmarshal(b, &r); err != nil {
		return fmt.Errorf("its service root is not JSON: %w", err)
	}
	var makers struct{ Oem map[string]json.RawMessage }
	_ = unmarshal(b, &makers) // it was read above
	if r.RedfishVersion == "" || (r.Systems.id == "" && r.Managers.id == "") {
		return errors.New("it has no Redfish service root")
	}
	a.Redfish = oneLine(string(r.RedfishVersion))
	a.Vendor, a.Product, a.UUID = oneLine(r.Vendor.known()), oneLine(r.Product.known()), oneLine(r.UUID.known())
	if d := r.Oem.Dell; d.ServiceTag != "" {
		a.Serial, a.MAC = oneLine(d.ServiceTag.known()), oneLine(string(d.ManagerMACAddress))
		if a.Vendor == "" {
			a.Vendor = "Dell"
		}
	}
	if m := r.Oem.Hpe.Manager; len(m) > 0 {
		a.Firmware = oneLine(string(m[0].ManagerFirmwareVersion))
		if a.Vendor == "" {
			a.Vendor = "HPE"
		}
		if a.Product == "" {
			a.Product = oneLine(string(m[0].ManagerType))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(makers.Oem)) { // older firmware names its maker there alone
		if name := oemKeys[strings.ToLower(key)]; a.Vendor == "" && name != "" {
			a.Vendor = name
		}
	}
	if m := certificateSerial.FindStringSubmatch(a.Certificate); m != nil && a.Serial == "" {
		a.Serial = m[1] + m[2]
	}
	return nil
}

// oneLine is text of a stranger, fit for a table.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, strings.TrimSpace(s))
	if r := []rune(s); len(r) > 80 {
		s = string(r[:80])
	}
	return s
}

// ping sends a presence ping (ASF 2.0 §3.2.4.2) until a pong comes, then asks
// for the channel's authentication capabilities (IPMI 2.0 §22.13), which name
// the maker and need no session.
func ping(ctx context.Context, addr netip.Addr, o ProbeOptions) (ok bool, enterprise uint32) {
	conn, err := o.Dial(ctx, "udp", netip.AddrPortFrom(addr, 623).String())
	if err != nil {
		return false, 0
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	const tag = 0x66
	ask := []byte{lanplus.Version, 0, 0xff, 0x06, 0, 0, 0x11, 0xbe, 0x80, tag, 0, 0}
	p := exchangeUDP(ctx, conn, o.Timeout/3, ask, func(p []byte) bool {
		return len(p) >= 28 && p[0] == lanplus.Version && p[3] == 0x06 && p[8] == 0x40 && p[9] == tag
	})
	if p == nil || p[20]&0x80 == 0 { // IPMI supported
		return false, 0
	}
	enterprise = binary.BigEndian.Uint32(p[12:])
	if enterprise == 4542 { // ASF's own number: nobody in particular
		enterprise = 0
	}
	msg := lanplus.Message(bmcAddr, netApp<<2, consoleAddr, 0, 0x38, 0x8e, 4)
	ask = append([]byte{lanplus.Version, 0, 0xff, lanplus.ClassIPMI, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(msg))}, msg...)
	p = exchangeUDP(ctx, conn, o.Timeout/3, ask, func(p []byte) bool {
		return len(p) >= 14+16 && p[3] == lanplus.ClassIPMI && p[14+5] == 0x38 && p[14+6] == 0
	})
	if p != nil {
		if oem := uint32(p[14+11]) | uint32(p[14+12])<<8 | uint32(p[14+13])<<16; oem != 0 {
			enterprise = oem
		}
	}
	return true, enterprise
}

// exchangeUDP sends ask up to three times and returns the first answer that
// fits, or nil.
func exchangeUDP(ctx context.Context, conn net.Conn, wait time.Duration, ask []byte, fits func([]byte) bool) []byte {
	buf := make([]byte, 1024)
	for range 3 {
		if ctx.Err() != nil {
			return nil
		}
		if _, err := conn.Write(ask); err != nil {
			return nil
		}
		if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil { // the socket keeps real time
			return nil
		}
		for {
			n, err := conn.Read(buf)
			if err == nil {
				if fits(buf[:n]) {
					return buf[:n]
				}
				continue
			}
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				return nil // nothing listens there
			}
			break
		}
	}
	return nil
}

// ScanOptions bound Scan.
type ScanOptions struct {
	ProbeOptions
	Parallel int // addresses at once, default 64
	Rate     int // addresses begun in a second, default 200
}

// MaxScan is how many addresses one scan looks at, at most.
const MaxScan = 1 << 16

// Scan probes every host address of prefixes and tells step of each, one at a
// time, with the answer of those that are BMCs. It returns when ctx ends, with
// its error, or when every address was looked at.
func Scan(ctx context.Context, prefixes []netip.Prefix, o ScanOptions, step func(done, total int, found *Answer)) error {
	if o.Parallel <= 0 {
		o.Parallel = 64
	}
	if o.Rate <= 0 {
		o.Rate = 200
	}
	total := 0
	for _, p := range prefixes {
		if !p.IsValid() || p.Addr().BitLen()-p.Bits() > 16 {
			return fmt.Errorf("%s has more than %d addresses: name smaller prefixes", p, MaxScan)
		}
		total += hosts(p)
	}
	if total > MaxScan {
		return fmt.Errorf("the prefixes have %d addresses, and %d is the most that one search looks at: name fewer", total, MaxScan)
	}
	next := make(chan netip.Addr)
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range min(o.Parallel, total) {
		wg.Go(func() {
			for addr := range next {
				a, ok := Probe(ctx, addr, o.ProbeOptions)
				mu.Lock()
				done++
				if ok {
					step(done, total, &a)
				} else {
					step(done, total, nil)
				}
				mu.Unlock()
			}
		})
	}
	err := feed(ctx, prefixes, time.Second/time.Duration(o.Rate), next)
	close(next)
	wg.Wait()
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// feed hands out the host addresses, one each gap.
func feed(ctx context.Context, prefixes []netip.Prefix, gap time.Duration, next chan<- netip.Addr) error {
	tick := time.NewTicker(max(gap, time.Microsecond))
	defer tick.Stop()
	for _, p := range prefixes {
		addr := p.Masked().Addr()
		if outer(p) {
			addr = addr.Next()
		}
		for range hosts(p) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case next <- addr:
			}
			addr = addr.Next()
		}
	}
	return nil
}

// outer tells whether a prefix has a network and a broadcast address.
func outer(p netip.Prefix) bool { return p.Addr().Is4() && p.Bits() < 31 }

// hosts is the number of host addresses of a prefix of at most 16 host bits.
func hosts(p netip.Prefix) int {
	n := 1 << (p.Addr().BitLen() - p.Bits())
	if outer(p) {
		n -= 2
	}
	return n
}

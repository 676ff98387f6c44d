// Package bmc speaks to one machine's management controller: power, next boot,
// identify light, inventory. It is the only importer of bmclib. It knows
// nothing of racks or of why it is asked.
//
// A [Target] says where a BMC is and how to be sure that it is the right one;
// [Open] makes a [Client] of it: one login, one session, until Close. Every
// operation is bounded in time, and every change is read back. [Each] does one
// thing to many BMCs at once. Decisions are in BMC.md.
package bmc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Power is a machine's power state.
type Power string

// Power states.
const (
	On           Power = "on"
	Off          Power = "off"
	PowerUnknown Power = "unknown"
)

// Action changes power.
type Action string

// Power actions.
const (
	PowerOn    Action = "on"
	PowerOff   Action = "off"   // hard
	Shutdown   Action = "soft"  // graceful, ACPI
	PowerCycle Action = "cycle" // off, then on; on when it is off
	Reset      Action = "reset"
)

// Device is what to boot from.
type Device string

// Boot devices.
const (
	BootDisk  Device = "disk"
	BootPXE   Device = "pxe"
	BootHTTP  Device = "http"
	BootCD    Device = "cd"
	BootSetup Device = "bios"
	BootNone  Device = "none" // no override
)

// NextBoot is a boot override.
type NextBoot struct {
	Device    Device `json:"device"`
	Permanent bool   `json:"permanent"` // false: for the next boot only
	UEFI      bool   `json:"uefi"`
}

// Protocol is how to speak to the BMC.
type Protocol string

// Protocols.
const (
	Redfish Protocol = "redfish"
	IPMI    Protocol = "ipmi"
)

// Target is one BMC. Its Dial and RootCAs let it live on any network stack.
type Target struct {
	Name string // the machine's name, for errors
	// System is which of the BMC's computer systems the machine is, where one
	// BMC has several nodes: the last part of its URI, its name, serial number
	// or UUID. "" = the only one that looks like a machine.
	System   string
	Address  netip.AddrPort
	Protocol Protocol
	User     string
	Password Password
	// Dial opens TCP connections; nil = net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// DialUDP opens connected UDP sockets, for IPMI; nil = net.Dialer, unless
	// Dial is set: then a BMC that speaks IPMI cannot be opened.
	DialUDP func(ctx context.Context, addr string) (net.Conn, error)
	// RootCAs verifies the BMC's certificate. nil with empty Fingerprint and
	// Insecure false: the system's roots.
	RootCAs     *x509.CertPool
	Fingerprint string // pinned SHA-256 of the leaf certificate, hex
	Insecure    bool   // any certificate; said in the log
	// TLSSessions lets a later connection go on with an earlier one's keys; may
	// be nil, and may be shared by Targets.
	TLSSessions tls.ClientSessionCache
	Logger      *slog.Logger
	// Timeout is of one operation, and of each request of those that read a
	// whole machine (inventory, sensors, logs, firmware), which have five times
	// that in all; default 30 s.
	Timeout time.Duration
	// PowerWait is how long SetPower waits for the machine to follow; default
	// 60 s, and 5 min for Shutdown.
	PowerWait time.Duration
}

// ErrPassword means that the BMC refused the user name or password. It is not
// retried: BMCs lock accounts.
var ErrPassword = errors.New("the BMC refused the user name or password")

// ErrUnsupported means that the BMC cannot do what was asked.
var ErrUnsupported = errors.New("the BMC cannot do that")

// Status is what one look at a BMC tells.
type Status struct {
	Power    Power    `json:"power"`
	Boot     NextBoot `json:"boot"`
	Identify bool     `json:"identify"`
	Health   string   `json:"health"`
	Vendor   string   `json:"vendor"`
	Model    string   `json:"model"`
	Serial   string   `json:"serial"` // as the BMC calls it; Dell's service tag is the SKU
	SKU      string   `json:"sku"`
	UUID     string   `json:"uuid"`
	Firmware string   `json:"firmware"` // of the BMC
	BIOS     string   `json:"bios"`
}

// ErrSession means that the BMC ended the session before its time, as BMCs do
// when they restart or when others take all their sessions. Open again.
var ErrSession = errors.New("the BMC ended the session")

// Package bmc speaks to one machine's management controller: power, next boot,
// identify light, inventory. It is the only importer of bmclib. It knows
// nothing of racks or of why it is asked.
package bmc

import (
	"context"
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
	Device    Device
	Permanent bool // false: for the next boot only
	UEFI      bool
}

// Protocol is how to speak to the BMC.
type Protocol string

// Protocols.
const (
	Redfish Protocol = "redfish"
	IPMI    Protocol = "ipmi"
)

// Password prints as "[secret]"; its value is given to BMCs only.
type Password string

// Target is one BMC. Its Dial and RootCAs let it live on any network stack.
type Target struct {
	Name     string // the machine's name, for errors
	Address  netip.AddrPort
	Protocol Protocol
	User     string
	Password Password
	// Dial opens TCP connections; nil = net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// RootCAs verifies the BMC's certificate. nil with empty Fingerprint and
	// Insecure false: the system's roots.
	RootCAs     *x509.CertPool
	Fingerprint string // pinned SHA-256 of the leaf certificate, hex
	Insecure    bool   // any certificate; said in the log
	Logger      *slog.Logger
	Timeout     time.Duration // of one operation, default 30 s
}

// ErrPassword means that the BMC refused the user name or password. It is not
// retried: BMCs lock accounts.
var ErrPassword = errors.New("the BMC refused the user name or password")

// ErrUnsupported means that the BMC cannot do what was asked.
var ErrUnsupported = errors.New("the BMC cannot do that")

// Status is what one look at a BMC tells.
type Status struct {
	Power    Power
	Boot     NextBoot
	Identify bool
	Health   string
	Vendor   string
	Model    string
	Serial   string
	UUID     string
	Firmware string // of the BMC
	BIOS     string
}

// To be implemented in this package (signatures are relied on by others):
//
//	func Open(ctx, Target) (*Client, error)            // one login attempt
//	func (c *Client) Close(ctx) error                  // ends the session; safe to call twice
//	func (c *Client) Status(ctx) (Status, error)
//	func (c *Client) Power(ctx) (Power, error)
//	func (c *Client) SetPower(ctx, Action) error       // waits until the BMC reports it, bounded
//	func (c *Client) SetNextBoot(ctx, NextBoot) error  // reads it back
//	func (c *Client) Identify(ctx, on bool) error
//	func (c *Client) Inventory(ctx) (Inventory, error) // CPUs, memory, NICs with MACs, drives, GPUs, firmware
//	func Each(ctx, []Target, EachOptions{Parallel int}, func(ctx, *Client) (T, error)) []Result[T] // order kept

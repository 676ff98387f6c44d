// Package vbmc is a virtual BMC: a Redfish service over a [Chassis]. It serves
// labs, bmc's own tests, and anybody who develops a BMC client. It knows
// nothing of libvirt.
//
// A [Chassis] is the machine; a [Server] is the controller in front of it: an
// [net/http.Handler] with accounts, sessions and resources, that opens no
// socket (TLS is the caller's). [NewMemory] makes a Chassis in memory that can
// be broken on purpose by a [Fault].
package vbmc

import (
	"context"
	"errors"
	"time"
)

// PowerState is a Redfish Resource.PowerState.
type PowerState string

// Power states (DSP0268, Resource.PowerState).
const (
	On  PowerState = "On"
	Off PowerState = "Off"
)

// ResetType is a Redfish Resource.ResetType.
type ResetType string

// Reset types (DSP0268, Resource.ResetType).
const (
	ResetOn               ResetType = "On"
	ResetForceOff         ResetType = "ForceOff"
	ResetGracefulShutdown ResetType = "GracefulShutdown"
	ResetGracefulRestart  ResetType = "GracefulRestart"
	ResetForceRestart     ResetType = "ForceRestart"
	ResetForceOn          ResetType = "ForceOn"
	ResetPowerCycle       ResetType = "PowerCycle"
	ResetPushPowerButton  ResetType = "PushPowerButton"
	ResetNmi              ResetType = "Nmi"
)

// BootTarget is a Redfish ComputerSystem.BootSource.
type BootTarget string

// Boot sources (DSP0268, ComputerSystem.BootSource).
const (
	BootNone      BootTarget = "None"
	BootPxe       BootTarget = "Pxe"
	BootHdd       BootTarget = "Hdd"
	BootCd        BootTarget = "Cd"
	BootBiosSetup BootTarget = "BiosSetup"
	BootUefiHTTP  BootTarget = "UefiHttp"
)

// Boot is a boot source override.
type Boot struct {
	Target  BootTarget
	Enabled string // "Disabled", "Once", "Continuous"
	Mode    string // "Legacy", "UEFI"
}

// Info is what the chassis is made of.
type Info struct {
	Name         string
	UUID         string // RFC 4122 text
	Serial       string
	SKU          string
	Manufacturer string
	Model        string
	BIOSVersion  string
	CPUs         int // logical
	CPUModel     string
	Arch         string // "amd64" (or ""), "arm64"
	MemoryMiB    int
	NICs         []NIC
	Drives       []Drive
	GPUs         []GPU
}

// NIC is a network port.
type NIC struct {
	ID   string // e.g. "NIC1"
	MAC  string // lower case, colons
	Link bool
}

// Drive is a disk.
type Drive struct {
	ID       string
	Serial   string
	Model    string
	Bytes    int64
	Protocol string // "NVMe", "SATA", ...
}

// GPU is a GPU processor.
type GPU struct {
	ID    string
	Model string
	PCI   string // "vendor:device"

	failed bool // trouble of the Server's
}

// ErrUnsupported means that the chassis has no such function.
var ErrUnsupported = errors.New("not supported by this chassis")

// Chassis is the machine behind a virtual BMC. Methods may be called
// concurrently. Reset returns when the chassis has accepted the action, not
// when the machine has followed.
type Chassis interface {
	Info(ctx context.Context) (Info, error)
	Power(ctx context.Context) (PowerState, error)
	Reset(ctx context.Context, t ResetType) error
	Boot(ctx context.Context) (Boot, error)
	SetBoot(ctx context.Context, b Boot) error
	Identify(ctx context.Context) (bool, error)
	SetIdentify(ctx context.Context, on bool) error
}

// LastResetter is a Chassis that also knows when it was last reset or powered
// on; clients then see that a reset happened although the power state reads On
// before and after (DSP0268, ComputerSystem.LastResetTime).
type LastResetter interface {
	LastReset(ctx context.Context) (time.Time, error)
}

package bmc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bmc-toolbox/bmclib/v2"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// stock is bmclib as others use it, with its own gofish driver only.
func stock(t *testing.T, r *rig, roots *x509.CertPool) (*bmclib.Client, *int) {
	t.Helper()
	host, port, err := net.SplitHostPort(r.target().Address.String())
	if err != nil {
		t.Fatal(err)
	}
	dials := 0
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}}}
	cl := bmclib.NewClient(host, "root", "s3cret", bmclib.WithHTTPClient(hc), bmclib.WithRedfishPort(port), bmclib.WithPerProviderTimeout(10*time.Second))
	cl.Registry.Drivers = cl.Registry.Using("redfish")
	for i, d := range cl.Registry.Drivers {
		if d.Name == "gofish" {
			cl.Registry.Drivers = cl.Registry.Drivers[i : i+1]
			break
		}
	}
	return cl, &dials
}

// TestStockBmclib drives the virtual BMC by bmclib's own gofish driver, and
// shows that the driver uses the HTTP client that it is given.
func TestStockBmclib(t *testing.T) {
	matrix.Test(t, "bmclib v2.3.5, gofish driver", "login, power on, cycle, reset, off, boot device, inventory, users, event log, logout")
	r := newRig(t)
	cl, dials := stock(t, r, r.target().RootCAs)
	ctx := t.Context()
	if err := cl.Open(ctx); err != nil {
		t.Fatal(err)
	}
	if *dials == 0 {
		t.Error("bmclib did not use the HTTP client's dialer")
	}
	for _, s := range []struct{ set, want string }{{"on", "On"}, {"cycle", "On"}, {"reset", "On"}, {"off", "Off"}} {
		if _, err := cl.SetPowerState(ctx, s.set); err != nil {
			t.Fatalf("SetPowerState(%s) = %v", s.set, err)
		}
		if got, err := cl.GetPowerState(ctx); err != nil || got != s.want {
			t.Errorf("GetPowerState() after %s = %q, %v; want %s", s.set, got, err, s.want)
		}
	}
	if _, err := cl.SetBootDevice(ctx, "pxe", true, true); err != nil {
		t.Fatal(err)
	}
	if b, _ := r.mem.Boot(ctx); b != (vbmc.Boot{Target: vbmc.BootPxe, Enabled: "Continuous", Mode: "UEFI"}) {
		t.Errorf("boot after SetBootDevice = %+v", b)
	}
	if o, err := cl.GetBootDeviceOverride(ctx); err != nil || !o.IsPersistent || !o.IsEFIBoot || o.Device != "pxe" {
		t.Errorf("GetBootDeviceOverride() = %+v, %v", o, err)
	}
	inv, err := cl.Inventory(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if inv.Model != "GX" || inv.Serial != "SN1" || len(inv.CPUs) == 0 || len(inv.Drives) != 1 {
		t.Errorf("Inventory(): model %q serial %q, %d CPUs, %d drives", inv.Model, inv.Serial, len(inv.CPUs), len(inv.Drives))
	}
	if ok, err := cl.CreateUser(ctx, "tech", "t3ch", "Operator"); err != nil || !ok {
		t.Errorf("CreateUser() = %v, %v", ok, err)
	}
	if ok, err := cl.UpdateUser(ctx, "tech", "other", "Operator"); err != nil || !ok {
		t.Errorf("UpdateUser() = %v, %v", ok, err)
	}
	if ok, err := cl.DeleteUser(ctx, "tech"); err != nil || !ok {
		t.Errorf("DeleteUser() = %v, %v", ok, err)
	}
	if err := cl.ClearSystemEventLog(ctx); err != nil {
		t.Errorf("ClearSystemEventLog() = %v", err)
	}
	if err := cl.Close(ctx); err != nil {
		t.Error(err)
	}
	r.noSession(t)

	before := r.count()
	cl, _ = stock(t, r, x509.NewCertPool())
	if err := cl.Open(ctx); err == nil || !strings.Contains(fmt.Sprint(err), "certificate") {
		t.Errorf("Open() with a wrong CA = %v; want a certificate error", err)
	}
	if n := r.count() - before; n != 0 {
		t.Errorf("%d requests reached a BMC with a wrong CA; want 0", n)
	}
}

// TestStockBmclibRequests counts what bmclib sends for a status, for BMC.md.
func TestStockBmclibRequests(t *testing.T) {
	r := newRig(t)
	host, port, _ := net.SplitHostPort(r.target().Address.String())
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.target().RootCAs, MinVersion: tls.VersionTLS12}}}
	cl, _ := stock(t, r, r.target().RootCAs)
	if err := cl.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	one := r.count()
	if _, err := cl.GetPowerState(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = cl.Close(t.Context())
	t.Logf("bmclib, gofish driver only: %d requests to open, %d with power state and close", one, r.count())
	before := r.count()
	all := bmclib.NewClient(host, "root", "s3cret", bmclib.WithHTTPClient(hc), bmclib.WithRedfishPort(port), bmclib.WithPerProviderTimeout(5*time.Second))
	all.Registry.Drivers = all.Registry.For("gofish")
	if err := all.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = all.Close(t.Context())
	t.Logf("bmclib by name: %d requests to open and close", r.count()-before)
}

//go:build linux

package pxe

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// testCA makes a CA and a certificate of the boot server's address, with RSA
// keys: see CipherSuites.
func testCA(t *testing.T) (ca []byte, server tls.Certificate) {
	t.Helper()
	now := time.Now()
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	rootKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	leafKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ca, err = x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	return ca, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: leafKey}
}

// signatureList is an EFI_SIGNATURE_LIST of one certificate (UEFI 2.10
// §32.4.1), as OVMF takes it from fw_cfg and real firmware from its setup.
func signatureList(der []byte) []byte {
	x509GUID := []byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	b := append([]byte(nil), x509GUID...)
	size := uint32(16 + len(der))
	b = binary.LittleEndian.AppendUint32(b, 28+size)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, size)
	b = append(b, make([]byte, 16)...) // owner
	return append(b, der...)
}

// TestFirmwareHTTPS boots OVMF, which trusts our CA, by HTTPS alone: the kernel,
// its arguments and two ramdisks come as one EFI program. Nothing of the boot is
// on the wire in clear text but DHCP.
func TestFirmwareHTTPS(t *testing.T) {
	ca, cert := testCA(t)
	rig := func(t *testing.T, trusted []byte, refused *atomic.Bool) (*machine, *fixture) {
		const stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
		needTool(t, stub)
		ns, f := firmwareRig(t, testKernel(t))
		ramdisks(t, f)
		f.files.(mapFiles)["loaders/"+loaderStub] = "@" + stub
		f.order[0].HTTPSPort = 8444
		f.decision.HTTPS, f.decision.Loader = true, LoaderUnified
		serveTLS(t, ns, f, cert, refused)
		list := filepath.Join(t.TempDir(), "cacerts")
		if err := os.WriteFile(list, signatureList(trusted), 0o600); err != nil {
			t.Fatal(err)
		}
		return qemu(t, ns, append(uefi(t, "IPv4PXESupport"), "-fw_cfg", "name=etc/edk2/https/cacerts,file="+list)...), f
	}
	t.Run("kernel and two ramdisks in one file", func(t *testing.T) {
		var refused atomic.Bool
		m, f := rig(t, ca, &refused)
		m.await(t, f, "init of the ramdisk ran", func() bool { return strings.Contains(m.console(), "MARK") && strings.Contains(m.console(), "cmdline=") })
		con := m.console()
		if want := "MARK a=first b=second! cmdline=console=ttyS0 panic=-1 fettle.mark=via-pxe"; !strings.Contains(con, want) {
			t.Errorf("console lacks %q:\n%s", want, con[max(0, len(con)-3000):])
		}
		for _, kind := range []string{"http.head", "http.get"} {
			if e, ok := f.timeline.find(func(e Exchange) bool { return e.Kind == kind }); !ok || e.Name != ukiName(testMAC) || !strings.Contains(e.Text, "by HTTPS") {
				t.Errorf("%s on the timeline = %+v; want %s by HTTPS", kind, e, ukiName(testMAC))
			}
		}
		if e, ok := f.timeline.find(func(e Exchange) bool { return e.Err != nil || e.Kind == "tftp.read" }); ok {
			t.Errorf("the timeline tells of a failure, or of TFTP: %+v", e)
		}
		m.saw(t, fwOVMF, "HTTPS boot, our CA enrolled → unified kernel image", "the ramdisk's init runs")
	})
	t.Run("a CA that the firmware does not trust", func(t *testing.T) {
		other, _ := testCA(t)
		var refused atomic.Bool
		m, f := rig(t, other, &refused)
		m.await(t, f, "the firmware broke the handshake off", refused.Load)
		if e, ok := f.timeline.find(func(e Exchange) bool { return strings.HasPrefix(e.Kind, "http.") }); ok {
			t.Errorf("it fetched something: %+v", e)
		}
		if got := Why(f.timeline.all, time.Now()); !strings.Contains(got, "does not trust this server's certificate") {
			t.Errorf("Why() = %q; want that it does not trust the certificate", got)
		}
		m.saw(t, fwOVMF, "HTTPS boot, another CA enrolled", "breaks the handshake off; nothing is fetched")
	})
}

// flagWriter notes that a handshake failed.
type flagWriter struct{ failed *atomic.Bool }

func (w flagWriter) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "TLS handshake error") {
		w.failed.Store(true)
	}
	return len(b), nil
}

// serveTLS serves boot HTTP with TLS on port 8444; refused is set when a client
// breaks a handshake off.
func serveTLS(t *testing.T, ns *netns, f *fixture, cert tls.Certificate, refused *atomic.Bool) {
	t.Helper()
	var ln net.Listener
	if err := ns.do(func() (err error) { ln, err = net.Listen("tcp4", "192.0.2.1:8444"); return err }); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: f.Handler(), ErrorLog: log.New(flagWriter{refused}, "", 0)}
	done := make(chan error, 1)
	go func() {
		done <- srv.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, CipherSuites: CipherSuites()}))
	}()
	t.Cleanup(func() { srv.Close(); <-done })
}

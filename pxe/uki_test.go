package pxe

import (
	"bytes"
	"debug/pe"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

const testStub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

func readStub(t testing.TB) []byte {
	t.Helper()
	needTool(t, testStub)
	b, err := os.ReadFile(testStub)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ukiText(s string) ukiFile { return ukiFile{strings.NewReader(s), int64(len(s))} }

func TestUKI(t *testing.T) {
	stub := readStub(t)
	kernel := pattern(100_001)
	image, err := newUKI(stub, []ukiPart{{".cmdline", []ukiFile{ukiText("quiet\x00")}}, {".linux", []ukiFile{ukiText(kernel)}},
		{".initrd", []ukiFile{ukiText("first"), ukiText("second!"), ukiText("3")}}})
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(image)
	if err != nil || int64(len(all)) != image.size {
		t.Fatalf("read %d bytes, %v; want %d", len(all), err, image.size)
	}
	if _, err := image.Seek(0, io.SeekStart); err != nil {
		t.Error(err)
	}
	if err := iotest.TestReader(image, all); err != nil {
		t.Error(err)
	}
	got, err := pe.NewFile(bytes.NewReader(all))
	if err != nil {
		t.Fatal(err)
	}
	was, err := pe.NewFile(bytes.NewReader(stub))
	if err != nil {
		t.Fatal(err)
	}
	opt := got.OptionalHeader.(*pe.OptionalHeader64)
	end := opt.SizeOfHeaders
	for i, s := range got.Sections { // the stub's own last one is not aligned
		if s.VirtualAddress < end || i >= len(was.Sections) && s.VirtualAddress%opt.SectionAlignment != 0 {
			t.Errorf("section %s is at %#x; want after %#x, aligned", s.Name, s.VirtualAddress, end)
		}
		if s.Offset%opt.FileAlignment != 0 || int64(s.Offset)+int64(s.Size) > int64(len(all)) {
			t.Errorf("section %s lies at %d of %d bytes in the file", s.Name, s.Offset, len(all))
		}
		end = s.VirtualAddress + s.VirtualSize
	}
	if opt.SizeOfImage < end || opt.SizeOfImage%opt.SectionAlignment != 0 {
		t.Errorf("SizeOfImage = %#x; want %#x or more", opt.SizeOfImage, end)
	}
	data := func(f *pe.File, name string) string {
		s := f.Section(name)
		if s == nil {
			t.Fatalf("no section %s", name)
		}
		b, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:min(uint32(len(b)), s.VirtualSize)])
	}
	for _, s := range was.Sections {
		if data(got, s.Name) != data(was, s.Name) {
			t.Errorf("section %s of the stub was changed", s.Name)
		}
	}
	for name, want := range map[string]string{".cmdline": "quiet\x00", ".linux": kernel, ".initrd": "first\x00\x00\x00second!\x003"} {
		if g := data(got, name); g != want {
			t.Errorf("section %s = %.40q of %d bytes; want %.40q of %d", name, g, len(g), want, len(want))
		}
	}
}

// lateError is a file that is found to be damaged at its end.
type lateError struct{ *strings.Reader }

var errLate = errors.New("digest differs")

func (l lateError) Read(b []byte) (int, error) {
	n, err := l.Reader.Read(b)
	if errors.Is(err, io.EOF) {
		err = errLate
	}
	return n, err
}

func TestJoinedVerifies(t *testing.T) {
	for name, f := range map[string]ukiFile{
		"damaged": {lateError{strings.NewReader("data")}, 4}, "short": {strings.NewReader("da"), 4}, "long": {strings.NewReader("data and more"), 4},
	} {
		j := &joined{}
		j.add(ukiText("before"))
		j.add(f)
		j.add(ukiText("after"))
		b, err := io.ReadAll(j)
		if err == nil || len(b) > 10 {
			t.Errorf("%s: read %q, %v; want an error where the file ends", name, b, err)
		}
	}
}

// TestUKIIsForItsMachine: as a script, it goes only where DHCP gave the
// machine its address.
func TestUKIIsForItsMachine(t *testing.T) {
	f := newFixture(t)
	files := f.files.(mapFiles)
	files["loaders/"+loaderStub] = string(readStub(t))
	f.decision.Cmdline = "token=secret"
	const path = "/boot/uki/52-54-00-01-02-03.efi"
	if w := f.get("GET", path, "192.0.2.10"); w.Code != http.StatusForbidden {
		t.Errorf("before DHCP gave the address: %d; want 403", w.Code)
	}
	f.takeAddress()
	w := f.get("GET", path, "192.0.2.10")
	if w.Code != 200 || !bytes.Contains(w.Body.Bytes(), []byte("token=secret\x00")) || w.Header().Get("Content-Type") != "application/efi" {
		t.Errorf("from its own address: %d %v, %d bytes; want the image with its arguments", w.Code, w.Header(), w.Body.Len())
	}
	if h := f.get("HEAD", path, "192.0.2.10"); h.Header().Get("Content-Length") != w.Header().Get("Content-Length") || h.Body.Len() != 0 {
		t.Errorf("HEAD = %v; want the length %s", h.Header(), w.Header().Get("Content-Length"))
	}
	if w := f.get("GET", path, "192.0.2.11"); w.Code != http.StatusForbidden || bytes.Contains(w.Body.Bytes(), []byte("secret")) {
		t.Errorf("from another address: %d %s; want 403", w.Code, w.Body)
	}
	if _, _, err := f.openTFTP(t.Context(), f.order[0], netip.MustParseAddr("192.0.2.11"), path[len("/boot"):]); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("by TFTP from another address: %v; want that it is refused", err)
	}
	if file, _, err := f.openTFTP(t.Context(), f.order[0], testAddr, path[len("/boot"):]); err != nil || file.Size == 0 || file.Close() != nil {
		t.Errorf("by TFTP from its own address: %+v, %v; want the image", file, err)
	}
	for name, spoil := range map[string]func(){
		"told to boot its disk": func() { f.decision.Action = BootDisk },
		"no stub":               func() { f.decision.Action = BootKernel; delete(files, "loaders/"+loaderStub) },
	} {
		spoil()
		if w := f.get("GET", path, "192.0.2.10"); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d %s; want 404", name, w.Code, w.Body)
		}
	}
	f.bootErr = errors.New("the state is down")
	if w := f.get("GET", path, "192.0.2.10"); w.Code != http.StatusInternalServerError {
		t.Errorf("the Booter fails: %d; want 500", w.Code)
	}
}

func FuzzUKI(f *testing.F) {
	if haveTool(testStub) {
		f.Add(readStub(f))
	}
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, stub []byte) {
		if len(stub) > 1<<20 {
			return
		}
		image, err := newUKI(stub, []ukiPart{{".linux", []ukiFile{ukiText("kernel")}}})
		if err != nil {
			return
		}
		n, err := io.Copy(io.Discard, image)
		if err != nil || n != image.size || n > int64(len(stub))+1<<18 {
			t.Errorf("an image of %d bytes reads as %d, %v", image.size, n, err)
		}
	})
}

package provision

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/bmc"
)

// Bounds of firmware images: of one, of how many are kept, and of how long one
// is that nobody names.
const (
	maxImage  = 4 << 30
	maxImages = 8
	imageKept = time.Hour
)

var imageID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// firmwareFiles are the images that were uploaded. Each stays until the
// operations that name it have ended.
type firmwareFiles struct {
	dir string
	now func() time.Time
	log *slog.Logger

	mu   sync.Mutex
	here map[string]*firmwareFile // by id
}

type firmwareFile struct {
	since time.Time
	users int // operations, or its upload
}

func (m *firmwareFiles) file(id string) string { return filepath.Join(m.dir, "firmware-"+id) }

// Upload keeps a firmware image until an operation that names it has ended.
func (b *BMCs) Upload(r io.Reader) (id string, err error) { return b.images.upload(r) }

// Sweep removes images that nobody came back for: those of before this process.
func (b *BMCs) Sweep() error {
	left, err := filepath.Glob(b.images.file("*"))
	for _, f := range left {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

// reserve makes room for one more image: those that nobody named for long go.
func (m *firmwareFiles) reserve(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, x := range m.here {
		if x.users == 0 && m.now().Sub(x.since) > imageKept {
			m.drop(id)
		}
	}
	if len(m.here) >= maxImages {
		return fmt.Errorf("there are %d firmware images here, which are being installed or wait for that: try again when that is done; one that nobody installs goes after %s", maxImages, imageKept)
	}
	m.here[id] = &firmwareFile{since: m.now(), users: 1}
	return nil
}

// drop removes an image. m.mu is held.
func (m *firmwareFiles) drop(id string) {
	delete(m.here, id)
	if err := os.Remove(m.file(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		m.log.Warn("a firmware image stays", "file", m.file(id), "err", err)
	}
}

func (m *firmwareFiles) upload(r io.Reader) (id string, err error) {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return "", err
	}
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // it never fails
	id = hex.EncodeToString(raw[:])
	if err := m.reserve(id); err != nil {
		return "", err
	}
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if err != nil {
			m.drop(id)
			return
		}
		m.here[id].users, m.here[id].since = 0, m.now()
	}()
	f, err := os.OpenFile(m.file(id), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	n, err := io.Copy(f, io.LimitReader(r, maxImage+1))
	if err == nil && n > maxImage {
		err = fmt.Errorf("the firmware image is longer than %d bytes", int64(maxImage))
	}
	return id, errors.Join(err, f.Close())
}

// of is the uploaded file that an operation names; the last done removes it.
func (m *firmwareFiles) of(task bmc.Task, args json.RawMessage) (open func() (io.ReadSeekCloser, error), done func(), err error) {
	done = func() {}
	if task.Name != bmc.OpUpdateFirmware.Name {
		return nil, done, nil
	}
	var o bmc.FirmwareOrder
	if err := bmc.Unmarshal(args, &o); err != nil {
		return nil, done, fmt.Errorf("the arguments of %s cannot be read: %w", task.Name, err)
	}
	if o.File == "" {
		return nil, done, nil
	}
	if !imageID.MatchString(o.File) {
		return nil, done, fmt.Errorf("%q is no firmware image that was uploaded: upload it first", o.File)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.here[o.File]
	if x == nil {
		return nil, done, fmt.Errorf("the firmware image %s is not here: upload it again", o.File)
	}
	x.users++
	return func() (io.ReadSeekCloser, error) { return os.Open(m.file(o.File)) }, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if x.users--; x.users == 0 {
			m.drop(o.File)
		}
	}, nil
}

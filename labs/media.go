package labs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/fettle-dev/fettle/bmc/vbmc"
)

// Bounds of a virtual medium.
const (
	maxMedia   = 16 << 30
	mediaLimit = 10 * time.Minute
)

// Media implements vbmc.MediaHolder.
func (m *machine) Media(context.Context) (vbmc.Media, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return vbmc.Media{Image: m.kept.Media, WriteProtected: true}, nil
}

// SetMedia implements vbmc.MediaHolder. The BMC fetches the image over the lab's
// networks, or from this machine where the URI names its loopback. The guest
// has the drive from its next start by the BMC on: QEMU is started with it.
func (m *machine) SetMedia(ctx context.Context, x vbmc.Media) error {
	to := m.lab.r.dir.media(m.plan.Name)
	if x.Image != "" {
		if err := m.lab.fetchMedia(ctx, x.Image, to); err != nil {
			return fmt.Errorf("machine %s: %s: %w: %w", m.plan.Name, x.Image, vbmc.ErrMedia, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.kept
	f.Media = x.Image
	if err := m.keep(f); err != nil {
		return err
	}
	if x.Image == "" { // a guest that has it open reads it still
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("machine %s: ejecting: %w", m.plan.Name, err)
		}
	}
	return nil
}

// fetchMedia gets an image, whole or not at all.
func (l *Lab) fetchMedia(ctx context.Context, uri, to string) error {
	ctx, cancel := context.WithTimeout(ctx, mediaLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return err
	}
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: l.dialMedia}}
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it is answered with %s", resp.Status)
	}
	f, err := os.CreateTemp(filepath.Dir(to), ".media-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(resp.Body, maxMedia+1))
	switch {
	case err != nil:
		return err
	case n > maxMedia:
		return fmt.Errorf("it is larger than %d GiB", maxMedia>>30)
	case resp.ContentLength >= 0 && n != resp.ContentLength:
		return fmt.Errorf("%d of %d bytes came", n, resp.ContentLength)
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), to)
}

// dialMedia connects on the lab's networks; to this machine's loopback, where
// the developer serves images, on the host's.
func (l *Lab) dialMedia(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(host); host == "localhost" || err == nil && ip.IsLoopback() {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	return l.DialContext(ctx, network, addr)
}

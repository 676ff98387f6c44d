// Package pypi mirrors Python packages.
//
// A requirements file with hashes, as pip-compile writes it, names every
// project by version and the digests of its files: wheels, built for a version
// of Python and a platform, and source distributions. The simple repository
// API says which files a project has (PEP 503, 691, 700); upstream's is not
// signed and says only where files are. The one that is served is made here,
// of the verified files: with their metadata (PEP 658, 714), and with what
// upstream said was yanked (PEP 592).
package pypi

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

// Format is airgap.Format for pypi.
type Format struct {
	// Dir is what lockfiles of mirrors are relative to.
	Dir string
	// Index is the simple index of mirrors without urls; "": as pip is configured
	// on this machine.
	Index string
}

// Name implements airgap.Format.
func (*Format) Name() string { return "pypi" }

var separators = regexp.MustCompile(`[-_.]+`)

// normalize is a project's name as indexes have it: PEP 503.
func normalize(name string) string {
	return strings.ToLower(separators.ReplaceAllString(name, "-"))
}

var nameRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

// indexes are the simple indexes that files are looked up in.
func (f *Format) indexes(m airgap.Mirror) ([]string, error) {
	list := m.URLs
	if len(list) == 0 {
		one := f.Index
		if one == "" {
			one = configured()
		}
		if one == "" {
			return nil, errors.New("there is no index: name it as the mirror's url, such as https://example.org/simple/, or configure pip on this machine")
		}
		list = []string{one}
	}
	var out []string
	for _, u := range list {
		u = strings.TrimSuffix(u, "/")
		if err := airgap.CheckURL(u); err != nil {
			return nil, fmt.Errorf("index: %w", err)
		}
		out = append(out, u)
	}
	return out, nil
}

// configured is the index in pip's own configuration.
func configured() string {
	if v := os.Getenv("PIP_INDEX_URL"); v != "" {
		return v
	}
	var files []string
	if v := os.Getenv("PIP_CONFIG_FILE"); v != "" {
		files = append(files, v)
	}
	if dir, err := os.UserConfigDir(); err == nil {
		files = append(files, filepath.Join(dir, "pip", "pip.conf"))
	}
	if home, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(home, ".pip", "pip.conf"))
	}
	for _, file := range append(files, "/etc/pip.conf", "/etc/xdg/pip/pip.conf") {
		if data, err := os.ReadFile(file); err == nil {
			if v := setting(data, "index-url"); v != "" {
				return v
			}
		}
	}
	return ""
}

// setting is a value of [global] in a pip.conf.
func setting(data []byte, key string) string {
	section := ""
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[]")
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if ok && section == "global" && strings.ReplaceAll(strings.TrimSpace(k), "_", "-") == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

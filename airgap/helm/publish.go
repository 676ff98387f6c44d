package helm

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"gopkg.in/yaml.v3"

	"github.com/fettle-dev/fettle/airgap"
)

const (
	maxChartYAML = 1 << 20
	maxUnpacked  = 256 << 20 // of an archive, until its Chart.yaml has come
	// Helm reads a date of every version, and of the index; a mirror has one for
	// all, so that the same charts give the same index.
	created = "2000-01-01T00:00:00Z"
)

// Publish implements airgap.Format.
func (Format) Publish(ctx context.Context, env airgap.Env, lm airgap.LockedMirror) ([]airgap.File, error) {
	var out []airgap.File
	entries := map[string][]map[string]any{}
	for _, it := range lm.Items {
		f, err := airgap.TreeFile(env.Blobs, it)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
		meta, err := chart(ctx, env, it)
		if err != nil {
			return nil, fmt.Errorf("chart %s %s: %w", it.Name, it.Version, err)
		}
		meta["digest"], meta["urls"], meta["created"] = it.SHA256.Hex(), []string{it.Path}, created
		entries[it.Name] = append(entries[it.Name], meta)
	}
	data, err := yaml.Marshal(map[string]any{"apiVersion": "v1", "entries": entries, "generated": created})
	if err != nil {
		return nil, err
	}
	d, err := airgap.PutBytes(ctx, env.Blobs, data)
	if err != nil {
		return nil, err
	}
	return append(out, airgap.File{Path: "index.yaml", Size: int64(len(data)), SHA256: d}), nil
}

// chart reads what an archive says of itself, and compares it with the lock.
func chart(ctx context.Context, env airgap.Env, it airgap.Item) (map[string]any, error) {
	r, err := env.Blobs.Open(ctx, it.SHA256)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := chartYAML(r)
	if err != nil {
		return nil, err
	}
	meta := map[string]any{}
	if err := yaml.Unmarshal(data, &meta); err != nil {
		return nil, fmt.Errorf("its Chart.yaml: %w", err)
	}
	if fmt.Sprint(meta["name"]) != it.Name || fmt.Sprint(meta["version"]) != it.Version {
		return nil, fmt.Errorf("its Chart.yaml says that it is %.100v %.100v", meta["name"], meta["version"])
	}
	return meta, nil
}

// chartYAML finds Chart.yaml in the one folder of an archive.
func chartYAML(r io.Reader) ([]byte, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("it is no gzip archive: %w", err)
	}
	left := &io.LimitedReader{R: z, N: maxUnpacked}
	tr := tar.NewReader(left)
	for {
		h, err := tr.Next()
		if left.N <= 0 {
			return nil, fmt.Errorf("no Chart.yaml is in its first %d bytes", maxUnpacked)
		}
		if errors.Is(err, io.EOF) {
			return nil, errors.New("it holds no Chart.yaml")
		}
		if err != nil {
			return nil, fmt.Errorf("it is no tar archive: %w", err)
		}
		dir, file, ok := strings.Cut(strings.TrimPrefix(h.Name, "./"), "/")
		if !ok || dir == "" || file != "Chart.yaml" || h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > maxChartYAML {
			return nil, fmt.Errorf("its Chart.yaml has %d bytes", h.Size)
		}
		return io.ReadAll(tr)
	}
}

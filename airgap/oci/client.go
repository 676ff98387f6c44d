package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

const (
	podmanConf = "/etc/containers/registries.conf.d/50-fettle.conf"
	dockerConf = "/etc/docker/daemon.json"
)

// Clients implements airgap.Configurer. What podman reads, buildah, skopeo and
// CRI-O read too.
func (*Format) Clients() []string { return []string{"containerd", "docker", "podman"} }

// ClientConfig implements airgap.Configurer: every registry of the snapshot is
// replaced by ours, so that nothing asks upstream.
func (*Format) ClientConfig(_ context.Context, client string, r airgap.ClientRequest) ([]airgap.ClientFile, error) {
	set := map[string]bool{}
	for _, m := range r.Snapshot.Lock.Mirrors {
		for _, it := range m.Items {
			if host, _, ok := strings.Cut(it.Name, "/"); ok && m.Format == formatName && it.Kind == airgap.KindPackage {
				set[host] = true
			}
		}
	}
	hosts := slices.Sorted(maps.Keys(set))
	if len(hosts) == 0 {
		return nil, nil
	}
	// containerd alone can be told where a CA's certificate is.
	base := r.Secure()
	if client != "containerd" && r.CAFile != "" && r.HTTP != "" {
		base = r.HTTP
	}
	_, server, _ := strings.Cut(base, "://")
	plain := strings.HasPrefix(base, "http://")
	file := func(path string, b []byte) airgap.ClientFile {
		return airgap.ClientFile{Path: path, Mode: 0o644, Content: b}
	}
	var out []airgap.ClientFile
	switch client {
	case "containerd":
		for _, h := range hosts {
			b := fmt.Appendf(nil, "# by fettle; containerd reads it when its config_path is /etc/containerd/certs.d\nserver = %q\n", base)
			if !plain && r.CAFile != "" {
				b = fmt.Appendf(b, "ca = %q\n", r.CAFile)
			}
			out = append(out, file("/etc/containerd/certs.d/"+h+"/hosts.toml", b))
		}
	case "docker":
		conf := map[string]any{}
		if set["docker.io"] || set["index.docker.io"] {
			conf["registry-mirrors"] = []string{base}
		}
		if plain {
			conf["insecure-registries"] = []string{server}
		}
		b, err := json.MarshalIndent(conf, "", "  ")
		if err != nil {
			return nil, err
		}
		out = append(out, file(dockerConf, append(b, '\n')))
	case "podman":
		b := []byte("# by fettle\n")
		for _, h := range hosts {
			b = fmt.Appendf(b, "\n[[registry]]\nprefix = %q\nlocation = %q\n", h, server+"/"+strings.TrimSuffix(localName(h, ""), "/"))
			if plain {
				b = append(b, "insecure = true\n"...)
			}
		}
		out = append(out, file(podmanConf, b))
	}
	return out, nil
}

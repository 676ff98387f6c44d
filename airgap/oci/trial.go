package oci

import (
	"strings"

	"github.com/fettle-dev/fettle/airgap"
)

// Trials implements airgap.Trier: each runtime pulls under the original name,
// and without one the manifest is fetched.
func (*Format) Trials(lm airgap.LockedMirror, r airgap.ClientRequest) []airgap.Trial {
	var out []airgap.Trial
	for _, it := range airgap.TrialItems(lm) {
		if it.Why != "the site file" {
			continue // attached to an image
		}
		image := imageName(it)
		word := airgap.ShellWord(image)
		for _, c := range [][3]string{
			{"podman", "podman pull ", "podman pull -q " + word},
			{"docker", "docker pull ", "docker pull -q " + word},
			{"skopeo", "skopeo copy ", `d=$(mktemp -d) && skopeo copy -q docker://` + word + ` "dir:$d" && rm -rf "$d"`},
			{"ctr", "ctr images pull ", "ctr --namespace fettle-trial images pull --hosts-dir /etc/containerd/certs.d " + word + " >/dev/null"},
		} {
			out = append(out, airgap.Trial{Name: c[1] + image, Needs: c[0], Command: c[2]})
		}
		host, repo, _ := strings.Cut(it.Name, "/")
		out = append(out, airgap.Trial{Name: "manifest of " + image, Needs: "curl", Command: "curl -fsS -o /dev/null -H 'Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json' " +
			airgap.ShellWord(r.Signed()+"/v2/"+localName(host, repo)+"/manifests/"+it.Version)})
	}
	return out
}

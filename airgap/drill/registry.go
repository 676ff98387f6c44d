package drill

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// imageName is the image that the site wants, at the upstream's registry.
const imageName = "drill/app"

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// image makes the registry have an image with one layer under the tag 1, and
// returns the paths of its manifest, by digest, and of its layer.
func (u *upstream) image(layer string) (manifest, blob string, err error) {
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	blobAt := func(content, mediaType string) (descriptor, string) {
		path := "v2/" + imageName + "/blobs/sha256:" + hexSum(content)
		u.put(path, []byte(content))
		return descriptor{mediaType, "sha256:" + hexSum(content), len(content)}, path
	}
	config, _ := blobAt(fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}`, hexSum(layer)), configType)
	data, blob := blobAt(layer, layerType)
	text, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": []descriptor{data}})
	if err != nil {
		return "", "", err
	}
	at := "v2/" + imageName + "/manifests/"
	for _, ref := range []string{"1", "sha256:" + hexSum(string(text))} {
		u.manifest(at+ref, string(text), hexSum(string(text)))
	}
	u.handle("v2/", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusOK) })
	return at + "sha256:" + hexSum(string(text)), blob, nil
}

// manifest makes a path serve a manifest that is said to have a digest.
func (u *upstream) manifest(path, text, digest string) {
	u.handle(path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", "sha256:"+digest)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(text))
	})
}

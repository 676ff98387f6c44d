package oci

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestBenchPull measures one row of ../BENCH.md: 4 images of 780 MB in all are
// pulled from docker-registry on loopback into a store, by fettle (FETTLE_BIN),
// and by the programs of others that are here. Each runs under GNU time, in an
// empty folder, in turns; the best wall time of three counts.
func TestBenchPull(t *testing.T) {
	fettle := os.Getenv("FETTLE_BIN")
	if os.Getenv("FETTLE_BENCH") == "" || fettle == "" {
		t.Skip("set FETTLE_BENCH=1 and FETTLE_BIN")
	}
	needs(t, "time", "docker-registry")
	host := dockerRegistry(t)
	var images []string
	for i := range 4 {
		img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
		// Like real ones: two large layers and some small.
		for _, n := range []int{90, 60, 30, 10, 4, 1} {
			var err error
			if img, err = mutate.AppendLayers(img, v1.Layer(static.NewLayer(random(n<<20), types.OCILayer))); err != nil {
				t.Fatal(err)
			}
		}
		ref := fmt.Sprintf("%s/bench/image%d:1", host, i)
		if err := remote.Write(parseRef(t, ref), img); err != nil {
			t.Fatal(err)
		}
		images = append(images, ref)
	}
	base := t.TempDir()
	site := filepath.Join(base, "site")
	if err := os.MkdirAll(site, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "name: bench\ndomain: example.org\nmirrors:\n  - {name: images, format: oci, images: [" + strings.Join(images, ", ") + "]}\n"
	if err := os.WriteFile(filepath.Join(site, "site.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	skopeo := func(dir string) []string {
		script := "set -e\n"
		for i, ref := range images {
			script += fmt.Sprintf("skopeo copy -q --src-tls-verify=false docker://%s oci:%s:image%d\n", ref, dir, i)
		}
		return []string{"sh", "-c", script}
	}
	programs := []struct {
		name string
		args func(dir string) []string
	}{
		{"fettle mirror sync", func(dir string) []string {
			return []string{fettle, "mirror", "sync", "--site", site, "--lock", filepath.Join(dir, "lock"), "--store", dir}
		}},
		{"crane pull --format oci", func(dir string) []string {
			return append(append([]string{"crane", "pull", "--format", "oci", "--insecure"}, images...), dir)
		}},
		{"crane pull --format oci, then sync -f: as durable as fettle's", func(dir string) []string {
			return []string{"sh", "-c", `crane pull --format oci --insecure "$@" && for last; do :; done && sync -f "$last"`, "crane", images[0], images[1], images[2], images[3], dir}
		}},
		{"skopeo copy to oci:", skopeo},
	}
	type figures struct{ wall, cpu, mb float64 }
	best := make([]figures, len(programs))
	again := figures{wall: 1e9}
	for range 3 {
		for i, p := range programs {
			if _, err := exec.LookPath(p.args("x")[0]); err != nil || !has(strings.Fields(p.name)[0]) && i > 0 {
				continue
			}
			dir := filepath.Join(base, "out")
			f := measured(t, base, p.args(dir))
			if best[i].wall == 0 || f[0] < best[i].wall {
				best[i] = figures{f[0], f[1], f[2]}
			}
			if i == 0 {
				f := measured(t, base, p.args(dir))
				again = figures{min(again.wall, f[0]), f[1], f[2]}
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| 4 images, 780 MB, pulled to a store | wall s | CPU s | MB |\n|---|---|---|---|\n")
	for i, p := range programs {
		if best[i].wall > 0 {
			fmt.Fprintf(&b, "| %s | %.2f | %.2f | %.0f |\n", p.name, best[i].wall, best[i].cpu, best[i].mb)
		}
	}
	fmt.Fprintf(&b, "| fettle mirror sync, nothing changed | %.2f | %.2f | %.0f |\n", again.wall, again.cpu, again.mb)
	t.Log("\n" + b.String())
}

func has(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// measured runs a program under GNU time: wall and CPU seconds, megabytes.
func measured(t *testing.T, dir string, args []string) [3]float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out := filepath.Join(dir, "figures")
	cmd := exec.CommandContext(ctx, "time", append([]string{"-q", "-o", out, "-f", "%e %U %S %M"}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, log.String())
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var n [4]float64
	for i, f := range strings.Fields(string(text)) {
		if n[i], err = strconv.ParseFloat(f, 64); err != nil {
			t.Fatal(err)
		}
	}
	return [3]float64{n[0], n[1] + n[2], n[3] / 1024}
}

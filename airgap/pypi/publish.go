package pypi

import (
	"archive/zip"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"net/textproto"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

const (
	made        = ".simple/" // of what is made here, in a tree
	maxMetadata = 8 << 20
)

// served is a file as the index that is served lists it.
type served struct {
	file     airgap.File
	version  string
	python   string
	metadata blob.Digest // of the wheel's METADATA
	yanked   string
}

// Publish implements airgap.Format: files, their metadata, and the simple
// index of them in JSON and HTML.
func (*Format) Publish(ctx context.Context, env airgap.Env, lm airgap.LockedMirror) ([]airgap.File, error) {
	puts := airgap.NewPuts(ctx, env.Blobs)
	out, err := publish(ctx, env, lm, puts)
	return out, errors.Join(err, puts.Wait())
}

func publish(ctx context.Context, env airgap.Env, lm airgap.LockedMirror, puts *airgap.Puts) ([]airgap.File, error) {
	var out []airgap.File
	put := func(p string, data []byte) blob.Digest {
		d := puts.Bytes(data)
		out = append(out, airgap.File{Path: p, Size: int64(len(data)), SHA256: d})
		return d
	}
	yanked := map[string]string{}
	for _, it := range lm.Items {
		if name, ok := strings.CutPrefix(it.Path, yankedDir); ok {
			yanked[name] = strings.TrimSpace(it.Text)
		}
	}
	projects := map[string][]served{}
	for _, it := range lm.Items {
		if it.Kind != airgap.KindPackage {
			continue
		}
		f, err := airgap.TreeFile(env.Blobs, it)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
		s := served{file: f, version: it.Version, yanked: yanked[path.Base(it.Path)]}
		if strings.HasSuffix(it.Path, ".whl") {
			data, err := wheelMetadata(ctx, env.Blobs, it)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", it.Path, err)
			}
			if s.python, err = checkMetadata(data, it); err != nil {
				return nil, fmt.Errorf("%s: %w", it.Path, err)
			}
			s.metadata = put(it.Path+".metadata", data)
		}
		projects[it.Name] = append(projects[it.Name], s)
	}
	for _, name := range slices.Sorted(maps.Keys(projects)) {
		files := projects[name]
		slices.SortFunc(files, func(a, b served) int { return cmp.Compare(a.file.Path, b.file.Path) })
		data, err := projectJSON(name, files)
		if err != nil {
			return nil, err
		}
		put(made+name+".json", data)
		put(made+name+".html", projectHTML(name, files))
	}
	names := slices.Sorted(maps.Keys(projects))
	data, err := rootJSON(names)
	if err != nil {
		return nil, err
	}
	put(made+"_root.json", data) // no name of a project begins so
	put(made+"_root.html", rootHTML(names))
	return out, nil
}

// wheelMetadata is the METADATA of a wheel: PEP 427.
func wheelMetadata(ctx context.Context, s *blob.Store, it airgap.Item) ([]byte, error) {
	if err := s.Verify(ctx, it.SHA256); err != nil {
		return nil, err
	}
	f, err := os.Open(s.Path(it.SHA256))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return metadataOf(f, fi.Size())
}

func metadataOf(r io.ReaderAt, size int64) ([]byte, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, fmt.Errorf("it is no wheel: %w", err)
	}
	var found *zip.File
	for _, f := range z.File {
		if dir, name := path.Split(f.Name); name == "METADATA" && strings.HasSuffix(dir, ".dist-info/") && strings.Count(dir, "/") == 1 {
			if found != nil {
				return nil, errors.New("it has two METADATA")
			}
			found = f
		}
	}
	if found == nil {
		return nil, errors.New("it is a wheel without METADATA")
	}
	rc, err := found.Open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	data, err := io.ReadAll(io.LimitReader(rc, maxMetadata+1))
	if err == nil && len(data) > maxMetadata {
		err = fmt.Errorf("its METADATA has more than %d bytes", maxMetadata)
	}
	return data, err
}

// checkMetadata compares what a wheel says of itself with the lock, and gives
// the versions of Python that it requires.
func checkMetadata(data []byte, it airgap.Item) (string, error) {
	h, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(data))).ReadMIMEHeader()
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("its METADATA: %w", err)
	}
	if name, version := h.Get("Name"), h.Get("Version"); normalize(name) != it.Name || !sameVersion(version, it.Version) {
		return "", fmt.Errorf("its METADATA says that it is %s %s, and the requirements that it is %s %s", name, version, it.Name, it.Version)
	}
	return h.Get("Requires-Python"), nil
}

// at is a file's address, from a project's page.
func at(f airgap.File) string { return "../../" + f.Path }

// projectJSON is PEP 691 with sizes and versions (PEP 700).
func projectJSON(name string, files []served) ([]byte, error) {
	list := []map[string]any{}
	versions := map[string]bool{}
	for _, s := range files {
		versions[s.version] = true
		f := map[string]any{"filename": path.Base(s.file.Path), "url": at(s.file), "hashes": map[string]string{"sha256": s.file.SHA256.Hex()}, "size": s.file.Size}
		if s.python != "" {
			f["requires-python"] = s.python
		}
		if s.metadata != "" {
			// Not under its first name too: pip 23.0, Debian 12's, fails on that
			// (PEP 714, "Motivation").
			f["core-metadata"] = map[string]string{"sha256": s.metadata.Hex()}
		}
		if s.yanked != "" {
			f["yanked"] = s.yanked
		}
		list = append(list, f)
	}
	return json.Marshal(map[string]any{"meta": map[string]string{"api-version": "1.1"}, "name": name, "versions": slices.Sorted(maps.Keys(versions)), "files": list})
}

const htmlHead = "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><meta name=\"pypi:repository-version\" content=\"1.1\"><title>%s</title></head>\n<body>\n"

// projectHTML is PEP 503.
func projectHTML(name string, files []served) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, htmlHead, html.EscapeString(name))
	for _, s := range files {
		fmt.Fprintf(&b, "<a href=\"%s#sha256=%s\"", html.EscapeString(at(s.file)), s.file.SHA256.Hex())
		if s.python != "" {
			fmt.Fprintf(&b, " data-requires-python=\"%s\"", html.EscapeString(s.python))
		}
		if s.metadata != "" {
			fmt.Fprintf(&b, " data-core-metadata=\"sha256=%s\" data-dist-info-metadata=\"sha256=%s\"", s.metadata.Hex(), s.metadata.Hex())
		}
		if s.yanked != "" {
			fmt.Fprintf(&b, " data-yanked=\"%s\"", html.EscapeString(s.yanked))
		}
		fmt.Fprintf(&b, ">%s</a><br>\n", html.EscapeString(path.Base(s.file.Path)))
	}
	b.WriteString("</body></html>\n")
	return b.Bytes()
}

func rootJSON(names []string) ([]byte, error) {
	list := []map[string]string{}
	for _, n := range names {
		list = append(list, map[string]string{"name": n})
	}
	return json.Marshal(map[string]any{"meta": map[string]string{"api-version": "1.1"}, "projects": list})
}

func rootHTML(names []string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, htmlHead, "projects")
	for _, n := range names {
		fmt.Fprintf(&b, "<a href=\"%s/\">%s</a><br>\n", n, n)
	}
	b.WriteString("</body></html>\n")
	return b.Bytes()
}

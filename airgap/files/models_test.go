package files

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// hub has one model: a small file, one in LFS, one in a folder.
func hub(t testing.TB, change func(*snapshot)) *upstream {
	t.Helper()
	u := newUpstream(t)
	small := map[string]string{"config.json": `{"layers":2}`, "sub/README.md": "# hello\n"}
	large := strings.Repeat("weights ", 5000)
	s := snapshot{ID: "org/model", Commit: commit}
	for name, text := range small {
		s.Siblings = append(s.Siblings, sibling{Name: name, Blob: blobID([]byte(text))})
		u.put("/org/model/resolve/"+commit+"/"+name, []byte(text))
	}
	l := lfs{SHA256: blob.FromBytes([]byte(large)).Hex(), Size: int64(len(large))}
	s.Siblings = append(s.Siblings, sibling{Name: "model.safetensors", Blob: blobID(pointer(l)), LFS: &l})
	u.put("/org/model/resolve/"+commit+"/model.safetensors", []byte(large))
	if change != nil {
		change(&s)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	u.put("/api/models/org/model/revision/"+commit, data)
	return u
}

// git's own ids are what is compared with.
func TestBlobID(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "git", "hash-object", "--stdin")
	cmd.Stdin = strings.NewReader("# hello\n")
	out, err := cmd.Output()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if got, want := blobID([]byte("# hello\n")), strings.TrimSpace(string(out)); got != want {
		t.Errorf("blobID = %s; want %s", got, want)
	}
}

func TestModels(t *testing.T) {
	u := hub(t, nil)
	s := newSide(t)
	m := airgap.Mirror{URLs: []string{u.URL}, Models: []airgap.WantSnapshot{{Repo: "org/model", Revision: commit}}}
	if _, _, err := s.Mirror(t, m); err != nil {
		t.Fatal(err)
	}
	s.Fetched(t)
	if _, made, err := s.Mirror(t, m); err != nil || made {
		t.Errorf("sync again = %v, %v; want nothing new", made, err)
	}
	u.Close()
	get := func(path string) (int, string, http.Header) {
		resp, err := http.Get(s.Server.URL + "/files/m/" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b), resp.Header
	}
	for _, rev := range []string{commit, "main"} {
		status, body, h := get("org/model/resolve/" + rev + "/sub/README.md")
		if status != 200 || body != "# hello\n" || h.Get("X-Repo-Commit") != commit || h.Get("ETag") == "" {
			t.Errorf("README.md of %s = %d, %q, %v", rev, status, body, h)
		}
		status, body, _ = get("api/models/org/model/revision/" + rev)
		var got snapshot
		if err := json.Unmarshal([]byte(body), &got); status != 200 || err != nil || got.Commit != commit || len(got.Siblings) != 3 {
			t.Errorf("api of %s = %d, %s, %v", rev, status, body, err)
		}
	}
	if status, _, _ := get("org/model/resolve/v2/config.json"); status != 404 {
		t.Errorf("a revision that is not here = %d; want 404", status)
	}
	// The list of digests is what sha256sum takes.
	dir := t.TempDir()
	_, list, _ := get("org/model/" + commit + ".sha256sums")
	for _, name := range []string{"config.json", "sub/README.md", "model.safetensors"} {
		_, body, _ := get("org/model/resolve/" + commit + "/" + name)
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(list)
	if out, err := cmd.CombinedOutput(); err != nil || strings.Count(string(out), "OK") != 3 {
		t.Errorf("sha256sum --check = %v, %s", err, out)
	}
}

func TestBadModels(t *testing.T) {
	model := airgap.WantSnapshot{Repo: "org/model", Revision: commit}
	lfsOf := func(s *snapshot) *sibling { return &s.Siblings[len(s.Siblings)-1] }
	for _, tt := range []struct {
		name, wrong string
		want        airgap.WantSnapshot
		change      func(*snapshot)
		file        string // that upstream changes
	}{
		{"a branch", "branches move", airgap.WantSnapshot{Repo: "org/model", Revision: "main"}, nil, ""},
		{"another commit", "answers with commit", model, func(s *snapshot) { s.Commit = strings.Repeat("f", 40) }, ""},
		{"no files", "names no files", model, func(s *snapshot) { s.Siblings = nil }, ""},
		{"a name that leaves", "leaves its folder", model, func(s *snapshot) { s.Siblings[0].Name = "../../x" }, ""},
		{"twice", "names model.safetensors twice", model, func(s *snapshot) { s.Siblings[0].Name = "model.safetensors" }, ""},
		{"another LFS digest", "not the one that the commit points to", model, func(s *snapshot) { lfsOf(s).LFS.SHA256 = strings.Repeat("0", 64) }, ""},
		{"another LFS size", "not the one that the commit points to", model, func(s *snapshot) { lfsOf(s).LFS.Size++ }, ""},
		{"no such file", `no file matches "*.gguf"`, airgap.WantSnapshot{Repo: "org/model", Revision: commit, Files: []string{"*.gguf"}}, nil, ""},
		{"a small file changed", "its git id is", model, nil, "config.json"},
		{"a large file changed", "were promised", model, nil, "model.safetensors"},
	} {
		u := hub(t, tt.change)
		if tt.file != "" {
			p := "/org/model/resolve/" + commit + "/" + tt.file
			u.put(p, append([]byte("x"), u.files[p][1:]...))
		}
		_, _, err := newSide(t).Mirror(t, airgap.Mirror{URLs: []string{u.URL}, Models: []airgap.WantSnapshot{tt.want}})
		if err == nil || !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: sync = %v; want an error with %q", tt.name, err, tt.wrong)
		}
	}
}

func FuzzSnapshot(f *testing.F) {
	f.Add(fmt.Appendf(nil, `{"sha":%q,"siblings":[{"rfilename":"a","blobId":%q,"size":1},{"rfilename":"b","blobId":%q,"lfs":{"sha256":%q,"size":3}}]}`, commit, commit, commit, strings.Repeat("a", 64)))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseSnapshot(data)
		if err != nil {
			return
		}
		for _, x := range s.Siblings {
			if airgap.CheckPath(filePath("o/m", commit, x.Name)) != nil {
				t.Errorf("parseSnapshot took %q", x.Name)
			}
		}
	})
}

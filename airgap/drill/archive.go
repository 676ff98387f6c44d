package drill

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// upstream is an HTTP server whose files a case changes. It serves a signed
// Debian archive of one suite, and single files.
type upstream struct {
	now   time.Time
	key   *openpgp.Entity
	other *openpgp.Entity // a key that nobody trusts

	mu    sync.Mutex
	files map[string]http.HandlerFunc
}

// release is what an archive says in its signed index.
type release struct {
	suite      string
	date       time.Time
	validUntil time.Time
	packages   map[string]string // by name: content
	version    string
	edit       func(packages string) string // changes the index before it is signed
	bomb       bool                         // the compressed index holds much more than is said
	signer     *openpgp.Entity              // nil: the archive's
}

func newKey(name string, now time.Time) (*openpgp.Entity, error) {
	return openpgp.NewEntity(name, "", name+"@example.org", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return now.AddDate(-1, 0, 0) }})
}

func newUpstream(now time.Time) (*upstream, error) {
	u := &upstream{now: now, files: map[string]http.HandlerFunc{}}
	var err error
	if u.key, err = newKey("archive", now); err != nil {
		return nil, fmt.Errorf("making the archive's key: %w", err)
	}
	if u.other, err = newKey("stranger", now); err != nil {
		return nil, fmt.Errorf("making a stranger's key: %w", err)
	}
	return u, nil
}

// keyring is the file of the keys that the site trusts.
func (u *upstream) keyring() ([]byte, error) {
	var b bytes.Buffer
	err := u.key.Serialize(&b)
	return b.Bytes(), err
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	h := u.files[strings.TrimPrefix(r.URL.Path, "/")]
	u.mu.Unlock()
	if h == nil {
		http.NotFound(w, r)
		return
	}
	h(w, r)
}

func (u *upstream) handle(path string, h http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files[path] = h
}

// put makes path serve data.
func (u *upstream) put(path string, data []byte) {
	u.handle(path, func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
}

// endless makes path serve bytes without end.
func (u *upstream) endless(path string) {
	u.handle(path, func(w http.ResponseWriter, r *http.Request) {
		block := bytes.Repeat([]byte("x"), 64<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
}

func debPath(name, version string) string { return "pool/" + name + "_" + version + "_amd64.deb" }

// publish builds and signs a suite.
func (u *upstream) publish(r release) error {
	if r.version == "" {
		r.version = "1"
	}
	var index strings.Builder
	for _, name := range []string{"app", "lib"} {
		content, ok := r.packages[name]
		if !ok {
			continue
		}
		sum := sha256.Sum256([]byte(content))
		path := debPath(name, r.version)
		u.put(path, []byte(content))
		fmt.Fprintf(&index, "Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: %s\nSize: %d\nSHA256: %s\n", name, r.version, path, len(content), hex.EncodeToString(sum[:]))
		if name == "app" {
			index.WriteString("Depends: lib\n")
		}
		index.WriteString("\n")
	}
	text := index.String()
	if r.edit != nil {
		text = r.edit(text)
	}
	packed, err := pack([]byte(text), r.bomb)
	if err != nil {
		return err
	}
	const file = "main/binary-amd64/Packages"
	var rel strings.Builder
	date := func(t time.Time) string { return t.UTC().Format("Mon, 02 Jan 2006 15:04:05 MST") }
	fmt.Fprintf(&rel, "Origin: Drill\nSuite: %s\nCodename: %s\nDate: %s\n", r.suite, r.suite, date(r.date))
	if !r.validUntil.IsZero() {
		fmt.Fprintf(&rel, "Valid-Until: %s\n", date(r.validUntil))
	}
	rel.WriteString("Architectures: amd64\nComponents: main\nNo-Support-for-Architecture-all: Packages\nSHA256:\n")
	for name, data := range map[string][]byte{file: []byte(text), file + ".gz": packed} {
		sum := sha256.Sum256(data)
		fmt.Fprintf(&rel, " %s %d %s\n", hex.EncodeToString(sum[:]), len(data), name)
	}
	u.put("dists/"+r.suite+"/"+file+".gz", packed)
	signer := u.key
	if r.signer != nil {
		signer = r.signer
	}
	signed, err := u.sign(signer, rel.String())
	if err != nil {
		return err
	}
	u.put("dists/"+r.suite+"/InRelease", signed)
	return nil
}

func (u *upstream) sign(key *openpgp.Entity, text string) ([]byte, error) {
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, key.PrivateKey, &packet.Config{Time: func() time.Time { return u.now.Add(-time.Hour) }})
	if err != nil {
		return nil, fmt.Errorf("signing an index: %w", err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return append(b.Bytes(), '\n'), nil
}

// bombSize is what a bomb decompresses to.
const bombSize = 2 << 30

// pack compresses an index; a bomb goes on with zeros, as many equal members of
// one gzip file (RFC 1952 §2.2): compressing them all would take a minute.
func pack(text []byte, bomb bool) ([]byte, error) {
	member := func(data []byte) ([]byte, error) {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
		err := w.Close()
		return b.Bytes(), err
	}
	packed, err := member(text)
	if err != nil || !bomb {
		return packed, err
	}
	zeros := make([]byte, 1<<20)
	more, err := member(zeros)
	return append(packed, bytes.Repeat(more, bombSize/len(zeros))...), err
}

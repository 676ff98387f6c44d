package gomod

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/fettle-dev/fettle/airgap"
	"github.com/fettle-dev/fettle/blob"
)

const (
	proofDir = ".sumdb/" // evidence, from which the served database is made
	maxProof = 1 << 20
	keptHead = 8 // older heads whose holders can still verify
)

// knownDatabases are keys that go has built in: cmd/go, modfetch/key.go.
func knownDatabases() map[string]string {
	return map[string]string{"sum.golang.org": "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"}
}

// head is a signed tree head.
type head struct {
	n    int64
	text []byte
}

// database is a checksum database that is asked: https://go.dev/ref/mod#checksum-database.
// It is the operations of a sumdb.Client.
type database struct {
	ctx  context.Context
	env  airgap.Env
	name string
	key  string
	base string // address, without /lookup and /tile
	old  []head // that earlier snapshots had, the newest first

	client *sumdb.Client
	mu     sync.Mutex
	latest []byte            // the newest head that was verified
	remote map[string][]byte // by path
	lied   string            // what the client said of a misbehaving server
}

var errDatabase = errors.New("the checksum database cannot be believed")

// openDatabase finds the database that GOSUMDB names. It is nil when that is
// off, or when it cannot be reached, which unreachable says.
func openDatabase(ctx context.Context, env airgap.Env, config string, proxies []string, old []head) (d *database, unreachable, err error) {
	words := strings.Fields(cmp.Or(config, "sum.golang.org"))
	if words[0] == "off" {
		return nil, nil, nil
	}
	key := words[0]
	if k, ok := knownDatabases()[key]; ok {
		key = k
	}
	v, err := note.NewVerifier(key)
	if err != nil {
		return nil, nil, fmt.Errorf("GOSUMDB: the key of %s is not known: write NAME+HASH+KEY: %w", words[0], err)
	}
	if err := airgap.CheckPath(v.Name()); err != nil {
		return nil, nil, fmt.Errorf("GOSUMDB: %w", err)
	}
	d = &database{ctx: ctx, env: env, name: v.Name(), key: key, old: old, remote: map[string][]byte{}}
	if len(old) > 0 {
		d.latest = old[0].text
	}
	d.client = sumdb.NewClient(d)
	var errs []error
	for _, p := range proxies {
		base := p + "/sumdb/" + d.name
		if _, err := env.Fetch.Index(ctx, base+"/supported", maxProof); err != nil {
			errs = append(errs, err)
			continue
		}
		d.base = base
		return d, nil, nil
	}
	base := "https://" + d.name
	if len(words) > 1 {
		base = strings.TrimSuffix(words[1], "/")
	}
	if _, err := env.Fetch.Index(ctx, base+"/latest", maxProof); err != nil {
		return nil, errors.Join(append(errs, err)...), ctx.Err()
	}
	d.base = base
	return d, nil, nil
}

// lookup asks for a module version's record and verifies that it is in the tree.
func (d *database) lookup(v module.Version) error {
	_, err := d.client.Lookup(v.Path, v.Version)
	return d.explain(err)
}

func (d *database) explain(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lied != "" {
		return fmt.Errorf("%w: %s: %s", errDatabase, d.name, strings.TrimSpace(d.lied))
	}
	return err
}

// sum is what the database says of a file of a module version.
func (d *database) sum(v module.Version, suffix string) (string, error) {
	ls, err := d.client.Lookup(v.Path, v.Version+suffix)
	if err := d.explain(err); err != nil {
		return "", err
	}
	for _, l := range ls {
		if w := strings.Fields(l); len(w) == 3 && strings.HasPrefix(w[2], "h1:") {
			return w[2], nil
		}
	}
	return "", fmt.Errorf("the checksum database %s has no h1 sum of %s %s%s", d.name, v.Path, v.Version, suffix)
}

// ReadRemote implements sumdb.ClientOps, as the methods below.
func (d *database) ReadRemote(path string) ([]byte, error) {
	d.mu.Lock()
	data, ok := d.remote[path]
	d.mu.Unlock()
	if ok {
		return data, nil
	}
	data, err := d.env.Fetch.Index(d.ctx, d.base+path, maxProof)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remote[path] = data
	return data, nil
}

func (d *database) ReadConfig(file string) ([]byte, error) {
	if file == "key" {
		return []byte(d.key), nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.latest, nil
}

func (d *database) WriteConfig(_ string, old, next []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !bytes.Equal(old, d.latest) {
		return sumdb.ErrWriteConflict
	}
	d.latest = next
	return nil
}

func (d *database) ReadCache(string) ([]byte, error) { return nil, fs.ErrNotExist }
func (d *database) WriteCache(string, []byte)        {}
func (d *database) Log(string)                       {}
func (d *database) SecurityError(msg string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lied = msg
}

// heads are the heads that an earlier lock has, the newest first.
func heads(prev *airgap.LockedMirror) []head {
	if prev == nil {
		return nil
	}
	var out []head
	for _, it := range prev.Items {
		if !strings.HasPrefix(it.Path, proofDir) || !strings.Contains(it.Path, "/head/") {
			continue
		}
		if h, err := parseHead([]byte(it.Text)); err == nil {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b head) int { return cmp.Compare(b.n, a.n) })
	return out[:min(len(out), keptHead)]
}

// parseHead reads a head whose signature was, or will be, verified.
func parseHead(text []byte) (head, error) {
	t, err := tlog.ParseTree(text)
	return head{t.N, text}, err
}

// record is a module version's line in the log.
type record struct {
	id   int64
	text []byte // as tlog.FormatRecord writes it, with the empty line
	path string // /lookup/…
}

func (d *database) record(v module.Version) (record, error) {
	at, version, err := escaped(v)
	if err != nil {
		return record{}, err
	}
	path := "/lookup/" + strings.TrimSuffix(at, "/@v/") + "@" + version
	d.mu.Lock()
	data := d.remote[path]
	d.mu.Unlock()
	id, text, _, err := tlog.ParseRecord(data)
	if err != nil {
		return record{}, fmt.Errorf("record of %s@%s: %w", v.Path, v.Version, err)
	}
	msg, err := tlog.FormatRecord(id, text)
	return record{id, msg, path}, err
}

// prove makes the items of the proof, and says who is trusted.
func (r *resolver) prove(ctx context.Context, all map[module.Version]wanted, unreachable error) ([]airgap.Trust, error) {
	var logged []module.Version
	own := 0
	for _, v := range sortedVersions(all) {
		if r.db == nil || module.MatchPrefixPatterns(r.private, v.Path) {
			own++
		} else {
			logged = append(logged, v)
		}
	}
	var out []airgap.Trust
	if own > 0 {
		t := airgap.Trust{What: "modules by the site's go.sum", Source: "h1 sums of go.sum; no proof for clients"}
		if unreachable != nil {
			t.Source += "; the checksum database could not be asked"
		}
		out = append(out, t)
	}
	if len(logged) == 0 {
		return out, nil
	}
	items, err := r.db.proof(ctx, logged)
	if err != nil {
		return nil, fmt.Errorf("the proof of the checksum database: %w", err)
	}
	for _, it := range items {
		r.items[it.Path] = it
	}
	key, _, _ := strings.Cut(strings.TrimPrefix(r.db.key, r.db.name+"+"), "+")
	return append(out, airgap.Trust{What: "modules by the checksum database", SignedBy: r.db.name + "+" + key, Source: "signed log of " + r.db.name}), nil
}

// proof finds what clients will ask of the database, by being one: a new
// client, and one for each older head.
func (d *database) proof(ctx context.Context, vs []module.Version) ([]airgap.Item, error) {
	var records []record
	var maxID int64
	for _, v := range vs {
		rec, err := d.record(v)
		if err != nil {
			return nil, err
		}
		records = append(records, rec)
		maxID = max(maxID, rec.id)
	}
	newest, err := parseHead(d.latest)
	if err != nil {
		return nil, err
	}
	if len(d.old) > 0 && d.old[0].n > maxID {
		newest = d.old[0] // nothing that this mirror has is newer: no new proof
	}
	hs := []head{newest}
	for _, h := range d.old {
		if h.n != newest.n && len(hs) < keptHead {
			hs = append(hs, h)
		}
	}
	var items []airgap.Item
	text := func(path, url string, b []byte) {
		items = append(items, airgap.Item{Path: path, URL: url, Size: int64(len(b)), SHA256: blob.FromBytes(b), Kind: airgap.KindEvidence, Text: string(b)})
	}
	for _, h := range hs {
		text(fmt.Sprintf("%s%s/head/%d", proofDir, d.name, h.n), d.base+"/latest", h.text)
	}
	for _, rec := range records {
		text(proofDir+d.name+"/record/"+strings.TrimPrefix(rec.path, "/lookup/"), d.base+rec.path, rec.text)
	}
	tiles := map[string][]byte{}
	for i := range hs {
		known := hs[i]
		if i == 0 {
			known = head{} // knows nothing yet
		}
		p := &player{db: d, head: newest.text, latest: known.text, records: records, tiles: tiles}
		if err := p.play(vs); err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(tiles)) {
		b := tiles[path]
		items = append(items, airgap.Item{Path: "sumdb/" + d.name + path, URL: d.base + path, Size: int64(len(b)), SHA256: blob.FromBytes(b), Kind: airgap.KindIndex})
	}
	return items, nil
}

// player is a client of the database as it will be served. It notes which
// tiles the client asks for.
type player struct {
	db      *database
	head    []byte
	records []record

	mu     sync.Mutex
	latest []byte
	tiles  map[string][]byte
	lied   string
}

func (p *player) play(vs []module.Version) error {
	c := sumdb.NewClient(p)
	for _, v := range vs {
		if _, err := c.Lookup(v.Path, v.Version); err != nil {
			if p.lied != "" {
				return fmt.Errorf("%w: %s: %s", errDatabase, p.db.name, strings.TrimSpace(p.lied))
			}
			return err
		}
	}
	return nil
}

// ReadRemote implements sumdb.ClientOps, as the methods below.
func (p *player) ReadRemote(path string) ([]byte, error) {
	if strings.HasPrefix(path, "/lookup/") {
		i := slices.IndexFunc(p.records, func(r record) bool { return r.path == path })
		if i < 0 {
			return nil, fs.ErrNotExist
		}
		return slices.Concat(p.records[i].text, p.head), nil
	}
	data, err := p.db.ReadRemote(path)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tiles[path] = data
	return data, nil
}

func (p *player) ReadConfig(file string) ([]byte, error) {
	if file == "key" {
		return []byte(p.db.key), nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.latest, nil
}

func (p *player) WriteConfig(_ string, old, next []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !bytes.Equal(old, p.latest) {
		return sumdb.ErrWriteConflict
	}
	p.latest = next
	return nil
}

func (p *player) ReadCache(string) ([]byte, error) { return nil, fs.ErrNotExist }
func (p *player) WriteCache(string, []byte)        {}
func (p *player) Log(string)                       {}
func (p *player) SecurityError(msg string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lied = msg
}

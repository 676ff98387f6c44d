package airgap

import (
	"cmp"
	"context"
	"io/fs"
)

// Configurer is what a [Format] also is whose clients need configuration to
// use the mirrors that are served instead of the internet.
type Configurer interface {
	Format
	// Clients are the programs that use its mirrors, such as "pip". A program
	// belongs to one format; several programs may share one.
	Clients() []string
	// ClientConfig are the files that make client use the mirrors of its format
	// in r.Snapshot. It has none when the snapshot has no mirror of the format.
	// The same request gives the same files.
	ClientConfig(ctx context.Context, client string, r ClientRequest) ([]ClientFile, error)
}

// Asker is what a [Configurer] also is that configures programs that no
// installed machine has, such as an installer: only who asks for one by its name
// gets its files, from ClientConfig.
type Asker interface {
	Configurer
	ClientsByName() []string
}

// ClientRequest says where clients find what is served, and what.
type ClientRequest struct {
	// HTTP and HTTPS are where clients reach the [Handler], without a slash at
	// the end: "http://10.0.0.1:8480". One of them may be empty.
	HTTP, HTTPS string
	// CAFile is the file on the client with the CA of the HTTPS server's
	// certificate; "": the client trusts it anyway.
	CAFile   string
	Store    *Store
	Snapshot Snapshot
}

// Signed is the address for a client that verifies signatures or digests
// itself: plain HTTP, which needs no CA, if there is one.
func (r ClientRequest) Signed() string { return cmp.Or(r.HTTP, r.HTTPS) }

// Secure is the address for every other client: HTTPS if there is one.
func (r ClientRequest) Secure() string { return cmp.Or(r.HTTPS, r.HTTP) }

// ClientFile is a file on a client.
type ClientFile struct {
	Path    string      `json:"path"` // absolute
	Mode    fs.FileMode `json:"mode"`
	Content []byte      `json:"-"`
}

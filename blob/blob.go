// Package blob keeps bytes by their digest. A blob is verified when it is
// written and again when it is read. The package does not know what the bytes
// mean.
package blob

// Digest is "sha256:" and 64 lower case hex digits.
type Digest string

// To be implemented in this package (signatures are relied on by others):
//
//	func Open(dir string) (*Store, error)                  // dir/sha256/ab/abcdef...
//	func (s *Store) Put(ctx, r io.Reader, want Digest /* "" = any */) (Digest, int64, error) // temp file, fsync, rename
//	func (s *Store) Create() (*Writer, error)              // io.Writer; Commit(want) (Digest, int64, error); Abort()
//	func (s *Store) Open(ctx, Digest) (*Reader, error)     // io.ReadSeekCloser, Size(); fs.ErrNotExist; a full sequential read ends in EOF only if the digest matched
//	func (s *Store) Has(Digest) bool; Path(Digest) string; Remove(Digest) error; Verify(ctx, Digest) error
//	func FromBytes([]byte) Digest; (Digest) Validate() error; (Digest) Hex() string

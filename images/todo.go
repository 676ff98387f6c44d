package images

import (
	"context"
	"errors"
)

// Loaders and Disk follow in the next commits.
func (b *Builder) Loaders(ctx context.Context) (Release, bool, error) {
	return Release{}, false, errors.New("building boot loaders: not in this build yet")
}

func (b *Builder) Disk(ctx context.Context, spec DiskSpec) (Release, bool, error) {
	return Release{}, false, errors.New("building disk images: not in this build yet")
}

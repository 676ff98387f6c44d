package images

import (
	"context"
	"errors"
)

type AptConfig struct{}

func (b *Builder) Agent(ctx context.Context) (Release, bool, error) {
	return Release{}, false, errors.New("todo")
}
func (b *Builder) Loaders(ctx context.Context) (Release, bool, error) {
	return Release{}, false, errors.New("todo")
}
func (b *Builder) Disk(ctx context.Context, spec DiskSpec) (Release, bool, error) {
	return Release{}, false, errors.New("todo")
}

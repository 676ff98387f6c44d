package images

import (
	"bytes"
	"debug/elf"
	"embed"
	"errors"
	"fmt"
)

//go:embed agentbin
var agentBinaries embed.FS

// ErrNoAgent says that this fettle was built without its agent.
var ErrNoAgent = errors.New("this fettle was built without its agent: run make")

// agentELF is the program that becomes init of the agent's ramdisk.
func (b *Builder) agentELF(arch string) ([]byte, error) {
	data := b.AgentELF
	if data == nil {
		var err error
		if data, err = agentBinaries.ReadFile("agentbin/fettle-agent-linux-" + arch); err != nil {
			return nil, ErrNoAgent
		}
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("the agent's program is damaged (%w): run make", err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, errors.New("the agent's program is dynamically linked, so it cannot be init of a ramdisk: build it with CGO_ENABLED=0, as make does")
		}
	}
	return data, nil
}

package labs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"
)

// Ports of NICs on loopback are taken from a range that kernels do not hand out
// by themselves (the ephemeral range begins at 32768 on Linux).
const (
	firstPort = 20480
	lastPort  = 32767
)

// portsMutex is an abstract socket that is bound while ports are chosen: labs
// of all users of this network namespace share its ports.
const portsMutex = "@fettle-labs-ports"

// choosePorts finds the ports of the plan's NICs: those of an earlier run, as
// long as the NICs are the same and they are free (or in use by this lab's own
// guests), else new ones. taken holds ports that other labs' domains will use.
func choosePorts(ctx context.Context, p *Plan, dir folder, running bool, taken map[uint16]bool) (map[string][]portPair, error) {
	ports := map[string][]portPair{}
	err := readJSON(dir.ports(), &ports)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil && portsFit(p, ports) && (running || portsFree(ports, taken)) {
		return ports, nil
	}
	if running && err == nil {
		// New machines beside running ones: theirs stay.
		for name, pairs := range ports {
			if m, ok := p.Machine(name); !ok || len(m.NICs) != len(pairs) {
				delete(ports, name)
			}
		}
	} else {
		ports = map[string][]portPair{}
	}
	unlock, err := lockPorts(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	used := map[uint16]bool{}
	for _, pairs := range ports {
		for _, pair := range pairs {
			used[pair.Fabric], used[pair.Guest] = true, true
		}
	}
	next := startPort(string(dir))
	tries := 0
	find := func() (uint16, error) {
		for ; tries <= lastPort-firstPort; tries++ {
			port := next
			if next++; next > lastPort {
				next = firstPort
			}
			if !used[port] && !taken[port] && portFree(port) {
				used[port] = true
				return port, nil
			}
		}
		return 0, fmt.Errorf("lab %s: no free UDP port between %d and %d on 127.0.0.1: take another lab down", p.Name, firstPort, lastPort)
	}
	for _, m := range p.Machines {
		if ports[m.Name] != nil {
			continue
		}
		pairs := make([]portPair, len(m.NICs))
		for i := range pairs {
			if pairs[i].Fabric, err = find(); err != nil {
				return nil, err
			}
			if pairs[i].Guest, err = find(); err != nil {
				return nil, err
			}
		}
		ports[m.Name] = pairs
	}
	return ports, writeJSON(dir.ports(), ports)
}

// startPort spreads labs over the range, so that two seldom meet.
func startPort(dir string) uint16 {
	sum := sha256.Sum256([]byte(dir))
	return uint16(firstPort + int(binary.BigEndian.Uint32(sum[:]))%((lastPort-firstPort)/64)*64)
}

func portsFit(p *Plan, ports map[string][]portPair) bool {
	for _, m := range p.Machines {
		if pairs, ok := ports[m.Name]; !ok || len(pairs) != len(m.NICs) {
			return false
		}
	}
	return true
}

func portsFree(ports map[string][]portPair, taken map[uint16]bool) bool {
	for _, pairs := range ports {
		for _, pair := range pairs {
			if taken[pair.Fabric] || taken[pair.Guest] || !portFree(pair.Fabric) || !portFree(pair.Guest) {
				return false
			}
		}
	}
	return true
}

// portFree says whether nobody is bound to the port on loopback now.
func portFree(port uint16) bool {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)})
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// lockPorts waits at most 10 seconds for its turn.
func lockPorts(ctx context.Context) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		l, err := net.Listen("unix", portsMutex)
		if err == nil {
			return func() { l.Close() }, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for other labs to choose their ports: %w", err)
		case <-tick.C:
		}
	}
}

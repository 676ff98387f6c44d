package vbmc

import (
	"context"
	"slices"
	"strconv"
)

// keysOf are a database of the chassis; m.mu is held.
func (m *Memory) keysOf(db string) []Key {
	if ks, ok := m.keys[db]; ok {
		return ks
	}
	return firstKeys(db)
}

// setKeys replaces a database; m.mu is held. Without a platform key the firmware
// is in setup mode and checks nothing (UEFI 2.10 §32.3).
func (m *Memory) setKeys(db string, ks []Key) {
	if m.keys == nil {
		m.keys = map[string][]Key{}
	}
	m.keys[db] = ks
	if db == "PK" {
		m.secure.Setup = len(ks) == 0
	}
}

// Keys are the entries of a signature database.
func (m *Memory) Keys(ctx context.Context, db string) ([]Key, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	return slices.Clone(m.keysOf(db)), nil
}

// AddKey adds an entry.
func (m *Memory) AddKey(ctx context.Context, db string, k Key) (string, error) {
	if err := m.enter(ctx); err != nil {
		return "", err
	}
	defer m.mu.Unlock()
	m.keySeq++
	k.ID = strconv.Itoa(m.keySeq + 1) // 1 is the firmware's own
	if !m.fault.Lie {
		m.setKeys(db, append(slices.Clone(m.keysOf(db)), k))
	}
	return k.ID, nil
}

// DeleteKey deletes one.
func (m *Memory) DeleteKey(ctx context.Context, db, id string) (bool, error) {
	if err := m.enter(ctx); err != nil {
		return false, err
	}
	defer m.mu.Unlock()
	have := m.keysOf(db)
	left := slices.DeleteFunc(slices.Clone(have), func(k Key) bool { return k.ID == id })
	if !m.fault.Lie && len(left) < len(have) {
		m.setKeys(db, left)
	}
	return len(left) < len(have), nil
}

// ResetDatabase empties a database, or fills it as the firmware came.
func (m *Memory) ResetDatabase(ctx context.Context, db, how string) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if m.fault.Lie {
		return nil
	}
	m.setKeys(db, nil)
	if how == "ResetAllKeysToDefault" {
		m.setKeys(db, firstKeys(db))
		delete(m.keys, db)
	}
	return nil
}

// ResetKeys empties the signature databases, that of the platform key, or fills
// all as the firmware came.
func (m *Memory) ResetKeys(ctx context.Context, how string) error {
	dbs := keyDatabases
	if how == "DeletePK" {
		dbs, how = []string{"PK"}, "DeleteAllKeys"
	}
	for _, db := range dbs {
		if err := m.ResetDatabase(ctx, db, how); err != nil {
			return err
		}
	}
	return nil
}

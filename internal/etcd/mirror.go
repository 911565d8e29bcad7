package etcd

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A Mirror is a directory with what this node has written to etcd since it was booted: one file a key. It has
// no key that etcd lacks: one goes from it before etcd is asked to delete it, and comes after etcd has it. So an
// etcd that lacks one has lost it.
//
// Its files are not synced: they survive the daemon, and what they tell of goes with the boot.
type Mirror struct {
	dir, boot string
	log       *slog.Logger

	mu        sync.Mutex
	pending   []Copy           // what is to be written
	revisions map[string]int64 // of all copies
}

// A Copy is a key as it was written.
type Copy struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	// Revision is etcd's when it had been written, or 0 where the answer was lost.
	Revision int64  `json:"revision"`
	Boot     string `json:"boot"`
}

// OpenMirror opens the mirror in a directory, which it makes if need be. What is of an earlier boot goes.
func OpenMirror(dir, boot string, log *slog.Logger) (*Mirror, error) {
	m := &Mirror{dir: dir, boot: boot, log: log, revisions: map[string]int64{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := m.finish(); err != nil {
		return nil, err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		path := filepath.Join(dir, n.Name())
		c, err := readCopy(path)
		if err == nil && c.Boot == boot {
			m.revisions[c.Key] = c.Revision
		} else if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// finish does the rest of a write that the daemon was killed in. Until the new file is whole, the old one is there.
func (m *Mirror) finish() error {
	files, err := os.ReadDir(m.dir)
	for _, f := range files {
		begun := filepath.Join(m.dir, f.Name())
		whole, is := strings.CutSuffix(begun, temporary)
		if !is {
			continue
		}
		if _, missing := os.Stat(whole); missing != nil {
			err = errors.Join(err, os.Rename(begun, whole))
		} else {
			err = errors.Join(err, os.Remove(begun))
		}
	}
	return err
}

// flush writes what is pending. A caller returns when all of its own is written: whoever waits for the answer of a
// transaction waits for that, so that a daemon that is killed with the answer leaves no older copy.
func (m *Mirror) flush() {
	for m.writeNext() {
	}
}

// writeNext writes the first of what is pending, with the lock held: what is forgotten meanwhile stays so. What can't be
// written, as the disk is full, is known as long as the daemon lives, and is tried again with the next.
func (m *Mirror) writeNext() (more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.pending) == 0 {
		return false
	}
	c := m.pending[0]
	if err := m.write(c); err != nil {
		m.log.Error("what etcd has is not copied to disk yet", "key", c.Key, "error", err)
		return false
	}
	m.pending = m.pending[1:]
	return true
}

func (m *Mirror) write(c Copy) error {
	if err := failpoint.Hit("mirror-write"); err != nil {
		return err
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	path := m.path(c.Key)
	if err := os.WriteFile(path+temporary, b, 0o600); err != nil {
		return err
	}
	// Where a file takes the place of another, ext4 writes it to the disk before that, which takes twice as long
	// (auto_da_alloc). Here it need not be there: it is found by its other name until it has this one.
	if err := ignoreAbsent(os.Remove(path)); err != nil {
		return err
	}
	return os.Rename(path+temporary, path)
}

const temporary = ".tmp" // ends the name of a file that is being written

func (m *Mirror) path(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(m.dir, hex.EncodeToString(sum[:]))
}

// puts are the copies of what operations put at a revision.
func puts(ops []clientv3.Op, revision int64) (all []Copy) {
	for _, op := range ops {
		switch {
		case op.IsPut():
			all = append(all, Copy{Key: string(op.KeyBytes()), Value: string(op.ValueBytes()), Revision: revision})
		case op.IsTxn():
			_, then, _ := op.Txn()
			all = append(all, puts(then, revision)...)
		}
	}
	return all
}

// seen writes down what was read, unless it is there, or what was written since.
func (m *Mirror) seen(all []Copy) {
	m.mu.Lock()
	all = slices.DeleteFunc(all, func(c Copy) bool { return m.revisions[c.Key] >= c.Revision })
	m.mu.Unlock()
	m.add(all)
	m.flush()
}

// add takes copies, for flush.
func (m *Mirror) add(all []Copy) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range all {
		c.Boot = m.boot
		m.pending = slices.DeleteFunc(m.pending, func(older Copy) bool { return older.Key == c.Key })
		m.pending, m.revisions[c.Key] = append(m.pending, c), c.Revision
	}
}

// forget removes what a transaction may delete, and returns it.
func (m *Mirror) forget(ops []clientv3.Op) ([]Copy, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.forgetLocked(ops)
}

func (m *Mirror) forgetLocked(ops []clientv3.Op) (gone []Copy, err error) {
	for _, op := range ops {
		var some []Copy
		switch {
		case op.IsTxn():
			if conditions, then, _ := op.Txn(); m.mayHold(conditions) {
				some, err = m.forgetLocked(then)
			}
		case op.IsDelete():
			some, err = m.remove(string(op.KeyBytes()), string(op.RangeBytes()))
		}
		if gone = append(gone, some...); err != nil {
			return gone, err
		}
	}
	return gone, nil
}

// mayHold reports whether no copy speaks against the conditions: what is deleted if a key has a value stays if it
// has another.
func (m *Mirror) mayHold(conditions []clientv3.Cmp) bool {
	return !slices.ContainsFunc(conditions, func(c clientv3.Cmp) bool {
		if c.GetCompare().GetTarget() != pb.Compare_VALUE {
			return false
		}
		have, is := m.copyOf(string(c.KeyBytes()))
		return is && have.Value != string(c.ValueBytes())
	})
}

// copyOf returns the copy of a key, if there is one that can be read.
func (m *Mirror) copyOf(key string) (Copy, bool) {
	for _, c := range slices.Backward(m.pending) {
		if c.Key == key {
			return c, true
		}
	}
	c, err := readCopy(m.path(key))
	return c, err == nil
}

// remove removes a key, or those from key to end, and returns what was there.
func (m *Mirror) remove(key, end string) (gone []Copy, err error) {
	is := func(c Copy) bool { return c.Key == key || end != "" && key <= c.Key && c.Key < end }
	if end == "" {
		delete(m.revisions, key)
		c, there := m.copyOf(key)
		if there {
			gone = []Copy{c}
		}
		m.pending = slices.DeleteFunc(m.pending, is)
		return gone, ignoreAbsent(os.Remove(m.path(key)))
	}
	maps.DeleteFunc(m.revisions, func(k string, _ int64) bool { return is(Copy{Key: k}) })
	all, err := m.written()
	if err != nil {
		return nil, err
	}
	for _, c := range slices.Concat(all, m.pending) {
		if is(c) {
			gone = append(gone, c)
			err = errors.Join(err, ignoreAbsent(os.Remove(m.path(c.Key))))
		}
	}
	m.pending = slices.DeleteFunc(m.pending, is)
	return gone, err
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// keep removes all copies but those of some keys. Of these it forgets the revision, which is that of another etcd.
func (m *Mirror) keep(keys map[string]Copy) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.revisions, func(k string, _ int64) bool { _, is := keys[k]; return !is })
	all, err := m.written()
	for _, c := range slices.Concat(all, m.pending) {
		if _, is := keys[c.Key]; is {
			c.Revision, m.revisions[c.Key] = 0, 0
			err = errors.Join(err, m.write(c))
		} else {
			err = errors.Join(err, ignoreAbsent(os.Remove(m.path(c.Key))))
		}
	}
	m.pending = nil
	return err
}

// Revisions returns the revision at which each key was written that there is a copy of, 0 where that is not known.
func (m *Mirror) Revisions() map[string]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.revisions)
}

// Copy returns the copy of a key, if there is one that can be read.
func (m *Mirror) Copy(key string) (Copy, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.copyOf(key)
}

// Copies returns all copies, by key.
func (m *Mirror) Copies() (map[string]Copy, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	files, err := m.written()
	all := map[string]Copy{}
	for _, c := range slices.Concat(files, m.pending) {
		all[c.Key] = c
	}
	return all, err
}

// highest is the highest revision of a copy: what etcd had reached.
func (m *Mirror) highest() (revision int64) {
	for _, r := range m.Revisions() {
		revision = max(revision, r)
	}
	return revision
}

func (m *Mirror) written() ([]Copy, error) {
	names, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, err
	}
	var all []Copy
	for _, n := range names {
		if strings.HasSuffix(n.Name(), temporary) {
			continue
		}
		c, err := readCopy(filepath.Join(m.dir, n.Name()))
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func readCopy(path string) (Copy, error) {
	var c Copy
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return c, fmt.Errorf("copy of what etcd has, %s: %w", path, err)
	}
	return c, nil
}

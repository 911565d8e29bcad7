package store

import (
	"encoding/json"
	"errors"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/internal/etcd"
)

// errForged says that a record was changed by somebody else, who may want a running pod's interface unmade.
var errForged = errors.New("somebody else has written it: this node has written another one, or none")

// errReplayed says that somebody has put back what this node has written before.
var errReplayed = errors.New("this node has written a later one")

// genuine fails for a record that this node can't have written last, by what it has written, and found when it was
// started, in this boot. The release before signs nothing: what it has left was found then.
func (s *Store) genuine(key string, value []byte, written map[string]etcd.Copy) error {
	mine, known := written[key]
	var node Node
	own, ran := written[path.Join(s.Prefix, "nodes", s.Node)]
	ran = ran && json.Unmarshal([]byte(own.Value), &node) == nil && !node.RecordsLost
	switch sealed := s.Key.sealed(key, value); {
	case mine.Value == string(value):
		return nil
	case sealed && known && writtenAt(value) < writtenAt([]byte(mine.Value)):
		return errReplayed
	case !sealed && (known || ran):
		return errForged
	}
	return nil // a later one, of which the daemon had no time to make a note
}

// writtenAt is when a record of this boot was written, 0 if it does not say so.
func writtenAt(value []byte) time.Duration {
	var r struct {
		Written time.Duration `json:"written"`
	}
	_ = json.Unmarshal(value, &r) // whoever reads the record says what is wrong with it
	return r.Written
}

// sinceBoot is a clock that nobody sets.
func sinceBoot() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // every Linux has that clock
	return time.Duration(t.Nano())
}

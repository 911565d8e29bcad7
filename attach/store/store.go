// Package store keeps sandboxes in etcd. It is the only place that knows their keys:
//
//	<prefix>/sandboxes/<node>/<containerID>   the record
//	<prefix>/pods/<namespace>/<pod>           where a pod's name leads: node, containerID
//	<prefix>/nodes/<node>                     the node
//	<prefix>/live/<node>                      leased: the daemon is up
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

// readTimeout bounds what is read for a caller.
const readTimeout = 10 * time.Second

// Options are what a Store is made of.
type Options struct {
	KV     clientv3.KV
	Commit *etcd.Committer
	Prefix string // etcd.prefix
	Node   string
	Boot   string // the node's boot ID
	Key    Key    // signs this node's records
	// Vet checks a record that this node has not written; nil: such are taken as they are.
	Vet func(*attach.Sandbox) error
	// Written returns what this node has written to etcd or found there in this boot, by key.
	Written func() (map[string]etcd.Copy, error)
	Log     *slog.Logger
}

// A Store is one node's part of the records.
type Store struct {
	Options
	lease atomic.Int64 // of the sign of life
	known sync.Map     // of each record by its key, as this node has read or written it last: a known
	named sync.Map     // container IDs to which their pods' names have led: they may lead to later ones by now
}

// New returns the store of a node.
func New(o Options) *Store { return &Store{Options: o} }

// A Node is the record of a node.
type Node struct {
	Node    string            `json:"node"`
	BootID  string            `json:"bootID"`
	Version string            `json:"version"`
	Bridges map[string]string `json:"bridges"` // role -> bridge
	// RecordsLost says that etcd did not know the node when its daemon started, and that interfaces
	// without a record may be those of running pods.
	RecordsLost bool `json:"recordsLost,omitempty"`
	// Layout is that of the addresses that the node's daemon writes (package ipam/ledger). The release
	// before has none here, so that it is known to have run since.
	Layout int `json:"layout,omitempty"`
	// Daemon is the one that writes the node's records, by an ID of its own. The release before has none.
	Daemon string `json:"daemon,omitempty"`
}

// errTooDeep says that a record could not be read again.
var errTooDeep = fault.New(fault.Invalid, "a configuration, or cni-args, of it is nested too deeply")

type podValue struct {
	Node        string `json:"node"`
	ContainerID string `json:"containerID"`
}

// page is how many records are read at a time.
const page = 100

// Load reads the node's sandboxes. A record that can't be read stays as it is; its container ID, the
// key's end, is returned.
func (s *Store) Load(ctx context.Context) (all []*attach.Sandbox, unreadable []string, err error) {
	if err := failpoint.Hit("store-load"); err != nil {
		return nil, nil, err
	}
	written, err := s.Written()
	if err != nil {
		return nil, nil, err
	}
	for from, end := s.sandboxes(), clientv3.GetPrefixRangeEnd(s.sandboxes()); ; {
		resp, err := s.KV.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page))
		if err != nil {
			return nil, nil, fmt.Errorf("read sandboxes: %w: %w", txn.ErrUnavailable, err)
		}
		for _, kv := range resp.Kvs {
			sb, err := s.read(string(kv.Key), kv.Value, written)
			if !errors.Is(err, errForged) && !errors.Is(err, errReplayed) {
				s.Commit.Seen(kv)
			}
			if err != nil {
				s.Log.Error("sandbox record can't be read: it and what it accounts for are left alone", "key", string(kv.Key), "error", err)
				s.known.Store(string(kv.Key), foreign)
				unreadable = append(unreadable, strings.TrimPrefix(string(kv.Key), s.sandboxes()))
				continue
			}
			s.known.Store(string(kv.Key), known{kv.ModRevision, writtenAt(kv.Value)})
			if !sb.Ending {
				s.named.Store(sb.ContainerID, true)
			}
			all = append(all, sb)
		}
		if !resp.More {
			return all, unreadable, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// Save implements attach.Records.
func (s *Store) Save(ctx context.Context, sb *attach.Sandbox, with txn.Txn) error {
	if err := failpoint.Hit("store-save"); err != nil {
		return err
	}
	value, err := json.Marshal(record{RecordVersion, sinceBoot(), sb})
	if err == nil && !json.Valid(value) { // configurations are written as they are, and may be nested too deeply to be read in a record
		err = errTooDeep
	}
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", sb.ContainerID, err)
	}
	t := etcd.Txn{}.Put(s.key(sb), s.Key.seal(s.key(sb), value))
	_, named := s.named.Load(sb.ContainerID)
	if sb.Ending { // the name may lead to the pod's next sandbox by now
		t = s.freeName(t, sb)
	} else if sb.Pod != "" && !named { // a later change of the pod's earlier sandbox does not take the name back
		t = t.Put(s.podName(sb))
	}
	revision, err := s.commit(ctx, s.key(sb), t, with)
	if err != nil {
		return err
	}
	s.known.Store(s.key(sb), known{revision, writtenAt(value)})
	if sb.Ending {
		s.named.Delete(sb.ContainerID)
	} else {
		s.named.Store(sb.ContainerID, true)
	}
	return nil
}

// Remove implements attach.Records.
func (s *Store) Remove(ctx context.Context, sb *attach.Sandbox, with txn.Txn) error {
	if err := failpoint.Hit("store-remove"); err != nil {
		return err
	}
	_, err := s.commit(ctx, s.key(sb), s.freeName(etcd.Txn{}.Delete(s.key(sb)), sb), with)
	switch {
	case err == nil:
		s.known.Delete(s.key(sb))
		s.named.Delete(sb.ContainerID)
	case errors.Is(err, attach.ErrChanged): // it is another's from now on
		s.known.Store(s.key(sb), foreign)
		err = errors.Join(err, s.Commit.Unseen(s.key(sb)))
	}
	return err
}

// freeName frees the pod's name, if it still leads to the sandbox.
func (s *Store) freeName(t etcd.Txn, sb *attach.Sandbox) etcd.Txn {
	if sb.Pod == "" {
		return t
	}
	return t.DeleteIfHolds(s.podName(sb))
}

// Lost reports whether records of this node are missing from etcd: the node's own is, as at the very
// first start, or it says so.
func (s *Store) Lost(ctx context.Context) (bool, error) {
	if err := failpoint.Hit("store-lost"); err != nil {
		return false, err
	}
	resp, err := s.KV.Get(ctx, s.self())
	if err != nil {
		return false, fmt.Errorf("read node %s: %w: %w", s.Node, txn.ErrUnavailable, err)
	}
	if len(resp.Kvs) == 0 {
		return true, nil
	}
	var n Node
	if err := json.Unmarshal(resp.Kvs[0].Value, &n); err != nil {
		s.Log.Error("the node's record can't be read, and is written anew", "key", string(resp.Kvs[0].Key), "error", err)
		return true, nil
	}
	return n.RecordsLost, nil
}

// Register writes the node's record.
func (s *Store) Register(ctx context.Context, n Node) error {
	if err := failpoint.Hit("store-register"); err != nil {
		return err
	}
	c, err := s.NodeRecord(n)
	if err != nil {
		return err
	}
	return s.Commit.Commit(ctx, etcd.Txn{}.Put(c.Key, c.Value))
}

// NodeRecord is the node's record as Register writes it.
func (s *Store) NodeRecord(n Node) (etcd.Copy, error) {
	value, err := json.Marshal(n)
	return etcd.Copy{Key: s.self(), Value: string(value)}, err
}

func (s *Store) self() string { return path.Join(s.Prefix, "nodes", s.Node) }

// Nodes returns all nodes.
func (s *Store) Nodes(ctx context.Context) ([]Node, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := s.KV.Get(ctx, path.Join(s.Prefix, "nodes")+"/", clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read nodes: %w: %w", txn.ErrUnavailable, err)
	}
	var nodes []Node
	for _, kv := range resp.Kvs {
		n := Node{Node: path.Base(string(kv.Key))}
		if err := json.Unmarshal(kv.Value, &n); err != nil {
			s.Log.Warn("the record of a node can't be read", "key", string(kv.Key), "error", err)
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// sandboxes begins the keys of the node's records.
func (s *Store) sandboxes() string { return path.Join(s.Prefix, "sandboxes", s.Node) + "/" }

func (s *Store) key(sb *attach.Sandbox) string { return s.sandboxes() + sb.ContainerID }

// podName is the key of the pod's name, and where it leads.
func (s *Store) podName(sb *attach.Sandbox) (key, value string) {
	b, _ := json.Marshal(podValue{s.Node, sb.ContainerID}) // strings always marshal
	return path.Join(s.Prefix, "pods", sb.Namespace, sb.Pod), string(b)
}

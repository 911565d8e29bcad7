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
	"fmt"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/internal/cniresult"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

// readTimeout bounds what is read for a caller.
const readTimeout = 10 * time.Second

// A Store is one node's part of the records.
type Store struct {
	kv     clientv3.KV
	commit *etcd.Committer
	prefix string
	node   string
	log    *slog.Logger
}

// New returns the store of a node; prefix is etcd.prefix.
func New(kv clientv3.KV, c *etcd.Committer, prefix, node string, log *slog.Logger) *Store {
	return &Store{kv: kv, commit: c, prefix: prefix, node: node, log: log}
}

// A Node is the record of a node.
type Node struct {
	Node    string            `json:"node"`
	BootID  string            `json:"bootID"`
	Version string            `json:"version"`
	Bridges map[string]string `json:"bridges"` // role -> bridge
	// RecordsLost says that etcd did not know the node when its daemon started, and that interfaces
	// without a record may be those of running pods.
	RecordsLost bool `json:"recordsLost,omitempty"`
}

type podValue struct {
	Node        string `json:"node"`
	ContainerID string `json:"containerID"`
}

// Load reads the node's sandboxes. A record that can't be read stays as it is; its container ID, the
// key's end, is returned.
func (s *Store) Load(ctx context.Context) (all []*attach.Sandbox, unreadable []string, err error) {
	if err := failpoint.Hit("store-load"); err != nil {
		return nil, nil, err
	}
	prefix := path.Join(s.prefix, "sandboxes", s.node) + "/"
	resp, err := s.kv.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, nil, fmt.Errorf("read sandboxes: %w: %w", txn.ErrUnavailable, err)
	}
	for _, kv := range resp.Kvs {
		id := strings.TrimPrefix(string(kv.Key), prefix)
		sb, err := decode(id, kv.Value)
		if err != nil {
			s.log.Error("sandbox record can't be read: it and what it accounts for are left alone", "key", string(kv.Key), "error", err)
			unreadable = append(unreadable, id)
			continue
		}
		all = append(all, sb)
	}
	return all, unreadable, nil
}

func decode(containerID string, value []byte) (*attach.Sandbox, error) {
	var sb attach.Sandbox
	if err := json.Unmarshal(value, &sb); err != nil {
		return nil, err
	}
	if sb.ContainerID != containerID {
		return nil, fmt.Errorf("it is of sandbox %q", sb.ContainerID)
	}
	for _, a := range sb.Attachments {
		if a.Spec.Config == nil {
			return nil, fmt.Errorf("attachment %s has no configuration", a.Spec.Interface)
		}
		if !a.Status.Phase.Known() {
			return nil, fmt.Errorf("attachment %s has the unknown phase %q", a.Spec.Interface, a.Status.Phase)
		}
		if a.Status.Phase == attach.Abandoned && a.Status.Deletion == nil {
			return nil, fmt.Errorf("attachment %s is given up, and nothing tells when", a.Spec.Interface)
		}
		if a.Status.Result != nil {
			if err := cniresult.Check(a.Status.Result); err != nil {
				return nil, fmt.Errorf("result of attachment %s: %w", a.Spec.Interface, err)
			}
		}
	}
	return &sb, nil
}

// Save implements attach.Records.
func (s *Store) Save(ctx context.Context, sb *attach.Sandbox, with txn.Txn) error {
	if err := failpoint.Hit("store-save"); err != nil {
		return err
	}
	value, err := json.Marshal(sb)
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", sb.ContainerID, err)
	}
	t := etcd.Txn{}.Put(s.key(sb), string(value))
	if sb.Ending { // the name may lead to the pod's next sandbox by now
		t = s.freeName(t, sb)
	} else if sb.Pod != "" {
		t = t.Put(s.podName(sb))
	}
	return s.commit.Commit(ctx, txn.Join(t, with))
}

// Remove implements attach.Records.
func (s *Store) Remove(ctx context.Context, sb *attach.Sandbox, with txn.Txn) error {
	if err := failpoint.Hit("store-remove"); err != nil {
		return err
	}
	return s.commit.Commit(ctx, txn.Join(s.freeName(etcd.Txn{}.Delete(s.key(sb)), sb), with))
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
	resp, err := s.kv.Get(ctx, path.Join(s.prefix, "nodes", s.node))
	if err != nil {
		return false, fmt.Errorf("read node %s: %w: %w", s.node, txn.ErrUnavailable, err)
	}
	if len(resp.Kvs) == 0 {
		return true, nil
	}
	var n Node
	if err := json.Unmarshal(resp.Kvs[0].Value, &n); err != nil {
		s.log.Error("the node's record can't be read, and is written anew", "key", string(resp.Kvs[0].Key), "error", err)
		return true, nil
	}
	return n.RecordsLost, nil
}

// Register writes the node's record.
func (s *Store) Register(ctx context.Context, n Node) error {
	if err := failpoint.Hit("store-register"); err != nil {
		return err
	}
	value, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return s.commit.Commit(ctx, etcd.Txn{}.Put(path.Join(s.prefix, "nodes", s.node), string(value)))
}

// Nodes returns all nodes.
func (s *Store) Nodes(ctx context.Context) ([]Node, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp, err := s.kv.Get(ctx, path.Join(s.prefix, "nodes")+"/", clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read nodes: %w: %w", txn.ErrUnavailable, err)
	}
	nodes := make([]Node, len(resp.Kvs))
	for i, kv := range resp.Kvs {
		if err := json.Unmarshal(kv.Value, &nodes[i]); err != nil {
			return nil, fmt.Errorf("node record %s is damaged: %w", kv.Key, err)
		}
	}
	return nodes, nil
}

func (s *Store) key(sb *attach.Sandbox) string {
	return path.Join(s.prefix, "sandboxes", s.node, sb.ContainerID)
}

// podName is the key of the pod's name, and where it leads.
func (s *Store) podName(sb *attach.Sandbox) (key, value string) {
	b, _ := json.Marshal(podValue{s.node, sb.ContainerID}) // strings always marshal
	return path.Join(s.prefix, "pods", sb.Namespace, sb.Pod), string(b)
}

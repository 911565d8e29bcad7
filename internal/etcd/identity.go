package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// An Identity tells one etcd from another.
type Identity struct {
	Cluster string `json:"clusterID"` // etcd's own, in hexadecimal
	Birth   string `json:"birth"`     // the value of <prefix>/birth, empty if there is none
	// Endpoints are those at which it was; none for one in this process.
	Endpoints []string `json:"endpoints,omitempty"`
}

// birth is the value of <prefix>/birth.
type birth struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"createdAt"`
	Node      string    `json:"node"` // which has written it
}

// Read returns the identity of what is there now, and etcd's revision.
func (g *Guard) Read(ctx context.Context) (Identity, int64, error) {
	resp, err := g.get(ctx, g.prefix+"/birth")
	if err != nil {
		return Identity{}, 0, err
	}
	id := Identity{Cluster: strconv.FormatUint(resp.Header.ClusterId, 16), Endpoints: slices.Sorted(slices.Values(g.kv.Endpoints()))}
	if len(resp.Kvs) > 0 {
		id.Birth = string(resp.Kvs[0].Value)
	}
	return id, resp.Header.Revision, nil
}

// layout reads the layout of the keys; 0 if there is none, as before there were layouts.
func (g *Guard) layout(ctx context.Context) (int, error) {
	resp, err := g.get(ctx, g.prefix+"/version")
	if err != nil || len(resp.Kvs) == 0 {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(resp.Kvs[0].Value)))
	if err != nil {
		return 0, fmt.Errorf("key %s/version: %w", g.prefix, err)
	}
	return n, nil
}

// Adopt makes the etcd that is there the one of this node. One without a birth gets one.
func (g *Guard) Adopt(ctx context.Context) (Identity, error) {
	have, _, err := g.Read(ctx)
	if err != nil {
		return have, err
	}
	if have.Birth == "" {
		if have, err = g.bear(ctx); err != nil {
			return have, err
		}
	}
	b, err := json.Marshal(have)
	if err != nil {
		return have, err
	}
	g.highest.Store(0)
	return have, errors.Join(os.MkdirAll(filepath.Dir(g.file), 0o700), renameio.WriteFile(g.file, append(b, '\n'), 0o600))
}

// bear writes the birth, unless another node is faster.
func (g *Guard) bear(ctx context.Context) (Identity, error) {
	key := g.prefix + "/birth"
	b, err := json.Marshal(birth{ID: uuid.NewString(), CreatedAt: time.Now().UTC().Truncate(time.Second), Node: g.node})
	if err != nil {
		return Identity{}, err
	}
	write, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	_, err = g.kv.Txn(write).If(Txn{}.IfAbsent(key).comparisons()...).
		Then(clientv3.OpPut(key, string(b)), clientv3.OpPut(g.prefix+"/version", strconv.Itoa(Layout))).Commit()
	if err != nil {
		return Identity{}, fmt.Errorf("write %s%s: %w", key, at(g.kv.Endpoints()), err)
	}
	have, _, err := g.Read(ctx)
	return have, err
}

// known reads the identity that is remembered; nil if there is none.
func (g *Guard) known() (*Identity, error) {
	b, err := os.ReadFile(g.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var id Identity
	if err == nil {
		err = json.Unmarshal(b, &id)
	}
	if err != nil {
		return nil, fmt.Errorf("which etcd this node has written to: %s: %w; mend the file, or remove it if etcd is the one that it was", g.file, err)
	}
	return &id, nil
}

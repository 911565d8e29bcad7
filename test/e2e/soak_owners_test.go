package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/ipam"
)

// soakPrefix is what the keys of the daemons begin with.
const soakPrefix = "/patchbay/v1/"

// owners follows who has each address, all the time: none may be another's before its owner has freed it.
type owners struct {
	etcd *clientv3.Client

	mu       sync.Mutex
	now      map[string]string // key -> owner
	findings []finding
	revision int64 // up to which it has followed
}

// follow begins with what there is.
func follow(t *testing.T, e *clientv3.Client) *owners {
	t.Helper()
	o := &owners{etcd: e, now: map[string]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	first, err := e.Get(ctx, soakPrefix+"ipam/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range first.Kvs {
		o.change(string(kv.Key), kv.Value, false)
	}
	o.revision = first.Header.Revision
	changes := e.Watch(ctx, soakPrefix+"ipam/", clientv3.WithPrefix(), clientv3.WithRev(o.revision+1))
	var wg sync.WaitGroup
	wg.Go(func() {
		for r := range changes {
			o.apply(r)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return o
}

func (o *owners) apply(r clientv3.WatchResponse) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := r.Err(); err != nil {
		o.findings = append(o.findings, finding{lostOwner, fmt.Sprintf("nobody knows: the watch on etcd ended: %v", err)})
		return
	}
	for _, e := range r.Events {
		o.change(string(e.Kv.Key), e.Kv.Value, e.Type == clientv3.EventTypeDelete)
		o.revision = e.Kv.ModRevision
	}
}

// change notes a change of a key.
func (o *owners) change(key string, value []byte, deleted bool) {
	ip, ok := addressOf(key)
	if !ok {
		return
	}
	if deleted {
		delete(o.now, key)
		return
	}
	owner := ownerOf(value)
	for other, has := range o.now {
		if at, _ := addressOf(other); at == ip && has != owner {
			o.findings = append(o.findings, finding{lostOwner, fmt.Sprintf("%s was given to %s, and %s had it", ip, owner, has)})
		}
	}
	o.now[key] = owner
}

// addressOf is the address that a key is a claim of.
func addressOf(key string) (ip string, ok bool) {
	_, claim, ok := strings.Cut(key, "/ips/")
	return path.Base(claim), ok
}

// ownerOf is the owner in a claim.
func ownerOf(value []byte) string {
	var o ipam.Owner
	if err := json.Unmarshal(value, &o); err != nil {
		return "nobody: " + err.Error()
	}
	if o.IPAMClaim != "" {
		return "IPAMClaim " + o.IPAMClaim
	}
	return o.ContainerID + " " + o.IfName
}

// twice are the addresses that have been given to two.
func (o *owners) twice() []finding {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.findings)
}

// seen is the revision that it has followed etcd to.
func (o *owners) seen() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.revision
}

// read returns the owners of all addresses, by etcd. A claim has two keys, that of this release and that of the
// one before.
func (o *owners) read(ctx context.Context) (map[string][]string, error) {
	all, err := o.etcd.Get(ctx, soakPrefix+"ipam/", clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	have := map[string][]string{}
	for _, kv := range all.Kvs {
		if ip, ok := addressOf(string(kv.Key)); ok {
			if owner := ownerOf(kv.Value); !slices.Contains(have[ip], owner) {
				have[ip] = append(have[ip], owner)
			}
		}
	}
	return have, nil
}

// keys counts the keys in etcd by their kind.
func (s *soak) keys(ctx context.Context) (map[string]int, error) {
	all, err := s.etcd.Get(ctx, soakPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	for _, kv := range all.Kvs {
		kind, _, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), soakPrefix), "/")
		if strings.Contains(string(kv.Key), "/ips/") {
			kind = "claims"
		}
		count[kind]++
	}
	return count, nil
}

// soakEtcd is a client of the daemons' etcd.
func soakEtcd(t *testing.T) *clientv3.Client {
	t.Helper()
	read := func(flag string) string { _, file, _ := strings.Cut(flag, "="); return file }
	files := trialClient(t)
	pair, err := tls.LoadX509KeyPair(read(files[1]), read(files[2]))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(read(files[0]))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	e, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + c.Nodes[0].Address + ":12379"}, DialTimeout: 5 * time.Second,
		TLS: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool}, DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

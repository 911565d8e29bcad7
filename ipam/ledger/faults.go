package ledger

import (
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/txn"
	"github.com/patchbay-cni/patchbay/ipam"
)

// Faults says what is wrong with the pools in etcd, and the ways out: pools that overlap, as an older
// release let them, and records that can't be read.
func (l *Ledger) Faults(ctx context.Context) ([]string, error) {
	resp, err := l.kv.Get(ctx, l.root, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read pools: %w: %w", txn.ErrUnavailable, err)
	}
	var faults, names []string
	specs := map[string]ipam.Spec{}
	for _, kv := range resp.Kvs {
		name, rest, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), l.root), "/")
		switch kind, id, _ := strings.Cut(rest, "/"); kind {
		case "spec":
			spec, err := ipam.ParseSpec(kv.Value)
			if err != nil {
				faults = append(faults, l.damaged(name, err).Error())
				continue
			}
			for _, other := range names {
				if err := spec.Clash(name, other, specs[other]); err != nil {
					faults = append(faults, err.Error())
				}
			}
			names, specs[name] = append(names, name), spec
		case "subnets":
			if _, err := decodeSubnet(kv.Value); err != nil {
				faults = append(faults, fmt.Sprintf("the record of a node's subnet can't be read (key %s: %v): no node is given the subnet; delete the key once no pod has an address of it", kv.Key, err))
			}
		case "ips":
			if _, err := decodeClaim(name, id, kv.Value); err != nil {
				faults = append(faults, fmt.Sprintf("a claim can't be read (key %s: %v): its address is given to nobody; delete the key once no pod has the address", kv.Key, err))
			}
		}
	}
	return faults, nil
}

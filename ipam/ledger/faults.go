package ledger

import (
	"context"
	"fmt"

	"github.com/patchbay-cni/patchbay/ipam"
)

// Faults says what is wrong with the pools in etcd, and the ways out: pools that overlap, as an older
// release let them, and records that can't be read.
func (l *Ledger) Faults(ctx context.Context) ([]string, error) {
	records, err := l.list(ctx, "pools", l.root)
	if err != nil {
		return nil, err
	}
	var faults, names []string
	specs := map[string]ipam.Spec{}
	for _, r := range records {
		switch r.kind {
		case specKind:
			spec, err := ipam.ParseSpec(r.value)
			if err != nil {
				faults = append(faults, l.damaged(r.pool, err).Error())
				continue
			}
			for _, other := range names {
				if err := spec.Clash(r.pool, other, specs[other]); err != nil {
					faults = append(faults, err.Error())
				}
			}
			names, specs[r.pool] = append(names, r.pool), spec
		case subnetsKind:
			if _, err := r.node(); err != nil {
				faults = append(faults, fmt.Sprintf("the record of a node's subnet can't be read (key %s: %v): no node is given the subnet; delete the key once no pod has an address of it", r.key, err))
			}
		case claimsKind:
			if _, err := r.claim(); err != nil {
				faults = append(faults, fmt.Sprintf("a claim can't be read (key %s: %v): its address is given to nobody; delete the key once no pod has the address", r.key, err))
			}
		}
	}
	return faults, nil
}

package ovs

import (
	"context"
	"errors"
	"slices"

	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
)

// removePorts removes the ports of those names for which owns returns true. Ports that are not there are fine.
func (d *Delegate) removePorts(ctx context.Context, names []string, owns func(*vswitch.Port) bool) error {
	err := d.db.Commit(ctx, func(ctx context.Context, t *vswitch.Transaction) error {
		for _, name := range names {
			if err := remove(ctx, t, name, owns); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return failpoint.Hit("ovs-port-deleted")
}

// remove takes the port out of its bridge, whichever that is, and removes its limits. Its other rows go by
// themselves.
func remove(ctx context.Context, t *vswitch.Transaction, name string, owns func(*vswitch.Port) bool) error {
	have := &vswitch.Port{Name: name}
	if err := t.Get(ctx, have); errors.Is(err, client.ErrNotFound) {
		return removeLimits(ctx, t, name, "")
	} else if err != nil {
		return err
	}
	if !owns(have) {
		return nil
	}
	b := &vswitch.Bridge{}
	has := func(b *vswitch.Bridge) bool { return slices.Contains(b.Ports, have.UUID) }
	t.Add(t.WhereCache(has).Mutate(b, model.Mutation{Field: &b.Ports, Mutator: ovsdb.MutateOperationDelete, Value: []string{have.UUID}}))
	t.Removes(name)
	if have.QoS != nil {
		bare := &vswitch.Port{}
		t.Add(t.Where(have).Update(bare, &bare.QoS))
	}
	return removeLimits(ctx, t, name, have.UUID)
}

// removeLimits removes the rows of QoS that were made for the port of that name: where somebody else removes a
// port, as ovs-vsctl del-port does, they stay. Those that another port has are left: going, by its UUID, has none.
func removeLimits(ctx context.Context, t *vswitch.Transaction, name, going string) error {
	limits, err := vswitch.Rows(ctx, t, func(q *vswitch.QoS) bool { return limitOf(q) == name })
	if err != nil || len(limits) == 0 {
		return err
	}
	used, err := vswitch.Rows(ctx, t, func(p *vswitch.Port) bool { return p.QoS != nil && p.UUID != going })
	if err != nil {
		return err
	}
	for _, q := range limits {
		if !slices.ContainsFunc(used, func(p vswitch.Port) bool { return *p.QoS == q.UUID }) {
			t.Add(t.Where(&vswitch.QoS{UUID: q.UUID}).Delete())
		}
	}
	return nil
}

// limitOf returns the name of the port that a row of QoS was made for, "" if it is not ours.
func limitOf(q *vswitch.QoS) string {
	if q.ExternalIDs[idSandbox] == "" {
		return ""
	}
	return HostName(q.ExternalIDs[idSandbox], q.ExternalIDs[idIf])
}

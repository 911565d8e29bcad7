package ovs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
)

// The keys of external_ids that tell whose a port is.
const (
	idSandbox = vswitch.SandboxKey
	idIf      = "patchbay-if"
	idPod     = "patchbay-pod"
	idUID     = "patchbay-pod-uid"
	idNetwork = "patchbay-network"
)

// isOurs reports whether a port is one of a pod, by its name too: what only bears our mark stays.
func isOurs(p *vswitch.Port) bool {
	id, marked := p.ExternalIDs[idSandbox]
	return marked && HostName(id, p.ExternalIDs[idIf]) == p.Name
}

// A portSpec is a port to be added to a bridge.
type portSpec struct {
	name          string
	bridge        string
	tag           *int
	trunks        []int
	ofportRequest *int
	maxRate       uint64 // towards the pod, bit/s; 0: not limited
	ifType        string
	ovnPort       string // OVN's logical port, if the pod names one
	externalIDs   map[string]string
	portIDs       map[string]string // further ones, of the row in Port alone
}

// ports adds and removes ports.
type ports struct {
	db  *vswitch.DB
	seq atomic.Uint64 // makes names within transactions unique
}

// add adds the ports and returns when ovs-vswitchd has opened them all, or its error.
func (p *ports) add(ctx context.Context, specs []portSpec) error {
	waits := make([]*vswitch.Wait, len(specs))
	for i, s := range specs {
		waits[i] = p.db.Expect(s.name)
		defer waits[i].End()
	}
	err := p.db.Commit(ctx, func(ctx context.Context, t *vswitch.Transaction) error {
		for _, s := range specs {
			if err := unbound(ctx, t, s); err != nil {
				return err
			}
			if err := p.insert(ctx, t, s); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := failpoint.Hit(failpoint.OvsPortCommitted); err != nil {
		return err
	}
	ctx, cancel := vswitch.Patience(ctx)
	defer cancel()
	for i, w := range waits {
		row, err := w.Opened(ctx)
		if err != nil {
			return fmt.Errorf("ovs-vswitchd did not open port %s on bridge %s: %w", specs[i].name, specs[i].bridge, err)
		}
		if row.Failed() {
			return fmt.Errorf("ovs-vswitchd refused port %s on bridge %s: %s", specs[i].name, specs[i].bridge, *row.Error)
		}
		if want := specs[i].ofportRequest; want != nil && row.Ofport != nil && *want != *row.Ofport {
			return fmt.Errorf("ofport_request %d on bridge %s was not granted: the port got %d", *want, specs[i].bridge, *row.Ofport)
		}
	}
	return failpoint.Hit(failpoint.OvsPortUp)
}

// closed waits until what was removed and had the same names is closed.
func (p *ports) closed(ctx context.Context, specs []portSpec) error {
	ctx, cancel := vswitch.Patience(ctx)
	defer cancel()
	for _, s := range specs {
		if err := p.db.Closed(ctx, s.name); err != nil {
			return fmt.Errorf("ovs-vswitchd did not close the removed port %s on bridge %s: %w", s.name, s.bridge, err)
		}
	}
	return nil
}

// del removes the ports of those names that owns approves of; ports that are not there are fine.
func (p *ports) del(ctx context.Context, names []string, owns func(*vswitch.Port) bool) error {
	err := p.db.Commit(ctx, func(ctx context.Context, t *vswitch.Transaction) error {
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
	return failpoint.Hit(failpoint.OvsPortDeleted)
}

// unbound refuses a logical port that another port of the node is bound to: a pod that names another's
// would get its traffic.
func unbound(ctx context.Context, t *vswitch.Transaction, s portSpec) error {
	if s.ovnPort == "" {
		return nil
	}
	var others []vswitch.Interface
	err := t.WhereCache(func(i *vswitch.Interface) bool { return i.ExternalIDs["iface-id"] == s.ovnPort && i.Name != s.name }).List(ctx, &others)
	if err != nil {
		return err
	}
	if len(others) > 0 || t.Taken[s.ovnPort] {
		whose := "of the same request"
		if len(others) > 0 {
			whose = fmt.Sprintf("%s of pod %s", others[0].Name, others[0].ExternalIDs[idPod])
		}
		return refuse("OvnPort %q is bound to port %s already", s.ovnPort, whose)
	}
	t.Taken[s.ovnPort] = true
	return nil
}

func (p *ports) insert(ctx context.Context, t *vswitch.Transaction, s portSpec) error {
	br := &vswitch.Bridge{Name: s.bridge}
	if err := t.Get(ctx, br); err != nil {
		return fmt.Errorf("bridge %s is not there: %w", s.bridge, err)
	}
	have := &vswitch.Port{Name: s.name}
	if err := t.Get(ctx, have); err == nil {
		if have.ExternalIDs[idSandbox] == s.externalIDs[idSandbox] && have.ExternalIDs[idIf] == s.externalIDs[idIf] {
			return nil // a transaction whose answer was lost
		}
		return fmt.Errorf("port %s exists on Open vSwitch and belongs to another sandbox (%s)", s.name, have.ExternalIDs[idSandbox])
	}
	n := p.seq.Add(1)
	ifRow := &vswitch.Interface{UUID: fmt.Sprintf("if%d", n), Name: s.name, Type: s.ifType, OfportRequest: s.ofportRequest, ExternalIDs: s.externalIDs}
	ids := maps.Clone(s.externalIDs)
	maps.Copy(ids, s.portIDs)
	portRow := &vswitch.Port{UUID: fmt.Sprintf("port%d", n), Name: s.name, Interfaces: []string{ifRow.UUID}, Tag: s.tag, Trunks: s.trunks,
		VLANMode: vlanMode(s), ExternalIDs: ids}
	rows := []model.Model{ifRow, portRow}
	if s.maxRate > 0 {
		q := &vswitch.QoS{UUID: fmt.Sprintf("qos%d", n), Type: "linux-htb", OtherConfig: map[string]string{"max-rate": fmt.Sprint(s.maxRate)},
			ExternalIDs: map[string]string{idSandbox: s.externalIDs[idSandbox], idIf: s.externalIDs[idIf]}}
		portRow.QoS = &q.UUID
		rows = append(rows, q)
	}
	if err := t.Insert(rows...); err != nil {
		return err
	}
	return t.Add(t.Where(br).Mutate(br, model.Mutation{Field: &br.Ports, Mutator: ovsdb.MutateOperationInsert, Value: []string{portRow.UUID}}))
}

func vlanMode(s portSpec) *string {
	mode := ""
	switch {
	case s.tag != nil && len(s.trunks) > 0:
		mode = "native-untagged"
	case s.tag != nil:
		mode = "access"
	case len(s.trunks) > 0:
		mode = "trunk"
	default:
		return nil
	}
	return &mode
}

// remove takes the port out of its bridge, whichever that is; the rows then go by themselves, but
// for QoS, which has a life of its own.
func remove(ctx context.Context, t *vswitch.Transaction, name string, owns func(*vswitch.Port) bool) error {
	have := &vswitch.Port{Name: name}
	if err := t.Get(ctx, have); errors.Is(err, client.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if !owns(have) {
		return nil
	}
	var in []vswitch.Bridge
	if err := t.WhereCache(func(b *vswitch.Bridge) bool { return slices.Contains(b.Ports, have.UUID) }).List(ctx, &in); err != nil {
		return err
	}
	for i := range in {
		b := &in[i]
		if err := t.Add(t.Where(b).Mutate(b, model.Mutation{Field: &b.Ports, Mutator: ovsdb.MutateOperationDelete, Value: []string{have.UUID}})); err != nil {
			return err
		}
		t.Removes(name)
	}
	if have.QoS == nil {
		return nil
	}
	bare := &vswitch.Port{}
	if err := t.Add(t.Where(have).Update(bare, &bare.QoS)); err != nil {
		return err
	}
	return t.Add(t.Where(&vswitch.QoS{UUID: *have.QoS}).Delete())
}

package ovs

import (
	"context"
	"fmt"
	"maps"

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
	idMAC     = "attached-mac"
)

// noPod is idPod's value where the runtime has named no pod.
const noPod = "/"

// isOurs reports whether a port is a pod's: it bears our mark, and HostName has made its name of that.
func isOurs(p *vswitch.Port) bool {
	id, marked := p.ExternalIDs[idSandbox]
	return marked && HostName(id, p.ExternalIDs[idIf]) == p.Name
}

// ownedBy tells whether a port of a name that HostName has made for the sandbox is its own. One that has lost its marks
// is: nobody else uses such a name.
func ownedBy(containerID string) func(*vswitch.Port) bool {
	return func(p *vswitch.Port) bool {
		id := p.ExternalIDs[idSandbox]
		return id == "" || id == containerID
	}
}

// addPorts adds the ports and waits until ovs-vswitchd has opened them all.
func (d *Delegate) addPorts(ctx context.Context, plans []*plan) error {
	leave, err := d.macs.enter(plans)
	if err != nil {
		return err
	}
	defer leave()
	opened := make([]<-chan vswitch.Interface, len(plans))
	for i, p := range plans {
		var end func()
		opened[i], end = d.db.Expect(p.port)
		defer end()
	}
	err = d.db.Commit(ctx, func(ctx context.Context, t *vswitch.Transaction) error {
		for _, p := range plans {
			if err := unbound(ctx, t, p); err != nil {
				return err
			}
			if err := unused(ctx, t, p); err != nil {
				return err
			}
			if err := failpoint.Hit("ovs-port-insert"); err != nil {
				return err
			}
			if err := insert(ctx, t, p); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := failpoint.Hit("ovs-port-committed"); err != nil {
		return err
	}
	ctx, cancel := vswitch.Patience(ctx)
	defer cancel()
	for i, p := range plans {
		var row vswitch.Interface
		select {
		case row = <-opened[i]:
		case <-ctx.Done():
			return fmt.Errorf("ovs-vswitchd did not open port %s on bridge %s: %w", p.port, p.bridge, context.Cause(ctx))
		}
		if row.Failed() {
			return fmt.Errorf("ovs-vswitchd refused port %s on bridge %s: %s", p.port, p.bridge, *row.Error)
		}
		if want := p.conf.OfportRequest; want != nil && row.Ofport != nil && *want != *row.Ofport {
			return fmt.Errorf("ofport_request %d on bridge %s was not granted: the port got %d", *want, p.bridge, *row.Ofport)
		}
	}
	d.macs.keep(plans...)
	return failpoint.Hit("ovs-port-up")
}

// awaitClosed waits until ovs-vswitchd has closed removed ports that had the same names.
func (d *Delegate) awaitClosed(ctx context.Context, plans []*plan) error {
	ctx, cancel := vswitch.Patience(ctx)
	defer cancel()
	for _, p := range plans {
		if err := d.db.Closed(ctx, p.port); err != nil {
			return fmt.Errorf("ovs-vswitchd did not close the removed port %s on bridge %s: %w", p.port, p.bridge, err)
		}
	}
	return nil
}

// unbound refuses a logical port that another port of the node is bound to: a pod that names another's
// would get its traffic.
func unbound(ctx context.Context, t *vswitch.Transaction, p *plan) error {
	logical := p.conf.Args.CNI.OvnPort
	if logical == "" {
		return nil
	}
	others, err := vswitch.Rows(ctx, t, func(i *vswitch.Interface) bool { return i.ExternalIDs["iface-id"] == logical && i.Name != p.port })
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return refuse("OvnPort %q is bound to port %s of pod %s already", logical, others[0].Name, others[0].ExternalIDs[idPod])
	}
	if t.Taken[logical] {
		return refuse("OvnPort %q is bound to port of the same request already", logical)
	}
	t.Taken[logical] = true
	return nil
}

func insert(ctx context.Context, t *vswitch.Transaction, p *plan) error {
	br := &vswitch.Bridge{Name: p.bridge}
	if err := t.Get(ctx, br); err != nil {
		return fmt.Errorf("bridge %s is not there: %w", p.bridge, err)
	}
	have := &vswitch.Port{Name: p.port}
	if err := t.Get(ctx, have); err == nil {
		if have.ExternalIDs[idSandbox] == p.ids[idSandbox] && have.ExternalIDs[idIf] == p.ids[idIf] {
			return nil // made by a transaction whose answer was lost
		}
		return fmt.Errorf("port %s exists on Open vSwitch and belongs to another sandbox (%s)", p.port, have.ExternalIDs[idSandbox])
	}
	if err := removeLimits(ctx, t, p.port, ""); err != nil {
		return err
	}
	// The rows need names that are unique within the transaction. The port's is.
	iface := &vswitch.Interface{UUID: "if_" + p.port, Name: p.port, Type: p.conf.InterfaceType, OfportRequest: p.conf.OfportRequest, ExternalIDs: p.ids}
	port := &vswitch.Port{UUID: "port_" + p.port, Name: p.port, Interfaces: []string{iface.UUID}, Tag: p.conf.VLAN, Trunks: p.conf.trunks,
		VLANMode: vlanMode(p.conf), ExternalIDs: maps.Clone(p.ids)}
	maps.Copy(port.ExternalIDs, p.portIDs)
	rows := []model.Model{iface, port}
	if rate := p.conf.QoS.IngressRate; rate > 0 {
		q := &vswitch.QoS{UUID: "qos_" + p.port, Type: "linux-htb", OtherConfig: map[string]string{"max-rate": fmt.Sprint(rate)},
			ExternalIDs: map[string]string{idSandbox: p.ids[idSandbox], idIf: p.ids[idIf]}}
		port.QoS = &q.UUID
		rows = append(rows, q)
	}
	t.Insert(rows...)
	t.Add(t.Where(br).Mutate(br, model.Mutation{Field: &br.Ports, Mutator: ovsdb.MutateOperationInsert, Value: []string{port.UUID}}))
	return nil
}

func vlanMode(c *conf) *string {
	mode := ""
	switch {
	case c.VLAN != nil && len(c.trunks) > 0:
		mode = "native-untagged"
	case c.VLAN != nil:
		mode = "access"
	case len(c.trunks) > 0:
		mode = "trunk"
	default:
		return nil
	}
	return &mode
}

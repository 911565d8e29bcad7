// Package bridge makes a node's bridges what they are declared to be. It compares what is declared with what
// is found, without touching anything, and then applies the difference. On a bridge that exists it adds what
// is missing and sets what is declared. Ports that it does not know it leaves alone.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/internal/link"
)

// Declared is how a role's bridge is to be on this node.
type Declared struct {
	Name         string
	Uplinks      []string
	DatapathType string // auto, system or netdev
	Controllers  []string
	Protocols    []string // none: leave them as they are
	FailMode     string   // "": leave it as it is
}

// Reconciler returns a reconciler that makes the bridges of the roles as declared. One that can't be made does
// not keep the others from it.
func Reconciler(roles map[string]Declared, log *slog.Logger) vswitch.Reconciler {
	return func(ctx context.Context, c client.Client) error {
		var errs []error
		for _, role := range slices.Sorted(maps.Keys(roles)) {
			if err := ensure(ctx, c, roles[role], log); err != nil {
				errs = append(errs, fmt.Errorf("bridge %s of role %q: %w", roles[role].Name, role, err))
			}
		}
		return errors.Join(errs...)
	}
}

func ensure(ctx context.Context, c client.Client, want Declared, log *slog.Logger) error {
	have, err := find(ctx, c, want)
	if err != nil {
		return err
	}
	diff, err := compare(want, have)
	if err != nil || diff.empty() {
		return err
	}
	if err := diff.apply(ctx, c, want, have); err != nil {
		return err
	}
	if err := failpoint.Hit("bridge-applied"); err != nil {
		return err
	}
	log.Info("bridge set up", "bridge", want.Name, "created", diff.create, "uplinks", want.Uplinks)
	return nil
}

// found is what the node has of a declared bridge.
type found struct {
	row            vswitch.Bridge // without a UUID if it is not there
	controllers    []vswitch.Controller
	ports          map[string]string // UUIDs of the ports that have the uplinks' names, "" if there is none
	links          map[string]bool   // whether the node has a link of an uplink's name
	kernelDatapath bool              // whether the kernel has Open vSwitch's datapath
}

func find(ctx context.Context, c client.Client, want Declared) (found, error) {
	have := found{row: vswitch.Bridge{Name: want.Name}, ports: map[string]string{}, links: map[string]bool{}}
	if err := c.Get(ctx, &have.row); err != nil && !errors.Is(err, client.ErrNotFound) {
		return have, err
	}
	var err error
	if have.controllers, err = vswitch.Rows(ctx, c, func(t *vswitch.Controller) bool { return slices.Contains(have.row.Controller, t.UUID) }); err != nil {
		return have, err
	}
	for _, name := range want.Uplinks {
		p := &vswitch.Port{Name: name}
		if err := c.Get(ctx, p); err != nil && !errors.Is(err, client.ErrNotFound) {
			return have, err
		}
		have.ports[name] = p.UUID
		l, err := link.Find(name)
		if err != nil {
			return have, fmt.Errorf("uplink %s: %w", name, err)
		}
		have.links[name] = l != nil
	}
	have.kernelDatapath, err = kernelHas("ovs_datapath")
	return have, err
}

// kernelHas reports whether the kernel has a family of generic netlink (include/uapi/linux/genetlink.h), and has it
// load the family's module if need be. netlink.GenlFamilyGet does not do: its header has two bytes of the four, and the
// other two are whatever is behind it in memory, somebody else's.
func kernelHas(family string) (bool, error) {
	req := nl.NewNetlinkRequest(nl.GENL_ID_CTRL, 0)
	req.AddRawData([]byte{nl.GENL_CTRL_CMD_GETFAMILY, nl.GENL_CTRL_VERSION, 0, 0})
	req.AddRawData(nl.NewRtAttr(nl.GENL_CTRL_ATTR_FAMILY_NAME, nl.ZeroTerminated(family)).Serialize())
	_, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// A difference is what is to be done to a bridge.
type difference struct {
	create      bool
	datapath    string   // of a bridge that is created
	set         bool     // protocols, fail mode or controllers differ
	protocols   []string // as they are to be
	failMode    *string
	kept, added []string // controllers: UUIDs of rows that stay, for their connections' sake, and targets of new ones
	uplinks     []string // those that are to become ports of the bridge
}

func (d difference) empty() bool { return !d.create && !d.set && len(d.uplinks) == 0 }

// compare returns what is to be done so that the bridge is as declared, or why it can't be.
func compare(want Declared, have found) (difference, error) {
	d := difference{create: have.row.UUID == "", protocols: have.row.Protocols, failMode: have.row.FailMode}
	if d.create {
		d.datapath = want.datapathType(have.kernelDatapath)
	}
	if len(want.Protocols) > 0 && !slices.Equal(slices.Sorted(slices.Values(want.Protocols)), slices.Sorted(slices.Values(have.row.Protocols))) {
		d.protocols, d.set = want.Protocols, true
	}
	if want.FailMode != "" && (have.row.FailMode == nil || *have.row.FailMode != want.FailMode) {
		d.failMode, d.set = &want.FailMode, true
	}
	for _, target := range want.Controllers {
		if i := slices.IndexFunc(have.controllers, func(t vswitch.Controller) bool { return t.Target == target }); i >= 0 {
			d.kept = append(d.kept, have.controllers[i].UUID)
		} else {
			d.added = append(d.added, target)
		}
	}
	if len(want.Controllers) == 0 {
		d.kept = have.row.Controller
	}
	d.set = d.set || len(d.added) > 0 || len(d.kept) != len(have.row.Controller)
	for _, name := range want.Uplinks {
		port := have.ports[name]
		switch {
		case slices.Contains(have.row.Ports, port):
		case port != "":
			return d, fmt.Errorf("uplink %s is a port of another bridge", name)
		case !have.links[name]:
			return d, fmt.Errorf("uplink %s: the node has no such link", name)
		default:
			d.uplinks = append(d.uplinks, name)
		}
	}
	return d, nil
}

// datapathType returns the declared type, or for auto the kernel's datapath if the kernel has it.
func (want Declared) datapathType(kernel bool) string {
	switch {
	case want.DatapathType != "" && want.DatapathType != "auto":
		return want.DatapathType
	case kernel:
		return "system"
	}
	return "netdev"
}

// apply sets the uplinks up and makes the rest in one transaction.
func (d difference) apply(ctx context.Context, c client.Client, want Declared, have found) error {
	if err := failpoint.Hit("bridge-apply"); err != nil {
		return err
	}
	for _, name := range d.uplinks {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			return fmt.Errorf("set uplink %s up: %w", name, err)
		}
	}
	t := &vswitch.Transaction{Client: c}
	d.operations(t, want, have.row)
	return t.Apply(ctx)
}

func (d difference) operations(t *vswitch.Transaction, want Declared, row vswitch.Bridge) {
	row.Name, row.Protocols, row.FailMode = want.Name, d.protocols, d.failMode
	row.Controller = slices.Clone(d.kept)
	var rows []model.Model
	for n, target := range d.added {
		added := &vswitch.Controller{UUID: fmt.Sprintf("controller%d", n), Target: target}
		rows, row.Controller = append(rows, added), append(row.Controller, added.UUID)
	}
	if d.create {
		local := &vswitch.Interface{UUID: "localif", Name: want.Name, Type: "internal"}
		localPort := &vswitch.Port{UUID: "localport", Name: want.Name, Interfaces: []string{local.UUID}}
		row.UUID, row.DatapathType, row.ExternalIDs = "bridge", d.datapath, map[string]string{"patchbay": "created"}
		row.Ports = []string{localPort.UUID}
		rows = append(rows, local, localPort)
	}
	for n, name := range d.uplinks {
		i := &vswitch.Interface{UUID: fmt.Sprintf("uplinkif%d", n), Name: name}
		p := &vswitch.Port{UUID: fmt.Sprintf("uplinkport%d", n), Name: name, Interfaces: []string{i.UUID}, ExternalIDs: map[string]string{"patchbay": "uplink"}}
		rows, row.Ports = append(rows, i, p), append(row.Ports, p.UUID)
	}
	t.Insert(rows...)
	if d.create {
		root := &vswitch.OpenVSwitch{}
		t.Insert(&row)
		t.Add(t.WhereCache(func(*vswitch.OpenVSwitch) bool { return true }).
			Mutate(root, model.Mutation{Field: &root.Bridges, Mutator: ovsdb.MutateOperationInsert, Value: []string{row.UUID}}))
		return
	}
	if d.set {
		t.Add(t.Where(&row).Update(&row, &row.Protocols, &row.FailMode, &row.Controller))
	}
	if n := len(d.uplinks); n > 0 {
		t.Add(t.Where(&row).Mutate(&row, model.Mutation{Field: &row.Ports, Mutator: ovsdb.MutateOperationInsert, Value: row.Ports[len(row.Ports)-n:]}))
	}
}

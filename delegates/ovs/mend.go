package ovs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
	"github.com/patchbay-cni/patchbay/internal/link"
)

// Mend implements delegates.Mender. An interface is known by the link's end in the host, and the pod's end by the
// index that the host's end tells: whatever the pod has made of it, as KubeVirt does, it is not made again while
// the host's end is there.
func (d *Delegate) Mend(ctx context.Context, s delegates.Sandbox, a *delegates.Attachment) (lost, err error) {
	name := HostName(s.ContainerID, a.Interface)
	end, err := link.Find(name)
	if err != nil {
		return nil, fmt.Errorf("%s: find link %s: %w", a.Interface, name, err)
	}
	if end == nil {
		return fmt.Errorf("%s: link %s is gone", a.Interface, name), delegates.ErrNothingLeft
	}
	conf, err := parseConf(a, delegates.CNIArgs(s, a))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Interface, err)
	}
	lost, err = d.mendHost(ctx, s, a, conf, end)
	if err != nil {
		return lost, err
	}
	var inPod error
	err = s.Netns.Do(func() (err error) {
		inPod, err = mendPod(a, end, uint64(conf.QoS.EgressRate))
		return err
	})
	return cmp.Or(lost, inPod), err
}

// mendHost makes the port again if it is not as it was made, and the bridge a gateway, and sets the host's end up.
func (d *Delegate) mendHost(ctx context.Context, s delegates.Sandbox, a *delegates.Attachment, conf *conf, end netlink.Link) (lost, err error) {
	c, err := d.db.Client(ctx)
	if err != nil {
		return nil, err
	}
	if lost = checkPort(ctx, c, s, a, conf); lost != nil || !d.macs.keeps(end.Attrs().Name) {
		p, err := d.plan(ctx, s, a)
		if err != nil {
			return lost, err
		}
		d.macs.keep(p)
		if lost != nil {
			err = d.replug(ctx, p, s.ContainerID)
		}
		if err != nil {
			return lost, err
		}
	}
	gateway, err := mendGateway(a.Bridge, conf, a.Result)
	if lost = cmp.Or(lost, gateway); err != nil || end.Attrs().Flags&net.FlagUp != 0 {
		return lost, err
	}
	name := end.Attrs().Name
	return cmp.Or(lost, fmt.Errorf("%s: link %s is down in the host", a.Interface, name)), netlink.LinkSetUp(end)
}

// replug makes the port again, and leaves the link as it is.
func (d *Delegate) replug(ctx context.Context, p *plan, containerID string) error {
	if err := d.removePorts(ctx, []string{p.port}, ownedBy(containerID)); err != nil {
		return err
	}
	if err := failpoint.Hit("ovs-mend-port-removed"); err != nil {
		return err
	}
	if err := d.awaitClosed(ctx, []*plan{p}); err != nil {
		return err
	}
	if err := d.addPorts(ctx, []*plan{p}); err != nil {
		return err
	}
	p.a.Bridge, p.a.Port = p.bridge, p.port
	return nil
}

// mendPod limits the pod's end again, whatever its name is now, and gives it what it has lost, if it is as we left
// it. Run it inside the namespace.
func mendPod(a *delegates.Attachment, end netlink.Link, egress uint64) (lost, err error) {
	var none netlink.LinkNotFoundError
	l, err := netlink.LinkByIndex(end.Attrs().ParentIndex)
	if errors.As(err, &none) || err == nil && l.Attrs().ParentIndex != end.Attrs().Index {
		return nil, nil // the pod has put it into a namespace of its own
	}
	if err != nil {
		return nil, err
	}
	if egress > 0 {
		queues, err := link.Queues(l)
		if err != nil {
			return nil, err
		}
		// The kernel's own queue has no handle. One that the workload has put there is left alone.
		if !slices.ContainsFunc(queues, func(q netlink.Qdisc) bool { return q.Attrs().Handle != 0 }) {
			lost = fmt.Errorf("interface %s has lost its limit of %d bit/s", a.Interface, egress)
			if err := limitEgress(l, egress); err != nil {
				return lost, err
			}
		}
	}
	inPod, err := a.NIC().Mend(l.Attrs().Index)
	return cmp.Or(lost, inPod), err
}

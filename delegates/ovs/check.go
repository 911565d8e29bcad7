package ovs

import (
	"context"
	"fmt"
	"slices"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/vishvananda/netlink"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/internal/link"
)

// Check compares port, link, addresses and routes with what Add made.
func (d *Delegate) Check(ctx context.Context, s delegates.Sandbox, as []*delegates.Attachment) error {
	c, err := d.db.Client(ctx)
	if err != nil {
		return err
	}
	if err := failpoint.Hit("ovs-check"); err != nil {
		return err
	}
	for _, a := range as {
		if a.Result == nil {
			return fmt.Errorf("%s: no result to check against", a.Interface)
		}
		conf, err := parseConf(a, delegates.CNIArgs(s, a))
		if err != nil {
			return fmt.Errorf("%s: %w", a.Interface, err)
		}
		if err := checkPort(ctx, c, s, a, conf); err != nil {
			return err
		}
		err = s.Netns.Do(func() error {
			if err := a.NIC().Check(); err != nil || conf.QoS.EgressRate == 0 {
				return err
			}
			return checkEgress(a.Interface, uint64(conf.QoS.EgressRate))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func checkPort(ctx context.Context, c client.Client, s delegates.Sandbox, a *delegates.Attachment, conf *conf) error {
	name := HostName(s.ContainerID, a.Interface)
	p, i := &vswitch.Port{Name: name}, &vswitch.Interface{Name: name}
	if err := c.Get(ctx, p); err != nil {
		return fmt.Errorf("%s: port %s is missing on Open vSwitch", a.Interface, name)
	}
	if p.ExternalIDs[idSandbox] != s.ContainerID {
		return fmt.Errorf("%s: port %s belongs to sandbox %s", a.Interface, name, p.ExternalIDs[idSandbox])
	}
	if on, err := bridgeWith(ctx, c, p); err != nil || a.Bridge != "" && on != a.Bridge {
		return fmt.Errorf("%s: port %s is on bridge %s, not on %s", a.Interface, name, on, a.Bridge)
	}
	if (conf.VLAN == nil) != (p.Tag == nil) || (p.Tag != nil && *p.Tag != *conf.VLAN) || !slices.Equal(conf.trunks, slices.Sorted(slices.Values(p.Trunks))) {
		return fmt.Errorf("%s: port %s has another VLAN than configured", a.Interface, name)
	}
	if rate := uint64(conf.QoS.IngressRate); rate > 0 && !limited(ctx, c, p, rate) {
		return fmt.Errorf("%s: port %s has lost its limit of %d bit/s towards the pod", a.Interface, name, rate)
	}
	if err := c.Get(ctx, i); err != nil || i.Ofport == nil || *i.Ofport < 0 {
		return fmt.Errorf("%s: ovs-vswitchd has not opened port %s", a.Interface, name)
	}
	return nil
}

// bridgeWith returns the name of the bridge that has a port.
func bridgeWith(ctx context.Context, c client.Client, p *vswitch.Port) (string, error) {
	in, err := vswitch.Rows(ctx, c, func(b *vswitch.Bridge) bool { return slices.Contains(b.Ports, p.UUID) })
	if err != nil || len(in) == 0 {
		return "none", err
	}
	return in[0].Name, nil
}

func limited(ctx context.Context, c client.Client, p *vswitch.Port, rate uint64) bool {
	if p.QoS == nil {
		return false
	}
	q := &vswitch.QoS{UUID: *p.QoS}
	return c.Get(ctx, q) == nil && q.OtherConfig["max-rate"] == fmt.Sprint(rate)
}

// checkEgress looks for the limit on what the pod sends. Run it inside the namespace.
func checkEgress(ifName string, rate uint64) error {
	l, err := netlink.LinkByName(ifName)
	if err != nil {
		return fmt.Errorf("interface %s is missing in the pod: %w", ifName, err)
	}
	queues, err := link.Queues(l)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(queues, func(q netlink.Qdisc) bool { return q.Type() == "tbf" }) {
		return fmt.Errorf("interface %s has lost its limit of %d bit/s", ifName, rate)
	}
	return nil
}

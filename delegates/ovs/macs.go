package ovs

import (
	"context"
	"slices"
	"sync"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/internal/link"
)

// macs are the hardware addresses that the database does not show: of ports that are being added, and of ports that are
// lost, or being made again, while their links are there.
type macs struct {
	mu     sync.Mutex
	adding map[*plan]bool
	made   map[string]holder // by port
}

// A holder is a port, made as it is to be, that has a hardware address.
type holder struct {
	bridge string
	ids    map[string]string
	vlans  []int
}

func (p *plan) holder() holder { return holder{p.bridge, p.ids, vlans(p.conf.VLAN, p.conf.trunks)} }

// enter notes that ports are being added, until leave is called. It refuses a hardware address that another pod
// has, or is given at the same time.
func (m *macs) enter(plans []*plan) (leave func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range plans {
		for o := range m.adding {
			if h := o.holder(); h.bridge == p.bridge && p.collides(h.ids, h.vlans) {
				return nil, p.inUse(h.ids)
			}
		}
		for port, h := range m.made {
			if h.bridge == p.bridge && p.collides(h.ids, h.vlans) && !link.IsGone(port) {
				return nil, p.inUse(h.ids)
			}
		}
	}
	for _, p := range plans {
		m.adding[p] = true
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, p := range plans {
			delete(m.adding, p)
		}
	}, nil
}

// keep notes ports that are there, or were.
func (m *macs) keep(plans ...*plan) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range plans {
		m.made[p.port] = p.holder()
	}
}

func (m *macs) keeps(port string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, is := m.made[port]
	return is
}

// forget notes that ports were removed for good.
func (m *macs) forget(ports []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, port := range ports {
		delete(m.made, port)
	}
}

// unused refuses a hardware address that another pod has on the bridge: the switch would send either's frames to
// whichever has spoken last. What is made again was there before. A port whose link has gone has lost its pod.
func unused(ctx context.Context, t *vswitch.Transaction, p *plan) error {
	others, err := vswitch.Rows(ctx, t, func(o *vswitch.Port) bool { return p.collides(o.ExternalIDs, vlans(o.Tag, o.Trunks)) })
	if err != nil {
		return err
	}
	for _, o := range others {
		on, err := bridgeWith(ctx, t, &o)
		if err != nil {
			return err
		}
		if on == p.bridge && !link.IsGone(o.Name) {
			return p.inUse(o.ExternalIDs)
		}
	}
	return nil
}

// collides reports whether a port with those external_ids and VLANs has the plan's hardware address, and is
// another pod's. A pod's own interfaces may share one, for a bond. So may an older sandbox of the pod, which ends.
func (p *plan) collides(ids map[string]string, on []int) bool {
	if ids[idSandbox] == "" || ids[idMAC] != p.ids[idMAC] || ids[idSandbox] == p.ids[idSandbox] || p.a.Result != nil {
		return false
	}
	if ids[idPod] == p.ids[idPod] && ids[idPod] != noPod {
		return false
	}
	return slices.ContainsFunc(vlans(p.conf.VLAN, p.conf.trunks), func(id int) bool { return slices.Contains(on, id) })
}

func (p *plan) inUse(ids map[string]string) error {
	return refuse("%s: hardware address %s is in use on bridge %s: %s of pod %s has it; ask for another one, or end that pod",
		p.a.Interface, p.mac, p.bridge, ids[idIf], ids[idPod])
}

// vlans are those on which a port learns hardware addresses: its own, 0 without one, and those of a trunk.
func vlans(tag *int, trunks []int) []int {
	switch {
	case tag != nil:
		return append([]int{*tag}, trunks...)
	case len(trunks) > 0:
		return trunks
	}
	return []int{0}
}

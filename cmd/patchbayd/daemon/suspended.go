package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/internal/netns"
)

// ErrRestart says that the daemon is to start anew: etcd is another one for it from now on.
var ErrRestart = errors.New("patchbayd starts anew")

// identity is the task that knows which etcd the node has written to.
func (d *Daemon) identity() Task {
	return Task{Name: "etcd-identity", Vital: true,
		Run: func(ctx context.Context) error {
			d.guard.Run(ctx)
			return nil
		},
		Check: func(context.Context) (string, error) {
			return "it is the one that this node has written to", d.guard.Suspended()
		}}
}

// decision is the task that ends the daemon when an operator has decided.
func (d *Daemon) decision() Task {
	return Task{Name: "decision", Run: func(ctx context.Context) error {
		select {
		case <-d.decided:
			return ErrRestart
		case <-ctx.Done():
			return nil
		}
	}}
}

// A written is what this node has written to etcd and needs still: that of running pods, and of those whose
// addresses it keeps.
type written struct {
	records map[string]etcd.Copy // of running pods, by container ID
	pods    map[string]*client.RecoveryPod
	shared  map[string]etcd.Copy // pools and subnets, by key
	claims  map[string]etcd.Copy // by key
	older   map[string]bool      // keys of claims that etcd has as this node had written them earlier
	names   map[string]etcd.Copy // where pods' names lead, by key
}

// value is what all values that this node writes are read as here.
type value struct {
	Node        string `json:"node"`
	ContainerID string `json:"containerID"`
	Namespace   string `json:"namespace"`
	Pod         string `json:"pod"`
	Netns       string `json:"netns"`
	NetnsCookie uint64 `json:"netnsCookie"`
	NetnsPlace  string `json:"netnsPlace"`
	Via         string `json:"via"`
	IPAMClaim   string `json:"claim"`
}

// written reads the copies of what this node has written.
func (d *Daemon) written() (*written, error) {
	copies, err := d.guard.Copies()
	if err != nil {
		return nil, err
	}
	w := &written{records: map[string]etcd.Copy{}, pods: map[string]*client.RecoveryPod{}, shared: map[string]etcd.Copy{}, claims: map[string]etcd.Copy{}, older: map[string]bool{}, names: map[string]etcd.Copy{}}
	prefix := d.cfg.Etcd.Prefix + "/"
	values := map[string]value{}
	ended := map[string]bool{} // by container ID: whose addresses are nobody's, whichever plugin asked for them
	for key, c := range copies {
		var v value
		if json.Unmarshal([]byte(c.Value), &v) != nil {
			continue // not a record, claim, subnet or pool
		}
		values[key] = v
		if !strings.HasPrefix(key, prefix+"sandboxes/") {
			continue
		}
		if ended[v.ContainerID] = !runs(v); !ended[v.ContainerID] {
			w.records[v.ContainerID] = c
			w.pods[v.ContainerID] = &client.RecoveryPod{Namespace: v.Namespace, Pod: v.Pod, ContainerID: v.ContainerID, IPs: []string{}}
		}
	}
	for key, c := range copies {
		v, known := values[key]
		_, running := w.records[v.ContainerID]
		switch {
		case known && running && strings.HasPrefix(key, prefix+"pods/"):
			w.names[key] = c
		case !known || !strings.HasPrefix(key, prefix+"ipam/") && !strings.HasPrefix(key, prefix+"subnets/"):
		case v.ContainerID == "" && v.IPAMClaim == "":
			w.shared[key] = c
		case running || v.Via != "" && !ended[v.ContainerID] || v.IPAMClaim != "":
			w.claims[key] = c
		}
	}
	maps.DeleteFunc(w.shared, func(key string, _ etcd.Copy) bool { return !w.needs(key) })
	return w, nil
}

// needs reports whether there is a claim in a subnet or pool. Of others it is not known whether they are still this
// node's, or there: nodes are not told of what others give back or remove.
func (w *written) needs(shared string) bool {
	subnet, err := netip.ParsePrefix(subnetOf(shared))
	for key := range w.claims {
		if poolOf(key) != poolOf(shared) {
			continue
		}
		if addr, addrErr := netip.ParseAddr(path.Base(key)); err != nil || addrErr == nil && subnet.Contains(addr) {
			return true
		}
	}
	return false
}

// runs reports whether a sandbox's namespace is there, or can't be seen and may be.
func runs(v value) bool {
	h, err := netns.OpenIdentity(v.Netns, v.NetnsCookie)
	if err != nil {
		gone := errors.Is(err, netns.ErrGone) || errors.Is(err, netns.ErrOther)
		return !gone || !netns.Visible(v.Netns, v.NetnsPlace, err)
	}
	_ = h.Close() // it was only looked at
	return true
}

// holds reports whether this node has a running pod, or an address of one that nobody here knows: a plugin's. An
// IPAMClaim has its addresses in its status, too.
func (d *Daemon) holds() bool {
	w, err := d.written()
	if err != nil || len(w.records) > 0 {
		return true
	}
	for _, c := range w.claims {
		var v value
		if json.Unmarshal([]byte(c.Value), &v) == nil && v.Via != "" {
			return true
		}
	}
	return false
}

// refuse takes out what can't be written as somebody else has it, and what depends on it.
func (w *written) refuse(others map[string]string) {
	lost := map[string]string{} // pool, or subnet of a pool -> why
	for key := range w.shared {
		if has, ok := others[key]; ok {
			delete(w.shared, key)
			var v value
			if json.Unmarshal([]byte(has), &v) == nil && v.Node != "" {
				lost[key] = fmt.Sprintf("subnet %s is node %s's by now", subnetOf(key), v.Node)
			} else {
				lost[key] = fmt.Sprintf("pool %s is another one by now", poolOf(key))
			}
		}
	}
	for key, c := range w.claims {
		var mine, theirs value
		_ = json.Unmarshal([]byte(c.Value), &mine) // it was read before
		addr, err := netip.ParseAddr(path.Base(key))
		if err != nil {
			continue
		}
		why := ""
		has, other := others[key]
		if other && json.Unmarshal([]byte(has), &theirs) == nil && theirs.Node == mine.Node {
			w.older[key] = true
		} else if other {
			why = fmt.Sprintf("%s is %s/%s's on node %s by now", addr, theirs.Namespace, theirs.Pod, theirs.Node)
			if theirs.Namespace == "" { // a claim has both in one
				why = fmt.Sprintf("%s is pod %s's on node %s by now", addr, theirs.Pod, theirs.Node)
			}
		}
		for shared, reason := range lost {
			if subnet, err := netip.ParsePrefix(subnetOf(shared)); poolOf(shared) == poolOf(key) && (err != nil || subnet.Contains(addr)) {
				why = reason
			}
		}
		p := w.pods[mine.ContainerID]
		if p != nil && !slices.Contains(p.IPs, addr.String()) {
			p.IPs = append(p.IPs, addr.String())
		}
		if why != "" {
			delete(w.claims, key)
			if p != nil {
				p.Conflict = why
				delete(w.records, mine.ContainerID)
			}
		}
	}
	ofRefused := func(_ string, c etcd.Copy) bool { // what else a pod has that is refused
		var v value
		_ = json.Unmarshal([]byte(c.Value), &v)
		p := w.pods[v.ContainerID]
		return p != nil && p.Conflict != ""
	}
	maps.DeleteFunc(w.claims, ofRefused)
	maps.DeleteFunc(w.names, ofRefused)
}

// poolOf and subnetOf read the keys <p>/ipam/<pool>/..., <p>/ipam/<pool>/subnets/<cidr> and
// <p>/subnets/<node>/<pool>/<cidr>.
func poolOf(key string) string {
	if _, rest, ok := strings.Cut(key, "/ipam/"); ok {
		pool, _, _ := strings.Cut(rest, "/")
		return pool
	}
	return path.Base(path.Dir(path.Dir(key)))
}

func subnetOf(key string) string { return path.Base(path.Dir(key)) + "/" + path.Base(key) }

// Recovery says what etcd is, and what would be written to it.
func (d *Daemon) Recovery(ctx context.Context) (*client.Recovery, error) {
	r, _, _, err := d.compare(ctx)
	return r, err
}

func (d *Daemon) compare(ctx context.Context) (r *client.Recovery, w *written, missing []etcd.Copy, err error) {
	r = &client.Recovery{Node: d.cfg.Node, Pods: []client.RecoveryPod{}}
	suspended := d.guard.Suspended()
	if suspended == nil {
		return r, nil, nil, nil
	}
	r.Suspended, r.Reason = true, suspended.Error()
	if w, err = d.written(); err != nil {
		return nil, nil, nil, err
	}
	all := maps.Clone(w.shared)
	maps.Copy(all, w.claims)
	_, others, err := d.guard.Missing(ctx, all)
	if err != nil {
		return nil, nil, nil, err
	}
	w.refuse(others)
	all = maps.Clone(w.shared)
	maps.Copy(all, w.claims)
	if missing, _, err = d.guard.Missing(ctx, all); err != nil {
		return nil, nil, nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(w.pods)) {
		slices.Sort(w.pods[id].IPs)
		r.Pods = append(r.Pods, *w.pods[id])
	}
	return r, w, missing, nil
}

// Recover does what an operator has decided: from says what is right, "node" what this node has written, "etcd"
// what is there. Then the daemon starts anew.
func (d *Daemon) Recover(ctx context.Context, from string) (*client.Recovery, error) {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	r, w, missing, err := d.compare(ctx)
	if err != nil {
		return nil, err
	}
	if !r.Suspended {
		return nil, errNotSuspended
	}
	if d.guard.Undecidable() { // what others have written would be written over
		return nil, fault.New(fault.Conflict, "there is nothing to decide: "+r.Reason)
	}
	keep := map[string]etcd.Copy{}
	if from == client.FromNode {
		if keep, err = d.writeBack(ctx, w, missing); err != nil {
			return nil, err
		}
	}
	// What has no record may be a running pod's. That is written first: from Settle on the node is suspended no more.
	record, err := d.store.NodeRecord(d.self(true))
	if err == nil {
		err = d.guard.Overwrite(ctx, []etcd.Copy{record})
	}
	if err != nil {
		return nil, err
	}
	if err := d.guard.Settle(ctx, keep); err != nil {
		return nil, err
	}
	d.log.Warn("an operator has decided: patchbayd starts anew", "from", from, "pods", len(r.Pods))
	d.decide()
	return r, nil
}

// writeBack writes what etcd lacks of what the node needs, and returns all of that.
func (d *Daemon) writeBack(ctx context.Context, w *written, missing []etcd.Copy) (all map[string]etcd.Copy, err error) {
	if err := d.guard.Restore(ctx, missing); err != nil {
		return nil, err
	}
	last := slices.Collect(maps.Values(w.records))
	for key := range w.older {
		if c, ok := w.claims[key]; ok { // else its pod is refused
			last = append(last, c)
		}
	}
	if err := d.guard.Overwrite(ctx, last); err != nil {
		return nil, err
	}
	free, _, err := d.guard.Missing(ctx, w.names)
	if err == nil {
		err = d.guard.Restore(ctx, free)
	}
	all = maps.Clone(w.shared)
	maps.Copy(all, w.claims)
	for _, c := range slices.Concat(free, slices.Collect(maps.Values(w.records))) {
		all[c.Key] = c
	}
	return all, err
}

var errNotSuspended = fault.New(fault.Conflict, "the node is not suspended: there is nothing to recover")

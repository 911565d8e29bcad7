package ovs

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/vishvananda/netlink"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/internal/link"
)

// A Plug is what an interface of a pod has on the host: a port, a link, or both, of the same name.
type Plug struct {
	Name      string
	Pod       string // namespace/name, as the port says; empty without a port
	Interface string
	Port      bool
	Link      bool // false if we are in another network namespace than the node's

	row   string // the port's UUID: a later port of the same name has another
	ended bool   // the pod has ended: its namespace is gone, and the pair of links with it
}

// An Unplugger removes the ports and links of pods from a node that the daemon has left. The daemon had the
// records: now Open vSwitch and the kernel alone tell what there is.
type Unplugger struct {
	// Guard, if there is one, is asked before each removal; its error ends the work.
	Guard func(context.Context) error

	native *Delegate
	socket string          // of Open vSwitch, if it is a unix socket
	seen   bool            // Open vSwitch has been there
	done   map[string]bool // rows of ports that UnplugEnded has removed
}

// NewUnplugger returns an Unplugger for the Open vSwitch at the endpoint.
func NewUnplugger(endpoint string, log *slog.Logger) *Unplugger {
	u := &Unplugger{native: New(vswitch.New(endpoint, log), Options{}, log), done: map[string]bool{}}
	if socket, isUnix := strings.CutPrefix(endpoint, "unix:"); isUnix {
		u.socket = socket
	}
	return u
}

// NoSwitch reports that this node has no Open vSwitch, and so no port of ours. One that is only stopped
// has a database, whose ports are there again when it starts.
func (u *Unplugger) NoSwitch() bool {
	if u.socket == "" || u.seen {
		return false
	}
	dir := filepath.Dir(u.socket)
	traces := []string{u.socket, filepath.Join(dir, "conf.db"), filepath.Join(dir, "ovs-vswitchd.pid")}
	if filepath.Base(dir) == "openvswitch" { // a distribution's, which has the database elsewhere
		traces = append(traces, "/etc/openvswitch/conf.db", "/var/lib/openvswitch/conf.db")
	}
	return !slices.ContainsFunc(traces, func(f string) bool {
		_, err := os.Lstat(f)
		return !errors.Is(err, fs.ErrNotExist)
	})
}

// Run keeps the connection to Open vSwitch until the context ends.
func (u *Unplugger) Run(ctx context.Context) {
	u.native.db.Run(ctx)
	u.native.links.after.Wait()
}

// plugs returns all plugs, sorted by pod and interface. It lists links after ports: a port whose link is made
// meanwhile is not taken for one that has lost it.
func (u *Unplugger) plugs(ctx context.Context) ([]Plug, error) {
	byName, err := u.ports(ctx)
	if err != nil {
		return nil, err
	}
	links, err := hostEnds()
	if err != nil {
		return nil, err
	}
	for _, name := range links {
		p := byName[name]
		p.Name, p.Link, p.ended = name, true, false
		byName[name] = p
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b Plug) int {
		return strings.Compare(a.Pod+" "+a.Interface+" "+a.Name, b.Pod+" "+b.Interface+" "+b.Name)
	}), nil
}

// ports returns our ports by name.
func (u *Unplugger) ports(ctx context.Context) (map[string]Plug, error) {
	byName := map[string]Plug{}
	if !u.native.db.Connected() && u.NoSwitch() {
		return byName, nil
	}
	c, err := u.native.db.Client(ctx)
	if err != nil {
		return nil, err
	}
	u.seen = true
	rows, err := vswitch.Rows(ctx, c, isOurs)
	if err != nil {
		return nil, err
	}
	for _, p := range rows {
		plug := Plug{Name: p.Name, Pod: p.ExternalIDs[idPod], Interface: p.ExternalIDs[idIf], Port: true, row: p.UUID}
		if plug.ended, err = hasEnded(ctx, c, p); err != nil {
			return nil, err
		}
		byName[p.Name] = plug
	}
	limits, err := vswitch.Rows(ctx, c, func(q *vswitch.QoS) bool { return q.ExternalIDs[idSandbox] != "" })
	for _, q := range limits {
		if name := limitOf(&q); byName[name].Name == "" { // of a port that somebody has removed
			byName[name] = Plug{Name: name, Interface: q.ExternalIDs[idIf], Port: true, row: q.UUID, ended: link.IsGone(name)}
		}
	}
	return byName, err
}

// hasEnded reports whether the pod of a port has ended: there is no link of the port's name, although this is
// the node's network namespace, as the bridge's link is here. Open vSwitch can't be asked: its userspace
// datapath reports no error for an interface that it once had.
func hasEnded(ctx context.Context, c client.Client, p vswitch.Port) (bool, error) {
	in, err := vswitch.Rows(ctx, c, func(b *vswitch.Bridge) bool { return slices.Contains(b.Ports, p.UUID) })
	here := slices.ContainsFunc(in, func(b vswitch.Bridge) bool {
		l, _ := link.Find(b.Name)
		return l != nil
	})
	return here && link.IsGone(p.Name), err
}

// Unplug removes ports and links. A pod that runs loses its interface.
func (u *Unplugger) Unplug(ctx context.Context, plugs []Plug) error {
	var ports, links []string
	rows := map[string]bool{}
	for _, p := range plugs {
		if p.Port {
			ports, rows[p.row] = append(ports, p.Name), true
		}
		if p.Link {
			links = append(links, p.Name)
		}
	}
	return u.native.removePlugs(ctx, ports, links, func(p *vswitch.Port) bool { return rows[p.UUID] })
}

// UnplugEnded removes the ports of pods that have ended. It returns those and what is left.
func (u *Unplugger) UnplugEnded(ctx context.Context) (removed, left []Plug, err error) {
	all, err := u.plugs(ctx)
	if u.Guard != nil {
		if err := u.Guard(ctx); err != nil {
			return nil, nil, err
		}
	}
	if err != nil {
		return nil, nil, err
	}
	for _, p := range all {
		switch {
		case u.done[p.row] && !p.Link: // is removed, which the copy of the database does not show yet
		case p.ended:
			removed = append(removed, p)
		default:
			left = append(left, p)
		}
	}
	if err := u.Unplug(ctx, removed); err != nil {
		return nil, nil, err
	}
	for _, p := range removed {
		u.done[p.row] = true
	}
	return removed, left, nil
}

// Await calls UnplugEnded now and whenever a pod ends, until nothing is left. It waits for Open vSwitch if need
// be. It calls tell the first time and whenever something has changed.
func (u *Unplugger) Await(ctx context.Context, tell func(removed, left []Plug)) error {
	gone := make(chan struct{}, 1)
	ended, stop, err := watchRemovals(func(string) {
		select {
		case gone <- struct{}{}:
		default: // one is waiting already
		}
	})
	if err != nil {
		return err
	}
	defer stop()
	last := -1 // how many were left
	for {
		removed, left, err := u.UnplugEnded(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case fault.Of(err).Passes():
			continue // the next call waits until Open vSwitch is back
		case errors.Is(err, netlink.ErrDumpInterrupted):
			continue // what interrupts the list now ends
		case err != nil:
			return err
		}
		if len(removed) > 0 || len(left) != last {
			tell(removed, left)
			last = len(left)
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-gone:
		case <-ended:
			return errors.New("the kernel does not announce removed links any more")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

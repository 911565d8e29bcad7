package ovs

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/internal/link"
)

// A Plug is what an interface of a pod has on the host: a port, a link, or both, of the same name.
type Plug struct {
	Name      string
	Pod       string // namespace/name, as the port says; empty without a port
	Interface string
	Port      bool
	Link      bool // not seen from another network namespace than the node's

	row   string // the port's, which no later port of the same name has
	ended bool   // the pod has: the kernel removes a pair with the pod's namespace
}

// An Unplugger takes what pods have of ours off a node that the daemon, which has the records, has
// left: the switch and the kernel alone tell what there is.
type Unplugger struct {
	// Guard, if there is one, is asked before each removal; its error ends the work.
	Guard func(context.Context) error

	native *Delegate
	socket string // of Open vSwitch, if it is a unix socket
	seen   bool   // Open vSwitch has been there
}

// NewUnplugger returns an Unplugger for the Open vSwitch at the endpoint.
func NewUnplugger(endpoint string, log *slog.Logger) *Unplugger {
	u := &Unplugger{native: New(vswitch.New(endpoint, log), Options{}, log)}
	u.socket, _ = strings.CutPrefix(endpoint, "unix:")
	if u.socket == endpoint {
		u.socket = ""
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

// plugs returns what there is, by pod and interface. It looks at the ports first: a link that is made
// meanwhile is seen.
func (u *Unplugger) plugs(ctx context.Context) ([]Plug, error) {
	byName, err := u.ports(ctx)
	if err != nil {
		return nil, err
	}
	links, err := ours()
	if err != nil {
		return nil, err
	}
	for _, name := range links {
		p := byName[name]
		p.Name, p.Link, p.ended = name, true, false
		byName[name] = p
	}
	all := make([]Plug, 0, len(byName))
	for _, p := range byName {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Plug) int {
		return strings.Compare(a.Pod+" "+a.Interface+" "+a.Name, b.Pod+" "+b.Interface+" "+b.Name)
	})
	return all, nil
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
	var rows []vswitch.Port
	err = c.WhereCache(isOurs).List(ctx, &rows)
	if err != nil {
		return nil, err
	}
	for _, p := range rows {
		ended, err := ended(ctx, c, p)
		if err != nil {
			return nil, err
		}
		byName[p.Name] = Plug{Name: p.Name, Pod: p.ExternalIDs[idPod], Interface: p.ExternalIDs[idIf], Port: true,
			row: p.UUID, ended: ended}
	}
	return byName, nil
}

// ended reports whether the pod of a port has, by two witnesses: the node has no link of its name, and
// this is the node's network namespace, as the link of the port's bridge is here. Open vSwitch's own
// word is none: the userspace datapath reports no error for an interface that it had.
func ended(ctx context.Context, c client.Client, p vswitch.Port) (bool, error) {
	var in []vswitch.Bridge
	if err := c.WhereCache(func(b *vswitch.Bridge) bool { return slices.Contains(b.Ports, p.UUID) }).List(ctx, &in); err != nil {
		return false, err
	}
	here := slices.ContainsFunc(in, func(b vswitch.Bridge) bool {
		l, _ := link.Find(b.Name)
		return l != nil
	})
	return here && noLink(p.Name), nil
}

// Unplug removes ports and links; a pod that runs loses its interface.
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

// UnplugEnded removes the ports of the pods that have ended, and returns them and what is still there.
func (u *Unplugger) UnplugEnded(ctx context.Context) (removed, left []Plug, err error) {
	return u.unplugEnded(ctx, map[string]bool{})
}

// unplugEnded passes over those that are done: the copy of the database may be behind.
func (u *Unplugger) unplugEnded(ctx context.Context, done map[string]bool) (removed, left []Plug, err error) {
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
		case done[p.row] && !p.Link:
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
		done[p.row] = true
	}
	return removed, left, nil
}

// Await does as UnplugEnded, at once and whenever a pod ends, until nothing is left, and waits for Open
// vSwitch. It tells the first time, and when something has changed.
func (u *Unplugger) Await(ctx context.Context, tell func(removed, left []Plug)) error {
	gone, stop, err := watchLinks()
	if err != nil {
		return err
	}
	defer stop()
	done, last := map[string]bool{}, -1
	for {
		removed, left, err := u.unplugEnded(ctx, done)
		var away *types.Error
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &away) && away.Code == types.ErrTryAgainLater:
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
		case _, ok := <-gone:
			if !ok {
				return errors.New("the kernel does not announce removed links any more")
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// watchLinks returns a channel on which something comes when the kernel has removed a link, or may
// have: when there were more messages than it could keep. It is closed when nothing more will come.
func watchLinks() (gone <-chan struct{}, stop func(), err error) {
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return nil, nil, err
	}
	c := make(chan struct{}, 1)
	go func() {
		defer close(c)
		for {
			msgs, _, err := sock.Receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			removal := err != nil
			for _, m := range msgs {
				removal = removal || m.Header.Type == unix.RTM_DELLINK
			}
			if !removal {
				continue
			}
			select {
			case c <- struct{}{}:
			default: // one is waiting already
			}
		}
	}()
	return c, func() {
		sock.Close() // ends a Receive
		for range c {
		}
	}, nil
}

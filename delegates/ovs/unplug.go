package ovs

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Plug is what an interface of a pod has on the host: a port, a link, or both, of the same name.
type Plug struct {
	Name      string
	Pod       string // namespace/name, as the port says; empty without a port
	Interface string
	Port      bool
	Link      bool // without it the pod has ended: the kernel removes a pair with the pod's namespace
}

// An Unplugger takes what pods have of ours off a node that the daemon, which has the records, has
// left: the switch and the kernel alone tell what there is.
type Unplugger struct {
	native   *Delegate
	noSwitch bool
}

// NewUnplugger returns an Unplugger for the Open vSwitch at the endpoint. If that is a unix socket
// that is not there, the node has no Open vSwitch, and so no port of ours.
func NewUnplugger(endpoint string, log *slog.Logger) *Unplugger {
	u := &Unplugger{native: New(NewDB(endpoint, log), Options{}, log)}
	if path, ok := strings.CutPrefix(endpoint, "unix:"); ok {
		_, err := os.Stat(path)
		u.noSwitch = errors.Is(err, fs.ErrNotExist)
	}
	return u
}

// NoSwitch reports that this node has no Open vSwitch.
func (u *Unplugger) NoSwitch() bool { return u.noSwitch }

// Run keeps the connection to Open vSwitch until the context ends.
func (u *Unplugger) Run(ctx context.Context) {
	if !u.noSwitch {
		u.native.Run(ctx)
	}
}

// plugs returns what there is, by pod and interface.
func (u *Unplugger) plugs(ctx context.Context) ([]Plug, error) {
	links, err := ours()
	if err != nil {
		return nil, err
	}
	ports, err := u.ports(ctx)
	if err != nil {
		return nil, err
	}
	byName := map[string]Plug{}
	for _, p := range ports {
		byName[p.Name] = Plug{Name: p.Name, Pod: p.ExternalIDs[idPod], Interface: p.ExternalIDs[idIf], Port: true}
	}
	for _, name := range links {
		p := byName[name]
		p.Name, p.Link = name, true
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

func (u *Unplugger) ports(ctx context.Context) (ports []port, err error) {
	if u.noSwitch {
		return nil, nil
	}
	c, err := u.native.db.client(ctx)
	if err != nil {
		return nil, err
	}
	err = c.WhereCache(func(p *port) bool {
		id, ok := p.ExternalIDs[idSandbox]
		return ok && HostName(id, p.ExternalIDs[idIf]) == p.Name
	}).List(ctx, &ports)
	return ports, err
}

// Unplug removes ports and links; a pod that runs loses its interface.
func (u *Unplugger) Unplug(ctx context.Context, plugs []Plug) error {
	var ports, links []string
	for _, p := range plugs {
		if p.Port {
			ports = append(ports, p.Name)
		}
		if p.Link {
			links = append(links, p.Name)
		}
	}
	if len(ports) > 0 {
		if err := u.native.ports.del(ctx, ports, func(p *port) bool { return p.ExternalIDs[idSandbox] != "" }); err != nil {
			return err
		}
	}
	if len(links) == 0 {
		return nil
	}
	return u.native.links.remove(links)
}

// UnplugEnded removes the ports of the pods that have ended, and returns them and what is still there.
func (u *Unplugger) UnplugEnded(ctx context.Context) (removed, left []Plug, err error) {
	return u.unplugEnded(ctx, map[string]bool{})
}

// unplugEnded passes over those that are done: the copy of the database may be behind.
func (u *Unplugger) unplugEnded(ctx context.Context, done map[string]bool) (removed, left []Plug, err error) {
	all, err := u.plugs(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range all {
		switch {
		case p.Link:
			left = append(left, p)
		case !done[p.Name]:
			removed = append(removed, p)
		}
	}
	if err := u.Unplug(ctx, removed); err != nil {
		return nil, nil, err
	}
	for _, p := range removed {
		done[p.Name] = true
	}
	return removed, left, nil
}

// Await does as UnplugEnded, at once and whenever a pod ends, until nothing is left. It tells the first
// time, and when something has changed.
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

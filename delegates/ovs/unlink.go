package ovs

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// remove removes the pairs whose host's ends have those names. Names that are not there are fine.
func (l *links) remove(names []string) error { return l.remover.Do(names) }

// removeAll removes the links of all sets as one group, and returns an error, or nil, for each set.
func (l *links) removeAll(sets [][]string) []error {
	errs := make([]error, len(sets))
	// The number is beyond LinkGroup, so that a group in removal is never taken for that.
	group := nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(0x10000+l.group.Add(1)%0x10000))
	members := map[string]bool{}
	for i, names := range sets {
		for _, n := range names {
			err := linkRequest(unix.RTM_SETLINK, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(n)), group)
			switch {
			case err == nil:
				members[n] = true
			case !errors.Is(err, unix.ENODEV):
				errs[i] = fmt.Errorf("remove link %s: %w", n, err)
			}
		}
	}
	if len(members) == 0 {
		return errs
	}
	if err := l.removeGroup(group, members); err != nil {
		for i := range errs {
			errs[i] = fmt.Errorf("remove %d links: %w", len(members), err)
		}
	}
	return errs
}

// removeGroup returns when the links are gone from the host. The kernel announces that well before it answers
// the request, as it then waits until nobody holds a reference (16 to 20 ms). The request goes on meanwhile.
// Where we can't hear announcements, the answer counts.
func (l *links) removeGroup(group *nl.RtAttr, members map[string]bool) error {
	gone := make(chan struct{})
	_, stop, err := watchRemovals(func(name string) {
		if !members[name] {
			return
		}
		delete(members, name)
		if len(members) == 0 {
			close(gone)
		}
	})
	if err == nil {
		defer stop()
	}
	done := make(chan error, 1)
	l.after.Go(func() { done <- linkRequest(unix.RTM_DELLINK, group) })
	select {
	case <-gone:
		return nil
	case err := <-done:
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	}
}

// watchRemovals calls removed with the name of each link that the kernel removes from now on, and with ""
// when the kernel had more to tell than it could keep. Ended is closed when nothing more will come.
func watchRemovals(removed func(name string)) (ended <-chan struct{}, stop func(), err error) {
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			msgs, _, err := sock.Receive()
			if errors.Is(err, unix.ENOBUFS) {
				removed("")
			} else if err != nil {
				return
			}
			for _, m := range msgs {
				if m.Header.Type != unix.RTM_DELLINK {
					continue
				}
				header := unix.NlMsghdr(m.Header)
				if l, err := netlink.LinkDeserialize(&header, m.Data); err == nil {
					removed(l.Attrs().Name)
				}
			}
		}
	}()
	return done, func() {
		sock.Close() // ends Receive
		<-done
	}, nil
}

// linkRequest sends a request about the links that the attributes describe.
func linkRequest(kind int, attrs ...*nl.RtAttr) error {
	req := nl.NewNetlinkRequest(kind, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	for _, a := range attrs {
		req.AddData(a)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

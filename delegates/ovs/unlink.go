package ovs

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// remove removes the host's ends of those names, and so the pairs. Names that are not there are fine.
func (l *links) remove(names []string) error { return l.remover.Do(names) }

func (l *links) removeAll(sets [][]string) []error {
	errs := make([]error, len(sets))
	// Beyond the mark's number, so that a group in removal is never taken for it.
	group := 0x10000 + l.group.Add(1)%0x10000
	members := map[string]bool{}
	for i, names := range sets {
		for _, n := range names {
			err := setGroup(n, group)
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

// removeGroup returns when the links are gone from the host: the kernel says so well before it
// answers the request, for which it waits until nobody holds a reference (16 to 20 ms, as for its
// readers). The request goes on meanwhile.
func (l *links) removeGroup(group uint32, members map[string]bool) error {
	gone, stop := watchRemoval(members)
	defer stop()
	done := make(chan error, 1)
	l.after.Go(func() { done <- deleteGroup(group) })
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

// watchRemoval returns a channel that is closed when the kernel has announced the removal of all the
// links. Where it can't listen, the channel stays open and the request's own answer counts.
func watchRemoval(members map[string]bool) (gone chan struct{}, stop func()) {
	gone = make(chan struct{})
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return gone, func() {}
	}
	left := len(members)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for left > 0 {
			msgs, _, err := sock.Receive()
			if err != nil {
				return
			}
			for _, m := range msgs {
				if m.Header.Type != unix.RTM_DELLINK {
					continue
				}
				header := unix.NlMsghdr(m.Header)
				link, err := netlink.LinkDeserialize(&header, m.Data)
				if err == nil && members[link.Attrs().Name] {
					delete(members, link.Attrs().Name)
					left--
				}
			}
		}
		close(gone)
	}()
	return gone, func() {
		sock.Close() // ends a Receive
		<-finished
	}
}

func setGroup(name string, group uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func deleteGroup(group uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

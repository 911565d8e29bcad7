package link

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// The kernel says of a list that it may lack entries when some came or went while it was written. These
// functions then ask again. A zero handle asks in the network namespace that the thread is in.

// Links returns the links of the namespace.
func Links() ([]netlink.Link, error) {
	return whole("links", netlink.LinkList)
}

// Addresses returns the addresses of a link.
func Addresses(h *netlink.Handle, l netlink.Link) ([]netlink.Addr, error) {
	return whole("addresses of "+l.Attrs().Name, func() ([]netlink.Addr, error) { return h.AddrList(l, netlink.FAMILY_ALL) })
}

// Routes returns the routes over a link, of the main table.
func Routes(h *netlink.Handle, l netlink.Link) ([]netlink.Route, error) {
	return whole("routes of "+l.Attrs().Name, func() ([]netlink.Route, error) { return h.RouteList(l, netlink.FAMILY_ALL) })
}

// Queues returns the queueing disciplines of a link.
func Queues(l netlink.Link) ([]netlink.Qdisc, error) {
	return whole("queues of "+l.Attrs().Name, func() ([]netlink.Qdisc, error) { return netlink.QdiscList(l) })
}

// listTries is how often a list is asked for on a node where links come and go all the time.
const listTries = 20

func whole[T any](what string, list func() ([]T, error)) (all []T, err error) {
	for range listTries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", what, err)
	}
	return all, nil
}

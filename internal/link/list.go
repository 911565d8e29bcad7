package link

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// Find returns the interface of that name in the namespace that the thread is in, nil if there is none.
func Find(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil, nil
	}
	return l, err
}

// IsGone reports whether there is certainly no interface of that name. It is false if the kernel can't be asked.
func IsGone(name string) bool {
	l, err := Find(name)
	return l == nil && err == nil
}

// If entries come or go while the kernel writes a list, it says that the list may have gaps. These functions then
// ask again. A zero handle asks in the network namespace that the thread is in.

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

// listTries is how often a list is asked for before its gaps are an error.
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

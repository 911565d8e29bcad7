package delegates

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/link"
	"github.com/patchbay-cni/patchbay/ipam"
)

// A Native is a delegate of ours: it makes interfaces of its own plugin types, alone or at the head of
// a list of plugins, without executing anything. It is given its addresses, and what it makes bears its
// owner's name.
type Native interface {
	Delegate
	Collector
	Mender
	// Handles reports whether a plugin type is the delegate's.
	Handles(pluginType string) bool
	// Connected reports whether what the delegate works with can be reached now.
	Connected() bool
}

// An Executor is the delegate that executes plugins: package delegates/exec.
type Executor interface {
	Delegate
	Mender
	// Installed fails for the first of the plugin types that is in none of the permitted directories.
	Installed(pluginTypes, path []string) error
	// GC tells the plugins of a list which of their attachments are valid.
	GC(ctx context.Context, list *cniconf.List, valid []types.GCAttachment) error
	// IPAM runs an IPAM plugin, with the configuration of the list's first plugin.
	IPAM(ctx context.Context, command, typ string, s Sandbox, a *Attachment) (*types100.Result, error)
}

// A Chain chooses who makes an attachment: a native delegate, the executor, or, for a list of which only the
// first plugin is a native delegate's, that one and then the executor, with its result as prevResult.
// The Chain is itself the Delegate and the Collector that the engine knows.
type Chain struct {
	natives []Native
	exec    Executor
}

// NewChain returns the chain of the delegates. A native delegate is one more argument.
func NewChain(e Executor, natives ...Native) *Chain { return &Chain{natives, e} }

// head returns the native delegate that handles a list's first plugin, nil if none does.
func (c *Chain) head(list *cniconf.List) Native {
	for _, n := range c.natives {
		if n.Handles(list.Plugins[0].Type) {
			return n
		}
	}
	return nil
}

// whole returns the native delegate that makes all of a list, nil if plugins are to be executed.
func (c *Chain) whole(list *cniconf.List) Native {
	if len(list.Plugins) > 1 {
		return nil
	}
	return c.head(list)
}

// groups cuts attachments into those that are made together: neighbours that one native delegate makes as a
// whole. Each other attachment is a group by itself.
func (c *Chain) groups(as []*Attachment) [][]*Attachment {
	var groups [][]*Attachment
	for i, a := range as {
		n := c.whole(a.Config)
		if n != nil && i > 0 && n == c.whole(as[i-1].Config) {
			groups[len(groups)-1] = append(groups[len(groups)-1], a)
		} else {
			groups = append(groups, []*Attachment{a})
		}
	}
	return groups
}

// Executed returns the plugins of a list that are executed.
func (c *Chain) Executed(list *cniconf.List) []cniconf.Plugin {
	if c.head(list) != nil {
		return list.Plugins[1:]
	}
	return list.Plugins
}

// Asks reports whether the engine is to get a list's addresses from our IPAM before Add. That is so if a native
// delegate makes the interface and its configuration names our IPAM or none. Other plugins ask IPAM themselves.
func (c *Chain) Asks(list *cniconf.List) bool {
	first := list.Plugins[0]
	return c.head(list) != nil && (first.IPAM == nil || first.IPAMType == ipam.Type)
}

// OtherIPAM returns the IPAM plugin, not ours, that is executed for a native attachment; "" if none is.
func (c *Chain) OtherIPAM(list *cniconf.List) string {
	if typ := list.Plugins[0].IPAMType; typ != ipam.Type && c.head(list) != nil {
		return typ
	}
	return ""
}

// Installed returns an error if a plugin that the list needs is not there. It is asked before anything is made:
// a plugin that can't be executed can't undo either.
func (c *Chain) Installed(list *cniconf.List, path []string) error {
	var needed []string
	for _, p := range c.Executed(list) {
		needed = append(needed, p.Type, p.IPAMType)
	}
	return c.exec.Installed(append(needed, c.OtherIPAM(list)), path)
}

// Add implements Delegate. Neighbours that one native delegate makes go to it together. What is executed
// is executed after s.Recorded, as it is found again only through the record.
func (c *Chain) Add(ctx context.Context, s Sandbox, as []*Attachment) error {
	for _, group := range c.groups(as) {
		for _, a := range group {
			if err := c.addresses(ctx, s, a); err != nil {
				return fmt.Errorf("%s: %w", a.Interface, err)
			}
		}
		var err error
		if n := c.whole(group[0].Config); n != nil {
			err = n.Add(ctx, s, group)
		} else {
			err = c.addList(ctx, s, group[0])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addresses has another IPAM plugin give a native attachment its addresses.
func (c *Chain) addresses(ctx context.Context, s Sandbox, a *Attachment) error {
	typ := c.OtherIPAM(a.Config)
	if typ == "" {
		return nil
	}
	if err := s.Recorded(); err != nil {
		return err
	}
	a.Tried = true
	res, err := c.exec.IPAM(ctx, "ADD", typ, s, a)
	a.Addresses = res
	return err
}

func (c *Chain) addList(ctx context.Context, s Sandbox, a *Attachment) error {
	if err := s.Recorded(); err != nil {
		return err
	}
	if n := c.head(a.Config); n != nil {
		if err := a.add(ctx, n, s, a.with(a.Config.Plugins[:1])); err != nil {
			return err
		}
	}
	return a.add(ctx, c.exec, s, c.tail(a))
}

// add has a delegate make a part of the attachment, and takes over what came of it, a panic too.
func (a *Attachment) add(ctx context.Context, d Delegate, s Sandbox, part *Attachment) error {
	defer func() {
		a.Result, a.Bridge, a.Port, a.Tried = part.Result, part.Bridge, part.Port, a.Tried || part.Tried
	}()
	return d.Add(ctx, s, []*Attachment{part})
}

// tail returns the part of an attachment that is executed.
func (c *Chain) tail(a *Attachment) *Attachment { return a.with(c.Executed(a.Config)) }

// with returns the attachment with a part of its plugins.
func (a *Attachment) with(plugins []cniconf.Plugin) *Attachment {
	part := *a
	part.Config = a.Config.With(plugins)
	return &part
}

// Del implements Delegate, in reverse order. Other IPAM plugins free the addresses of native attachments
// when those are gone.
func (c *Chain) Del(ctx context.Context, s Sandbox, as []*Attachment) []error {
	var errs []error
	for _, group := range slices.Backward(c.groups(as)) {
		var failed []error
		if n := c.whole(group[0].Config); n != nil {
			failed = n.Del(ctx, s, group)
		} else {
			failed = []error{c.delList(ctx, s, group[0])}
		}
		for i, a := range group {
			if typ := c.OtherIPAM(a.Config); typ != "" && failed[i] == nil {
				_, failed[i] = c.exec.IPAM(ctx, "DEL", typ, s, a)
			}
		}
		errs = append(failed, errs...)
	}
	return errs
}

// delList unmakes what is executed of a list, and then its head, even if the first fails.
func (c *Chain) delList(ctx context.Context, s Sandbox, a *Attachment) error {
	return errors.Join(append(c.exec.Del(ctx, s, []*Attachment{c.tail(a)}), c.DelHead(ctx, s, a))...)
}

// DelHead unmakes what a native delegate has made at the head of a list, and executes nothing.
func (c *Chain) DelHead(ctx context.Context, s Sandbox, a *Attachment) error {
	n := c.head(a.Config)
	if n == nil {
		return nil
	}
	return errors.Join(n.Del(ctx, s, []*Attachment{a.with(a.Config.Plugins[:1])})...)
}

// Check implements Delegate.
func (c *Chain) Check(ctx context.Context, s Sandbox, as []*Attachment) error {
	for _, a := range as {
		if a.Config.DisableCheck {
			continue
		}
		if n := c.head(a.Config); n != nil {
			if err := n.Check(ctx, s, []*Attachment{a.with(a.Config.Plugins[:1])}); err != nil {
				return err
			}
		}
		if tail := c.tail(a); len(tail.Config.Plugins) > 0 {
			if err := c.exec.Check(ctx, s, []*Attachment{tail}); err != nil {
				return err
			}
		}
		if typ := c.OtherIPAM(a.Config); typ != "" {
			if _, err := c.exec.IPAM(ctx, "CHECK", typ, s, a); err != nil {
				return fmt.Errorf("%s: %w", a.Interface, err)
			}
		}
	}
	return nil
}

// Status implements Delegate.
func (c *Chain) Status(ctx context.Context, list *cniconf.List) error {
	if n := c.head(list); n != nil {
		if err := n.Status(ctx, list); err != nil {
			return err
		}
	}
	if tail := c.Executed(list); len(tail) > 0 {
		return c.exec.Status(ctx, list.With(tail))
	}
	return nil
}

// Cheap reports whether an attachment can be unmade now without executing anything.
func (c *Chain) Cheap(list *cniconf.List) bool {
	n := c.whole(list)
	return n != nil && n.Connected()
}

// Mend implements Mender. A native delegate mends what it made at the head of a list, too, but it makes an
// attachment again only if it is the whole of it: nothing is executed. While what it works with is away nothing
// is known, and an interface that may be forwarding is left alone.
func (c *Chain) Mend(ctx context.Context, s Sandbox, a *Attachment) (lost, err error) {
	n := c.head(a.Config)
	if n == nil {
		return c.exec.Mend(ctx, s, a)
	}
	if !n.Connected() {
		return nil, nil
	}
	again := *a
	again.Addresses = a.Result
	lost, err = n.Mend(ctx, s, &again)
	if errors.Is(err, ErrNothingLeft) && c.whole(a.Config) != nil {
		if err = errors.Join(n.Del(ctx, s, []*Attachment{&again})...); err == nil {
			err = n.Add(ctx, s, []*Attachment{&again})
		}
	}
	a.Result, a.Bridge, a.Port = again.Result, again.Bridge, again.Port
	return lost, err
}

// NIC returns the attachment's interface as its Result says that it is to be.
func (a *Attachment) NIC() link.NIC {
	return link.NIC{Name: a.Interface, Result: a.Result, AnyRoutes: len(a.Config.Plugins) > 1}
}

// GC tells the executed plugins of a list which of their attachments are valid.
func (c *Chain) GC(ctx context.Context, list *cniconf.List, valid []types.GCAttachment) error {
	tail := c.Executed(list)
	if len(tail) == 0 {
		return nil
	}
	return c.exec.GC(ctx, list.With(tail), valid)
}

// Leftovers implements Collector. It returns those of all native delegates.
func (c *Chain) Leftovers(ctx context.Context, accounted func(Owner) bool, owners func() []Owner) ([]string, error) {
	var all []string
	for _, n := range c.natives {
		names, err := n.Leftovers(ctx, accounted, owners)
		if err != nil {
			return nil, err
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return all, nil
}

// RemoveLeftovers implements Collector; each delegate removes those that are its own.
func (c *Chain) RemoveLeftovers(ctx context.Context, names []string) error {
	var errs []error
	for _, n := range c.natives {
		errs = append(errs, n.RemoveLeftovers(ctx, names))
	}
	return errors.Join(errs...)
}

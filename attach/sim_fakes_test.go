package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/txn"
)

const (
	nativeType   = "native"
	executedType = "executed"
	otherIPAM    = "other-ipam"
)

// A fakeTxn is claims that are made or given back.
type fakeTxn struct {
	claim, free map[string]string // address -> owner
}

func (t fakeTxn) Join(o txn.Txn) txn.Txn {
	j := fakeTxn{map[string]string{}, map[string]string{}}
	for _, from := range []fakeTxn{t, o.(fakeTxn)} {
		for a, who := range from.claim {
			j.claim[a] = who
		}
		for a, who := range from.free {
			j.free[a] = who
		}
	}
	return j
}

// apply makes the changes in the world, or none.
func (w *world) apply(t txn.Txn) error {
	f, _ := t.(fakeTxn)
	for a, who := range f.claim {
		if has, taken := w.claims[a]; taken && has != who {
			return txn.ErrConflict
		}
	}
	for a, who := range f.claim {
		w.claims[a] = who
	}
	for a, who := range f.free {
		if w.claims[a] == who {
			delete(w.claims, a)
		}
	}
	return nil
}

// fakeRecords is the store, as one daemon reaches it.
type fakeRecords struct {
	w   *world
	gen int
}

func (r fakeRecords) Load(context.Context) (all []*Sandbox, unreadable []string, err error) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	for _, s := range r.w.recorded() {
		all = append(all, s)
	}
	return all, nil, nil
}

func (r fakeRecords) Save(_ context.Context, s *Sandbox, with txn.Txn) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return r.write(s.ContainerID, "save", with, func() { r.w.records[s.ContainerID] = b })
}

func (r fakeRecords) Remove(_ context.Context, s *Sandbox, with txn.Txn) error {
	return r.write(s.ContainerID, "remove", with, func() { delete(r.w.records, s.ContainerID) })
}

func (r fakeRecords) write(id, what string, with txn.Txn, do func()) error {
	err := r.w.take(r.gen, id, what, func() error {
		if err := r.w.apply(with); err != nil {
			return err
		}
		do()
		return nil
	})
	if err != nil && err != txn.ErrConflict {
		return fmt.Errorf("%w: %w", txn.ErrUnavailable, err)
	}
	return err
}

// A fakeDelegate makes entries of one of the world's tables, as one daemon's delegate.
type fakeDelegate struct {
	w    *world
	gen  int
	typ  string
	made map[delegates.Owner]bool
}

func (d *fakeDelegate) Handles(typ string) bool                     { return typ == d.typ }
func (d *fakeDelegate) Connected() bool                             { return true }
func (d *fakeDelegate) Status(context.Context, *cniconf.List) error { return nil }
func (d *fakeDelegate) Installed(pluginTypes, path []string) error  { return nil }

// IPAM gives an address that nobody else has, as the world does not run out of them.
func (d *fakeDelegate) IPAM(_ context.Context, command, _ string, s delegates.Sandbox, a *delegates.Attachment) (*types100.Result, error) {
	o := delegates.Owner{ContainerID: s.ContainerID, Interface: a.Interface}
	err := d.w.take(d.gen, s.ContainerID, "other IPAM "+command+" "+a.Interface, func() error {
		switch command {
		case "ADD":
			d.w.leases[o] = true
		case "DEL":
			d.w.gone(d.w.leases, o)
		}
		return nil
	})
	return &types100.Result{CNIVersion: "1.1.0"}, definitely(err)
}

// definitely makes a refusal a plugin's own word: a CNI error.
func definitely(err error) error {
	if errors.Is(err, errRefused) {
		return types.NewError(123, err.Error(), "")
	}
	return err
}

func (d *fakeDelegate) Add(_ context.Context, s delegates.Sandbox, as []*delegates.Attachment) error {
	for _, a := range as {
		o := delegates.Owner{ContainerID: s.ContainerID, Interface: a.Interface}
		a.Tried = true
		err := d.w.take(d.gen, s.ContainerID, d.typ+" ADD "+a.Interface, func() error {
			if d.made[o] {
				return types.NewError(types.ErrInternal, a.Interface+" is there already", "")
			}
			d.made[o], d.w.network[o] = true, a.Config.Name
			return nil
		})
		if err != nil {
			return definitely(err)
		}
		a.Result = &types100.Result{CNIVersion: "1.1.0", Interfaces: []*types100.Interface{{Name: a.Interface, Sandbox: s.NetnsPath}}}
		if a.Addresses != nil {
			a.Result.IPs = a.Addresses.IPs
		}
	}
	return nil
}

func (d *fakeDelegate) Del(_ context.Context, s delegates.Sandbox, as []*delegates.Attachment) []error {
	errs := make([]error, len(as))
	for i, a := range as {
		o := delegates.Owner{ContainerID: s.ContainerID, Interface: a.Interface}
		errs[i] = d.w.take(d.gen, s.ContainerID, d.typ+" DEL "+a.Interface, func() error {
			d.w.gone(d.made, o)
			return nil
		})
		d.w.mu.Lock()
		if !d.made[o] { // one that is there would be found in the pod
			errs[i] = definitely(errs[i])
		}
		d.w.mu.Unlock()
	}
	return errs
}

func (d *fakeDelegate) Check(_ context.Context, s delegates.Sandbox, as []*delegates.Attachment) error {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	for _, a := range as {
		if !d.made[delegates.Owner{ContainerID: s.ContainerID, Interface: a.Interface}] {
			return fmt.Errorf("%s is not there", a.Interface)
		}
	}
	return nil
}

func (d *fakeDelegate) Mend(ctx context.Context, s delegates.Sandbox, a *delegates.Attachment) (lost, err error) {
	if lost = d.Check(ctx, s, []*delegates.Attachment{a}); lost != nil {
		err = errors.Join(lost, delegates.ErrNothingLeft)
	}
	return lost, err
}

// GC is told of what is valid: all that was promised must be.
func (d *fakeDelegate) GC(_ context.Context, list *cniconf.List, valid []types.GCAttachment) error {
	return d.w.take(d.gen, "gc", "GC", func() error {
		for o := range d.made {
			if d.w.network[o] == list.Name && !slices.Contains(valid, types.GCAttachment{ContainerID: o.ContainerID, IfName: o.Interface}) {
				d.w.gone(d.made, o)
			}
		}
		return nil
	})
}

func (d *fakeDelegate) Leftovers(_ context.Context, accounted func(delegates.Owner) bool, _ func() []delegates.Owner) ([]string, error) {
	d.w.mu.Lock()
	var there []delegates.Owner
	for o := range d.made {
		there = append(there, o)
	}
	d.w.mu.Unlock()
	var names []string
	for _, o := range there {
		if o != foreign && !accounted(o) {
			names = append(names, o.ContainerID+"/"+o.Interface)
		}
	}
	return names, nil
}

func (d *fakeDelegate) RemoveLeftovers(_ context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	return d.w.take(d.gen, "leftovers", fmt.Sprint(names), func() error {
		for o := range d.made {
			if slices.Contains(names, o.ContainerID+"/"+o.Interface) {
				d.w.gone(d.made, o)
			}
		}
		return nil
	})
}

// noMeter counts nothing.
type noMeter struct{}

func (noMeter) Observe(string, string, time.Duration) {}
func (noMeter) Repaired(string)                       {}
func (noMeter) Leaked(string, int)                    {}

// noRuntime is a node on which no container runtime can be asked.
type noRuntime struct{}

func (noRuntime) Ended(context.Context, string) (ended, asked bool, err error) {
	return false, false, nil
}

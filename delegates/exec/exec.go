// Package exec is the delegate that runs CNI plugins, singly or as lists, as the CNI specification
// 1.1.0 section 3 says a runtime does. libcni is not used for it: it leaves "capabilities" in the
// request, forgets prevResult when a later plugin fails, and stops a DEL at the first error.
package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/cniresult"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
)

// Options are what a Delegate is made of.
type Options struct {
	Dirs []string // the directories that plugins may be in
	// Root is the file system's root for plugins, and that which Dirs are below: in a container, where the
	// host's root is mounted. Empty: our own.
	Root     string
	Deadline time.Duration // of one plugin's execution
	Limit    int           // plugins at a time
	Env      []string      // added to each one's environment
}

// A Delegate runs the plugins of an attachment's configuration one after another: found in the permitted
// directories only, a bounded number at a time, each with a deadline.
type Delegate struct {
	Options
	slots chan struct{}
}

// New returns the delegate.
func New(o Options) *Delegate { return &Delegate{o, make(chan struct{}, o.Limit)} }

// Add runs ADD through the list of each attachment in turn. If an attachment has a Result already, that is the
// first plugin's prevResult.
func (d *Delegate) Add(ctx context.Context, s delegates.Sandbox, as []*delegates.Attachment) error {
	for _, a := range as {
		a.Tried = true
		for i, p := range a.Config.Plugins {
			if err := failpoint.Hit("exec-add"); err != nil {
				return err
			}
			out, err := d.plugin(ctx, "ADD", p.Type, s, a, i)
			if err != nil {
				return err
			}
			if err := failpoint.Hit("exec-plugin-ran"); err != nil {
				return err
			}
			res, err := cniresult.Parse(a.Config.CNIVersion, out)
			if err == nil {
				err = keep(s, a.Interface, a.Result, res)
			}
			if err != nil {
				return fmt.Errorf("plugin %s: %w", p.Type, err)
			}
			a.Result = res
		}
	}
	return nil
}

// Del runs DEL through each list in reverse. It goes on after a plugin that fails, with the others of its list and
// with the other attachments (multi-network specification 7.2), and returns all errors. The caller then keeps the
// record and repeats the DEL.
func (d *Delegate) Del(ctx context.Context, s delegates.Sandbox, as []*delegates.Attachment) []error {
	errs := make([]error, len(as))
	for n, a := range slices.Backward(as) {
		for i, p := range slices.Backward(a.Config.Plugins) {
			if _, err := d.plugin(ctx, "DEL", p.Type, s, a, i); err != nil {
				errs[n] = errors.Join(errs[n], fmt.Errorf("%s: %w", a.Interface, err))
			}
		}
	}
	return errs
}

// Check runs CHECK through each list, in order, unless the configuration forbids it or is older than CHECK.
func (d *Delegate) Check(ctx context.Context, s delegates.Sandbox, as []*delegates.Attachment) error {
	for _, a := range as {
		if a.Config.DisableCheck || !atLeast(a.Config, "0.4.0") {
			continue
		}
		for i, p := range a.Config.Plugins {
			if err := failpoint.Hit("exec-check"); err != nil {
				return err
			}
			if _, err := d.plugin(ctx, "CHECK", p.Type, s, a, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// Status asks each plugin of the list whether it can serve an ADD.
func (d *Delegate) Status(ctx context.Context, list *cniconf.List) error {
	return d.each(ctx, "STATUS", list, cniconf.Inject{})
}

// GC tells each plugin of the list which attachments are valid, unless the configuration forbids it.
func (d *Delegate) GC(ctx context.Context, list *cniconf.List, valid []types.GCAttachment) error {
	if list.DisableGC {
		return nil
	}
	if err := failpoint.Hit("exec-gc"); err != nil {
		return err
	}
	attachments, err := json.Marshal(valid)
	if err != nil {
		return err
	}
	return d.each(ctx, "GC", list, cniconf.Inject{ValidAttachments: attachments})
}

// each runs STATUS or GC on each plugin of the list, unless the configuration is older than these commands. It goes
// on after errors and returns them all.
func (d *Delegate) each(ctx context.Context, command string, list *cniconf.List, in cniconf.Inject) error {
	if !atLeast(list, "1.1.0") {
		return nil
	}
	var errs []error
	for i, p := range list.Plugins {
		if p.Type == cniconf.Passthru {
			continue
		}
		conf, err := list.Request(i, in)
		if err == nil {
			_, err = d.run(ctx, p.Type, cniwire.Request{Command: command, Config: conf})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// atLeast reports whether a configuration is of that version of the specification, or a later one.
func atLeast(list *cniconf.List, version string) bool {
	is, err := cniversion.GreaterThanOrEqualTo(list.CNIVersion, version)
	return err == nil && is
}

// Installed returns an error for the first of the plugin types that is in none of the permitted directories. Empty
// types are passed over.
func (d *Delegate) Installed(pluginTypes, path []string) error {
	for _, t := range pluginTypes {
		if t == "" || t == cniconf.Passthru {
			continue
		}
		if _, err := d.find(t, path); err != nil {
			return err
		}
	}
	return nil
}

// Mend implements delegates.Mender. It executes nothing, and so mends addresses and routes only.
func (d *Delegate) Mend(_ context.Context, s delegates.Sandbox, a *delegates.Attachment) (lost, err error) {
	err = s.Netns.Do(func() (err error) {
		lost, err = a.NIC().Mend(0)
		return err
	})
	return lost, err
}

// IPAM runs an IPAM plugin for a native delegate, with the delegate's whole configuration.
func (d *Delegate) IPAM(ctx context.Context, command, typ string, s delegates.Sandbox, a *delegates.Attachment) (*types100.Result, error) {
	if command == "CHECK" && !atLeast(a.Config, "0.4.0") {
		return nil, nil
	}
	out, err := d.plugin(ctx, command, typ, s, a, 0)
	if err != nil || command != "ADD" {
		return nil, err
	}
	return cniresult.Parse(a.Config.CNIVersion, out)
}

// plugin runs a command of the plugin typ for an attachment, with the configuration of plugin i of its list, and
// returns what the plugin answers.
func (d *Delegate) plugin(ctx context.Context, command, typ string, s delegates.Sandbox, a *delegates.Attachment, i int) ([]byte, error) {
	prev, err := encodeResult(a.Config.CNIVersion, a.Result)
	if err != nil {
		return nil, fmt.Errorf("prevResult for plugin %s: %w", typ, err)
	}
	conf, err := a.Config.Request(i, cniconf.Inject{RuntimeConfig: a.Requests.Arguments(), PrevResult: prev})
	if err != nil {
		return nil, err
	}
	if a.Config.Plugins[i].Type == cniconf.Passthru {
		return prev, nil // there is no such plugin: it would only pass on the result
	}
	ns := s.NetnsPath
	if s.Netns == nil && command == "DEL" {
		ns = "" // the namespace is gone, and the path may lead to another, which must not be entered
	}
	return d.run(ctx, typ, cniwire.Request{Command: command, ContainerID: s.ContainerID, Netns: ns, IfName: a.Interface,
		Args: delegates.CNIArgs(s, a), Path: strings.Join(s.Path, string(os.PathListSeparator)), Config: conf})
}

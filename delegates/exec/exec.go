// Package exec is the delegate that runs CNI plugins, singly or as lists, as the CNI specification
// 1.1.0 section 3 says a runtime does. libcni is not used for it: it leaves "capabilities" in the
// request, forgets prevResult when a later plugin fails, and stops a DEL at the first error.
package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
)

// A Delegate runs the plugins of an attachment's configuration one after another.
type Delegate struct{ run *Runner }

// New returns the delegate.
func New(r *Runner) *Delegate { return &Delegate{r} }

// Add runs ADD through each attachment's list, the attachments in turn. A Result that one has already is
// the first plugin's prevResult.
func (d *Delegate) Add(ctx context.Context, s delegates.Sandbox, as []*delegates.Attachment) error {
	for _, a := range as {
		a.Tried = true
		if err := d.add(ctx, s, a); err != nil {
			return err
		}
	}
	return nil
}

func (d *Delegate) add(ctx context.Context, s delegates.Sandbox, a *delegates.Attachment) error {
	for i := range a.Config.Plugins {
		out, err := d.plugin(ctx, "ADD", s, a, i, a.Result)
		if err != nil {
			return err
		}
		if err := failpoint.Hit(failpoint.ExecPluginRan); err != nil {
			return err
		}
		res, err := parseResult(a.Config.CNIVersion, out)
		if err != nil {
			return fmt.Errorf("plugin %s: %w", a.Config.Plugins[i].Type, err)
		}
		if err := keep(s, a.Interface, a.Result, res); err != nil {
			return fmt.Errorf("plugin %s: %w", a.Config.Plugins[i].Type, err)
		}
		a.Result = res
	}
	return nil
}

// Del runs DEL through each list in reverse. A plugin that fails keeps neither the others of its list nor
// the other attachments from theirs (multi-network specification 7.2): what can be freed is, all errors
// are returned, and the caller keeps the record and repeats the DEL.
func (d *Delegate) Del(ctx context.Context, s delegates.Sandbox, as []*delegates.Attachment) []error {
	errs := make([]error, len(as))
	for n, a := range slices.Backward(as) {
		for i := range slices.Backward(a.Config.Plugins) {
			if _, err := d.plugin(ctx, "DEL", s, a, i, a.Result); err != nil {
				errs[n] = errors.Join(errs[n], fmt.Errorf("%s: %w", a.Interface, err))
			}
		}
	}
	return errs
}

// Check runs CHECK through each list, in order, unless the configuration forbids it or is older
// than CHECK.
func (d *Delegate) Check(ctx context.Context, s delegates.Sandbox, as []*delegates.Attachment) error {
	for _, a := range as {
		if has, err := cniversion.GreaterThanOrEqualTo(a.Config.CNIVersion, "0.4.0"); err != nil || !has || a.Config.DisableCheck {
			continue
		}
		for i := range a.Config.Plugins {
			if _, err := d.plugin(ctx, "CHECK", s, a, i, a.Result); err != nil {
				return err
			}
		}
	}
	return nil
}

// Status asks each plugin of the list whether it can serve an ADD.
func (d *Delegate) Status(ctx context.Context, list *cniconf.List) error {
	if has, err := cniversion.GreaterThanOrEqualTo(list.CNIVersion, "1.1.0"); err != nil || !has {
		return nil
	}
	for i, p := range list.Plugins {
		if p.Type == cniconf.Passthru {
			continue
		}
		conf, err := list.Request(i, cniconf.Inject{})
		if err != nil {
			return err
		}
		if _, err := d.run.Run(ctx, Call{Command: "STATUS", Type: p.Type, Config: conf}); err != nil {
			return err
		}
	}
	return nil
}

// GC runs GC on each plugin of the list with the attachments that are valid, goes on after errors
// and returns them all.
func (d *Delegate) GC(ctx context.Context, list *cniconf.List, valid []types.GCAttachment) error {
	if has, err := cniversion.GreaterThanOrEqualTo(list.CNIVersion, "1.1.0"); list.DisableGC || err != nil || !has {
		return nil
	}
	attachments, err := json.Marshal(valid)
	if err != nil {
		return err
	}
	var errs []error
	for i, p := range list.Plugins {
		if p.Type == cniconf.Passthru {
			continue // it has made nothing
		}
		conf, err := list.Request(i, cniconf.Inject{ValidAttachments: attachments})
		if err == nil {
			_, err = d.run.Run(ctx, Call{Command: "GC", Type: p.Type, Config: conf})
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Installed fails for the first of the plugin types that is in none of the permitted directories. Types
// that are empty need no file.
func (d *Delegate) Installed(pluginTypes, path []string) error {
	for _, t := range pluginTypes {
		if t == "" || t == cniconf.Passthru {
			continue
		}
		if _, err := d.run.find(t, path); err != nil {
			return err
		}
	}
	return nil
}

// Inspect says what the interface of an attachment has lost in the pod.
func (d *Delegate) Inspect(s delegates.Sandbox, a *delegates.Attachment) error {
	return s.Netns.Do(a.NIC().Check)
}

// IPAM runs an IPAM plugin for a native delegate, with the delegate's whole configuration.
func (d *Delegate) IPAM(ctx context.Context, command, typ string, s delegates.Sandbox, a *delegates.Attachment) (*types100.Result, error) {
	if has, err := cniversion.GreaterThanOrEqualTo(a.Config.CNIVersion, "0.4.0"); command == "CHECK" && (err != nil || !has) {
		return nil, nil // the configuration is older than CHECK
	}
	prev, err := encodeResult(a.Config.CNIVersion, a.Result)
	if err != nil {
		return nil, err
	}
	conf, err := a.Config.Request(0, cniconf.Inject{RuntimeConfig: a.Requests.Arguments(), PrevResult: prev})
	if err != nil {
		return nil, err
	}
	out, err := d.run.Run(ctx, Call{Command: command, Type: typ, ContainerID: s.ContainerID, Netns: s.NetnsPath,
		IfName: a.Interface, Args: delegates.CNIArgs(s, a), Path: s.Path, Config: conf})
	if err != nil || command != "ADD" {
		return nil, err
	}
	return parseResult(a.Config.CNIVersion, out)
}

func (d *Delegate) plugin(ctx context.Context, command string, s delegates.Sandbox, a *delegates.Attachment, i int, prev *types100.Result) ([]byte, error) {
	encoded, err := encodeResult(a.Config.CNIVersion, prev)
	if err != nil {
		return nil, fmt.Errorf("prevResult for plugin %s: %w", a.Config.Plugins[i].Type, err)
	}
	conf, err := a.Config.Request(i, cniconf.Inject{RuntimeConfig: a.Requests.Arguments(), PrevResult: encoded})
	if err != nil {
		return nil, err
	}
	if a.Config.Plugins[i].Type == cniconf.Passthru {
		return encoded, nil // it passes on what was there before, and is not executed for that
	}
	ns := s.NetnsPath
	if s.Netns == nil && command == "DEL" {
		ns = "" // gone, or another's by now: it must not be entered
	}
	return d.run.Run(ctx, Call{Command: command, Type: a.Config.Plugins[i].Type, ContainerID: s.ContainerID, Netns: ns,
		IfName: a.Interface, Args: delegates.CNIArgs(s, a), Path: s.Path, Config: conf})
}

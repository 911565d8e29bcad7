package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/attach/client"
)

// examine checks what this node needs to serve, and looks for leftovers.
func (d *Daemon) examine(ctx context.Context) []client.Finding {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var all []client.Finding
	report := func(check, good string, err error) {
		f := client.Finding{Check: check, OK: err == nil, Message: good}
		if err != nil {
			f.Message = err.Error()
		}
		all = append(all, f)
	}
	for _, t := range d.tasks {
		if t.Check != nil {
			good, err := t.Check(ctx)
			report(t.Name, good, err)
		}
	}
	d.examineBridges(report)
	for _, path := range []string{d.cfg.Listen.CNI, d.cfg.Listen.API} {
		report("socket", path+" is a socket for root only", checkSocket(path))
	}
	d.examineDetach(report)
	d.examineLeftovers(ctx, report)
	return all
}

// poolFaults is the task that looks for pools that overlap, and for records that can't be read. Its metric is as it was
// found last: each look reads what this node has in etcd.
func (d *Daemon) poolFaults() Task {
	look := func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		faults, err := d.ipam.Faults(ctx)
		if err == nil {
			d.faults.Store(int64(len(faults)))
		}
		if len(faults) > 0 {
			err = errors.New(strings.Join(faults, "; "))
		}
		return "no two of them overlap", err
	}
	return Task{Name: "pools", Check: look, Run: every(d.cfg.GC.Interval, func(ctx context.Context) { _, _ = look(ctx) })}
}

// examineLeftovers reports leftovers, and, apart from them, what was kept when records were lost.
func (d *Daemon) examineLeftovers(ctx context.Context, report func(string, string, error)) {
	if !d.ready.Load() {
		report("leftovers", "", errors.New("it is not known yet which there are: recovery is not done"))
		return
	}
	left, err := d.engine.Inspect(ctx)
	kept := slices.DeleteFunc(slices.Clone(left.Ports), func(n string) bool { return !slices.Contains(d.engine.Kept(), n) })
	ports := slices.DeleteFunc(slices.Clone(left.Ports), func(n string) bool { return slices.Contains(kept, n) })
	if n := len(ports) + len(left.Claims) + len(left.Unclaimed) + len(left.Abandoned); err == nil && n > 0 {
		err = fmt.Errorf("ports or links without a record: %s; addresses without an owner: %d; owners without an address: %d; given up: %s; patchctl leftovers lists them, and patchctl leftovers rm removes one",
			cmp.Or(strings.Join(ports, ", "), "none"), len(left.Claims), len(left.Unclaimed), cmp.Or(strings.Join(texts(left.Abandoned), ", "), "none"))
	}
	report("leftovers", "none", err)
	err = nil
	if len(kept) > 0 {
		err = fmt.Errorf("etcd did not know this node when patchbayd started: records are lost, and interfaces without one are kept, as running pods use them: %s; they go when their pods end; addresses that they have may be given out again",
			strings.Join(kept, ", "))
	}
	if lost := d.engine.Unreadable(); len(lost) > 0 {
		err = errors.Join(err, fmt.Errorf("records that can't be read, or that somebody else has changed, of sandboxes %s: they and what they account for are left alone; put them right, or delete their keys once their pods have ended, and restart patchbayd", strings.Join(lost, ", ")))
	}
	report("records", "etcd has this node's records", err)
}

// examineDetach names the interfaces that can't be removed.
func (d *Daemon) examineDetach(report func(string, string, error)) {
	failing := d.engine.Stuck(attach.Failed)
	var err error
	if len(failing) > 0 {
		err = fmt.Errorf("%s; it is tried again, and given up after %d attempts in %s (gc.giveUp); patchctl leftovers rm attachment/CONTAINER/INTERFACE discards one at once",
			strings.Join(texts(failing), "; "), d.cfg.GC.GiveUp.Attempts, d.cfg.GC.GiveUp.After)
	}
	report("detach", "no DEL fails", err)
}

func texts(all []attach.Stuck) []string {
	var t []string
	for _, s := range all {
		t = append(t, s.String())
	}
	return t
}

func (d *Daemon) examineBridges(report func(string, string, error)) {
	for _, role := range slices.Sorted(maps.Keys(d.cfg.OVS.Bridges)) {
		b := d.cfg.OVS.Bridges[role]
		datapath, err := d.native.BridgeDatapath(b.Name)
		report("bridge "+b.Name, fmt.Sprintf("role %s, datapath %s", role, datapath), err)
		for _, u := range b.Uplinks {
			link, err := netlink.LinkByName(u)
			if err == nil && link.Attrs().OperState == netlink.OperDown {
				err = errors.New("uplink is down")
			}
			report("uplink "+u, "up", err)
		}
	}
}

func checkSocket(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.Mode().Perm() != 0o600 {
		return fmt.Errorf("%s has mode %o, not 600", path, fi.Mode().Perm())
	}
	return nil
}

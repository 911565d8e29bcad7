package daemon

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/internal/etcd"
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
	begin := time.Now()
	err := etcd.Ready(ctx, d.kv)
	report("etcd", fmt.Sprintf("answers in %s", time.Since(begin).Round(10*time.Microsecond)), err)

	err = nil
	if !d.native.Connected() {
		err = fmt.Errorf("no connection to %s: start ovsdb-server and ovs-vswitchd, or set ovs.db", d.cfg.OVS.DB)
	}
	report("openvswitch", "connected to "+d.cfg.OVS.DB, err)
	d.examineBridges(report)
	if d.cfg.Install.ConfFile != "" {
		report("cni-configuration", d.cfg.Install.ConfFile+" is the runtime's first", d.checkInstalled())
	}
	for _, path := range []string{d.cfg.Listen.CNI, d.cfg.Listen.API} {
		report("socket", path+" is a socket for root only", checkSocket(path))
	}
	d.examineSource(report)
	if n := d.countQueue(); n != 0 {
		report("del-queue", "", fmt.Errorf("%v DELs wait in %s", n, d.queueDir()))
	} else {
		report("del-queue", "empty", nil)
	}
	left, err := d.engine.Inspect(ctx)
	if n := len(left.Ports) + len(left.Claims) + len(left.Unclaimed); err == nil && n > 0 {
		err = fmt.Errorf("ports or links without a record: %s; addresses without an owner: %d; owners without an address: %d; restart patchbayd to clear them",
			orNone(left.Ports), len(left.Claims), len(left.Unclaimed))
	}
	report("leftovers", "none", err)
	return all
}

func (d *Daemon) examineBridges(report func(string, string, error)) {
	roles := []string{}
	for role := range d.cfg.OVS.Bridges {
		roles = append(roles, role)
	}
	slices.Sort(roles)
	for _, role := range roles {
		b := d.cfg.OVS.Bridges[role]
		datapath, err := d.native.BridgeDatapath(b.Name)
		report("bridge "+b.Name, fmt.Sprintf("role %s, datapath %s", role, datapath), err)
		for _, u := range b.Uplinks {
			link, err := netlink.LinkByName(u)
			if err == nil && link.Attrs().OperState == netlink.OperDown {
				err = fmt.Errorf("uplink is down")
			}
			report("uplink "+u, "up", err)
		}
	}
}

func (d *Daemon) examineSource(report func(string, string, error)) {
	if d.kube != nil {
		var err error
		if !d.kube.Synced() {
			err = fmt.Errorf("the API server has not answered since patchbayd started")
		}
		report("kubernetes", "pods and networks are followed", err)
		return
	}
	errs := d.manifests.Errors()
	for _, err := range errs {
		report("manifests", "", err)
	}
	if len(errs) == 0 && d.cfg.Standalone.Manifests != "" {
		report("manifests", d.cfg.Standalone.Manifests+" is readable", nil)
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

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

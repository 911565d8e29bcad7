package attack

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A node does all that it does with the rights that deploy/etcd/node.sh gives it.
func TestANodeNeedsNoMoreThanItsRoleInEtcd(t *testing.T) {
	e := testnode.StartSecureEtcd(t)
	e.AddNode(t, "n1")
	n := testnode.Standard(t, e.Settings("patchbay-n1")...)
	ctx := context.Background()
	n.Run(t, "a", "data,control")
	if _, err := n.Client.Attach(ctx, "default", "a", client.Request{Network: "data", Interface: "net7"}); err != nil {
		t.Error(err)
	}
	if err := n.Client.Detach(ctx, "default", "a", "net7"); err != nil {
		t.Error(err)
	}
	n.Run(t, "gone", "data,bridge")
	n.Vanish(t, "gone")
	for what, ask := range map[string]func() error{
		"nodes":    func() error { _, err := n.Client.Nodes(ctx); return err },
		"pools":    func() error { _, err := n.Client.Pools(ctx); return err },
		"networks": func() error { _, err := n.Client.Networks(ctx); return err },
	} {
		if err := ask(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	n.Daemon.Kill()
	n.Start(t)
	if err := n.Remove("a"); err != nil {
		t.Error(err)
	}
	testnode.Eventually(t, "it says that it is up", func() bool {
		out, err := e.TryCtl("root", "get", "/patchbay/v1/live/n1", "--keys-only")
		return err == nil && strings.Contains(out, "live")
	})
	n.AssertEmpty(t)
	if log, err := os.ReadFile(n.Dir + "/patchbayd.log"); err != nil || strings.Contains(string(log), "permission denied") {
		t.Errorf("it has asked for more: %v\n%s", err, n.LogTail())
	}
}

// T12: whoever has a node's credentials writes no other node's records. T13: nor reads what is not Patchbay's.
func TestT12T13WhatANodesCredentialsLetItDo(t *testing.T) {
	e := testnode.StartSecureEtcd(t)
	for _, node := range []string{"n1", "n10", "n2"} {
		e.AddNode(t, node)
	}
	e.Ctl(t, "put", "/registry/secrets/kube-system/token", "secret")
	const p = "/patchbay/v1/"
	for call, allowed := range map[string]bool{
		"put " + p + "sandboxes/n1/x v":                          true,
		"put " + p + "sandboxes/n2/x v":                          false,
		"put " + p + "sandboxes/n10/x v":                         false,
		"del " + p + "sandboxes/n2/x":                            false,
		"get " + p + "sandboxes/n2/x":                            false,
		"get --prefix " + p + "sandboxes/n1/":                    true,
		"get --prefix " + p + "sandboxes/n1":                     false,
		"get --prefix " + p + "sandboxes/":                       false,
		"put " + p + "nodes/n1 v":                                true,
		"put " + p + "nodes/n2 v":                                false,
		"put " + p + "live/n2 v":                                 false,
		"del " + p + "live/n2":                                   false,
		"get --prefix " + p + "nodes/":                           true,
		"get --prefix " + p + "live/":                            true,
		"put " + p + "subnets/n1/p/10.0.0.0 v":                   true,
		"put " + p + "subnets/n2/p/10.0.0.0 v":                   false,
		"put " + p + "pods/default/a v":                          true,
		"put " + p + "ipam/p/ips/10.0.0.1 v":                     true,
		"del --prefix " + p:                                      false,
		"get --prefix " + p:                                      false,
		"get --prefix /":                                         false,
		"get /registry/secrets/kube-system/token":                false,
		"put /registry/x v":                                      false,
		"user list":                                              false,
		"user grant-role patchbay-n1 root":                       false,
		"role grant-permission patchbay-n1 readwrite --prefix /": false,
		"snapshot save " + e.Dir + "/snapshot":                   false,
		"auth disable":                                           false,
		"compaction 1":                                           true, // etcd 3.4 asks for a token only
	} {
		out, err := e.TryCtl("patchbay-n1", strings.Fields(call)...)
		if allowed != (err == nil) || err != nil && !strings.Contains(out, "permission denied") {
			t.Errorf("etcdctl %s: %v, allowed: %v\n%s", call, err, allowed, out)
		}
	}
}

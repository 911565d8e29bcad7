package attack

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/ipam/ledger"
	nodemode "github.com/patchbay-cni/patchbay/ipam/node"
	"github.com/patchbay-cni/patchbay/meta/kube"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// nobody uses anything on a node yet.
type nobody struct{}

func (nobody) HolderOf(string, netip.Addr, string) string { return "" }
func (nobody) UserOf(string, string) string               { return "" }

// Two nodes find an IPAMClaim without addresses, and both choose some, before either has written its own: one has
// given the IPAMClaim its address, the other knows, and has none of its own left.
func TestAnIPAMClaimUsedFirstOnTwoNodesAtOnceHasOneAddress(t *testing.T) {
	a, ctx := testnode.NewAPIServer(t), context.Background()
	a.Put(testnode.ClaimsAt, testnode.Object{"apiVersion": "k8s.cni.cncf.io/v1alpha1", "kind": "IPAMClaim", "metadata": map[string]any{"namespace": "default", "name": "keep"},
		"spec": map[string]any{"network": "lab", "interface": "net1"}}, "")
	cfg, err := kube.Config(a.Kubeconfig, "test")
	if err != nil {
		t.Fatal(err)
	}
	claims, err := kube.NewIPAMClaims(cfg)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := etcd.Dial(etcd.Options{Endpoints: []string{testnode.StartEtcd(t, testnode.ShortDir(t)).Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer kv.Close()
	ask := ipam.Ask{Config: json.RawMessage(`{"type": "patchbay-ipam", "network": "10.83.0.0/16", "subnetLen": 24, "cooldown": "0s"}`),
		Network: "default/lab", ConfigName: "lab", IPAMClaim: "default/keep"}
	nodes := map[string]*ipam.Service{}
	reserved := map[string]*ipam.Reservation{}
	for _, name := range []string{"n1", "n2"} {
		book := ledger.New(kv, etcd.NewCommitter(kv), "/patchbay/v1", name)
		mode, err := nodemode.New(book, "", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s := &ipam.Service{Ledger: book, Modes: map[string]ipam.Mode{ipam.ModeNode: mode}, IPAMClaims: claims, Log: slog.New(slog.DiscardHandler)}
		ask.Owner = ipam.Owner{Node: name, ContainerID: name, IfName: "net1", Pod: "default/vm"}
		if reserved[name], err = s.Claim(ctx, ask, nobody{}); err != nil {
			t.Fatal(err)
		}
		nodes[name] = s
	}
	if err := nodes["n1"].Publish(ctx, reserved["n1"]); err != nil {
		t.Fatal(err)
	}
	if err := nodes["n2"].Publish(ctx, reserved["n2"]); !errors.Is(err, ipam.ErrOutpaced) || !fault.Of(err).Passes() {
		t.Errorf("the second: %v", err)
	}
	if err := nodes["n1"].Publish(ctx, reserved["n1"]); err != nil {
		t.Errorf("the first once more: %v", err)
	}
	has, err := claims.IPAMClaim(ctx, "default", "keep")
	if want := reserved["n1"].Result.IPs[0].Address.String(); err != nil || len(has.IPs) != 1 || has.IPs[0] != want {
		t.Errorf("it has %+v, %v, want %s", has, err, want)
	}
	all, err := nodes["n1"].NodeClaims(ctx, "")
	if err == nil {
		var others []ipam.Claim
		others, err = nodes["n2"].NodeClaims(ctx, "")
		all = append(all, others...)
	}
	if err != nil || len(all) != 1 || all[0].Owner.Node != "n1" {
		t.Errorf("claims: %+v, %v", all, err)
	}
}

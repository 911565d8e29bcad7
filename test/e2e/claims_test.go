package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta/kube"
	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

func claim(name, network, ifName string) string {
	return "apiVersion: k8s.cni.cncf.io/v1alpha1\nkind: IPAMClaim\nmetadata: {name: " + name + "}\nspec: {network: " + network + ", interface: " + ifName + "}\n---\n"
}

func anAddressBelongsToItsIPAMClaim(t *testing.T) {
	ns := namespace(t)
	apply(t, ns, claim("keep", "data", "net1")+claim("other", "control", "net1"))
	const wish = `[{"name": "data", "ipam-claim-reference": "keep"}]`
	run(t, ns, "a", "n1", wish)
	mine := address(t, ns, "a", "net1")
	if out, err := c.Kubectl("get", "ipamclaim", "-n", ns, "keep", "-o", "jsonpath={.status.ips[0]}"); err != nil || !strings.HasPrefix(out, mine+"/") {
		t.Errorf("status of the claim: %s, %v; the pod has %s", out, err, mine)
	}
	for pod, c := range map[string]struct {
		annotation string
		texts      []string
	}{
		"second": {wish, []string{ns + "/keep", "in use by pod " + ns + "/a"}},
		"wrong":  {`[{"name": "data", "ipam-claim-reference": "other"}]`, []string{ns + "/other", "is for network control"}},
		"none":   {`[{"name": "data", "ipam-claim-reference": "nowhere"}]`, []string{ns + "/nowhere", "not found"}},
		"bridge": {`[{"name": "bridge", "ipam-claim-reference": "keep"}]`, []string{"ipam-claim-reference"}},
	} {
		create(t, ns, pod, "n1", c.annotation)
		event(t, ns, pod, "FailedAttach", c.texts...)
		remove(t, ns, pod)
	}
	for range 2 { // the pod goes and comes back; others meanwhile get other addresses
		remove(t, ns, "a")
		run(t, ns, "filler", "n1", "data")
		if other := address(t, ns, "filler", "net1"); other == mine {
			t.Errorf("%s was given to another pod", mine)
		}
		clean(t)
		remove(t, ns, "filler")
		run(t, ns, "a", "n1", wish)
		if again := address(t, ns, "a", "net1"); again != mine {
			t.Errorf("it has %s now, and had %s", again, mine)
		}
	}
	// The claim goes first, then the pod: then the address is free.
	if out, err := c.Kubectl("delete", "ipamclaim", "-n", ns, "keep"); err != nil {
		t.Fatal(out)
	}
	remove(t, ns, "a")
	eventually(t, mine+" is free", func() error { return free(t, c.Nodes[0], mine) })
	clean(t)
}

// TestAnIPAMClaimIsWrittenOnceByItsVersion has two nodes write the status of an IPAMClaim that both have read: the
// API server takes the first only.
func TestAnIPAMClaimIsWrittenOnceByItsVersion(t *testing.T) {
	ctx := context.Background()
	ns := namespace(t)
	apply(t, ns, claim("keep", "data", "net1"))
	cfg, err := kube.Config(c.Dir+"/admin.kubeconfig", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	claims, err := kube.NewIPAMClaims(cfg)
	if err != nil {
		t.Fatal(err)
	}
	read, err := claims.IPAMClaim(ctx, ns, "keep")
	if err != nil {
		t.Fatal(err)
	}
	if err := claims.SetIPs(ctx, ns, "keep", read.Version, []string{"10.12.1.2/24"}); err != nil {
		t.Error(err)
	}
	if err := claims.SetIPs(ctx, ns, "keep", read.Version, []string{"10.12.2.2/24"}); !errors.Is(err, ipam.ErrIPAMClaimChanged) {
		t.Errorf("the second: %v", err)
	}
	if now, err := claims.IPAMClaim(ctx, ns, "keep"); err != nil || len(now.IPs) != 1 || now.IPs[0] != "10.12.1.2/24" {
		t.Errorf("%+v, %v", now, err)
	}
}

// free reports who has an address.
func free(t *testing.T, n *cluster.Node, ip string) error {
	pools, err := daemon(t, n).Pools(context.Background())
	if err != nil {
		return err
	}
	for _, p := range pools {
		for _, cl := range p.Claims {
			if cl.IP == ip {
				return fmt.Errorf("pool %s: %+v", p.Name, cl)
			}
		}
	}
	return nil
}

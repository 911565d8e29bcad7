package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// shim calls a plugin of ours as a runtime does, and returns its error.
func (n *node) shim(plugin, config string, env ...string) *types.Error {
	n.t.Helper()
	cmd := exec.Command(filepath.Join(testnode.Bin(), plugin))
	cmd.Env = append([]string{"CNI_PATH=" + testnode.Bin()}, env...)
	cmd.Stdin = strings.NewReader(config)
	out, err := cmd.Output()
	if err == nil {
		return nil
	}
	var e types.Error
	if json.Unmarshal(out, &e) != nil {
		n.t.Fatalf("%v: %s", err, out)
	}
	return &e
}

// A list that is not there says nothing, and an empty one is of one network only: GC for it removes what
// was added under its name, by its plugin.
func TestGCCollectsOnlyWhatWasAddedUnderItsNetworkAndPlugin(t *testing.T) {
	n := newNode(t)
	n.Run(t, "web", "data,chain")
	n.Runtime.NetConf = bytes.Replace(n.Runtime.NetConf, []byte(`"name": "patchbay"`), []byte(`"name": "another"`), 1)
	if !bytes.Contains(n.Runtime.NetConf, []byte("another")) {
		t.Fatal(string(n.Runtime.NetConf))
	}
	n.Run(t, "db", "data,chain")
	direct := testnode.Netns(t, "direct")
	ovs := `{"cniVersion": "1.1.0", "name": "lone", "type": "patchbay-ovs", "socket": "` + n.CNI + `", "network": "data"}`
	env := []string{"CNI_CONTAINERID=direct", "CNI_NETNS=" + direct, "CNI_IFNAME=net1"}
	if e := n.shim("patchbay-ovs", ovs, append(env, "CNI_COMMAND=ADD")...); e != nil {
		t.Fatal(e)
	}
	macvlan := `{"cniVersion": "1.1.0", "name": "plain", "type": "patchbay-ipam", "socket": "` + n.CNI + `",
 "ipam": {"type": "patchbay-ipam", "network": "10.80.0.0/16", "subnetLen": 24, "cooldown": "0s"}}`
	if e := n.shim("patchbay-ipam", macvlan, "CNI_COMMAND=ADD", "CNI_CONTAINERID=other", "CNI_NETNS="+direct, "CNI_IFNAME=net2"); e != nil {
		t.Fatal(e)
	}

	interfaces := func() int {
		l, err := n.Client.List(context.Background(), client.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	gc := func(plugin, network, list string) *types.Error {
		conf := `{"cniVersion": "1.1.0", "name": "` + network + `", "type": "` + plugin + `", "socket": "` + n.CNI + `"` + list + `, "ipam": {"type": "patchbay-ipam", "network": "10.80.0.0/16", "subnetLen": 24}}`
		return n.shim(plugin, conf, "CNI_COMMAND=GC")
	}
	const none = `, "cni.dev/valid-attachments": []`
	for _, plugin := range []string{"patchbay", "patchbay-ovs", "patchbay-ipam"} {
		for _, network := range []string{"patchbay", "another", "lone", "plain"} {
			if e := gc(plugin, network, ""); e == nil || e.Code != types.ErrInvalidNetworkConfig || !strings.Contains(e.Msg, "cni.dev/valid-attachments") {
				t.Errorf("%s, network %s: a GC without its list is answered %v", plugin, network, e)
			}
		}
	}
	for _, c := range []struct {
		plugin, network    string
		interfaces, claims int
	}{
		{"patchbay", "nobody's", 5, 3},
		{"patchbay", "lone", 5, 3},
		{"patchbay-ovs", "patchbay", 5, 3},
		{"patchbay-ipam", "chain", 5, 3}, // the plugin's claims are those of attachments that are recorded
		{"patchbay-ipam", "patchbay", 5, 3},
		{"patchbay-ipam", "plain", 5, 2},
		{"patchbay", "another", 3, 1},
		{"patchbay-ovs", "lone", 2, 1},
	} {
		if e := gc(c.plugin, c.network, none); e != nil {
			t.Errorf("%s, network %s: %v", c.plugin, c.network, e)
		}
		if have, claims := interfaces(), len(n.claims("10.80.0.0-16")); have != c.interfaces || claims != c.claims {
			t.Errorf("after GC of %s, network %s: %d interfaces and %d claims, want %d and %d", c.plugin, c.network, have, claims, c.interfaces, c.claims)
		}
	}
}

package attack

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// What a plugin of ours answers has the fields of the version that it is asked in, and no later ones, which a
// strict reader refuses.
func TestResultsHaveTheFieldsOfTheirVersionOnly(t *testing.T) {
	n := newNode(t)
	const ipam = `"ipam": {"type": "patchbay-ipam", "network": "10.82.0.0/16", "subnetLen": 24, "cooldown": "0s",
 "routes": [{"dst": "10.99.0.0/16", "mtu": 1400, "advmss": 1360, "priority": 7, "table": 254, "scope": 253}]}`
	for plugin, config := range map[string]string{
		"patchbay-ipam": ipam,
		"patchbay-ovs":  `"network": "data", "mtu": 1400, ` + ipam,
	} {
		for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
			t.Run(plugin+" "+version, func(t *testing.T) {
				id := strings.ReplaceAll(plugin+version, ".", "")
				call := func(command string) string {
					t.Helper()
					cmd := exec.Command(filepath.Join(testnode.Bin(), plugin))
					cmd.Env = []string{"CNI_PATH=" + testnode.Bin(), "CNI_COMMAND=" + command, "CNI_CONTAINERID=" + id, "CNI_NETNS=/run/netns/" + id, "CNI_IFNAME=net1"}
					cmd.Stdin = strings.NewReader(`{"cniVersion": "` + version + `", "name": "v", "type": "` + plugin + `", "socket": "` + n.CNI + `", ` + config + `}`)
					out, err := cmd.Output()
					if err != nil {
						t.Fatalf("%s: %v: %s", command, err, out)
					}
					return string(out)
				}
				testnode.Netns(t, id)
				answer := call("ADD")
				defer call("DEL")
				var got struct {
					Interfaces, Routes, IPs []map[string]any
				}
				if err := json.Unmarshal([]byte(answer), &got); err != nil || len(got.Routes) == 0 || len(got.IPs) != 1 || plugin == "patchbay-ovs" && len(got.Interfaces) != 2 {
					t.Fatalf("%v: %s", err, answer)
				}
				later := map[string]bool{"mtu": true, "socketPath": true, "pciID": true, "advmss": true, "priority": true, "table": true, "scope": true}
				for _, o := range append(got.Interfaces, got.Routes...) {
					for key := range o {
						if later[key] && version != "1.1.0" {
							t.Errorf("%s is of 1.1.0: %s", key, answer)
						}
					}
				}
				if version == "1.1.0" && got.Routes[0]["mtu"] != 1400.0 {
					t.Errorf("the route has lost its mtu: %s", answer)
				}
				if _, has := got.IPs[0]["version"]; has != strings.HasPrefix(version, "0.") {
					t.Errorf("\"version\" of an address is of versions before 1.0.0: %s", answer)
				}
			})
		}
	}
	n.AssertEmpty(t)
}

package attack

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A runtime, or Multus, hands addresses over in CNI_ARGS if nobody declares the capabilities. They are honoured, or
// the call is refused: a pod that runs with another address than it relies on is found by nobody.
func TestAddressesInCNIArgsAreHonouredOrRefused(t *testing.T) {
	n := newNode(t)
	pool := `"ipam": {"type": "patchbay-ipam", "network": "10.12.0.0/16", "subnetLen": 24, "cooldown": "0s"}`
	static := `"ipam": {"type": "static", "addresses": []}`
	for name, c := range map[string]struct{ ipam, args, want string }{
		"both":         {pool, "IP=10.12.0.77;MAC=02:00:00:00:00:77", "10.12.0.77/24 02:00:00:00:00:77"},
		"static":       {static, "IP=192.0.2.7/24;GATEWAY=192.0.2.1", "192.0.2.7/24"},
		"no IPAM":      {`"mtu": 1400`, "IP=192.0.2.8/24", "192.0.2.8/24"},
		"outside":      {pool, "IP=192.0.2.9", "outside pool"},
		"no address":   {pool, "IP=here", "here"},
		"no MAC":       {pool, "MAC=03:00:00:00:00:01", "multicast"},
		"args.cni.ips": {pool + `, "args": {"cni": {"ips": ["10.12.0.78"]}}`, "", "10.12.0.78/24"},
	} {
		t.Run(name, func(t *testing.T) {
			id := strings.ReplaceAll(strings.ToLower(name), " ", "-")
			ns := testnode.Netns(t, id)
			call := func(command string) string {
				cmd := exec.Command(filepath.Join(testnode.Bin(), "patchbay-ovs"))
				cmd.Env = []string{"PATCHBAY_CNI_SOCKET=" + n.CNI, "CNI_COMMAND=" + command, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + ns, "CNI_IFNAME=net1",
					"CNI_PATH=" + testnode.PluginDirs, "CNI_ARGS=" + c.args}
				cmd.Stdin = strings.NewReader(`{"cniVersion": "1.0.0", "name": "direct", "type": "patchbay-ovs", "network": "data", ` + c.ipam + `}`)
				out, _ := cmd.CombinedOutput()
				return string(out)
			}
			out := call("ADD")
			if strings.Contains(out, `"code"`) {
				if !strings.Contains(out, c.want) {
					t.Errorf("refused: %s", out)
				}
				return
			}
			has := testnode.Sh(t, "ip", "-n", id, "address", "show", "net1")
			for _, want := range strings.Fields(c.want) {
				if !strings.Contains(has, want) {
					t.Errorf("%s is not there: %s\n%s", want, has, out)
				}
			}
			if out := call("DEL"); out != "" {
				t.Error(out)
			}
		})
	}
	n.AssertEmpty(t)
}

package node

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A network that no NetworkAttachmentDefinition made is known by its configuration's name.
func TestNetworkStatusHasANameForEveryNetwork(t *testing.T) {
	file := filepath.Join(t.TempDir(), "10-cluster.conflist")
	conf := `{"cniVersion": "1.0.0", "name": "cluster-on-disk", "plugins": [{"type": "patchbay-ovs", "network": "data"}]}`
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	n := testnode.Standard(t, "meta.clusterNetwork="+file)
	n.Run(t, "a", "control")
	for _, config := range []string{`{"cniVersion": "1.0.0", "name": "mine", "type": "patchbay-ovs", "network": "data"}`, `{"cniVersion": "1.0.0", "type": "patchbay-ovs", "network": "data"}`} {
		if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Config: json.RawMessage(config)}); err != nil {
			t.Fatal(err)
		}
	}
	sandboxes, err := n.Client.Sandboxes(context.Background())
	if err != nil || len(sandboxes) != 1 {
		t.Fatalf("%+v, %v", sandboxes, err)
	}
	var status []meta.NetworkStatus
	if err := json.Unmarshal(sandboxes[0].NetworkStatus, &status); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range status {
		names = append(names, s.Name)
	}
	if got, want := strings.Join(names, " "), "cluster-on-disk default/control mine inline"; got != want {
		t.Errorf("names %q, want %q", got, want)
	}
}

func TestIPAMShowOfNothingIsAnEmptyList(t *testing.T) {
	n := testnode.Standard(t)
	for _, format := range []string{"json", "yaml"} {
		cmd := exec.Command(filepath.Join(testnode.Bin(), "patchctl"), "ipam", "show", "-o", format)
		cmd.Env = append(os.Environ(), "PATCHBAY_SERVER=unix://"+n.API)
		if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "[]" {
			t.Errorf("%s: %q, %v", format, out, err)
		}
	}
}

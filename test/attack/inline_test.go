package attack

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
)

// An IPAM plugin is executed as other plugins are: the list of types that inline configurations may have passed it over.
func TestAnInlineConfigurationHasAllowedTypesOnly(t *testing.T) {
	n := newNode(t, "api.inlineTypes=[patchbay-ovs]")
	n.Run(t, "a", "data")
	attach := func(rest string) error {
		_, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Config: json.RawMessage(`{"cniVersion": "1.0.0", "name": "x", ` + rest + `}`)})
		return err
	}
	for _, rest := range []string{`"type": "good"`, `"plugins": [{"type": "patchbay-ovs", "network": "data"}, {"type": "good"}]`, `"type": "patchbay-ovs", "network": "data", "ipam": {"type": "good"}`} {
		if err := attach(rest); err == nil || !strings.Contains(err.Error(), `"good" is not in api.inlineTypes`) || n.calls() != "" {
			t.Errorf("%s: %v, calls %s", rest, err, n.calls())
		}
	}
	if err := attach(`"type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.86.0.0/16", "subnetLen": 24}`); err != nil {
		t.Error(err)
	}
}

package meta

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
)

func TestAChainThatLeadsBackToUsIsRefused(t *testing.T) {
	ours := Config{Implied: map[string][]string{"ours": {}}}
	for plugins, want := range map[string]string{
		`{"type": "ours"}, {"type": "tuning"}`:                             "",
		`{"type": "bridge", "ipam": {"type": "ours"}}, {"type": "tuning"}`: "",
		`{"type": "bridge"}, {"type": "ours"}`:                             "plugin ours must be the first of its list",
		`{"type": "ours"}, {"type": "ours"}`:                               "plugin ours must be the first of its list",
		`{"type": "bridge"}, {"type": "multus"}`:                           `plugin type "multus" is a meta-plugin`,
	} {
		config := `{"cniVersion": "1.0.0", "name": "n", "plugins": [` + plugins + `]}`
		_, atStart := plan(t, nads{"default/n": config}, ours, "n", nil)
		p := NewPlanner(nads{"default/n": config}, ours)
		_, hot := p.One(context.Background(), "default", Selection{Name: "n"}, nil)
		_, inline := p.Inline([]byte(config), Selection{}, nil)
		for _, err := range []error{atStart, hot, inline} {
			if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", plugins, err)
			}
		}
	}
}

func TestOnlyTrustedNamespacesNetworksReachTheNode(t *testing.T) {
	networks := nads{"lab/named": bare, "kube-system/named": bare, "open/named": bare}
	cfg := Config{GlobalNamespaces: []string{"kube-system", "lab", "open"}, Trusted: []string{"open"}, NeedsTrust: func(*cniconf.List) string { return "bridge" }}
	for annotation, allowed := range map[string]bool{"lab/named": false, "kube-system/named": true, "open/named": true} {
		_, err := plan(t, networks, cfg, annotation, nil)
		if allowed != (err == nil) {
			t.Errorf("%s: %v", annotation, err)
		}
		if err != nil && (!errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), "ovs.trustedNamespaces")) {
			t.Errorf("%s: the error tells no way out: %v", annotation, err)
		}
	}
	cfg.Trusted = []string{"*"}
	if _, err := plan(t, networks, cfg, "lab/named", nil); err != nil {
		t.Errorf("all are trusted: %v", err)
	}
}

func TestWhatAPodCanHaveIsBounded(t *testing.T) {
	text := func(size int) string {
		return `{"cniVersion": "1.0.0", "type": "bare", "comment": "` + strings.Repeat("x", size) + `"}`
	}
	networks := nads{"default/small": bare, "default/large": text(200 << 10), "default/huge": text(1 << 20)}
	for name, c := range map[string]struct{ annotation, want string }{
		"two large ones":        {"large,large", ""},
		"three large ones":      {"large,small,large,large", "the configurations of the pod's networks are more than the 512 KiB"},
		"a huge one":            {"huge", "its configuration has 1024 KiB, and can have 256"},
		"many small ones":       {strings.TrimSuffix(strings.Repeat("small,", 128), ","), ""},
		"too many small ones":   {strings.TrimSuffix(strings.Repeat("small,", 129), ","), "asks for 129 networks"},
		"large arguments":       {fmt.Sprintf(`[{"name": "small", "cni-args": {"a": %q}}]`, strings.Repeat("x", 600<<10)), "more than the 512 KiB"},
		"many large references": {strings.TrimSuffix(strings.Repeat("huge,", 128), ","), "can have 256"},
	} {
		if _, err := plan(t, networks, Config{}, c.annotation, nil); (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %.300v", name, err)
		}
	}
	taken := make([]string, maxNetworks)
	if _, err := NewPlanner(networks, Config{}).One(context.Background(), "default", Selection{Name: "small"}, taken); err == nil {
		t.Error("one more than a pod can have is attached")
	}
}

package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/kube"
	"github.com/patchbay-cni/patchbay/meta/multus"
)

func TestPodsAreJudgedByPlanningThem(t *testing.T) {
	const sriov, marker = "intel.com/sriov", kube.SchedulerResources + "br-data"
	pod := func(name, networks string) meta.Pod {
		return meta.Pod{Namespace: "lab", Name: name, Annotations: map[string]string{meta.NetworksAnnotation: networks}}
	}
	s := &kube.Snapshot{
		Networks: []meta.Network{
			{Namespace: "lab", Name: "vf", Resource: sriov, Config: `{"cniVersion": "1.0.0", "type": "sriov"}`},
			{Namespace: "lab", Name: "marked", Resource: marker, Config: `{"cniVersion": "1.0.0", "type": "ovs", "bridge": "br-data"}`},
			{Namespace: "lab", Name: "disk"},
		},
		Pods: []meta.Pod{pod("asks", "vf"), pod("forgot", "vf"), pod("one-of-two", "vf,vf"), pod("claims", "vf"), pod("marked", "marked"),
			pod("disk", `[{"name": "disk", "mac": "02:00:00:00:00:01"}]`), pod("unknown", "nowhere")},
		Requests: map[string]map[string]int{"lab/asks": {sriov: 1}, "lab/one-of-two": {sriov: 1}},
		Claimers: map[string]bool{"lab/claims": true},
	}
	findings := judge(context.Background(), s)
	for name, want := range map[string]multus.Finding{
		"pod asks":       {Object: "pod lab/asks", Grade: multus.Works, Message: "1 networks"},
		"pod forgot":     {Object: "pod lab/forgot", Grade: multus.Fails, Message: `needs a device of intel.com/sriov`},
		"pod one-of-two": {Object: "pod lab/one-of-two", Grade: multus.Fails, Message: `request one "intel.com/sriov" in the pod's resources for each such network`},
		"pod claims":     {Object: "pod lab/claims", Grade: multus.Works, Message: "1 networks"},
		"pod marked":     {Object: "pod lab/marked", Grade: multus.Works, Message: "1 networks"},
		"network marked": {Object: "network lab/marked", Grade: multus.Works, Message: "its resource " + marker + " is the scheduler's"},
		"trust":          {Object: "network lab/marked", Grade: multus.Changes, Message: `"bridge" reaches the node itself, and networks of namespace lab may not`},
		"pod disk":       {Object: "pod lab/disk", Grade: multus.Works, Message: "network lab/disk is on the nodes' disks and was not tried"},
		"pod unknown":    {Object: "pod lab/unknown", Grade: multus.Fails, Message: "NetworkAttachmentDefinition lab/nowhere: not found"},
	} {
		if !slices.ContainsFunc(findings, func(f multus.Finding) bool {
			return f.Object == want.Object && f.Grade == want.Grade && strings.Contains(f.Message, want.Message)
		}) {
			t.Errorf("%s: no %+v in %+v", name, want, findings)
		}
	}
}

func TestWithoutAClusterItIsSaidWhereItWasLookedFor(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("KUBECONFIG", "")
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	bad, empty := filepath.Join(home, "bad"), filepath.Join(home, "empty")
	for path, text := range map[string]string{bad: "{hello: [", empty: "apiVersion: v1\nkind: Config\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for kubeconfig, want := range map[string]string{
		"":            "no cluster to look at: give --kubeconfig FILE, or set $KUBECONFIG, or have ~/.kube/config",
		home + "/nix": "--kubeconfig " + home + "/nix does not exist",
		home:          "--kubeconfig " + home + " can't be read: is a directory",
		bad:           bad + " can't be used as a kubeconfig",
		empty:         "--kubeconfig " + empty + " names no cluster",
	} {
		if _, err := clusterConfig(kubeconfig); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", kubeconfig, err, want)
		}
	}
	t.Setenv("KUBECONFIG", bad)
	if _, err := clusterConfig(""); err == nil || !strings.Contains(err.Error(), bad) {
		t.Error(err)
	}
}

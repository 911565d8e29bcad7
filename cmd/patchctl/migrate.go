package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/kube"
	"github.com/patchbay-cni/patchbay/meta/multus"
)

func migrateCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "migrate", Short: "Come from Multus"}
	cmd.AddCommand(migrateCheck(o))
	return cmd
}

func migrateCheck(o *options) *cobra.Command {
	var kubeconfig, file string
	var all bool
	cmd := &cobra.Command{
		Use: "check", Short: "What of a cluster's networks, pods and Multus configuration will work, and what will not", Args: cobra.NoArgs,
		Long: `check reads a cluster's NetworkAttachmentDefinitions, the annotations of its pods and
Multus' configuration, from its ConfigMaps and from --multus-config, and changes
nothing. Exit code 1 if something will not work.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rules := clientcmd.NewDefaultClientConfigLoadingRules()
			rules.ExplicitPath = kubeconfig
			cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
			if err != nil {
				return fmt.Errorf("%w; --kubeconfig names the file", err)
			}
			snapshot, err := kube.TakeSnapshot(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if file != "" {
				b, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				snapshot.Configs["file "+file] = string(b)
			}
			findings := judge(cmd.Context(), snapshot)
			failed := slices.ContainsFunc(findings, func(f multus.Finding) bool { return f.Grade == multus.Fails })
			if !all && o.output == "table" {
				findings = slices.DeleteFunc(findings, func(f multus.Finding) bool { return f.Grade == multus.Works })
			}
			if err := show(cmd.OutOrStdout(), o.output, findings, nil, gradeTable); err != nil {
				return err
			}
			if o.output == "table" {
				fmt.Fprintf(cmd.OutOrStdout(), "%d networks, %d pods and %d configurations were looked at; --all shows what works too.\n",
					len(snapshot.Networks), len(snapshot.Pods), len(snapshot.Configs))
			}
			if failed {
				return failedCheck{}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the cluster (default $KUBECONFIG, ~/.kube/config, the pod's own)")
	cmd.Flags().StringVar(&file, "multus-config", "", "a configuration of Multus on disk, such as /etc/cni/net.d/00-multus.conf")
	cmd.Flags().BoolVar(&all, "all", false, "show what works as it is, too")
	outputFlag(cmd, o, "table", "json", "yaml")
	return cmd
}

// judge looks at everything, and at each pod as the first readable configuration has it.
func judge(ctx context.Context, s *kube.Snapshot) []multus.Finding {
	cfg := meta.Config{AnyDevice: true, Implied: map[string][]string{ovs.Type: ovs.Capabilities, ovs.ForeignType: ovs.Capabilities}}
	var findings []multus.Finding
	for _, object := range slices.Sorted(maps.Keys(s.Configs)) {
		text := []byte(s.Configs[object])
		findings = append(findings, multus.CheckConfig(object, text)...)
		if c, _, err := multus.Parse(text); err == nil && c.Any() {
			cfg.NamespaceIsolation = c.NamespaceIsolation != nil && *c.NamespaceIsolation
			cfg.GlobalNamespaces = c.Globals()
			cfg.Namespace = c.Namespace
		}
	}
	for _, n := range s.Networks {
		findings = append(findings, multus.CheckNetwork(n)...)
	}
	planner := meta.NewPlanner(s, cfg)
	for _, p := range s.Pods {
		findings = append(findings, multus.CheckPod(ctx, planner, p)...)
	}
	return findings
}

func gradeTable(l []multus.Finding, _ bool) [][]string {
	rows := [][]string{{"OBJECT", "GRADE", "MESSAGE"}}
	for _, f := range l {
		rows = append(rows, []string{f.Object, string(f.Grade), f.Message})
	}
	return rows
}

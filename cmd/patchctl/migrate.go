package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/patchbay-cni/patchbay/attach/admission"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/kube"
	"github.com/patchbay-cni/patchbay/meta/multus"
)

func migrateCommand(o *options) *cobra.Command {
	return group(&cobra.Command{Use: "migrate", Short: "Come from Multus"}, migrateCheck(o))
}

func migrateCheck(o *options) *cobra.Command {
	var kubeconfig, file string
	var all bool
	cmd := &cobra.Command{
		Use: "check", Short: "What of a cluster's networks, pods and Multus configuration will work, and what will not", Args: atMost(0, "no arguments"),
		Long: `check reads a cluster's NetworkAttachmentDefinitions, the annotations of its pods and
Multus' configuration, from its ConfigMaps and from --multus-config, and changes
nothing. Exit code 1 if something will not work.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := clusterConfig(kubeconfig)
			if err != nil {
				return err
			}
			snapshot, err := kube.TakeSnapshot(cmd.Context(), cfg)
			if err != nil {
				return noAnswer(cfg.Host, err)
			}
			if file != "" {
				b, err := readFile("--multus-config", file)
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
			if err := show(o, cmd, gradeTable)(findings, nil); err != nil {
				return err
			}
			if o.output == "table" {
				fmt.Fprintf(cmd.OutOrStdout(), "%d networks, %d pods and %d configurations were looked at; --all shows what works too.\n",
					len(snapshot.Networks), len(snapshot.Pods), len(snapshot.Configs))
			}
			if failed {
				return errFailedCheck
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the cluster (default $KUBECONFIG, ~/.kube/config, the pod's own)")
	cmd.Flags().StringVar(&file, "multus-config", "", "a configuration of Multus on disk, such as /etc/cni/net.d/00-multus.conf")
	cmd.Flags().BoolVar(&all, "all", false, "show what works as it is, too")
	return withOutput(o, cmd, "table", "json", "yaml")
}

// clusterConfig finds out how to reach the cluster, and says where it looked if it can't.
func clusterConfig(kubeconfig string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if kubeconfig != "" {
		if _, err := readFile("--kubeconfig", kubeconfig); err != nil {
			return nil, err
		}
		rules.ExplicitPath = kubeconfig
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	switch {
	case err == nil:
		return cfg, nil
	case !clientcmd.IsEmptyConfig(err):
		files := strings.Join(rules.GetLoadingPrecedence(), ", ")
		return nil, fmt.Errorf("%s can't be used as a kubeconfig: kubectl config view --kubeconfig FILE says what is wrong with it", files)
	case kubeconfig != "":
		return nil, fmt.Errorf("--kubeconfig %s names no cluster: its current-context is missing or empty", kubeconfig)
	}
	return nil, errors.New("no cluster to look at: give --kubeconfig FILE, or set $KUBECONFIG, or have ~/.kube/config; inside a pod, a service account does")
}

// noAnswer tells a cluster that can't be reached from one that refuses.
func noAnswer(server string, err error) error {
	var network *url.Error
	if errors.As(err, &network) {
		return fmt.Errorf("the API server %s does not answer (%w): is it the right kubeconfig?", server, network.Err)
	}
	return err
}

// judge looks at every configuration of Multus, every network and every pod. A pod is judged by the last
// of the configurations, by name, that says anything which matters here.
func judge(ctx context.Context, s *kube.Snapshot) []multus.Finding {
	cfg := meta.Config{Devices: s, Implied: map[string][]string{ovs.Type: ovs.Capabilities, ovs.ForeignType: ovs.Capabilities}, Trusted: []string{"*"}}
	var findings []multus.Finding
	for _, object := range slices.Sorted(maps.Keys(s.Configs)) {
		text := []byte(s.Configs[object])
		findings = append(findings, multus.CheckConfig(object, text)...)
		if c, _, err := multus.Parse(text); err == nil && c.Any() {
			cfg.NamespaceIsolation, cfg.GlobalNamespaces, cfg.Namespace = c.Isolation(), c.Globals(), c.Namespace
		}
	}
	judge := admission.Judge{Planner: meta.NewPlanner(s, cfg)}
	for _, n := range s.Networks {
		findings = append(findings, multus.CheckNetwork(n, judge.Network)...)
		findings = append(findings, trust(n)...)
		if handed, _ := s.Hands(ctx, n.Resource); !handed { // never fails
			findings = append(findings, multus.Finding{Object: "network " + n.Namespace + "/" + n.Name, Grade: multus.Works,
				Message: "its resource " + n.Resource + " is the scheduler's: pods that request it get a node with that bridge, where ovs.marker publishes it"})
		}
	}
	planner := meta.NewPlanner(multus.Seen{Networks: s}, cfg)
	for _, p := range s.Pods {
		findings = append(findings, multus.CheckPod(ctx, planner, p)...)
	}
	return findings
}

// trust tells of networks that work only once their namespace is trusted with the nodes.
func trust(n meta.Network) []multus.Finding {
	list, err := cniconf.Parse([]byte(n.Config), n.Name)
	if err != nil { // on disk, or told already
		return nil
	}
	byDefault := meta.Config{SystemNamespaces: []string{"kube-system"}, NeedsTrust: ovs.NeedsTrust}
	if err := byDefault.Trusts(n.Namespace, list); err != nil {
		return []multus.Finding{{Object: "network " + n.Namespace + "/" + n.Name, Grade: multus.Changes, Message: err.Error()}}
	}
	return nil
}

var gradeTable = table[multus.Finding]{
	columns: []string{"OBJECT", "GRADE", "MESSAGE"},
	cells:   func(f multus.Finding) []string { return []string{f.Object, string(f.Grade), f.Message} },
}

package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/internal/explain"
)

func attachCommand(o *options) *cobra.Command {
	var r client.Request
	var configFile string
	cmd := &cobra.Command{
		Use: "attach pod/NAME --network NAME", Short: "Attach an interface to a running pod",
		Example: `  patchctl attach pod/web --network blue
  patchctl attach pod/web -n lab --network lab/blue --interface net7 --ip 10.12.0.9/24
  patchctl attach pod/web --config macvlan.json --interface net8`,
		Args: exactly(1, "one pod: pod/NAME"), ValidArgsFunction: completePods(o),
		RunE: func(cmd *cobra.Command, args []string) error {
			pod, err := podName(args[0])
			if err != nil {
				return err
			}
			if (r.Network == "") == (configFile == "") {
				return usage("give either --network or --config")
			}
			if configFile != "" {
				if r.Config, err = readFile("--config", configFile); err != nil {
					return err
				}
				if err := json.Unmarshal(r.Config, new(any)); err != nil {
					return usage("--config %s is not JSON: %s", configFile, explain.JSON(r.Config, err))
				}
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			a, err := c.Attach(cmd.Context(), o.namespace, pod, r)
			if err != nil {
				return err
			}
			verb := "attached"
			if r.DryRun {
				verb = "could be attached (dry run)"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s of pod %s/%s %s to %s", a.Interface, a.Namespace, a.Pod, verb, orInline(a.Network))
			if len(a.IPs) > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), " with %s", joined(a.IPs))
			}
			fmt.Fprintln(cmd.OutOrStdout())
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Network, "network", "", "NetworkAttachmentDefinition: NAME or NAMESPACE/NAME")
	f.StringVar(&configFile, "config", "", "file with an inline CNI configuration, instead of --network")
	f.StringVar(&r.Interface, "interface", "", "interface name in the pod (default: the first free of net1, net2, ...)")
	f.StringSliceVar(&r.IPs, "ip", nil, "requested address, such as 10.12.0.9/24; repeatable")
	f.StringVar(&r.MAC, "mac", "", "requested hardware address")
	f.BoolVar(&r.DryRun, "dry-run", false, "plan and validate only")
	return cmd
}

func detachCommand(o *options) *cobra.Command {
	var ifName string
	var force bool
	cmd := &cobra.Command{
		Use: "detach pod/NAME --interface NAME", Short: "Detach an interface from a running pod",
		Args: exactly(1, "one pod: pod/NAME"), ValidArgsFunction: completePods(o),
		RunE: func(cmd *cobra.Command, args []string) error {
			pod, err := podName(args[0])
			if err != nil {
				return err
			}
			if ifName == "" {
				return usage("give --interface; patchctl describe pod/%s lists them", pod)
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			detach := c.Detach
			if force {
				detach = c.ForceDetach
			}
			if err := detach(cmd.Context(), o.namespace, pod, ifName); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s of pod %s/%s detached\n", ifName, o.namespace, pod)
			return nil
		},
	}
	cmd.Flags().StringVar(&ifName, "interface", "", "the interface's name in the pod")
	cmd.Flags().BoolVar(&force, "force", false, "if it can't be unmade, discard it and free its addresses")
	return cmd
}

func orInline(network string) string {
	if network == "" {
		return "an inline configuration"
	}
	return network
}

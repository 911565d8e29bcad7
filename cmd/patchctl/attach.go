package main

import (
	"cmp"
	"encoding/json"

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
	}
	f := cmd.Flags()
	f.StringVar(&r.Network, "network", "", "NetworkAttachmentDefinition: NAME or NAMESPACE/NAME")
	f.StringVar(&configFile, "config", "", "file with an inline CNI configuration, instead of --network")
	f.StringVar(&r.Interface, "interface", "", "interface name in the pod (default: the first free of net1, net2, ...)")
	f.StringSliceVar(&r.IPs, "ip", nil, "requested address, such as 10.12.0.9/24; repeatable")
	f.StringVar(&r.MAC, "mac", "", "requested hardware address")
	f.BoolVar(&r.DryRun, "dry-run", false, "plan and validate only")
	return o.ofPod(cmd, func(cmd *cobra.Command, c *client.Client, pod string) (err error) {
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
		a, err := c.Attach(cmd.Context(), o.namespace, pod, r)
		if err != nil {
			return err
		}
		verb, with := "attached", ""
		if r.DryRun {
			verb = "could be attached (dry run)"
		}
		if len(a.IPs) > 0 {
			with = " with " + joined(a.IPs)
		}
		network := cmp.Or(a.Network, "an inline configuration")
		return done(cmd, nil, "%s of pod %s/%s %s to %s%s", a.Interface, a.Namespace, a.Pod, verb, network, with)
	})
}

func detachCommand(o *options) *cobra.Command {
	var ifName string
	var force bool
	cmd := &cobra.Command{Use: "detach pod/NAME --interface NAME", Short: "Detach an interface from a running pod"}
	cmd.Flags().StringVar(&ifName, "interface", "", "the interface's name in the pod")
	cmd.Flags().BoolVar(&force, "force", false, "if it can't be unmade, discard it and free its addresses")
	return o.ofPod(cmd, func(cmd *cobra.Command, c *client.Client, pod string) error {
		if ifName == "" {
			return usage("give --interface; patchctl describe pod/%s lists them", pod)
		}
		detach := c.Detach
		if force {
			detach = c.ForceDetach
		}
		return done(cmd, detach(cmd.Context(), o.namespace, pod, ifName), "%s of pod %s/%s detached", ifName, o.namespace, pod)
	})
}

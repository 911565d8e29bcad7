package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/attach/client"
)

// A subnet is one that a node has of a pool.
type subnet struct {
	Pool  string `json:"pool"`
	CIDR  string `json:"subnet"`
	Node  string `json:"node"`
	InUse int    `json:"inUse"` // addresses
}

var subnetTable = table[subnet]{
	columns: []string{"POOL", "SUBNET", "NODE", "IN USE"},
	cells:   func(s subnet) []string { return []string{s.Pool, s.CIDR, s.Node, strconv.Itoa(s.InUse)} },
}

func ipamSubnets(o *options) *cobra.Command {
	c := withOutput(o, &cobra.Command{
		Use: "subnets", Short: "The nodes' subnets of all pools, and how many addresses of each are in use", Args: atMost(0, "no arguments"),
		RunE: o.call(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			return show(o, cmd, subnetTable)(subnets(cmd.Context(), c))
		}),
	}, "table", "json", "yaml")
	c.AddCommand(subnetsRelease(o))
	return c
}

func subnets(ctx context.Context, c *client.Client) ([]subnet, error) {
	pools, err := c.Pools(ctx)
	all := []subnet{}
	for _, p := range pools {
		for cidr, node := range p.Subnets {
			s := subnet{Pool: p.Name, CIDR: cidr, Node: node}
			if prefix, err := netip.ParsePrefix(cidr); err == nil {
				s.InUse = len(slices.DeleteFunc(slices.Clone(p.Claims), func(c client.Claim) bool {
					a, err := netip.ParseAddr(c.IP)
					return err != nil || !prefix.Contains(a)
				}))
			}
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b subnet) int { return cmp.Or(strings.Compare(a.Pool, b.Pool), strings.Compare(a.CIDR, b.CIDR)) })
	return all, err
}

func subnetsRelease(o *options) *cobra.Command {
	var node string
	var force bool
	cmd := &cobra.Command{
		Use: "release CIDR | --node NODE", Short: "Give back a subnet, or all subnets, of a node that is gone",
		Long: `release gives a subnet back to its pool, or with --node all that a node has, so that other
nodes can have them. It is refused while the node's patchbayd is up, and while addresses of the
subnet are in use: --force gives those up, for a node that is gone for good with its pods.`,
		Example: "  patchctl ipam subnets release --node worker-7",
		Args:    atMost(1, "one subnet, as patchctl ipam subnets lists it"),
		RunE: o.call(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if (len(args) == 0) == (node == "") {
				return usage("name a subnet, or a node with --node")
			}
			all, err := subnets(cmd.Context(), c)
			if err != nil {
				return err
			}
			all = slices.DeleteFunc(all, func(s subnet) bool {
				return node != "" && s.Node != node || node == "" && s.CIDR != args[0]
			})
			if len(all) == 0 {
				return fmt.Errorf("no node has such a subnet; patchctl ipam subnets lists them")
			}
			giveBack := c.GiveBack
			if force {
				giveBack = c.ForceBack
			}
			var errs []error
			for _, s := range all {
				errs = append(errs, done(cmd, giveBack(cmd.Context(), s.Pool, s.CIDR), "subnet %s of pool %s is free", s.CIDR, s.Pool))
			}
			return errors.Join(errs...)
		}),
	}
	cmd.Flags().StringVar(&node, "node", "", "all subnets of this node")
	cmd.Flags().BoolVar(&force, "force", false, "give up the addresses that are in use")
	return cmd
}

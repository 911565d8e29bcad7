package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/internal/explain"
)

func ipamCommand(o *options) *cobra.Command {
	return group(&cobra.Command{Use: "ipam", Short: "Address pools: who holds what, and what leaked"}, ipamShow(o), ipamCheck(o), ipamRelease(o), ipamRemove(o), ipamSubnets(o))
}

func ipamShow(o *options) *cobra.Command {
	return withOutput(o, &cobra.Command{
		Use: "show [POOL|IP]", Short: "The claims of all pools, of one pool, or of one address", Args: atMost(1, "a pool or an address"),
		RunE: o.call(func(cmd *cobra.Command, c *client.Client, args []string) error {
			pools, err := c.Pools(cmd.Context())
			claims := []client.Claim{}
			for _, p := range pools {
				for _, cl := range p.Claims {
					if len(args) == 0 || args[0] == p.Name || args[0] == cl.IP {
						claims = append(claims, cl)
					}
				}
			}
			if err == nil && len(args) == 1 {
				err = poolOrAddress(args[0], pools)
			}
			return show(o, cmd, claimTable)(claims, err)
		}),
	}, "table", "json", "yaml")
}

// poolOrAddress refuses what is neither: a mistyped name is not an empty pool.
func poolOrAddress(text string, pools []client.Pool) error {
	names := poolNames(pools)
	if _, err := netip.ParseAddr(text); err == nil || slices.Contains(names, text) {
		return nil
	}
	if len(names) == 0 {
		return fmt.Errorf("%q is neither a pool nor an address: there is no pool yet", text)
	}
	return fmt.Errorf("%q is neither a pool nor an address%s", text, explain.Hint(text, names))
}

func ipamCheck(o *options) *cobra.Command {
	return withOutput(o, &cobra.Command{
		Use: "check", Short: "Claims without an owner, owners without a claim; exit code 1 if there is one", Args: atMost(0, "no arguments"),
		RunE: o.call(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			l, err := c.Leaks(cmd.Context())
			if err != nil {
				return err
			}
			w, all := cmd.OutOrStdout(), slices.Concat(l.Claims, l.Unclaimed)
			if o.output == "table" {
				fmt.Fprintf(w, "%d claims without an owner, %d owners without a claim\n", len(l.Claims), len(l.Unclaimed))
			}
			switch {
			case o.output != "table":
				err = encode(w, o.output, l)
			case len(all) > 0:
				err = printTable(w, claimTable.rows(all, false))
			}
			if err == nil && len(all) > 0 {
				return errFailedCheck
			}
			return err
		}),
	}, "table", "json", "yaml")
}

func ipamRelease(o *options) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "release POOL IP", Short: "Free a leaked address; one that has an owner is refused", Args: exactly(2, "a pool and an address"),
		Long: `release frees an address whose owner is not there. Where patchbay-ipam serves a plugin under a
runtime without Patchbay, nobody here knows whether the owner is there: such an address is freed
with --force, once you have seen that no pod has it. After a reboot of its node it is freed by
itself.`,
		RunE: o.call(func(cmd *cobra.Command, c *client.Client, args []string) error {
			release := c.Release
			if force {
				release = c.ForceRelease
			}
			return done(cmd, release(cmd.Context(), args[0], args[1]), "%s of pool %s is free", args[1], args[0])
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "free it although a plugin under a runtime without Patchbay has claimed it")
	return cmd
}

func ipamRemove(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "rm POOL", Short: "Remove a pool of which no address is in use; the daemon's log has an audit line",
		Long: `rm removes a pool from etcd, with the nodes' subnets of it, so that another pool can have its
addresses, or it other values. It is refused while an address of it is in use. A network that
still has the pool defines it again with its next pod.

Every node must run a release that has this command: an older one does not notice that a pool
that it has used is gone, until it is restarted.`,
		Example: "  patchctl ipam rm 10.12.0.0-16",
		Args:    exactly(1, "one pool, as patchctl get pools lists it"), ValidArgsFunction: completePools(o),
		RunE: o.call(func(cmd *cobra.Command, c *client.Client, args []string) error {
			return done(cmd, c.RemovePool(cmd.Context(), args[0]), "pool %s removed", args[0])
		}),
	}
}

func completePools(o *options) cobra.CompletionFunc {
	return o.complete(func(ctx context.Context, c *client.Client, args []string) ([]string, error) {
		if len(args) > 0 {
			return nil, nil
		}
		pools, err := c.Pools(ctx)
		return poolNames(pools), err
	})
}

func poolNames(pools []client.Pool) []string {
	var names []string
	for _, p := range pools {
		names = append(names, p.Name)
	}
	return names
}

var claimTable = table[client.Claim]{
	columns: []string{"POOL", "IP", "POD", "INTERFACE", "NODE", "CONTAINER"},
	cells: func(c client.Claim) []string {
		return []string{c.Pool, c.IP, c.Pod, c.Interface, c.Node, c.ContainerID}
	},
}

package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/attach/client"
)

func ipamCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "ipam", Short: "Address pools: who holds what, and what leaked"}
	cmd.AddCommand(ipamShow(o), ipamCheck(o), ipamRelease(o))
	return cmd
}

func ipamShow(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show [POOL|IP]", Short: "The claims of all pools, of one pool, or of one address", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			pools, err := c.Pools(cmd.Context())
			claims := []client.Claim{}
			for _, p := range pools {
				for _, cl := range p.Claims {
					if len(args) == 0 || args[0] == p.Name || args[0] == cl.IP {
						claims = append(claims, cl)
					}
				}
			}
			return show(cmd.OutOrStdout(), o.output, claims, err, claimTable)
		},
	}
	outputFlag(cmd, o, "table", "json", "yaml")
	return cmd
}

func ipamCheck(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "check", Short: "Claims without an owner, owners without a claim; exit code 1 if there is one", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			l, err := c.Leaks(cmd.Context())
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if o.output != "table" {
				err = encode(w, o.output, l)
			} else {
				err = printLeaks(w, l)
			}
			if err == nil && len(l.Claims)+len(l.Unclaimed) > 0 {
				return failedCheck{}
			}
			return err
		},
	}
	outputFlag(cmd, o, "table", "json", "yaml")
	return cmd
}

func printLeaks(w io.Writer, l *client.Leak) error {
	fmt.Fprintf(w, "%d claims without an owner, %d owners without a claim\n", len(l.Claims), len(l.Unclaimed))
	if all := append(l.Claims, l.Unclaimed...); len(all) > 0 {
		return printTable(w, claimTable(all, false))
	}
	return nil
}

func ipamRelease(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "release POOL IP", Short: "Free a leaked address; one that has an owner is refused", Args: exactly(2, "a pool and an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			if err := c.Release(cmd.Context(), args[0], args[1]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s of pool %s is free\n", args[1], args[0])
			return nil
		},
	}
}

func claimTable(l []client.Claim, _ bool) [][]string {
	t := [][]string{{"POOL", "IP", "POD", "INTERFACE", "NODE", "CONTAINER"}}
	for _, c := range l {
		t = append(t, []string{c.Pool, c.IP, orDash(c.Pod), c.Interface, c.Node, c.ContainerID})
	}
	return t
}

func doctorCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check this node: etcd, Open vSwitch, bridges, uplinks, sockets, leftovers; exit code 1 on a fault", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			findings, err := c.Doctor(cmd.Context())
			if err != nil {
				findings = []client.Finding{{Check: "patchbayd", Message: err.Error() + "; start it, or name its socket with --server"}}
			}
			if err := show(cmd.OutOrStdout(), o.output, findings, nil, findingTable); err != nil {
				return err
			}
			for _, f := range findings {
				if !f.OK {
					return failedCheck{}
				}
			}
			return nil
		},
	}
	outputFlag(cmd, o, "table", "json", "yaml")
	return cmd
}

func findingTable(l []client.Finding, _ bool) [][]string {
	t := [][]string{{"CHECK", "OK", "MESSAGE"}}
	for _, f := range l {
		t = append(t, []string{f.Check, strconv.FormatBool(f.OK), f.Message})
	}
	return t
}

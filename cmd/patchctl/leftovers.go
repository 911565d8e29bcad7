package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/attach/client"
)

func leftoversCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "leftovers", Short: "What is on this node without a record, or was given up", Args: atMost(0, "no arguments"),
		Long: `leftovers lists ports and links of ours that no record accounts for, addresses whose
owner is not there, and attachments whose DEL failed for so long that it was given up
(gc.giveUp in the daemon's configuration).`,
		RunE: o.call(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			return show(o, cmd, leftoverTable)(c.Leftovers(cmd.Context()))
		}),
	}
	cmd.AddCommand(leftoversRemove(o))
	return withOutput(o, cmd, "table", "json", "yaml")
}

func leftoversRemove(o *options) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "rm KIND/ID... | --all", Short: "Remove leftovers; the daemon's log has an audit line of each",
		Long: `rm removes a port or link, frees an address, or discards an attachment that was given up:
its DEL is tried once more, then it goes from the record, and its addresses are free.`,
		Example: `  patchctl leftovers rm attachment/5c5ffe213910/net1 address/10.12.0.0-16/10.12.0.9
  patchctl leftovers rm --all`,
		ValidArgsFunction: completeLeftovers(o),
		RunE: o.call(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if all == (len(args) > 0) {
				return usage("give what to remove, as patchctl leftovers lists it (KIND/ID), or --all")
			}
			if all {
				l, err := c.Leftovers(cmd.Context())
				if err != nil {
					return err
				}
				kept := slices.DeleteFunc(slices.Clone(l), func(v client.Leftover) bool { return !v.Kept })
				if len(kept) > 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "left alone, as running pods may use them: %s; name them to remove them all the same\n", joined(leftoverNames(kept)))
				}
				args = leftoverNames(slices.DeleteFunc(l, func(v client.Leftover) bool { return v.Kept }))
			}
			for _, name := range args {
				kind, id, ok := strings.Cut(name, "/")
				if !ok {
					return usage("%q is not KIND/ID", name)
				}
				if err := done(cmd, c.RemoveLeftover(cmd.Context(), kind, id), "%s removed", name); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "all of them, but those that running pods may use")
	return cmd
}

func completeLeftovers(o *options) cobra.CompletionFunc {
	return o.complete(func(ctx context.Context, c *client.Client, args []string) ([]string, error) {
		l, err := c.Leftovers(ctx)
		return slices.DeleteFunc(leftoverNames(l), func(n string) bool { return slices.Contains(args, n) }), err
	})
}

func leftoverNames(l []client.Leftover) []string {
	var names []string
	for _, v := range l {
		names = append(names, v.Kind+"/"+v.ID)
	}
	return names
}

var leftoverTable = table[client.Leftover]{
	columns: []string{"LEFTOVER", "POD", "NODE", "MESSAGE"},
	cells:   func(v client.Leftover) []string { return []string{v.Kind + "/" + v.ID, v.Pod, v.Node, v.Message} },
}

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/attach/client"
)

func recoverCommand(o *options) *cobra.Command {
	var fromNode, accept bool
	cmd := &cobra.Command{
		Use: "recover", Short: "What to do on a node whose etcd is not what it was: empty, restored, or another one", Args: atMost(0, "no arguments"),
		Long: `A node remembers which etcd it has written to. When etcd is empty, was restored from a
backup, or is another one, the node is suspended: running pods go on, but nothing is
handed out and nothing is removed until you decide.

Without a flag, recover says whether the node is suspended, and which pods it could write back.
  --from-node  writes back what this node's running pods have: pools, its subnets, addresses,
               records. A pod whose address has another owner by now is refused, and named.
  --accept     takes etcd as it is. Interfaces of running pods that it does not know are kept
               until the pods end, but their addresses may be given out again.
If several nodes are suspended, call it with --from-node on each before any with --accept.`,
		Example: `  patchctl recover
  patchctl recover --from-node`,
		RunE: o.call(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			do, from := c.Recovery, ""
			switch {
			case fromNode:
				from = client.FromNode
			case accept:
				from = client.FromEtcd
			}
			if from != "" {
				do = func(ctx context.Context) (*client.Recovery, error) { return c.Recover(ctx, from) }
			}
			r, err := do(cmd.Context())
			if err != nil {
				return err
			}
			if o.output != "table" {
				return encode(cmd.OutOrStdout(), o.output, r)
			}
			if !r.Suspended {
				return done(cmd, nil, "node %s is not suspended: etcd is the one that it has written to", r.Node)
			}
			if from == "" {
				fmt.Fprintf(cmd.OutOrStdout(), "node %s is suspended: %s\n", r.Node, r.Reason)
			}
			if err := show(o, cmd, recoveryTable)(r.Pods, nil); err != nil {
				return err
			}
			var refused []string
			for _, p := range r.Pods {
				if p.Conflict != "" {
					refused = append(refused, p.Namespace+"/"+p.Pod)
				}
			}
			if fromNode && len(refused) > 0 {
				return fmt.Errorf("not written back: %s; they keep their interfaces, but their addresses are others': re-create those pods", strings.Join(refused, ", "))
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&fromNode, "from-node", false, "write this node's running pods back to etcd")
	cmd.Flags().BoolVar(&accept, "accept", false, "take etcd as it is")
	cmd.MarkFlagsMutuallyExclusive("from-node", "accept")
	return withOutput(o, cmd, "table", "json", "yaml")
}

var recoveryTable = table[client.RecoveryPod]{
	columns: []string{"NAMESPACE", "POD", "SANDBOX", "ADDRESSES", "CONFLICT"},
	cells: func(p client.RecoveryPod) []string {
		return []string{p.Namespace, p.Pod, p.ContainerID, strings.Join(p.IPs, ","), p.Conflict}
	},
}

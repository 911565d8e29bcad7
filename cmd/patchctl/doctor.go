package main

import (
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/attach/client"
)

func doctorCommand(o *options) *cobra.Command {
	return withOutput(o, &cobra.Command{
		Use: "doctor", Short: "Check this node: etcd, Open vSwitch, bridges, uplinks, sockets, pools, leftovers; exit code 1 on a fault", Args: atMost(0, "no arguments"),
		RunE: o.call(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			findings, err := c.Doctor(cmd.Context())
			if err != nil {
				findings = []client.Finding{{Check: "patchbayd", Message: err.Error() + "; start it, or name its socket with --server"}}
			}
			err = show(o, cmd, findingTable)(findings, nil)
			if err == nil && slices.ContainsFunc(findings, func(f client.Finding) bool { return !f.OK }) {
				return errFailedCheck
			}
			return err
		}),
	}, "table", "json", "yaml")
}

var findingTable = table[client.Finding]{
	columns: []string{"CHECK", "OK", "MESSAGE"},
	cells:   func(f client.Finding) []string { return []string{f.Check, strconv.FormatBool(f.OK), f.Message} },
}

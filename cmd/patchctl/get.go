package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/attach/client"
)

var kinds = []string{"attachments", "sandboxes", "nodes", "pools", "networks"}

func getCommand(o *options) *cobra.Command {
	var all, watch bool
	var network string
	cmd := &cobra.Command{
		Use: "get " + strings.Join(kinds, "|"), Short: "List what there is", ValidArgs: kinds,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(kinds, args[0]) {
				return usage("give one of %s", strings.Join(kinds, ", "))
			}
			return nil
		},
		RunE: o.call(func(cmd *cobra.Command, c *client.Client, args []string) error {
			f := client.Filter{Namespace: o.namespace, Network: network}
			if all {
				f.Namespace = ""
			}
			if watch {
				if args[0] != "attachments" {
					return usage("only attachments can be watched")
				}
				return watchAttachments(o, cmd, c, f)
			}
			return get(o, cmd, c, args[0], f)
		}),
	}
	cmd.Flags().BoolVarP(&all, "all-namespaces", "A", false, "of all namespaces")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "then follow the changes")
	cmd.Flags().StringVar(&network, "network", "", "only attachments on this network (NAMESPACE/NAME)")
	return withOutput(o, cmd, "table", "wide", "json", "yaml")
}

func get(o *options, cmd *cobra.Command, c *client.Client, kind string, f client.Filter) error {
	ctx := cmd.Context()
	switch kind {
	case "attachments":
		return show(o, cmd, attachmentTable)(c.List(ctx, f))
	case "sandboxes":
		l, err := c.Sandboxes(ctx)
		l = slices.DeleteFunc(l, func(s client.Sandbox) bool { return f.Namespace != "" && s.Namespace != f.Namespace })
		return show(o, cmd, sandboxTable(o.output == "wide"))(l, err)
	case "nodes":
		return show(o, cmd, nodeTable)(c.Nodes(ctx))
	case "pools":
		return show(o, cmd, poolTable)(c.Pools(ctx))
	default:
		return show(o, cmd, networkTable)(c.Networks(ctx))
	}
}

func watchAttachments(o *options, cmd *cobra.Command, c *client.Client, f client.Filter) error {
	w, header := cmd.OutOrStdout(), true
	return c.Watch(cmd.Context(), f, func(e client.Event) error {
		if o.output == "json" || o.output == "yaml" {
			return encode(w, o.output, e)
		}
		rows := attachmentTable.rows([]client.Attachment{e.Attachment}, o.output == "wide")
		if header {
			fmt.Fprintln(w, "EVENT\t"+strings.Join(rows[0], "\t"))
			header = false
		}
		_, err := fmt.Fprintln(w, e.Type+"\t"+strings.Join(rows[1], "\t"))
		return err
	})
}

var attachmentTable = table[client.Attachment]{
	columns: []string{"NAMESPACE", "POD", "INTERFACE", "NETWORK", "IPS", "PHASE", "AGE"},
	wide:    []string{"MAC", "BRIDGE", "PORT", "SOURCE", "NODE", "MESSAGE"},
	cells: func(a client.Attachment) []string {
		return []string{a.Namespace, a.Pod, a.Interface, a.Network, joined(a.IPs), a.Phase, age(a.CreatedAt),
			a.MAC, a.Bridge, a.Port, a.Source, a.Node, a.Message}
	},
}

func sandboxTable(wide bool) table[client.Sandbox] {
	return table[client.Sandbox]{
		columns: []string{"NAMESPACE", "POD", "CONTAINER", "ATTACHMENTS", "NODE", "AGE"},
		wide:    []string{"NETNS", "COOKIE"},
		cells: func(s client.Sandbox) []string {
			id := s.ContainerID
			if !wide {
				id = id[:min(len(id), 13)]
			}
			return []string{s.Namespace, s.Pod, id, strconv.Itoa(len(s.Attachments)), s.Node, age(s.CreatedAt),
				s.Netns, strconv.FormatUint(s.NetnsCookie, 10)}
		},
	}
}

var nodeTable = table[client.Node]{
	columns: []string{"NODE", "VERSION", "BRIDGES"},
	cells:   func(n client.Node) []string { return []string{n.Node, n.Version, pairs(n.Bridges)} },
}

var poolTable = table[client.Pool]{
	columns: []string{"POOL", "SUBNETS", "IN USE"},
	wide:    []string{"SPEC"},
	cells: func(p client.Pool) []string {
		return []string{p.Name, pairs(p.Subnets), strconv.Itoa(len(p.Claims)), string(p.Spec)}
	},
}

var networkTable = table[client.Network]{
	columns: []string{"NAMESPACE", "NAME", "PLUGINS", "MESSAGE"},
	cells:   func(n client.Network) []string { return []string{n.Namespace, n.Name, joined(n.Types), n.Message} },
}

func describeCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "describe pod/NAME", Short: "Everything about a pod's attachments"}
	return o.ofPod(cmd, func(cmd *cobra.Command, c *client.Client, pod string) error {
		all, err := c.Sandboxes(cmd.Context())
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(s client.Sandbox) bool { return s.Namespace != o.namespace || s.Pod != pod })
		if len(all) == 0 {
			return fmt.Errorf("pod %s/%s is not running on this node, or has no interface of ours; patchctl get sandboxes -A lists those that are", o.namespace, pod)
		}
		for i, s := range all { // more than one while an earlier sandbox of the pod can't be removed
			if i > 0 {
				fmt.Fprintln(cmd.OutOrStdout())
			}
			describe(cmd.OutOrStdout(), s)
		}
		return nil
	})
}

func describe(w io.Writer, s client.Sandbox) {
	fmt.Fprintf(w, "Pod:        %s/%s\nUID:        %s\nNode:       %s\nContainer:  %s\nNetns:      %s (cookie %d)\nCreated:    %s\n",
		s.Namespace, s.Pod, orDash(s.UID), s.Node, s.ContainerID, s.Netns, s.NetnsCookie, s.CreatedAt.Format(time.RFC3339))
	if s.Ending {
		fmt.Fprintln(w, "Ending:     its DEL was called, and is not done")
	}
	for _, a := range s.Attachments {
		fmt.Fprintf(w, "\nInterface:  %s\n  Network:  %s\n  Phase:    %s\n  MAC:      %s\n  IPs:      %s\n  Gateway:  %s\n",
			a.Interface, orDash(a.Network), a.Phase, orDash(a.MAC), orDash(joined(a.IPs)), orDash(joined(a.Gateway)))
		for _, r := range a.Routes {
			fmt.Fprintf(w, "  Route:    %s via %s\n", r.Dst, orDash(r.GW))
		}
		fmt.Fprintf(w, "  Bridge:   %s, port %s\n  Source:   %s, %s ago\n", orDash(a.Bridge), orDash(a.Port), a.Source, age(a.CreatedAt))
		if a.Message != "" {
			fmt.Fprintf(w, "  Message:  %s\n", a.Message)
		}
	}
}

package main

import (
	"context"
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
				return watchAttachments(cmd.Context(), c, f, o.output, cmd.OutOrStdout())
			}
			return get(cmd.Context(), c, args[0], f, o.output, cmd.OutOrStdout())
		}),
	}
	cmd.Flags().BoolVarP(&all, "all-namespaces", "A", false, "of all namespaces")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "then follow the changes")
	cmd.Flags().StringVar(&network, "network", "", "only attachments on this network (NAMESPACE/NAME)")
	outputFlag(cmd, o, "table", "wide", "json", "yaml")
	return cmd
}

func get(ctx context.Context, c *client.Client, kind string, f client.Filter, output string, w io.Writer) error {
	switch kind {
	case "attachments":
		l, err := c.List(ctx, f)
		return show(w, output, l, err, attachmentTable)
	case "sandboxes":
		l, err := c.Sandboxes(ctx)
		l = slices.DeleteFunc(l, func(s client.Sandbox) bool { return f.Namespace != "" && s.Namespace != f.Namespace })
		return show(w, output, l, err, sandboxTable)
	case "nodes":
		l, err := c.Nodes(ctx)
		return show(w, output, l, err, nodeTable)
	case "pools":
		l, err := c.Pools(ctx)
		return show(w, output, l, err, poolTable)
	default:
		l, err := c.Networks(ctx)
		return show(w, output, l, err, networkTable)
	}
}

func watchAttachments(ctx context.Context, c *client.Client, f client.Filter, output string, w io.Writer) error {
	header := true
	return c.Watch(ctx, f, func(e client.Event) error {
		if output == "json" || output == "yaml" {
			return encode(w, output, e)
		}
		t := attachmentTable([]client.Attachment{e.Attachment}, output == "wide")
		if header {
			fmt.Fprintln(w, "EVENT\t"+strings.Join(t[0], "\t"))
			header = false
		}
		_, err := fmt.Fprintln(w, e.Type+"\t"+strings.Join(t[1], "\t"))
		return err
	})
}

func attachmentTable(l []client.Attachment, wide bool) [][]string {
	t := [][]string{{"NAMESPACE", "POD", "INTERFACE", "NETWORK", "IPS", "PHASE", "AGE"}}
	if wide {
		t[0] = append(t[0], "MAC", "BRIDGE", "PORT", "SOURCE", "NODE", "MESSAGE")
	}
	for _, a := range l {
		row := []string{a.Namespace, a.Pod, a.Interface, orDash(a.Network), orDash(joined(a.IPs)), a.Phase, age(a.CreatedAt)}
		if wide {
			row = append(row, orDash(a.MAC), orDash(a.Bridge), orDash(a.Port), a.Source, a.Node, orDash(a.Message))
		}
		t = append(t, row)
	}
	return t
}

func sandboxTable(l []client.Sandbox, wide bool) [][]string {
	t := [][]string{{"NAMESPACE", "POD", "CONTAINER", "ATTACHMENTS", "NODE", "AGE"}}
	if wide {
		t[0] = append(t[0], "NETNS", "COOKIE")
	}
	for _, s := range l {
		id := s.ContainerID
		if !wide && len(id) > 13 {
			id = id[:13]
		}
		row := []string{s.Namespace, s.Pod, id, strconv.Itoa(len(s.Attachments)), s.Node, age(s.CreatedAt)}
		if wide {
			row = append(row, s.Netns, strconv.FormatUint(s.NetnsCookie, 10))
		}
		t = append(t, row)
	}
	return t
}

func nodeTable(l []client.Node, _ bool) [][]string {
	t := [][]string{{"NODE", "VERSION", "BRIDGES"}}
	for _, n := range l {
		t = append(t, []string{n.Node, n.Version, orDash(pairs(n.Bridges))})
	}
	return t
}

func poolTable(l []client.Pool, wide bool) [][]string {
	t := [][]string{{"POOL", "SUBNETS", "IN USE"}}
	if wide {
		t[0] = append(t[0], "SPEC")
	}
	for _, p := range l {
		row := []string{p.Name, orDash(pairs(p.Subnets)), strconv.Itoa(len(p.Claims))}
		if wide {
			row = append(row, string(p.Spec))
		}
		t = append(t, row)
	}
	return t
}

func networkTable(l []client.Network, _ bool) [][]string {
	t := [][]string{{"NAMESPACE", "NAME", "PLUGINS", "MESSAGE"}}
	for _, n := range l {
		t = append(t, []string{n.Namespace, n.Name, orDash(joined(n.Types)), orDash(n.Message)})
	}
	return t
}

func describeCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "describe pod/NAME", Short: "Everything about a pod's attachments",
		Args: exactly(1, "one pod: pod/NAME"), ValidArgsFunction: completePods(o),
		RunE: func(cmd *cobra.Command, args []string) error {
			pod, err := podName(args[0])
			if err != nil {
				return err
			}
			c, err := o.client()
			if err != nil {
				return err
			}
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
		},
	}
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

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchbayd/config"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/delegates/ovs/shield"
	"github.com/patchbay-cni/patchbay/internal/install"
)

// uninstallOptions say what goes and when.
type uninstallOptions struct {
	binDir, confFile, ovsDB string
	wait, now, stay         bool
}

// uninstallCommand is for a node that Patchbay leaves.
func uninstallCommand(o *options) *cobra.Command {
	u := &uninstallOptions{}
	cmd := &cobra.Command{
		Use: "uninstall", Short: "Take Patchbay off this node, when its daemon is gone", Args: atMost(0, "no arguments"),
		Long: `uninstall removes the CNI configuration, so that the runtime goes back to the next one,
and then the plugin. Pods that run keep their interfaces, but nobody removes their
ports from Open vSwitch any more: --wait stays and removes each when its pod ends,
--now unplugs the pods at once. Networks, bridges and records stay.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if u.wait && u.now {
				return usage("give --wait or --now, not both: one waits for the pods to end, the other unplugs them")
			}
			if err := u.run(cmd.Context(), o.server, cmd.OutOrStdout()); err != nil || !u.stay {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "this node is clean; waiting to be stopped")
			<-cmd.Context().Done()
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&u.wait, "wait", false, "remove the port of each pod that still runs when it ends, and return after the last")
	flags.BoolVar(&u.now, "now", false, "unplug the pods that still run at once: they lose their interfaces on Open vSwitch")
	flags.BoolVar(&u.stay, "stay", false, "wait to be stopped when it is done, as a DaemonSet's container must")
	flags.StringVar(&u.binDir, "bin-dir", "/opt/cni/bin", "where the plugin is")
	flags.StringVar(&u.confFile, "conf-file", "/etc/cni/net.d/00-patchbay.conflist", "the CNI configuration")
	flags.StringVar(&u.ovsDB, "ovs-db", config.Default().OVS.DB, "the database of Open vSwitch")
	return cmd
}

func (u *uninstallOptions) run(ctx context.Context, server string, w io.Writer) error {
	if err := daemonIsGone(ctx, server); err != nil {
		return err
	}
	if err := install.Remove(u.binDir, u.confFile); err != nil {
		return err
	}
	fmt.Fprintf(w, "removed: the CNI configuration %s, the plugin in %s\n", u.confFile, u.binDir)

	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	unplugger := ovs.NewUnplugger(u.ovsDB, log)
	unplugger.Guard = func(ctx context.Context) error { return daemonIsGone(ctx, server) }
	if unplugger.NoSwitch() {
		fmt.Fprintf(w, "there is no Open vSwitch at %s, and so no port of ours\n", u.ovsDB)
	}
	background, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { unplugger.Run(background) })
	defer running.Wait()
	defer stop()
	if err := u.unplug(ctx, unplugger, w); err != nil {
		return err
	}
	if err := shield.Leave(ovs.LinkGroup); err != nil {
		fmt.Fprintf(w, "rules of nftables may be left: %v\n", err)
	}
	return nil
}

func (u *uninstallOptions) unplug(ctx context.Context, unplugger *ovs.Unplugger, w io.Writer) error {
	if u.wait {
		return await(ctx, unplugger, w)
	}
	removed, left, err := unplugger.UnplugEnded(ctx)
	if err != nil {
		return fmt.Errorf("ports of pods may be left; run patchctl uninstall again, with --wait it waits for Open vSwitch: %w", err)
	}
	say(w, "removed", removed)
	if u.now {
		if err := unplugger.Unplug(ctx, left); err != nil {
			return fmt.Errorf("unplug %s: %w", count(left), err)
		}
		say(w, "unplugged", left)
		return nil
	}
	if say(w, "still there", left); len(left) > 0 {
		fmt.Fprintln(w, "They go on, but their ports stay behind when their pods end: patchctl uninstall --wait removes each then, --now unplugs them at once.")
	}
	return nil
}

func await(ctx context.Context, unplugger *ovs.Unplugger, w io.Writer) error {
	var first sync.Once
	still := "something may be left"
	err := unplugger.Await(ctx, func(removed, left []ovs.Plug) {
		say(w, "removed", removed)
		first.Do(func() { say(w, "still there", left) })
		still = count(left) + " still there"
		if len(left) > 0 {
			fmt.Fprintf(w, "waiting for the pods to end: %s\n", still)
		}
	})
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("stopped waiting: %s", still)
	case err != nil:
		return fmt.Errorf("stopped waiting: %s: %w", still, err)
	}
	return nil
}

// say lists plugs, if there are any, under what became of them.
func say(w io.Writer, what string, plugs []ovs.Plug) {
	if len(plugs) == 0 {
		return
	}
	fmt.Fprintf(w, "%s: %s\n", what, count(plugs))
	for _, p := range plugs {
		if p.Port {
			fmt.Fprintf(w, "  %s %s, port %s\n", p.Pod, p.Interface, p.Name)
		} else {
			fmt.Fprintf(w, "  link %s without a port\n", p.Name)
		}
	}
}

// count says how many interfaces of how many pods there are.
func count(plugs []ovs.Plug) string {
	pods := map[string]bool{}
	for _, p := range plugs {
		pods[p.Pod] = true
	}
	return plural(len(plugs), "interface") + " of " + plural(len(pods), "pod")
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// daemonIsGone fails if a daemon listens here: it would put everything back.
func daemonIsGone(ctx context.Context, server string) error {
	socket, ok := strings.CutPrefix(server, "unix://")
	if !ok {
		socket = strings.TrimPrefix(client.DefaultServer, "unix://")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil // nobody listens
	}
	_ = conn.Close()
	return fmt.Errorf("patchbayd runs on this node (%s) and would put all of it back: stop it first, in a cluster with kubectl delete -k of what was applied, and uninstall then", socket)
}

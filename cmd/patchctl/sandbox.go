package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/delqueue"
	"github.com/patchbay-cni/patchbay/internal/install"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/manifest"
)

func sandboxCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "sandbox", Short: "Pods without Kubernetes: network namespaces, with the plugin called as a runtime does",
	}
	rt := &sandbox.Runtime{}
	socket, queue := "", ""
	flags := cmd.PersistentFlags()
	flags.StringVar(&rt.StateDir, "state-dir", "/run/patchbay/sandboxes", "where the sandboxes are remembered")
	flags.StringSliceVar(&rt.BinDirs, "bin-dir", defaultBinDirs(), "where the plugin is")
	flags.StringVar(&socket, "cni-socket", cniwire.DefaultSocket, "the daemon's socket for CNI calls")
	flags.StringVar(&queue, "del-queue", delqueue.DefaultDir, "where DELs wait while the daemon is away")
	cmd.PersistentPreRun = func(*cobra.Command, []string) { rt.NetConf = install.NetConf(socket, queue) }
	return group(cmd, sandboxRun(o, rt), sandboxRemove(o, rt))
}

func defaultBinDirs() []string {
	self, err := os.Executable()
	if err != nil {
		return []string{"/opt/cni/bin"}
	}
	return []string{filepath.Dir(self), "/opt/cni/bin"}
}

func sandboxRun(o *options, rt *sandbox.Runtime) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "run [POD] [-f FILE]", Short: "Make a network namespace for a pod and have the plugin add its interfaces",
		Example: `  patchctl sandbox run -f examples/pods/web.yaml     # the pods of a file, with its annotations
  patchctl sandbox run web -n lab                    # a pod the daemon knows from its manifests`,
		Args: atMost(1, "a pod's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var pods []meta.Pod
			switch {
			case file != "":
				var err error
				if pods, err = manifest.Pods(file); err != nil {
					return err
				}
				if len(pods) == 0 {
					return fmt.Errorf("%s has no pod in it", file)
				}
			case len(args) == 1:
				name, err := podName(args[0])
				if err != nil {
					return err
				}
				pods = []meta.Pod{{Namespace: o.namespace, Name: name}}
			default:
				return usage("give a pod's name, or -f with a file")
			}
			for _, p := range pods {
				begin := time.Now()
				s, err := rt.Run(cmd.Context(), p)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "pod %s/%s runs in %s (%s)\n", p.Namespace, p.Name, s.Netns, time.Since(begin).Round(time.Millisecond/10))
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", "manifest with the pods to run")
	return cmd
}

func sandboxRemove(o *options, rt *sandbox.Runtime) *cobra.Command {
	return &cobra.Command{
		Use: "rm POD", Short: "Have the plugin remove a pod's interfaces, then remove its namespace", Args: exactly(1, "a pod's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			pod, err := podName(args[0])
			if err != nil {
				return err
			}
			return done(cmd, rt.Remove(cmd.Context(), o.namespace, pod), "pod %s/%s is gone", o.namespace, pod)
		},
	}
}

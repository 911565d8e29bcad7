package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/internal/install"
)

// asPlugin makes the command the plugin of kubectl that it was called as: kubectl runs kubectl-patchbay
// with the words after "kubectl patchbay", and to complete them kubectl_complete-patchbay, whose answer
// is that of Cobra's own command for it.
func asPlugin(root *cobra.Command, args []string) {
	switch filepath.Base(args[0]) {
	case install.KubectlPlugin:
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl patchbay"}
	case install.KubectlCompletion:
		root.SetArgs(append([]string{cobra.ShellCompRequestCmd}, args[1:]...))
	}
}

func installPluginCommand() *cobra.Command {
	return &cobra.Command{
		Use: "install-plugin DIR", Short: "Put patchctl and kubectl's plugin patchbay into a directory of $PATH", Args: exactly(1, "a directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			return done(cmd, install.Kubectl(self, args[0]), "patchctl, %s and %s are in %s", install.KubectlPlugin, install.KubectlCompletion, args[0])
		},
	}
}

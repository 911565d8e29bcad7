package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/patchbay-cni/patchbay/internal/pki"
	"github.com/patchbay-cni/patchbay/meta/kube"
)

// certificates is for the pod of the trial's etcd, before that starts.
func certificates() *cobra.Command {
	var namespace, dir string
	var hosts []string
	cmd := &cobra.Command{
		Use: "etcd-certificates", Short: "Make the certificates of the trial overlay's etcd", Args: cobra.NoArgs,
		Long: `etcd-certificates keeps the certificates of the trial overlay's etcd and of its clients in the
Secrets ` + pki.ServerSecret + ` and ` + pki.ClientSecret + `, makes them if they are not
there, and writes etcd's to a directory. An etcd of your own has certificates of your own.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, h := range hosts {
				if strings.Contains(h, "$(") {
					return errors.New("--host " + h + " holds a variable that the container was not given: the Service must be there before the pod")
				}
			}
			cfg, err := kube.Config("", "patchbay-etcd-certificates/"+version)
			if err != nil {
				return err
			}
			clients, err := kubernetes.NewForConfig(cfg)
			if err != nil {
				return err
			}
			server, ca, err := pki.Trial(cmd.Context(), clients.CoreV1().Secrets(namespace), hosts)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			return errors.Join(server.Write(dir, "etcd"), os.WriteFile(filepath.Join(dir, "ca.crt"), ca, 0o600))
		},
	}
	cmd.Flags().StringVar(&namespace, "namespace", "patchbay-system", "the Secrets' namespace")
	cmd.Flags().StringVar(&dir, "dir", ".", "where etcd.crt, etcd.key and ca.crt go")
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "an address that clients reach etcd at; repeatable")
	return cmd
}

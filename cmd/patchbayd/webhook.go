package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/attach/admission"
	"github.com/patchbay-cni/patchbay/cmd/patchbayd/config"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/kube"
)

// webhook is for one pod in the cluster, not for the nodes.
func webhook() *cobra.Command {
	var file string
	o := admission.Options{}
	cmd := &cobra.Command{
		Use: "webhook", Short: "Serve the validating admission webhook", Args: cobra.NoArgs,
		Long: `webhook refuses networks and pod annotations that can't work, when they are written.
It judges by the sections meta, ovs and ipam of the daemons' configuration, as they do, but
doesn't read the file that meta.multus names: that is on the nodes. The API server lets
everything in while it is away.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(file, cmd.Flags().Changed("config"), nil)
			if err != nil {
				return err
			}
			cfg, err := kube.Config(c.Kubernetes.Kubeconfig, "patchbay-webhook/"+version)
			if err != nil {
				return err
			}
			o.Meta = meta.Config{DefaultNetworks: c.Meta.DefaultNetworks, SystemNamespaces: c.Meta.SystemNamespaces,
				NamespaceIsolation: c.Meta.NamespaceIsolation, GlobalNamespaces: c.Meta.GlobalNamespaces, Overriding: c.Meta.Overriding, Trusted: c.OVS.TrustedNamespaces}
			o.Pools = c.IPAM.Pools
			return admission.Run(cmd.Context(), cfg, o, logger(c.Log, &slog.LevelVar{}))
		},
	}
	cmd.Flags().StringVar(&file, "config", config.DefaultFile, "the daemons' configuration file")
	cmd.Flags().StringVar(&o.Listen, "listen", ":9443", "host:port of the server")
	cmd.Flags().StringVar(&o.Host, "host", "patchbay-webhook.patchbay-system.svc", "the service's name, as the API server calls it")
	cmd.Flags().StringVar(&o.Webhook, "webhook", "patchbay.io", "the ValidatingWebhookConfiguration that is told the certificate")
	return cmd
}

// Command patchbayd is the node daemon of Patchbay.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/internal/config"
	"github.com/patchbay-cni/patchbay/internal/daemon"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "patchbayd:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var file string
	var set []string
	var list bool
	cmd := &cobra.Command{
		Use:   "patchbayd",
		Short: "The node daemon of Patchbay",
		Long: `patchbayd gives pods their network interfaces: it answers the CNI plugin "patchbay"
on one unix socket and the REST API on another. Without a configuration it is a
standalone node with an embedded etcd.`,
		Version: version, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if list {
				fmt.Println(strings.Join(failpoint.Names(), "\n"))
				return nil
			}
			cfg, err := config.Load(file, cmd.Flags().Changed("config"), set)
			if err != nil {
				return err
			}
			// SIGHUP asks for the configuration to be read again; nothing of this daemon's can
			// change while it runs, and dying of the signal is not what is meant.
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			defer signal.Stop(hup)
			return daemon.Run(cmd.Context(), cfg, version, logger(cfg.Log))
		},
	}
	cmd.Flags().StringVar(&file, "config", config.DefaultFile, "configuration file")
	cmd.Flags().StringArrayVar(&set, "set", nil, "key=value over the file, with dotted keys; repeatable")
	cmd.Flags().BoolVar(&list, "list-failpoints", false, "print the points at which a build for tests can be made to fail")
	return cmd
}

func logger(c config.Log) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // validated
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}

// Command patchbayd is the node daemon of Patchbay.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/patchbay-cni/patchbay/cmd/patchbayd/config"
	"github.com/patchbay-cni/patchbay/cmd/patchbayd/daemon"
	"github.com/patchbay-cni/patchbay/internal/failpoint"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	err := command().ExecuteContext(ctx)
	if errors.Is(err, daemon.ErrRestart) {
		err = restart()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "patchbayd:", err)
		os.Exit(1)
	}
}

// restart starts the program anew, in this process.
func restart() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, os.Args, os.Environ())
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
			load := func() (config.Config, error) { return config.Load(file, cmd.Flags().Changed("config"), set) }
			cfg, err := load()
			if err != nil {
				return err
			}
			level := &slog.LevelVar{}
			log := logger(cfg.Log, level)
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			defer signal.Stop(hup)
			go daemon.Reload(cmd.Context(), hup, cfg, load, level, log)
			return daemon.Run(cmd.Context(), cfg, version, log)
		},
	}
	cmd.Flags().StringVar(&file, "config", config.DefaultFile, "configuration file")
	cmd.Flags().StringArrayVar(&set, "set", nil, "key=value over the file, with dotted keys; repeatable")
	cmd.Flags().BoolVar(&list, "list-failpoints", false, "print the points at which a build for tests can be made to fail")
	cmd.AddCommand(webhook(), certificates())
	return cmd
}

// logger sets the level, of which Load has seen that it is one.
func logger(c config.Log, level *slog.LevelVar) *slog.Logger {
	_ = level.UnmarshalText([]byte(c.Level))
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}

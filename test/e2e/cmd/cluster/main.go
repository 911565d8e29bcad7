// Command cluster brings up a Kubernetes cluster of two real nodes on this machine, with Patchbay
// installed, and keeps it until it is told to end.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

func main() { os.Exit(cluster.Enter(run)) }

func run() int {
	root := flag.String("root", ".", "the repository")
	bare := flag.Bool("bare", false, "without Patchbay")
	enter := flag.String("enter", "", "a script to write that runs a command in the cluster, or with a node's name first on that node")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	abs, err := filepath.Abs(*root)
	if err == nil {
		err = keep(ctx, cluster.New(abs, 2, os.Stdout), *bare, *enter)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		return 1
	}
	return 0
}

func keep(ctx context.Context, c *cluster.Cluster, bare bool, enter string) error {
	defer c.Down()
	if err := c.Up(ctx); err != nil {
		return err
	}
	if !bare {
		if err := c.Install(ctx, "trial"); err != nil {
			return err
		}
	}
	if enter != "" {
		if err := c.WriteEnter(enter); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	<-ctx.Done()
	return nil
}

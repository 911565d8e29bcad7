package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Namespace is where Patchbay's own pods are.
const Namespace = "patchbay-system"

// Install applies an overlay of deploy/ and waits until every node's daemon is ready.
func (c *Cluster) Install(ctx context.Context, overlay string) error {
	if _, err := c.Kubectl("apply", "-k", filepath.Join(c.Root, "test/e2e/overlays", overlay)); err != nil {
		return err
	}
	err := c.AwaitDaemons(ctx)
	c.say("Patchbay is installed (%s)", overlay)
	return err
}

// AwaitDaemons waits until every node's daemon is ready and of the present generation.
func (c *Cluster) AwaitDaemons(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return poll(ctx, "the DaemonSet patchbay", func() error {
		d, err := c.Client.AppsV1().DaemonSets(Namespace).Get(ctx, "patchbay", metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := d.Status
		if s.ObservedGeneration < d.Generation || s.UpdatedNumberScheduled < int32(len(c.Nodes)) || s.NumberAvailable < int32(len(c.Nodes)) {
			return fmt.Errorf("%d of %d are available", s.NumberAvailable, len(c.Nodes))
		}
		return nil
	})
}

// DumpLogs writes the end of every daemon's log.
func (c *Cluster) DumpLogs(w io.Writer) {
	for _, n := range c.Nodes {
		files, _ := filepath.Glob(n.Path("/var/log/pods/" + Namespace + "_patchbay-*/patchbayd/*.log"))
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				continue
			}
			fmt.Fprintf(w, "--- %s %s\n%s\n", n.Name, f, b[max(0, len(b)-30000):])
		}
	}
}

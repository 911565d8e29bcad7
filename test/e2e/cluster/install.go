package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Namespace is where Patchbay's own pods are.
const Namespace = "patchbay-system"

// Install installs an overlay of the test cluster's own, test/e2e/overlays, with its nodes' uplinks.
func (c *Cluster) Install(ctx context.Context, overlay string) error {
	_, err := c.Deploy(ctx, filepath.Join("test/e2e/overlays", overlay))
	return err
}

// Deploy does what docs/kubernetes.md says, with the overlay in a directory of the repository, waits
// until every node's daemon is ready, and returns what kubectl apply said.
func (c *Cluster) Deploy(ctx context.Context, dir string) (string, error) {
	if _, err := c.CreateCRDs(); err != nil {
		return "", err
	}
	if _, err := c.Kubectl("label", "node", c.Nodes[0].Name, "patchbay.io/trial-etcd=", "--overwrite"); err != nil {
		return "", err
	}
	out, err := c.Kubectl("apply", "-k", filepath.Join(c.Root, dir))
	if err != nil {
		return out, err
	}
	err = c.AwaitDaemons(ctx)
	c.say("Patchbay is installed (%s)", dir)
	return out, err
}

// CreateCRDs creates the custom resources that are missing. kubectl fails when one is there; that is
// no error here.
func (c *Cluster) CreateCRDs() (string, error) {
	out, err := c.Kubectl("create", "-k", filepath.Join(c.Root, "deploy/crds"))
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "(AlreadyExists)") && !strings.HasSuffix(strings.TrimSpace(line), " created") {
			return out, err
		}
	}
	return out, nil
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

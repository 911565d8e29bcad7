package daemon

import (
	"context"
	"fmt"
	"path"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/internal/etcd"
)

// startTimeout is how long the start waits for an etcd of its own.
const startTimeout = 60 * time.Second

// checkTimeout bounds what a caller waits for who asks how etcd does.
const checkTimeout = 2 * time.Second

// openEtcd returns a client of the configured etcd, or of one that it starts in this process.
func (d *Daemon) openEtcd(ctx context.Context) (task Task, kv *clientv3.Client, end func(), err error) {
	task = Task{Name: "etcd", Vital: true}
	if len(d.cfg.Etcd.Endpoints) == 0 {
		ctx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		e, err := etcd.StartEmbedded(ctx, d.cfg.StateDir)
		if err != nil {
			return task, nil, nil, err
		}
		kv, end = e.Client, e.Close
		task.Run = func(ctx context.Context) error {
			select {
			case err := <-e.Err():
				return err
			case <-ctx.Done():
				return nil
			}
		}
	} else {
		t := d.cfg.Etcd.TLS
		kv, err = etcd.Dial(etcd.Options{Endpoints: d.cfg.Etcd.Endpoints, Cert: t.Cert, Key: t.Key, CA: t.CA,
			Username: d.cfg.Etcd.Username, PasswordFile: d.cfg.Etcd.PasswordFile})
		if err != nil {
			return task, nil, nil, err
		}
		end = func() { _ = kv.Close() }
	}
	task.Ready = func(ctx context.Context) error {
		for {
			_, err := task.Check(ctx)
			if err == nil || ctx.Err() != nil {
				return ctx.Err()
			}
			d.log.Error("waiting for etcd", "error", err)
			// An etcd that refuses us does so at once; nothing tells when it no longer will.
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
	task.Check = func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		begin := time.Now()
		err := etcd.Ready(ctx, kv, path.Join(d.cfg.Etcd.Prefix, "nodes", d.cfg.Node)) // what the node may read, whoever it is in etcd
		return fmt.Sprintf("answers in %s", time.Since(begin).Round(10*time.Microsecond)), err
	}
	return task, kv, end, nil
}

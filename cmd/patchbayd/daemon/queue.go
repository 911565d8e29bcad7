package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/patchbay-cni/patchbay/internal/delqueue"
)

func (d *Daemon) queueDir() string { return filepath.Join(d.cfg.StateDir, "del-queue") }

// delQueue works off the DELs that were queued while the daemon was away, and repeats those that fail.
func (d *Daemon) delQueue() Task {
	drained := make(chan struct{})
	first := sync.OnceFunc(func() { close(drained) })
	return Task{Name: "del-queue", Ready: closed(drained),
		Run: every(d.cfg.GC.Interval, func(ctx context.Context) {
			if d.countQueue() != 0 {
				d.drain(ctx)
			}
			first()
		}),
		Check: func(context.Context) (string, error) {
			n, err := delqueue.Len(d.queueDir())
			if n > 0 {
				err = fmt.Errorf("%d DELs wait in %s", n, d.queueDir())
			}
			return "empty", err
		}}
}

func (d *Daemon) drain(ctx context.Context) {
	n, err := delqueue.Drain(d.queueDir(), func(c delqueue.Call) error { return d.cni.Drain(ctx, c) })
	if err != nil {
		d.log.Error("queued DELs", "error", err)
	}
	if n > 0 {
		d.log.Info("queued DELs are done", "count", n)
	}
}

// countQueue returns -1 if the queue can't be read.
func (d *Daemon) countQueue() int {
	n, err := delqueue.Len(d.queueDir())
	if err != nil {
		return -1
	}
	return n
}

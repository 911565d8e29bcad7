package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sync/semaphore"

	"github.com/patchbay-cni/patchbay/internal/delqueue"
)

func (d *Daemon) queueDir() string { return filepath.Join(d.cfg.StateDir, delqueue.Name) }

// delQueue is the task that does the DELs which wait on disk. The start does not wait for it.
func (d *Daemon) delQueue() Task {
	q := &queue{dir: d.queueDir(), finish: d.cni.Finish, log: d.log, again: min(d.cfg.GC.Interval, retryDels),
		tried: map[string]bool{}, failed: map[string]bool{}, slots: semaphore.NewWeighted(drainers)}
	return Task{Name: "del-queue", Run: q.run,
		Check: func(context.Context) (string, error) {
			n, err := delqueue.Len(d.queueDir())
			if n > 0 {
				err = fmt.Errorf("%d DELs wait in %s", n, d.queueDir())
			}
			bad, badErr := delqueue.Bad(d.queueDir())
			if len(bad) > 0 {
				badErr = fmt.Errorf("%d DELs in %s could not be read or are invalid, and were set aside, the last as %s: the log says why; remove the files once it is known what wrote them",
					len(bad), d.queueDir(), bad[len(bad)-1])
			}
			return "empty", errors.Join(err, badErr)
		}}
}

// drainers is how many waiting DELs are done at once.
const drainers = 16

// retryDels bounds how long a DEL waits when what it waits for is back: nothing tells of all that there is.
const retryDels = 5 * time.Second

// A queue does the DELs that wait in a directory: each when it comes, and those that fail at intervals.
type queue struct {
	dir    string
	finish func(context.Context, delqueue.Entry) error // does a call, or sets it aside, and takes it out of the queue
	log    *slog.Logger
	again  time.Duration

	mu     sync.Mutex
	tried  map[string]bool // the calls that are being done, or have failed
	failed map[string]bool // those of them that wait for the next interval
	slots  *semaphore.Weighted
	doing  sync.WaitGroup
}

func (q *queue) run(ctx context.Context) error {
	defer q.doing.Wait()
	if err := os.MkdirAll(q.dir, 0o700); err != nil {
		return err
	}
	events := &fsnotify.Watcher{}
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer watcher.Close()
		events, err = watcher, watcher.Add(q.dir)
	}
	if err != nil { // the ticks find what comes, too
		q.log.Warn("DELs that are queued are not noticed at once", "dir", q.dir, "error", err)
	}
	tick := time.NewTicker(q.again)
	defer tick.Stop()
	for {
		q.drain(ctx)
		select {
		case <-events.Events:
		case err := <-events.Errors:
			q.log.Warn("events of the queue of DELs are lost", "dir", q.dir, "error", err)
		case <-tick.C:
			q.retry()
		case <-ctx.Done():
			return nil
		}
	}
}

// drain begins with each call that was not tried yet.
func (q *queue) drain(ctx context.Context) {
	waiting, err := delqueue.Waiting(q.dir)
	if err != nil {
		q.log.Error("queued DELs", "error", err)
	}
	for _, w := range waiting {
		q.mu.Lock()
		tried := q.tried[w.Name]
		q.tried[w.Name] = true
		q.mu.Unlock()
		if !tried {
			q.doing.Go(func() { q.try(ctx, w) })
		}
	}
}

// try does a call. One that fails is left for the next interval.
func (q *queue) try(ctx context.Context, w delqueue.Entry) {
	if q.slots.Acquire(ctx, 1) != nil {
		return
	}
	defer q.slots.Release(1)
	err := q.finish(ctx, w)
	q.mu.Lock()
	defer q.mu.Unlock()
	if err == nil {
		delete(q.tried, w.Name)
		return
	}
	q.failed[w.Name] = true
	q.log.Error("queued DEL", "sandbox", w.Request.ContainerID, "error", err)
}

// retry has the calls that failed tried again.
func (q *queue) retry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for name := range q.failed {
		delete(q.tried, name)
	}
	clear(q.failed)
}

// countQueue returns -1 if the queue can't be read.
func (d *Daemon) countQueue() int {
	n, err := delqueue.Len(d.queueDir())
	if err != nil {
		return -1
	}
	return n
}

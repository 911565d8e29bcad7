package daemon

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// A Task is a part of the daemon that works beside the others. All but its name may be left out.
type Task struct {
	Name string
	// Run works until the context ends. An error ends the daemon.
	Run func(ctx context.Context) error
	// Ready waits until the tasks after this one may start.
	Ready func(ctx context.Context) error
	// Check says how the task is doing, or what is wrong with it.
	Check func(ctx context.Context) (string, error)
	// Vital says that no ADD can be served while Check finds something wrong.
	Vital bool
}

// runTasks starts the tasks in order, each once those before it are ready. When the context ends, or a task
// fails, it calls stop, has all tasks end, and waits for them.
func (d *Daemon) runTasks(ctx context.Context, tasks []Task, stop func() error) error {
	started, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	working, end := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer func() {
		end()
		running.Wait()
	}()
	for _, t := range tasks {
		if t.Run != nil {
			running.Go(func() {
				if err := t.Run(working); err != nil {
					fail(err)
				}
			})
		}
		if t.Ready != nil {
			if err := t.Ready(started); err != nil {
				fail(err)
			}
		}
		if started.Err() != nil {
			break
		}
		d.log.Info("task has started", "task", t.Name)
	}
	<-started.Done()
	d.log.Info("stopping: requests in flight are finished first")
	err := stop()
	if ctx.Err() == nil {
		err = errors.Join(context.Cause(started), err)
	}
	return err
}

// until makes the Run of a task that can't fail.
func until(run func(context.Context)) func(context.Context) error {
	return func(ctx context.Context) error {
		run(ctx)
		return nil
	}
}

// every makes the Run of a task that does something at once and then at intervals.
func every(interval time.Duration, do func(context.Context)) func(context.Context) error {
	return until(func(ctx context.Context) { wait.UntilWithContext(ctx, do, interval) })
}

// closed makes the Ready of a task that closes a channel.
func closed(c <-chan struct{}) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-c:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

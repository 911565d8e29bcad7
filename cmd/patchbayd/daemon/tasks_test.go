package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
)

func TestTasks(t *testing.T) {
	d := &Daemon{log: slog.New(slog.DiscardHandler)}
	broken := errors.New("broken")
	for _, c := range []struct {
		name  string
		tasks func(told context.CancelFunc, did func(string)) []Task
		err   error
		did   []string
	}{
		{"start in order, once those before them are ready, and end after the servers", func(told context.CancelFunc, did func(string)) []Task {
			ready := make(chan struct{})
			return []Task{
				{Name: "a", Ready: closed(ready), Run: func(ctx context.Context) error {
					did("a runs")
					close(ready)
					<-ctx.Done()
					did("a ends")
					return nil
				}},
				{Name: "b", Ready: func(context.Context) error {
					did("b is ready")
					told()
					return nil
				}},
				{Name: "too late", Run: until(func(context.Context) { did("c runs") })},
			}
		}, nil, []string{"a runs", "b is ready", "stopped", "a ends"}},
		{"end with the one that fails, though another never becomes ready", func(_ context.CancelFunc, did func(string)) []Task {
			return []Task{
				{Name: "fails", Run: func(context.Context) error { return broken }},
				{Name: "waits", Ready: closed(make(chan struct{}))},
				{Name: "too late", Run: until(func(context.Context) { did("c runs") })},
			}
		}, broken, []string{"stopped"}},
		{"end when one can't become ready", func(_ context.CancelFunc, did func(string)) []Task {
			return []Task{{Name: "unready", Run: until(func(ctx context.Context) {
				<-ctx.Done()
				did("ends")
			}), Ready: func(context.Context) error { return broken }}}
		}, broken, []string{"stopped", "ends"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			var all []string
			did := func(what string) {
				mu.Lock()
				defer mu.Unlock()
				all = append(all, what)
			}
			ctx, told := context.WithCancel(t.Context())
			defer told()
			err := d.runTasks(ctx, c.tasks(told, did), func() error {
				did("stopped")
				return nil
			})
			if !errors.Is(err, c.err) || !slices.Equal(all, c.did) {
				t.Errorf("%v, %q, want %v, %q", err, all, c.err, c.did)
			}
		})
	}
}

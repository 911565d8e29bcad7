package marker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// exists reports whether the node has the link. Where it can't be asked the bridge is left as it is.
func exists(name string) bool {
	_, err := netlink.LinkByName(name)
	_, none := err.(netlink.LinkNotFoundError)
	return !none
}

// watchLinks calls changed at each event of a link until the context ends; stop waits for that. A
// subscription that broke, as one does whose reader is too slow, is made anew, and as events may be
// lost then, changed is called.
func watchLinks(ctx context.Context, changed func(), log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			events := make(chan netlink.LinkUpdate, 64)
			failed := func(err error) {
				if ctx.Err() == nil {
					log.Warn("links are watched anew", "error", err)
				}
			}
			err := netlink.LinkSubscribeWithOptions(events, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: failed})
			changed()
			if err == nil {
				for range events {
					changed()
				}
			} else {
				failed(err)
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

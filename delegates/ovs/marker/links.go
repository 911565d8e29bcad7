package marker

import (
	"context"
	"log/slog"
	"time"

	"github.com/vishvananda/netlink"
)

// watchLinks calls changed at each event of a link until the context ends. A subscription that breaks, as one
// does whose reader is too slow, is made anew. As events may be lost then, changed is called once more.
func watchLinks(ctx context.Context, changed func(), log *slog.Logger) {
	failed := func(err error) {
		if ctx.Err() == nil {
			log.Warn("links are watched anew", "error", err)
		}
	}
	for ctx.Err() == nil {
		events := make(chan netlink.LinkUpdate, 64)
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
}

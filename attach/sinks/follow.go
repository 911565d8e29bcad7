// Package sinks tells others than the caller what becomes of pods. Each of its folders is one sink: who
// is told, and how.
package sinks

import (
	"context"
	"errors"
	"log/slog"

	"github.com/patchbay-cni/patchbay/attach"
)

// A Sink is told what becomes of pods. Its methods queue what takes long, and what fails they try again
// by themselves.
type Sink interface {
	// Listed is called first with the records of all running pods, and again if changes were missed.
	Listed(all []*attach.Sandbox)
	// Changed is called with each record that has changed, and with one that is gone as it was.
	Changed(s *attach.Sandbox)
	Notify(n attach.Notice)
}

// Follow returns what has a sink follow the engine's log from now on, until the context ends.
func Follow(e *attach.Engine, to Sink, log *slog.Logger) (run func(ctx context.Context)) {
	all, changes := e.Follow()
	return func(ctx context.Context) {
		to.Listed(all)
		for {
			entries, err := changes.Next(ctx)
			if errors.Is(err, attach.ErrBehind) {
				log.Error("pods' Events may be lost", "error", err)
				all, changes = e.Follow()
				to.Listed(all)
			} else if err != nil {
				return // the context has ended
			}
			for _, entry := range entries {
				if entry.Notice != nil {
					to.Notify(*entry.Notice)
				} else {
					to.Changed(entry.Sandbox)
				}
			}
		}
	}
}

package sinks_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/attach/sinks"
	"github.com/patchbay-cni/patchbay/meta"
)

// A slow sink says what it is told, and is busy with it until it may go on.
type slow struct{ told, goOn chan string }

func (s slow) tell(text string) {
	s.told <- text
	<-s.goOn
}

func (s slow) Listed([]*attach.Sandbox) { s.tell("list") }
func (s slow) Changed(*attach.Sandbox)  { s.tell("change") }
func (s slow) Notify(n attach.Notice)   { s.tell(n.Message) }

func TestASinkThatFellBehindListsAgainAndHoldsNobodyUp(t *testing.T) {
	e, err := attach.New(attach.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fail := func(text string) {
		e.Failed(attach.ReasonFailedAttach, meta.Pod{Namespace: "default", Name: "a"}, errors.New(text))
	}
	to := slow{make(chan string), make(chan string)}
	next := func(want string) {
		t.Helper()
		if got := <-to.told; got != want {
			t.Fatalf("told %q, want %q", got, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	follow := sinks.Follow(e, to, slog.New(slog.DiscardHandler))
	fail("before it runs")
	ended := make(chan bool)
	go func() { follow(ctx); close(ended) }()
	next("list")
	to.goOn <- ""
	next("before it runs")
	for range 10000 { // more than the log keeps, while the sink is busy
		fail("too many")
	}
	to.goOn <- ""
	next("list")
	fail("after the list")
	to.goOn <- ""
	next("after the list")
	cancel()
	to.goOn <- ""
	<-ended
}

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

// A slow sink says what it was told, and waits until it was heard.
type slow chan string

func (s slow) Listed([]*attach.Sandbox) { s <- "list" }
func (s slow) Changed(*attach.Sandbox)  { s <- "change" }
func (s slow) Notify(n attach.Notice)   { s <- n.Message }

func TestASinkThatFellBehindListsAgainAndHoldsNobodyUp(t *testing.T) {
	e, err := attach.New(attach.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fail := func(text string) {
		e.Failed(attach.ReasonFailedAttach, meta.Pod{Namespace: "default", Name: "a"}, errors.New(text))
	}
	told := make(slow)
	ctx, cancel := context.WithCancel(t.Context())
	follow := sinks.Follow(e, told, slog.New(slog.DiscardHandler))
	fail("before it runs")
	ended := make(chan bool)
	go func() { follow(ctx); close(ended) }()
	for _, want := range []string{"list", "before it runs"} {
		if got := <-told; got != want {
			t.Fatalf("told %q, want %q", got, want)
		}
	}
	fail("it is busy with this one")
	if got := <-told; got != "it is busy with this one" {
		t.Fatalf("told %q", got)
	}
	for range 10000 {
		fail("too many")
	}
	for got := "too many"; got != "list"; got = <-told {
		if got != "too many" {
			t.Fatalf("told %q", got)
		}
	}
	fail("after the list")
	if got := <-told; got != "after the list" {
		t.Fatalf("told %q", got)
	}
	cancel()
	<-ended
}

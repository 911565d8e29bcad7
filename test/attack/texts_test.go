package attack

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/meta"
)

// The engine keeps what it has told for readers that are behind, and with it whatever text a plugin or a
// pod's author has thought of.
func TestTheLogOfEventsKeepsNoLongTexts(t *testing.T) {
	e, err := attach.New(attach.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 1024 {
		e.Failed(attach.ReasonFailedAttach, meta.Pod{Namespace: "default", Name: "a"}, errors.New(strings.Repeat("x", 256<<10)))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) >> 20; used > 32 {
		t.Errorf("the log takes %d MiB", used)
	}
	runtime.KeepAlive(e)
}

// A plugin that crashes may have much to say. That it failed, and was given up, is recorded in any case.
func TestADELThatFailsWithManyWordsIsRecorded(t *testing.T) {
	n := newNode(t, "gc.giveUp={attempts: 2, after: 0s}", "gc.interval=1h")
	text := strings.ReplaceAll("#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND = DEL ] && { head -c 2000000 /dev/zero | tr '\\0' x >&2; exit 1; }\n[ $CNI_COMMAND = ADD ] && echo '{\"cniVersion\":\"1.0.0\"}'\nexit 0\n", "LOG", n.log)
	if err := os.WriteFile(filepath.Join(filepath.Dir(n.log), "wordy"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	n.nad("wordy", `{"cniVersion": "1.0.0", "name": "wordy", "type": "wordy"}`)
	s := n.Run(t, "a", "wordy")
	err := n.Runtime.Del(context.Background(), s)
	if err == nil {
		t.Fatal("the DEL is a success")
	}
	if strings.Contains(err.Error(), "too large") {
		t.Errorf("what has become of the DEL can't be recorded: %.300s", err)
	}
	if err := n.Remove("a"); err != nil {
		t.Errorf("a DEL that is given up: %.300s", err)
	}
	n.Daemon.Kill()
	n.Start(t)
	l := n.leftovers()
	t.Logf("%.500v", l)
	if !slices.ContainsFunc(l, func(l client.Leftover) bool { return l.Kind == attach.LeftoverAttachment && l.Pod == "default/a" }) {
		t.Errorf("what was given up is forgotten after a restart: %.500v", l)
	}
}
